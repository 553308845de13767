"""What a broker's process takes of memory under overload: its RSS, whatever its own counters say.

Each test says what was offered and states its bound by `bound`. The peak is the kernel's (VmHWM), so nothing that was
taken for a moment only is missed. What waits in the kernel's socket buffers is no RSS.
"""

from __future__ import annotations

import fcntl
import platform
import resource
import socket
import struct
import subprocess
import sys
import tempfile
import termios
from contextlib import ExitStack, contextmanager
from pathlib import Path

import msgpack
import programs
import pytest
from peers import PATIENCE, Peer, data, until

import vanilla
from vanilla.protocol.frames import (
    ACK,
    CONTROL_LIMIT,
    COUNTED_BYTES,
    CREDIT,
    DATA,
    ERROR,
    FRAME_LIMIT,
    HELLO,
    HELLO_LIMIT,
    MORE,
    OPEN,
    pack_control,
    pack_head,
)

pytestmark = pytest.mark.skipif(platform.python_implementation() == "PyPy", reason="its collector frees when it likes")

KIB, MIB = 1 << 10, 1 << 20
CAPACITY = 8 * MIB
#: What a broker may take for any load: a table that grows, free blocks that fit nothing, how the kernel counts.
SLACK = 4 * MIB


def bound(held=0, frames=0, connections=0):
    """How far a broker's RSS may grow, in bytes.

    :param held: bytes of messages, at most.
    :param frames: how many frames those came in: each is an object, with a buffer, a number and a time.
    :param connections: how many there are at a time.
    """
    return held + frames * KIB + connections * 4 * KIB + SLACK


class Broker:
    """A broker's process, and how far its RSS has grown at most, in bytes, since it listens."""

    def __init__(self, url, pid):
        self.url = url
        self._status = Path(f"/proc/{pid}/status")
        self._before = self._peak()

    def _peak(self):
        (line,) = (line for line in self._status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * KIB

    @property
    def grown(self):
        return self._peak() - self._before


@contextmanager
def broker(*options, **more):
    with programs.broker(*map(str, options), **more) as (url, process):
        yield Broker(url, process.pid)


@contextmanager
def crowd(h, url, count, **more):
    """*count* raw peers."""
    with ExitStack() as stack:
        peers = []
        for _ in range(count):
            peers.append(Peer(h, url, **more))
            stack.callback(peers[-1].close)
        yield peers


@pytest.fixture
def unix(tmp_path):
    """Where to listen so that a peer can tell what the broker has read (`has_read`)."""
    return f"unix://{tmp_path}/s"


def has_read(peer):
    """Has the broker read all that *peer* has sent? Of TCP, nobody could say."""
    return not struct.unpack("i", fcntl.ioctl(peer.sock, termios.TIOCOUTQ, bytes(4)))[0]


def wait_until_full(h, remote, size):
    """Until the only queue has no room for a message of *size* bytes, and stands still for longer than a grant may be
    put off."""
    last = {}

    def is_full():
        nonlocal last
        h.sleep(20)
        before, last = last, next(iter(remote.status()["endpoints"]), {})
        return (
            before
            and [before[key] for key in ("accepted", "granted")] == [last["accepted"], last["granted"]]
            and (last["ready"] == last["capacity"] or last["bytes"] + size > last["capacity_bytes"])
        )

    until(h, is_full, 6 * PATIENCE)


def message(size):
    """One packed message of *size* bytes."""
    if size < 5:
        return b"\0" if size == 1 else b"\xc4" + bytes([size - 2]) + bytes(size - 2)
    return b"\xc6" + struct.pack(">I", size - 5) + bytes(size - 5)


def push_for_ever(peer, size, name="jobs"):
    """Push messages of *size* bytes, a frame each, as far as credit goes; a smaller one takes what is left."""
    peer.open(1, "push", name)
    n = b = 0
    while True:
        peer.want(1, n=1, b=size)
        frame = peer.next(timeout=-1)
        if frame[0] != CREDIT:
            continue
        credit = msgpack.unpackb(frame[4])[0]
        while n < credit["n"] and b < credit["b"]:
            length = min(size, credit["b"] - b)
            peer.send(pack_head(DATA, 1, n, 1, length), message(length))
            n += 1
            b += length


# -- producers


@pytest.mark.parametrize("size", [4_000, 1_000_000])
def test_a_full_queue_grows_no_memory(h, size):
    item = b"x" * size
    with broker("--capacity-bytes", CAPACITY) as it, h.client.connect(it.url) as remote:
        jobs = remote.push("jobs")

        def push():
            while True:
                jobs.send(item)

        task = h.spawn(push)
        wait_until_full(h, remote, size)
        task.cancel()
        for _ in range(16 * CAPACITY // size):
            with pytest.raises(vanilla.Timeout):
                jobs.send(item, timeout=0)
        remote.ping()
        assert it.grown <= bound(CAPACITY, frames=CAPACITY // (64 * KIB), connections=1)


def test_a_full_queue_of_tiny_messages_takes_its_frames(h):
    count = 20_000
    with broker("--capacity", count) as it, crowd(h, it.url, 1) as (peer,), h.client.connect(it.url) as remote:
        task = h.spawn(push_for_ever, peer, 1)
        wait_until_full(h, remote, 1)
        task.cancel()
        h.sleep(0)
        assert it.grown <= bound(count, frames=count, connections=2)


@pytest.mark.parametrize("size", [4_000, FRAME_LIMIT - COUNTED_BYTES])
def test_five_hundred_producers_of_a_full_queue_grow_no_memory(h, size):
    count, capacity = 500, 5_000
    with (
        broker("--capacity-bytes", CAPACITY, "--capacity", capacity) as it,
        crowd(h, it.url, count) as peers,
        h.client.connect(it.url) as remote,
    ):
        tasks = [h.spawn(push_for_ever, peer, size) for peer in peers]
        wait_until_full(h, remote, size)
        for task in tasks:
            task.cancel()
        h.sleep(0)
        assert it.grown <= bound(CAPACITY, frames=capacity, connections=count + 1)


def test_who_pushes_without_credit_leaves_nothing(h):
    frame = data(1, 0, [bytes(1_000_000)])
    with broker("--capacity-bytes", CAPACITY) as it:
        for _ in range(128):
            with crowd(h, it.url, 1) as (peer,):
                peer.open(1, "push", "jobs")
                peer.expect(CREDIT)
                peer.send(frame)
                assert peer.fields(ERROR)["code"] == "OVER_CREDIT"
        assert it.grown <= bound(4 * len(frame))


# -- consumers

OUTPUT = UNSETTLED = 4 * MIB
#: What is under way to a client that reads and settles.
WINDOW = 2 * MIB


def push_past(h, remote, offered):
    """Push *offered* bytes past a bad consumer: it gets all that it may, then a good one comes and gets the rest.

    :return: bytes that the bad one has at the end.
    """
    jobs = remote.push("jobs")

    def push():
        for _ in range(offered // 4_000):
            jobs.send(b"x" * 4_000)
        jobs.send("last")

    h.spawn(push)
    wait_until_full(h, remote, 4_000)
    got = h.router()
    remote.pull("jobs").consume(got.send)
    while got.recv(timeout=PATIENCE) != "last":
        pass
    return remote.status()["endpoints"][0]["bytes"]


def test_a_puller_that_never_reads_takes_its_output_and_no_more(h, unix):
    options = "--capacity-bytes", CAPACITY, "--output-bytes", OUTPUT
    with (
        broker(*options, listen=unix) as it,
        crowd(h, it.url, 1) as (stalled,),
        h.client.connect(it.url) as remote,
    ):
        stalled.open(1, "pull", "jobs")
        stalled.credit(1)
        assert push_past(h, remote, 8 * CAPACITY) >= OUTPUT // 2
        assert it.grown <= bound(CAPACITY + OUTPUT + WINDOW, connections=2)


def test_a_puller_that_never_settles_takes_what_may_be_unsettled_and_no_more(h):
    options = "--capacity-bytes", CAPACITY, "--unsettled-bytes", UNSETTLED
    with (
        broker(*options) as it,
        crowd(h, it.url, 1) as (greedy,),
        h.client.connect(it.url) as remote,
    ):
        greedy.open(1, "pull", "jobs")
        greedy.credit(1)

        def read():
            while True:
                greedy.next(timeout=-1)

        task = h.spawn(read)
        assert push_past(h, remote, 8 * CAPACITY) >= UNSETTLED // 2
        task.cancel()
        h.sleep(0)
        assert it.grown <= bound(CAPACITY + UNSETTLED + WINDOW, connections=2)


# -- requests and replies


#: Serves one stream of so many items of 64 KiB.
STREAMER = """
import sys, vanilla
class Streamer:
    def items(self, count):
        for i in range(count):
            yield i.to_bytes(8, "big") + bytes(65528)
h = vanilla.Hub()
h.client.connect(sys.argv[1]).serve("streams", Streamer())
print("serving", flush=True)
h.sleep(3_600_000)
"""

#: Reads half of it, waits until told to go on, and reads the rest.
READER = """
import sys, vanilla
h = vanilla.Hub()
remote = h.client.connect(sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
reply = remote.wrap("streams").items(int(sys.argv[2]))
count = 0
for item in reply:
    assert item[:8] == count.to_bytes(8, "big") and len(item) == 65536
    count += 1
    if count == int(sys.argv[2]) // 2:
        print("half", flush=True)
        h.thread.call(sys.stdin.readline).recv()
print(count, flush=True)
"""


def cpu_ticks(pid):
    """What a process has worked so far."""
    return sum(map(int, Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]))


@contextmanager
def program(code, *args):
    with tempfile.TemporaryFile() as log:
        argv = [sys.executable, "-c", code, *map(str, args)]
        with programs.started(argv, log, stdin=subprocess.PIPE) as process:
            yield process


def test_a_stream_of_a_gigabyte_whose_reader_stops_half_way_takes_a_window_everywhere(h):
    count = (1 << 30) // (64 * KIB)
    with broker() as it, program(STREAMER, it.url) as server:
        assert server.stdout.readline() == b"serving\n"
        server_side = Broker(it.url, server.pid)
        with program(READER, it.url, count) as reader:
            assert reader.stdout.readline() == b"ready\n"
            reader_side = Broker(it.url, reader.pid)
            reader.stdin.write(b"go\n")
            reader.stdin.flush()
            assert reader.stdout.readline() == b"half\n"
            with h.client.connect(it.url) as remote:
                before, now = -1, 0
                while before != now:  # until nothing moves any more
                    h.sleep(100)
                    before, now = now, cpu_ticks(server.pid) + cpu_ticks(reader.pid)
                remote.ping()
            reader.stdin.write(b"on\n")
            reader.stdin.flush()
            assert reader.stdout.readline() == b"%d\n" % count
            # what is ahead of the reader, one output each way, and what is being read
            for side in it, server_side, reader_side:
                assert side.grown <= bound(6 * MIB, frames=1_000, connections=2)


def test_who_asks_and_never_reads_keeps_its_requests_queued_and_others_go_on(h, unix):
    options = "--capacity-bytes", CAPACITY, "--output-bytes", OUTPUT
    each, ahead = 100_000, 64  # a server that sizes its window itself may have any number by then
    with (
        broker(*options, listen=unix) as it,
        crowd(h, it.url, 1) as (stalled,),
        h.client.connect(it.url) as far,
        h.client.connect(it.url) as near,
    ):
        far.router("blobs", prefetch=ahead).consume(lambda item: bytes(each))
        blobs = near.dealer("blobs")
        blobs.call(0, wait=True).recv(timeout=PATIENCE)
        stalled.open(1, "call", "blobs")
        stalled.want(1, n=4_000, b=10_000)
        asked = 0
        while asked < 4_000:
            asked = stalled.fields(CREDIT)["n"]
        stalled.send(data(1, 0, [0] * asked))  # and from here on it reads nothing
        for _ in range(200):
            assert len(blobs.call(1).recv(timeout=PATIENCE)) == each
        (service,) = near.status()["endpoints"]
        assert service["ready"] > asked // 2
        assert it.grown <= bound(OUTPUT + ahead * each + WINDOW, frames=asked, connections=3)


# -- frames that are never whole


def ask(peer, channel, size, start=0):
    """Ask for credit for a message of *size* bytes behind *start*, and wait for it."""
    peer.want(channel, n=1, b=size)
    while peer.fields(CREDIT)["b"] < start + size:
        peer.want(channel, n=1, b=size)


@pytest.mark.parametrize(
    ("before", "sent", "each"), [(0, 4, 16 * KIB), (0, 200_000, 400_000), (200_000, 4, 200_000 + KIB)]
)
def test_half_a_frame_takes_what_was_sent_not_what_was_announced(h, unix, before, sent, each):
    """16 KiB, or what the longest frame *before* took; beyond that, less than twice what has come."""
    count = 300
    body = FRAME_LIMIT - COUNTED_BYTES
    with broker("--channels", 2, listen=unix) as it, crowd(h, it.url, count) as peers:
        for number, peer in enumerate(peers):
            peer.open(1, "push", f"jobs{number}")
            peer.open(2, "pull", f"jobs{number}")
            start = 0
            if before:
                ask(peer, 1, before + 5)
                peer.send(data(1, 0, [bytes(before)]))
                peer.expect(ACK)
                peer.credit(2, n=1)
                peer.delivery()
                peer.ack(2, 0, 1)
                start = before + 5
            ask(peer, 1, body, start)
        half = pack_head(DATA, 1, 1 if before else 0, 1, body) + bytes(sent)
        for piece in (half[:30], half[30:]):
            for peer in peers:
                peer.send(piece)
            until(h, lambda: all(map(has_read, peers)))
        assert it.grown <= bound(count * each, frames=count, connections=count)


def test_half_a_frame_that_is_passed_over_takes_nothing(h, unix):
    count = 300
    half = pack_head(DATA, 1, 0, 1, FRAME_LIMIT - COUNTED_BYTES) + bytes(500_000)
    with broker(listen=unix) as it, crowd(h, it.url, count) as peers:
        for peer in peers:
            peer.open(1, "teapot", "jobs")
            peer.send(half)
        until(h, lambda: all(map(has_read, peers)))
        assert it.grown <= bound(connections=count)


def test_half_acknowledgements_take_a_sixteenth_of_the_memory(h, unix):
    count, memory = 800, 64 * MIB
    half = pack_head(ACK, 1, 0, 1, CONTROL_LIMIT - COUNTED_BYTES) + bytes(CONTROL_LIMIT // 2)
    with broker("--memory", memory, listen=unix) as it, crowd(h, it.url, count) as peers:
        for peer in peers:
            peer.open(1, "pull", "jobs")
            peer.send(half)
        until(h, lambda: all(map(has_read, peers)))
        assert it.grown <= bound(memory // 16, connections=count)


@pytest.mark.parametrize(("size", "count"), [(1, 40), (4_000, 40), (FRAME_LIMIT - COUNTED_BYTES, 100)])
def test_all_queues_together_take_no_more_than_the_memory(h, unix, size, count):
    """Each of them has room for a multiple; a frame a message, and never a consumer."""
    memory = 16 * MIB
    with (
        broker("--memory", memory, listen=unix) as it,
        crowd(h, it.url, count) as peers,
        h.client.connect(it.url) as remote,
    ):
        tasks = [h.spawn(push_for_ever, peer, size, f"jobs{number}") for number, peer in enumerate(peers)]

        last = {"accepted": -1}

        def stands_still():
            nonlocal last
            h.sleep(50)
            before, last = last, remote.status()["broker"]
            return before["accepted"] == last["accepted"] and last["buffered"] > memory - 2 * FRAME_LIMIT

        until(h, stands_still, 6 * PATIENCE)
        for task in tasks:
            task.cancel()
        h.sleep(0)
        assert it.grown <= bound(memory * 9 // 8, connections=count + 1)  # a bytearray that grows takes an eighth more


def test_those_who_leave_half_a_frame_leave_nothing_else(h, unix):
    count, sent = 50, 500_000
    half = pack_head(DATA, 1, 0, 1, FRAME_LIMIT - COUNTED_BYTES) + bytes(sent)
    with broker(listen=unix) as it, crowd(h, it.url, 1) as (witness,):
        for _ in range(8):
            with crowd(h, it.url, count) as peers:
                for peer in peers:
                    peer.open(1, "push", "jobs")
                    peer.send(half)
                until(h, lambda peers=peers: all(map(has_read, peers)))
            until(h, lambda: witness.status()[""]["connections"] == 1)
        assert it.grown <= bound(2 * count * sent, connections=count)


@pytest.mark.parametrize(("said", "each"), [(0, 0), (1, 0), (HELLO_LIMIT - 100, 4 * KIB)])
def test_a_connection_before_its_hello_takes_a_little(h, unix, said, each):
    count = 500
    hello = pack_control(HELLO, 0, 0, {"v": 1, "id": b"p" * 16, "agent": "x" * (HELLO_LIMIT - 100)})
    with broker("--hello-timeout", 3_600_000, listen=unix) as it, crowd(h, it.url, count, hello=False) as peers:
        for peer in peers:
            peer.send(hello[:said])
        with crowd(h, it.url, 1) as (witness,):
            assert witness.status()[""]["connections"] == count + 1
        until(h, lambda: all(map(has_read, peers)))
        assert it.grown <= bound(count * each, connections=count + 1)


# -- settling in part


def deliver_tiny(peer):
    """Push messages of one byte to oneself, on channels 1 and 2, until no more are given out: how many were."""
    peer.open(1, "push", "jobs")
    peer.open(2, "pull", "jobs")
    peer.credit(2)
    peer.want(1, n=10_000, b=10_000)
    n = got = 0
    try:
        while True:
            kind, _, _, number, array = peer.next(timeout=500)
            if kind == CREDIT:
                credit = msgpack.unpackb(array)[0]["n"]
                if credit > n:
                    peer.send(data(1, n, [1] * (credit - n)))
                    n = credit
                peer.want(1, n=10_000, b=10_000)
            elif kind in (DATA, DATA | MORE):
                got += number
    except vanilla.Timeout:
        return got


@pytest.mark.parametrize("how", ["ack", "back", "delay"])
def test_who_settles_every_second_message_takes_no_more_than_may_be_unsettled(h, how):
    """Each message may become a piece of its own in the broker: that is in the price from the start."""
    unsettled = 16 * MIB
    with broker("--unsettled-bytes", unsettled, "--capacity", 10_000) as it, crowd(h, it.url, 1) as (peer,):
        got = deliver_tiny(peer)
        assert got > 30_000
        for start in range(0, got, 14_000):
            flat = [part for seq in range(start, min(start + 14_000, got), 2) for part in (seq, 1)]
            if how == "ack":
                peer.ack(2, *flat)
            else:
                peer.nack(2, *flat, **{"back": {"back": True}, "delay": {"delay": 3_600_000}}[how])
            peer.status()
        assert it.grown <= bound(unsettled, frames=10_000, connections=1)


def test_who_keeps_a_part_of_a_part_of_each_frame_takes_no_more_than_may_be_unsettled(h):
    """Each frame of 1 MB is cut in 290 and 110 messages by credit, and 28 of those are kept."""
    each, unsettled = 2_500, 2 * MIB
    frame = 400 * (each + 3)
    with broker("--unsettled-bytes", unsettled) as it, crowd(h, it.url, 2) as (producer, consumer):
        producer.open(1, "push", "jobs")
        consumer.open(2, "pull", "jobs")
        n = b = seen = 0
        credit = {"n": 0, "b": 0}
        try:
            while True:
                if credit["n"] < n + 400 or credit["b"] < b + frame:
                    producer.want(1, n=4_000, b=1 << 20)
                while credit["n"] < n + 400 or credit["b"] < b + frame:
                    credit = producer.fields(CREDIT)
                producer.send(data(1, n, [b"x" * each] * 400))
                n += 400
                b += frame
                for count, kept in ((290, 0), (110, 28)):
                    consumer.credit(2, n=seen + count)
                    got = 0
                    while got < count:
                        kind, _, _, number, _ = consumer.next(timeout=1_000)
                        got += number if kind in (DATA, DATA | MORE) else 0
                    consumer.ack(2, seen, count - kept)
                    seen += count
        except vanilla.Timeout:
            pass  # it is given no more
        assert it.grown <= bound(4 * unsettled + frame, connections=2)


# -- what things cost that do nothing

HI = pack_control(HELLO, 0, 0, {"v": 1, "id": b"p" * 16})
PULLER = pack_control(OPEN, 1, 0, {"kind": "pull", "name": "jobs"}) + pack_control(CREDIT, 1, 0, {"n": 1, "b": 1000})
PUSHER = pack_control(OPEN, 1, 0, {"kind": "push", "name": "jobs"})


@pytest.fixture
def descriptors():
    """More of them than a shell mostly allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(6_000, hard), hard))
    yield min(6_000, hard) - 1_000
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize(
    ("first_words", "each"), [(b"", 3_000), (PULLER, 5_000), (PUSHER, 5_000)], ids=["idle", "puller", "pusher"]
)
def test_what_a_connection_costs(unix, descriptors, first_words, each):
    """In bytes of the broker's memory; what the kernel takes is not in it."""
    few, many = descriptors // 5, descriptors
    with broker(listen=unix) as it, ExitStack() as stack:
        grown = []
        for number in range(many):
            sock = stack.enter_context(socket.socket(socket.AF_UNIX))
            sock.connect(it.url.partition("://")[2])
            sock.sendall(HI + first_words)
            assert sock.recv(4096)
            if number + 1 in (few, many):
                grown.append(it.grown)
        assert (grown[1] - grown[0]) / (many - few) <= each


def test_what_an_endpoint_costs(h, unix):
    """With the channel of the one consumer that keeps it."""
    few, many = 1_000, 5_000
    with broker("--channels", many, listen=unix) as it, crowd(h, it.url, 1) as (peer,):
        grown = []
        for number in range(1, many + 1):
            peer.open(number, "pull", f"jobs{number}")
            if number in (few, many):
                peer.status()
                grown.append(it.grown)
        assert (grown[1] - grown[0]) / (many - few) <= 3_000

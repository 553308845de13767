"""Each limit of a broker, as a client or a stranger meets it."""

from __future__ import annotations

import logging
import os
import resource
import socket
from contextlib import ExitStack
from dataclasses import fields
from pathlib import Path

import programs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from peers import PATIENCE, Peer, data, until

from vanilla.broker.door import PAUSE, Refusals, origin
from vanilla.broker.memory import MESSAGE_BYTES, TURNS, Memory
from vanilla.broker.options import Options
from vanilla.broker.settings import SETTINGS
from vanilla.protocol.frames import (
    ACK,
    CLOSE,
    CREDIT,
    DATA,
    DATA_OPTIONS,
    ERROR,
    HELLO,
    OPEN,
    PING,
    PONG,
    WANT,
    pack_control,
    pack_head,
)
from vanilla.protocol.urls import parse

TCP = "tcp://127.0.0.1:0"
HI = pack_control(HELLO, 0, 0, {"v": 1, "id": b"p" * 16})


def nested(depth):
    item = []
    for _ in range(depth - 1):
        item = [item]
    return item


# -- what a frame may be


@pytest.mark.parametrize("depth", [1, 3, 255])
def test_a_message_nests_as_deep_as_the_broker_says_and_no_deeper(h, depth):
    with h.broker.listen(TCP, depth=depth) as broker:
        peer = Peer(h, broker.urls[0])
        peer.open(1, "push", "jobs")
        peer.expect(CREDIT)
        peer.send(data(1, 0, [nested(depth)]))
        assert peer.fields(ACK) == {"r": [0, 1]}
        peer.send(data(1, 1, [nested(depth + 1)]))
        assert peer.fields(ERROR)["code"] == "BAD_MESSAGE"
        peer.close()


@pytest.mark.parametrize("depth", [1, 3, 200])
@pytest.mark.parametrize("filling", [(), ("x" * 100,)], ids=["short", "long"])
def test_a_client_learns_how_deep_and_refuses_what_the_broker_would(h, depth, filling):
    with h.broker.listen(TCP, depth=depth) as broker, h.client.connect(broker.urls[0]) as remote:
        jobs = remote.push("jobs")
        jobs.send([*filling, *nested(depth)])
        for send in jobs.send, lambda item: jobs.send_many([item]), lambda item: jobs.send_many((item,)):
            with pytest.raises(ValueError, match="deep"):
                send([*filling, nested(depth)])
        jobs.send("still there")
        jobs.sync()
        pull = remote.pull("jobs")
        assert [pull.recv(timeout=PATIENCE) for _ in range(2)] == [[*filling, *nested(depth)], "still there"]


# -- what it holds in all

MIB = 1 << 20


@pytest.fixture
def watch(h):
    """Looks at a broker's memory at each edge: it must be what a recount says, and within bounds.

    Returns a function that says how much was in use at most.
    """
    wrong = []

    def start(broker, within):
        most = 0

        def look():
            nonlocal most
            memory, sessions = broker.memory, broker.sessions
            memory.unweighed.update(broker._touched)  # its own edge may come behind this one
            memory.weigh()
            most = max(most, memory.used)
            loads = sum(endpoint.load for endpoint in broker.endpoints.values())
            counted = sum(session.counted + session.under_way for session in sessions)
            if memory.used != loads + counted or memory.used > within:
                wrong.append((memory.used, loads, counted))
            if any(session.counted != session.out.unsent for session in sessions if not session.dirty):
                wrong.append("unsent")

        h.at_every_edge(look)
        return lambda: most

    yield start
    assert not wrong


def test_many_queues_together_hold_no_more_than_the_memory_and_all_gets_through(h, watch):
    """Each alone would have room for its messages; consumers come late, and one of them never settles."""
    count, each, size = 40, 60, 20_000
    with h.broker.listen(TCP, memory=4 * MIB) as broker, h.client.connect(broker.urls[0]) as remote:
        most = watch(broker, 4 * MIB + 100 * MESSAGE_BYTES)  # what deliveries cut in pieces

        def push(name):
            with remote.push(name) as jobs:
                for number in range(each):
                    jobs.send([number, b"x" * size])

        tasks = [h.spawn(push, f"jobs{number}") for number in range(count)]
        until(h, lambda: broker.memory.line and broker.memory.limit - broker.memory.used < MIB)
        accepted = sum(endpoint.accepted for endpoint in broker.endpoints.values())
        assert accepted < count * each / 4
        stalled = Peer(h, broker.urls[0])
        stalled.open(1, "pull", "jobs0")
        stalled.credit(1, n=5)
        got = []
        pulls = [remote.pull(f"jobs{number}") for number in range(1, count)]
        for pull in pulls:
            pull.consume(lambda item: got.append(item[0]))
        for task in tasks[1:]:
            task.join(timeout=6 * PATIENCE)
        until(h, lambda: len(got) == (count - 1) * each)
        stalled.close()
        remote.pull("jobs0").consume(lambda item: got.append(item[0]))
        until(h, lambda: len(got) == count * each)
        tasks[0].join(timeout=PATIENCE)
        assert most() > 3 * MIB
        assert sorted(got) == sorted(list(range(each)) * count)
        status = remote.status()["broker"]
        assert status["memory"] == 4 * MIB and status["buffered"] < MIB


def test_at_the_limit_what_was_granted_is_taken_and_what_is_settled_is_read(h, watch):
    """Credit for all of the memory is out, every producer has sent half of its frame: nothing may stand still."""
    size = 900_000
    with h.broker.listen(TCP, memory=8 * MIB) as broker, ExitStack() as stack:
        watch(broker, 8 * MIB)
        peers = []
        while broker.memory.limit - broker.memory.used > size + 5 or not peers:
            peer = Peer(h, broker.urls[0])
            stack.callback(peer.close)
            peer.open(1, "push", f"jobs{len(peers)}")
            peer.want(1, n=1, b=size + 5)
            while peer.fields(CREDIT)["b"] < size + 5:
                pass
            peers.append(peer)
        frame = data(1, 0, [bytes(size)])
        for peer in peers:
            peer.send(frame[: size // 2])
        late = Peer(h, broker.urls[0])
        stack.callback(late.close)
        late.open(1, "push", "late")
        late.want(1, n=1, b=size + 5)
        late.open(2, "pull", "jobs0")
        late.credit(2)
        assert late.status()["late"]["granted"] == 0
        for peer in peers:
            peer.send(frame[size // 2 :])
            assert peer.fields(ACK) == {"r": [0, 1]}
        assert len(late.delivery()[3][0]) == size
        late.ack(2, 0, 1)
        while late.fields(CREDIT)["b"] < size + 5:
            pass


def test_unsent_output_counts_too(h, watch, tmp_path):
    """A consumer reads nothing: its deliveries, unsent ones twice, are all that there is room for, until it goes."""
    with (
        h.broker.listen(f"unix://{tmp_path}/s", memory=4 * MIB, output_bytes=2 * MIB) as broker,
        h.client.connect(broker.urls[0]) as remote,
    ):
        watch(broker, 6 * MIB)
        stalled = Peer(h, broker.urls[0])
        stalled.open(1, "pull", "jobs")
        stalled.credit(1)
        (session,) = (session for session in broker.sessions if session.agent == "")
        jobs = remote.push("jobs")
        pushing = h.spawn(lambda: [jobs.send(b"x" * 50_000) for _ in range(100)])
        until(h, lambda: broker.memory.line)
        until(h, lambda: session.counted == session.out.unsent)  # it is counted at the tick's edge
        assert session.counted > MIB
        accepted = broker.endpoints["jobs"].accepted
        assert accepted < 60
        while broker.endpoints["jobs"].accepted < accepted + 10:
            stalled.delivery()  # and nothing is settled
        stalled.close()
        remote.pull("jobs").consume(len)
        pushing.join(timeout=PATIENCE)


def test_credit_counts_even_if_nobody_uses_it(h, watch):
    """Thousands of channels that ask and send nothing: the memory is given out, never twice, and comes back."""
    with h.broker.listen(TCP, memory=4 * MIB) as broker:
        watch(broker, 4 * MIB)
        greedy = Peer(h, broker.urls[0])
        for number in range(1, 1001):
            greedy.open(number, "push", f"jobs{number}")
            greedy.want(number, n=5_000, b=900_000)
        greedy.status()
        late = Peer(h, broker.urls[0])
        late.open(1, "push", "late")
        late.want(1, n=100, b=500_000)
        late.status()
        assert broker.memory.line
        greedy.close()
        while late.fields(CREDIT)["b"] < 500_000:
            pass
        assert len(broker.memory.line) == 0
        late.close()


def test_credit_that_nobody_asked_for_is_given_while_a_quarter_is_free(h):
    with h.broker.listen(TCP, memory=4 * MIB) as broker:
        idle = Peer(h, broker.urls[0])
        for number in range(1, 200):
            idle.open(number, "push", f"jobs{number}")
        idle.status()
        assert 4 * MIB * 3 // 4 <= broker.memory.used < 4 * MIB * 3 // 4 + (128 << 10)
        late = Peer(h, broker.urls[0])
        late.open(1, "push", "alone")
        assert late.status()["alone"]["granted"] == 0
        late.want(1, n=1, b=10)
        late.expect(CREDIT)
        late.close()
        idle.close()
        until(h, lambda: not broker.memory.used)
        late = Peer(h, broker.urls[0])
        late.open(1, "push", "alone")
        assert late.fields(CREDIT)["n"] == 128
        late.close()


def test_an_acknowledgement_alone_makes_memory_for_who_waits(h):
    """Nothing else happens then: no message comes, nobody opens or closes."""
    size = MIB - 21 - 5
    with h.broker.listen(TCP, memory=4 * MIB) as broker, ExitStack() as stack:
        consumer, *producers = peers = [Peer(h, broker.urls[0]) for _ in range(5)]
        for peer in peers:
            stack.callback(peer.close)
        consumer.open(1, "pull", "jobs0")
        consumer.credit(1)
        for number, peer in enumerate(producers):
            peer.open(1, "push", f"jobs{number}")
            peer.want(1, n=1, b=size + 5)
            if number < 3:
                while peer.fields(CREDIT)["b"] < size + 5:
                    pass
                peer.send(data(1, 0, [bytes(size)]))
                peer.expect(ACK)
        consumer.delivery()
        until(h, lambda: broker.memory.line and not any(session.out for session in broker.sessions))
        assert list(broker.memory.line) == [broker.endpoints["jobs3"]]
        consumer.ack(1, 0, 1)
        while producers[3].fields(CREDIT)["b"] < size + 5:
            pass


def fill(h, broker, stack, size, count):
    """All of so many producers that *count* wait for memory, each of a message of *size* bytes on its own queue."""
    peers = []
    while len(broker.memory.line) < count:
        peer = Peer(h, broker.urls[0])
        stack.callback(peer.close)
        peer.open(1, "push", f"full{len(peers)}")
        peer.want(1, n=1, b=size)
        peer.status()
        peers.append(peer)
    return peers


def test_who_waits_for_memory_comes_before_who_asks_as_it_becomes_free(h):
    with h.broker.listen(TCP, memory=4 * MIB) as broker, ExitStack() as stack:
        peers = fill(h, broker, stack, MIB - 21, 1)
        first, last = peers[0], peers[-1]
        first.send(
            pack_control(CLOSE, 1),
            pack_control(OPEN, 2, 0, {"kind": "push", "name": "overtakes"}),
            pack_control(WANT, 2, 0, {"n": 1, "b": MIB - 21}),
        )
        while last.fields(CREDIT)["b"] < MIB - 21:
            pass
        assert last.status()["overtakes"]["granted"] == 0


def test_however_many_wait_each_has_its_turn(h):
    """More than have it at once."""
    with h.broker.listen(TCP, memory=4 * MIB) as broker, ExitStack() as stack:
        hogs = fill(h, broker, stack, MIB - 21, 1)
        waiting = Peer(h, broker.urls[0])
        stack.callback(waiting.close)
        count = 2 * TURNS + 50
        for number in range(1, count + 1):
            waiting.open(number, "push", f"waiting{number}")
            waiting.want(number, n=1, b=900_000)
        waiting.status()
        until(h, lambda: len(broker.memory.line) > 2 * TURNS and not broker.memory._armed)
        for number in range(1, count + 1):
            waiting.want(number, n=1, b=1)
        for hog in hogs:
            hog.close()
        got = set()
        while len(got) < count:
            got.add(waiting.expect(CREDIT)[1])


def test_who_waits_for_memory_costs_nothing_meanwhile(h, monkeypatch):
    with h.broker.listen(TCP, memory=4 * MIB) as broker, ExitStack() as stack:
        fill(h, broker, stack, MIB - 21, 3)
        until(h, lambda: not broker.memory._armed)
        rounds = []
        monkeypatch.setattr(Memory, "_serve", lambda memory: rounds.append(memory))
        h.sleep(50)
        assert not rounds


def test_who_needs_much_does_not_stop_who_needs_little(h):
    with h.broker.listen(TCP, memory=4 * MIB) as broker, ExitStack() as stack:
        full, large, small = (Peer(h, broker.urls[0]) for _ in range(3))
        for peer in full, large, small:
            stack.callback(peer.close)
        for number in range(1, 5):
            full.open(number, "push", f"full{number}")
            full.want(number, n=1, b=900_000)
        until(h, lambda: broker.memory.used >= 3_600_000)
        large.open(1, "push", "large")
        large.want(1, n=1, b=MIB - 21)
        until(h, lambda: broker.memory.line)
        small.open(1, "push", "small")
        small.open(2, "pull", "small")
        small.credit(2)
        small.want(1, n=1, b=100)
        small.expect(CREDIT)
        small.send(data(1, 0, ["x"]))
        assert small.delivery()[3] == ["x"]
        assert large.status()["large"]["granted"] == 0
        full.close_channel(1)
        while large.fields(CREDIT)["b"] < MIB - 21:
            pass


# -- frames under way


def half(frame):
    return frame[: len(frame) // 2]


def large_ack(channel, count):
    """Every second number below 2 * *count*: a few bytes each."""
    return pack_control(ACK, channel, 0, {"r": [part for n in range(count) for part in (100_000 + 2 * n, 1)]})


def test_of_those_who_begin_frames_and_do_not_end_them_the_first_go(h, watch):
    """No credit covers an acknowledgement: those under way have a sixteenth of the memory. A good one gets through."""
    with h.broker.listen(TCP, memory=4 * MIB) as broker, ExitStack() as stack:
        watch(broker, 4 * MIB)
        good = Peer(h, broker.urls[0])
        good.open(1, "pull", "jobs")
        ack = large_ack(1, 9_000)
        assert len(ack) < 64 << 10
        peers = []
        for _ in range(20):
            peers.append(Peer(h, broker.urls[0]))
            stack.callback(peers[-1].close)
            peers[-1].open(1, "pull", "jobs")
            peers[-1].send(half(ack))
        fit = 4 * MIB // 16 // len(ack)
        for peer in peers[:-fit]:
            assert peer.fields(ERROR)["code"] == "TOO_MANY"
            assert peer.gone()
        good.send(half(ack))
        until(
            h,
            lambda: any(
                session.under_way and session.peer.endswith(str(good.sock.getsockname()[1]))
                for session in broker.sessions
            ),
        )
        good.send(ack[len(half(ack)) :])
        assert good.fields(ERROR)["code"] == "BAD_SEQUENCE"  # so it was read: nothing was delivered to settle
        assert broker.memory.used == sum(session.under_way for session in broker.sessions)
        assert broker.door.refusals.counts == {"memory": 20 - fit + 1}


def test_a_frame_that_credit_covers_is_no_frame_of_those(h):
    with h.broker.listen(TCP, memory=4 * MIB) as broker:
        peer = Peer(h, broker.urls[0])
        peer.open(1, "push", "jobs")
        peer.want(1, n=1, b=500_005)
        while peer.fields(CREDIT)["b"] < 500_005:
            pass
        frame = data(1, 0, [bytes(500_000)])
        peer.send(half(frame))
        (session,) = broker.sessions
        until(h, lambda: session.connection.reader.waiting_bytes > 200_000)
        assert not session.under_way
        peer.send(frame[len(half(frame)) :])
        assert peer.fields(ACK) == {"r": [0, 1]}
        peer.close()


@pytest.mark.parametrize(
    ("code", "frame"),
    [
        ("OVER_CREDIT", pack_head(DATA, 1, 0, 1, 900_000)),
        ("OVER_CREDIT", pack_head(DATA_OPTIONS, 1, 0, 2, 900_000)),
        ("BAD_STATE", pack_head(DATA, 9, 0, 1, 900_000)),
        ("BAD_STATE", pack_head(DATA, 2, 0, 1, 900_000)),
        ("BAD_MAP", pack_head(ACK, 2, 0, 1, 900_000)),
        ("BAD_FRAME", pack_head(0x77, 1, 0, 1, 900_000)),
    ],
)
def test_what_must_not_come_is_refused_at_its_head(h, code, frame):
    with h.broker.listen(TCP) as broker:
        peer = Peer(h, broker.urls[0])
        peer.open(1, "push", "jobs")
        peer.open(2, "pull", "jobs")
        peer.send(frame + b"x")
        assert peer.fields(ERROR)["code"] == code
        peer.close()


def test_what_is_passed_over_is_not_kept(h):
    with h.broker.listen(TCP) as broker:
        peer = Peer(h, broker.urls[0])
        peer.open(1, "teapot", "jobs")
        frame = data(1, 0, [bytes(900_000)])
        (session,) = broker.sessions
        for piece in frame[:30], frame[30:600_000], frame[600_000:] + frame + pack_control(PING, 0, 1):
            peer.send(piece)
            h.sleep(0)
            assert session.connection.reader.waiting_bytes == 0
        peer.expect(PONG)
        peer.close()


# -- who may come in


@pytest.fixture
def descriptors():
    """More of them than a shell mostly allows; a program that the test starts has them too."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(8_000, hard), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def dial(url, source="127.0.0.1"):
    """A connection on which nothing is said, from any address of loopback."""
    sock = socket.create_connection(("127.0.0.1", parse(url).port), 30, (source, 0))
    sock.setblocking(False)
    return sock


def last_words(h, sock):
    """What a connection's peer says until its end."""
    said = b""
    while True:
        try:
            part = sock.recv(65536)
        except BlockingIOError:
            h.sleep(1)
            continue
        except ConnectionResetError:
            return said
        if not part:
            return said
        said += part


def test_thousands_who_say_a_byte_now_and_then_or_nothing_end_at_the_deadline(h, descriptors):
    """Those who say hello are served meanwhile, and the descriptors come back."""
    count = 2_200
    with programs.broker("--hello-timeout", "5000") as (url, process), ExitStack() as stack:

        def open_descriptors():
            return len(os.listdir(f"/proc/{process.pid}/fd"))

        peer = Peer(h, url)
        stack.callback(peer.close)
        before = open_descriptors()
        slow = [stack.enter_context(dial(url)) for _ in range(count)]
        until(h, lambda: peer.status()[""]["connections"] == count + 1)
        served, ended = 0, []

        def talk():
            for at in range(len(HI) - 1):
                for sock in slow[::2]:
                    try:
                        sock.send(HI[at : at + 1])
                    except OSError:
                        return
                h.sleep(100)

        def serve():
            nonlocal served
            while not ended:
                late = Peer(h, url)
                late.send(pack_control(PING, 0, served))
                late.expect(PONG)
                late.close()
                served += 1

        stack.callback(h.spawn(talk).cancel)
        stack.callback(h.spawn(serve).cancel)
        for sock in slow:
            ended.append(b"HELLO_TIMEOUT" in last_words(h, sock))
        assert served > 20
        assert ended[1::2] == [True] * (count // 2)
        assert sum(ended) > 0.9 * count  # a byte that crosses the ERROR may take it back
        status = peer.status()[""]
        assert status["refused"] == {"hello_ms": count}
        until(h, lambda: open_descriptors() <= before + 1)


def test_strangers_have_a_limit_of_their_own_and_the_oldest_goes(h):
    with h.broker.listen(TCP, handshakes=3, connections=10) as broker, ExitStack() as stack:
        friends = [Peer(h, broker.urls[0]) for _ in range(4)]
        strangers = [stack.enter_context(dial(broker.urls[0])) for _ in range(20)]
        for stranger in strangers[:17]:
            assert b"TOO_MANY" in last_words(h, stranger)
        assert len(broker.sessions) == 4 + 3
        late = Peer(h, broker.urls[0])
        assert b"TOO_MANY" in last_words(h, strangers[17])
        assert late.status()[""]["refused"] == {"handshakes": 18}
        strangers[19].send(HI)
        until(h, lambda: len(broker.door.strangers) == 1)
        for peer in *friends, late:
            peer.close()


def test_those_who_are_refused_do_not_gather(h):
    with h.broker.listen(TCP, handshakes=5, connections=1) as broker, ExitStack() as stack:
        stack.callback(Peer(h, broker.urls[0]).close)
        for _ in range(40):
            stack.enter_context(dial(broker.urls[0])).send(HI)
        until(h, lambda: broker.door.refusals.counts.get("connections") == 40)
        assert len(broker.sessions) <= 6


def test_a_tick_with_a_thousand_strangers_has_no_more_work_than_one_with_few(h):
    """A hello is answered, and a ping, within as many ticks however many others say nothing."""
    ticks = 0

    def tick():
        nonlocal ticks
        ticks += 1

    h.at_every_edge(tick)
    taken = []
    with h.broker.listen(TCP) as broker, ExitStack() as stack:
        for count in 1, 200:
            for _ in range(count):
                stack.enter_context(dial(broker.urls[0])).send(HI[:3])
            until(h, lambda count=count: len(broker.door.strangers) >= count)
            before = ticks
            peer = Peer(h, broker.urls[0])
            for _ in range(100):
                peer.send(pack_control(PING))
                peer.expect(PONG)
            taken.append(ticks - before)
            peer.close()
    assert taken[1] <= taken[0] * 1.5 + 10


def test_an_address_has_so_many_connections_and_gets_them_back(h):
    with h.broker.listen(TCP, connections_per_address=3) as broker, ExitStack() as stack:
        url = broker.urls[0]
        first = [Peer(h, url) for _ in range(3)]
        refused = stack.enter_context(dial(url))
        assert b"from 127.0.0.1 already" in last_words(h, refused)
        other = stack.enter_context(dial(url, source="127.0.0.2"))
        other.send(HI)
        until(h, lambda: len(broker.sessions) == 4)
        assert first[0].status()[""]["refused"] == {"connections_per_address": 1}
        first.pop().close()
        until(h, lambda: len(broker.sessions) == 3)
        first.append(Peer(h, url))
        assert broker.door._origins == {"127.0.0.1": 3, "127.0.0.2": 1}
        for peer in first:
            peer.close()
        until(h, lambda: len(broker.sessions) == 1)
        assert broker.door._origins == {"127.0.0.2": 1}


def test_a_user_of_a_unix_socket_has_so_many_connections(h, tmp_path):
    with h.broker.listen(f"unix://{tmp_path}/s", connections_per_address=1) as broker:
        peer = Peer(h, broker.urls[0])
        refused = Peer(h, broker.urls[0], hello=False)
        assert f"from uid {os.getuid()} already" in refused.fields(ERROR)["text"]
        refused.close()
        peer.close()


@pytest.mark.parametrize(
    ("host", "whose"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::9", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("::1", "::/64"),
    ],
)
def test_the_addresses_of_one_subscriber_count_as_one(host, whose):
    assert origin(None, (host, 5)) == whose


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from("ab"), st.floats(0, 40)), max_size=60))
def test_a_reason_is_logged_once_a_minute_and_none_is_forgotten(events):
    said, now = [], 0.0
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: said.append((now, record.getMessage()))
    logger = logging.getLogger("vanilla.broker")
    logger.addHandler(handler)
    try:
        refusals = Refusals()
        for reason, pause in events:
            now += pause
            refusals.say(reason, f"{reason} happened", now)
    finally:
        logger.removeHandler(handler)
    for reason in "ab":
        mine = [(when, text) for when, text in said if text.startswith(reason)]
        assert all(later - sooner >= PAUSE for (sooner, _), (later, _) in zip(mine, mine[1:]))
        happened = sum(name == reason for name, _ in events)
        told = len(mine) + sum(int(text.split("(and ")[1].split()[0]) for _, text in mine if "(and " in text)
        assert told + refusals._said.get(reason, (0, 0))[1] == happened


def test_many_refusals_for_one_reason_are_one_line_of_log(h, caplog):
    with h.broker.listen(TCP) as broker:
        for _ in range(30):
            with dial(broker.urls[0]) as sock:
                sock.send(b"GET / HTTP/1.1\r\n")
                assert b"BAD_FRAME" in last_words(h, sock)
    lines = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(lines) == 1 and "BAD_FRAME" in lines[0].getMessage()


# -- every option


#: Where each option of a broker is tested against a real one: the file and the test.
TESTS = {
    "capacity": ("test_broker", "test_a_full_queue_gives_no_credit_until_a_consumer_makes_room"),
    "capacity_bytes": ("test_broker", "test_a_message_larger_than_the_whole_capacity_gets_through_alone"),
    "frame_bytes": ("test_limits", "test_a_frame_is_as_long_as_the_option_says_and_no_longer"),
    "depth": ("test_limits", "test_a_message_nests_as_deep_as_the_broker_says_and_no_deeper"),
    "hello_ms": ("test_limits", "test_thousands_who_say_a_byte_now_and_then_or_nothing_end_at_the_deadline"),
    "udp_idle_ms": ("test_udpsocket", "test_a_session_whose_peer_vanishes_ends"),
    "connections": ("test_broker", "test_the_number_of_connections_is_limited"),
    "connections_per_address": ("test_limits", "test_an_address_has_so_many_connections_and_gets_them_back"),
    "handshakes": ("test_limits", "test_strangers_have_a_limit_of_their_own_and_the_oldest_goes"),
    "channels": ("test_limits", "test_a_program_refuses_more_channels_and_endpoints_and_says_so"),
    "endpoints": ("test_limits", "test_a_program_refuses_more_channels_and_endpoints_and_says_so"),
    "memory": ("test_limits", "test_many_queues_together_hold_no_more_than_the_memory_and_all_gets_through"),
    "output_bytes": ("test_memory", "test_a_puller_that_never_reads_takes_its_output_and_no_more"),
    "unsettled_bytes": ("test_memory", "test_a_puller_that_never_settles_takes_what_may_be_unsettled_and_no_more"),
    "max_attempts": ("test_broker", "test_after_five_attempts_a_message_is_a_dead_letter"),
    "backoff_ms": ("test_broker", "test_the_back_off_doubles"),
    "udp_datagram": ("test_udpsocket", "test_datagrams_are_as_long_as_both_ends_take"),
    "drain_ms": ("test_broker", "test_draining_ends_at_its_time_and_says_what_is_left"),
    "producers": ("test_producers", "test_the_longest_gone_is_forgotten_first"),
    "producer_ttl_ms": ("test_producers", "test_a_record_is_forgotten_after_its_time"),
    "tls_cert": ("test_broker_tls", "test_large_and_small_messages_pass"),
    "tls_key": ("test_broker_tls", "test_who_shows_no_certificate_where_none_is_asked_for_is_anonymous"),
    "tls_client_ca": ("test_broker_tls", "test_a_client_without_the_right_certificate_is_told_and_logged"),
    "token_file": ("test_access", "test_a_right_token_gives_its_identity"),
    "permissions": ("test_access", "test_what_needs_a_permission_is_done_only_by_who_has_it"),
    "insecure": ("test_broker", "test_an_address_that_others_reach_is_refused_unless_insecure"),
}


def test_every_option_is_tested_against_a_real_broker():
    assert list(TESTS) == [field.name for field in fields(Options)]
    for module, name in TESTS.values():
        assert f"\ndef {name}(" in Path(__file__).with_name(f"{module}.py").read_text(), name


def test_every_option_has_a_flag():
    assert {setting.field for setting in SETTINGS.values()} - {""} == {field.name for field in fields(Options)}


@pytest.mark.parametrize("limit", [4096, 100_000])
def test_a_frame_is_as_long_as_the_option_says_and_no_longer(h, limit):
    with h.broker.listen(TCP, frame_bytes=limit) as broker:
        peer = Peer(h, broker.urls[0])
        peer.open(1, "push", "jobs")
        peer.want(1, n=1, b=limit)
        while peer.fields(CREDIT)["b"] < limit - 21:
            pass
        peer.send(data(1, 0, [bytes(limit - 21 - (5 if limit > 65536 else 3))]))
        assert peer.fields(ACK) == {"r": [0, 1]}
        peer.send(pack_head(DATA, 1, 1, 1, limit - 20))
        assert peer.fields(ERROR)["code"] == "TOO_BIG"
        assert broker.door.refusals.counts == {"frame_bytes": 1}
        peer.close()


def test_a_program_refuses_more_channels_and_endpoints_and_says_so(h):
    with programs.broker("--endpoints", "2", "--channels", "3") as (url, _):
        peer = Peer(h, url)
        for number, name in enumerate(["a", "b"], 1):
            peer.open(number, "pull", name)
        peer.open(3, "pull", "c")
        assert peer.fields(ERROR)["text"] == "there are 2 endpoints already"
        peer.open(4, "pull", "b")
        peer.open(5, "pull", "b")
        assert peer.fields(ERROR)["text"] == "a connection has at most 3 channels"
        assert peer.status()[""]["refused"] == {"endpoints": 1, "channels": 1}
        peer.close()


def test_memory_holds_a_few_of_the_longest_frames():
    with pytest.raises(ValueError, match=r"^memory is "):
        Options(memory=4 * MIB, frame_bytes=2 * MIB)

"""Sessions over UDP, between a broker and its clients, on sockets."""

from __future__ import annotations

import errno
import os
import random
import signal
import socket
import subprocess
import sys
from contextlib import suppress

import pytest
from lossy import Proxy, bound
from peers import PATIENCE, until

from vanilla import ConnectionLost, Timeout, udppath, udpsocket
from vanilla.client.table import table
from vanilla.deadline import Deadline
from vanilla.offload import OFFLOAD, Offload, prepare
from vanilla.poll import OUT
from vanilla.protocol.packets import DATAGRAM_BYTES, Init, pack_init
from vanilla.protocol.transport import Transport
from vanilla.task import monotonic
from vanilla.udppath import LOOPBACK_BYTES
from vanilla.udpsocket import UDPSocket


@pytest.fixture
def broker(h):
    with h.broker.listen("udp://127.0.0.1:0") as broker:
        yield broker


@pytest.fixture
def proxy(h, broker):
    """A way that loses nothing, unless told."""
    proxy = Proxy(h, broker.urls[0], lost=0, doubled=0, late=0)
    yield proxy
    proxy.close()


def listener(broker):
    return broker.listeners[0][0]


def test_what_is_pushed_comes_out(h, broker):
    with h.client.connect(broker.urls[0]) as remote:
        jobs, items = remote.push("jobs"), remote.pull("jobs")
        task = h.spawn(jobs.send_many, [bytes([n % 256]) * n for n in range(3_000)])
        for n in range(3_000):
            assert items.recv() == bytes([n % 256]) * n
        task.join()


def test_a_large_message_is_no_larger_than_elsewhere(h, broker):
    with h.client.connect(broker.urls[0]) as remote:
        jobs, items = remote.push("jobs"), remote.pull("jobs")
        body = os.urandom(900_000)
        for _ in range(3):
            h.spawn(jobs.send, body)
        for _ in range(3):
            assert items.recv() == body


@pytest.mark.parametrize(("sends", "joins"), [(False, True), (True, False), (False, False)])
def test_a_kernel_that_neither_cuts_nor_joins_will_do(h, monkeypatch, sends, joins):
    monkeypatch.setattr(OFFLOAD, "sends", sends)
    monkeypatch.setattr(OFFLOAD, "joins", joins)
    with h.broker.listen("udp://127.0.0.1:0") as broker, h.client.connect(broker.urls[0]) as remote:
        jobs, items = remote.push("jobs"), remote.pull("jobs")
        h.spawn(jobs.send_many, range(20_000))
        assert [items.recv() for _ in range(20_000)] == list(range(20_000))


def test_what_the_kernel_can_do_is_left_aside_where_the_environment_says_so(monkeypatch):
    monkeypatch.delenv("VANILLA_UDP_OFFLOAD", raising=False)
    found = Offload()
    if not found.sends or not found.joins:
        pytest.skip("this kernel has no UDP_SEGMENT, or no UDP_GRO")
    monkeypatch.setenv("VANILLA_UDP_OFFLOAD", "0")
    aside = Offload()
    assert (aside.sends, aside.joins) == (False, False)


@pytest.mark.parametrize(("share", "datagram"), [(0.02, DATAGRAM_BYTES), (0.2, DATAGRAM_BYTES), (0.2, 0)])
def test_what_the_way_loses_doubles_and_reorders_is_made_good(h, share, datagram):
    broker = h.broker.listen("udp://127.0.0.1:0", udp_datagram=datagram, hello_ms=60_000)
    proxy = Proxy(h, broker.urls[0], lost=share, doubled=share, late=share, seed=7)
    with h.client.connect(proxy.url) as remote:
        jobs, items = remote.push("jobs"), remote.pull("jobs")
        h.spawn(jobs.send_many, [(n, bytes(500)) for n in range(2_000)])
        assert [items.recv()[0] for _ in range(2_000)] == list(range(2_000))
    assert proxy.lost > (10 if datagram else 5)
    proxy.close()
    broker.close()


@pytest.mark.parametrize(("datagram", "longest"), [(0, LOOPBACK_BYTES), (3_000, 3_000), (60_000, LOOPBACK_BYTES)])
def test_datagrams_are_as_long_as_both_ends_take(h, datagram, longest):
    with h.broker.listen("udp://127.0.0.1:0", udp_datagram=datagram) as broker:
        proxy = Proxy(h, broker.urls[0], lost=0, doubled=0, late=0)
        with h.client.connect(proxy.url) as remote:
            jobs, items = remote.push("jobs"), remote.pull("jobs")
            h.spawn(jobs.send_many, [bytes(100_000)] * 10)
            for _ in range(10):
                items.recv()
        assert proxy.longest == longest
        proxy.close()


def test_a_client_says_in_its_url_how_long_its_datagrams_are(h, broker, proxy):
    with h.client.connect(proxy.url + "?datagram=3000") as remote:
        jobs, items = remote.push("jobs"), remote.pull("jobs")
        h.spawn(jobs.send, bytes(100_000))
        items.recv()
    assert proxy.longest == 3000


def test_a_brokers_url_says_nothing_of_datagrams(h):
    with pytest.raises(ValueError, match="--udp-datagram"):
        h.broker.listen("udp://127.0.0.1:0?datagram=3000")


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
@pytest.mark.parametrize("configured", [0, DATAGRAM_BYTES, 60_000])
def test_the_kernel_holds_as_many_datagrams_as_a_path_says(host, configured):
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as one, socket.socket(family, socket.SOCK_DGRAM) as other:
        try:
            one.bind((host, 0))
        except OSError as error:
            pytest.skip(f"no {host} here: {error}")
        other.connect(one.getsockname())
        one.connect(other.getsockname())
        path = prepare(one, configured)
        assert path.datagram == (configured or LOOPBACK_BYTES)
        assert path.elsewhere == (configured or DATAGRAM_BYTES)
        for _ in range(path.datagrams):
            other.send(bytes(path.datagram))
        for _ in range(path.datagrams):
            assert len(one.recv(65_536)) == path.datagram


class Uncut:
    """A socket on a device for which the kernel does not cut."""

    def __init__(self, sock):
        self.sock = sock
        self.asked = 0

    def __getattr__(self, name):
        return getattr(self.sock, name)

    def sendmsg(self, buffers, ancillary):
        self.asked += 1
        raise OSError(errno.EIO, "no checksums")


def test_trains_that_the_kernel_does_not_cut_for_a_device_leave_one_by_one(h, broker):
    if not OFFLOAD.sends:
        pytest.skip("this kernel has no UDP_SEGMENT")
    with h.client.connect(broker.urls[0]) as remote:
        sock = remote._link.sock
        sock._sock = uncut = Uncut(sock._sock)
        jobs, items = remote.push("jobs"), remote.pull("jobs")
        h.spawn(jobs.send_many, [bytes(100_000)] * 10)
        for _ in range(10):
            assert len(items.recv()) == 100_000
        assert uncut.asked == 1


class Narrow:
    """A socket that takes *most* datagrams, one by one, and is full then, for once."""

    def __init__(self, sock, most):
        self.sock = sock
        self.most = self.room = most
        self.full = 0
        self.sent = []

    def __getattr__(self, name):
        return getattr(self.sock, name)

    def send(self, data):
        if not self.room:
            self.full += 1
            self.room = self.most
            raise BlockingIOError(errno.EAGAIN, "full")
        self.room -= 1
        self.sent.append(bytes(data))
        return self.sock.send(data)


def test_a_train_that_the_kernel_takes_a_part_of_goes_on_from_there(h, monkeypatch):
    monkeypatch.setattr(OFFLOAD, "sends", False)
    with h.broker.listen("udp://127.0.0.1:0", udp_datagram=DATAGRAM_BYTES) as broker:
        with h.client.connect(broker.urls[0], timeout=PATIENCE) as remote:
            sock = remote._link.sock
            sock._sock = narrow = Narrow(sock._sock, 5)
            jobs, items = remote.push("jobs"), remote.pull("jobs")
            h.spawn(jobs.send_many, [bytes(100_000)] * 4)
            for _ in range(4):
                assert len(items.recv(timeout=PATIENCE)) == 100_000
            assert narrow.full > 20
            assert len(set(narrow.sent)) == len(narrow.sent)


def test_who_waits_for_room_in_the_kernel_does_not_try_again_and_again(h, broker, monkeypatch):
    ask = h.poll.ask_kernel
    monkeypatch.setattr(h.poll, "ask_kernel", lambda fd, events: ask(fd, events & ~OUT))
    with h.client.connect(broker.urls[0]) as remote:
        sock, drain = remote._link.sock, UDPSocket._drain
        jobs, items = remote.push("jobs"), remote.pull("jobs")
        monkeypatch.setattr(UDPSocket, "_drain", lambda self, now: self is not sock and drain(self, now))
        h.spawn(jobs.send_many, [b"x"] * 10)
        until(h, lambda: sock._stuck)
        h.sleep(1)
        assert sock._timer is None
        monkeypatch.undo()
        sock.leave()
        for _ in range(10):
            assert items.recv(timeout=PATIENCE) == b"x"


def test_datagrams_that_come_one_by_one_are_read_as_the_trains_they_were(h, monkeypatch):
    monkeypatch.setattr(OFFLOAD, "joins", False)
    sizes = []
    receive = Transport.receive

    def watch(transport, data, now, address=None, segment=0):
        sizes.append(-(-len(data) // segment) if segment else 1)
        receive(transport, data, now, address, segment)

    monkeypatch.setattr(Transport, "receive", watch)
    with h.broker.listen("udp://127.0.0.1:0", udp_datagram=DATAGRAM_BYTES) as broker:
        with h.client.connect(broker.urls[0]) as remote:
            jobs, items = remote.push("jobs"), remote.pull("jobs")
            h.spawn(jobs.send_many, [os.urandom(500_000)] * 4)
            for _ in range(4):
                items.recv()
    assert max(sizes) > 20


def test_what_acknowledgements_let_go_leaves_though_a_reader_found_them(h):
    socks = bound(), bound()
    for sock, peer in (socks, socks[::-1]):
        sock.setblocking(False)
        sock.connect(peer.getsockname())
    ends = [
        UDPSocket(h, sock, Transport(False, monotonic(), token, random.Random(token), peer=3 - token))
        for token, sock in enumerate(socks, 1)
    ]
    one = ends[0]
    one.send(bytes(200_000))
    deadline = Deadline(PATIENCE)
    while one.transport.unsent:  # no turn of the loop: both are only read
        assert deadline.left()
        for end in ends:
            with suppress(BlockingIOError):
                while end.recv(65_536):
                    pass
    for end in ends:
        end.close()


def test_a_path_that_leaves_the_machine_has_datagrams_that_every_path_carries():
    class Away:
        def getsockname(self):
            return "192.0.2.1", 1

        def getpeername(self):
            return "fe80::1%eth0", 2, 0, 3

        def getsockopt(self, level, option):
            return 1 << 20

    assert udppath.path_of(Away()).datagram == DATAGRAM_BYTES


def test_a_way_that_is_cut_for_a_while_heals(h, broker, proxy):
    with h.client.connect(proxy.url) as remote:
        jobs, items = remote.push("jobs"), remote.pull("jobs")
        proxy.cut = True
        h.spawn_later(400, setattr, proxy, "cut", False)
        task = h.spawn(jobs.send_many, range(1_000))
        assert [items.recv() for _ in range(1_000)] == list(range(1_000))
        task.join()
        assert remote.link.recv() == "connected"


def test_a_peer_whose_address_changes_goes_on(h, broker, proxy):
    with h.client.connect(proxy.url) as remote:
        jobs, items = remote.push("jobs"), remote.pull("jobs")
        jobs.send("before")
        assert items.recv() == "before"
        (session,) = listener(broker).sessions.values()
        address = session.transport.address
        for n in range(3):
            proxy.move()
            jobs.send(n)
            assert items.recv() == n
        until(h, lambda: session.transport.address != address)
        assert session.transport.counters.moves >= 1
        assert len(listener(broker).sessions) == 1


def test_nobody_there_is_told_at_once(h):
    sock = bound()
    url = f"udp://127.0.0.1:{sock.getsockname()[1]}"
    sock.close()
    with pytest.raises(ConnectionLost, match="refused"):
        h.client.connect(url, timeout=60_000)


@pytest.mark.parametrize("idle", [True, False])
def test_a_refusal_by_the_kernel_that_is_over_soon_ends_no_session(h, broker, proxy, monkeypatch, idle):
    """Anybody who guesses a port can forge one."""
    monkeypatch.setattr(udpsocket, "SURE", 1000.0)
    with h.client.connect(proxy.url, reconnect=False) as remote:
        jobs, items = remote.push("jobs"), remote.pull("jobs")
        jobs.send("before")
        assert items.recv() == "before"
        sock = remote._link.sock
        if idle:
            ends = sock.transport, *(session.sock.transport for session in broker.sessions)
            until(h, lambda: not any(end.in_flight or end._notices.arrivals.at is not None for end in ends))
            sent = sock.transport.counters.sent
            sock._refused(ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused"), monotonic())
            assert sock._refusal is not None
            sock._leave()
            assert sock.transport.counters.sent == sent + 1
        else:
            with proxy.away():
                jobs.send("meanwhile")
                until(h, lambda: sock._refusal is not None)
            assert items.recv() == "meanwhile"
        until(h, lambda: sock._refusal is None)  # something has come: it was asked
        assert sock._fault is None
        assert remote.link.recv() == "connected"


def test_who_is_far_away_has_the_time_to_answer_when_refusals_are_forged(h, broker):
    with h.client.connect(broker.urls[0], reconnect=False) as remote:
        sock, error = remote._link.sock, ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused")
        recovery, now = sock.transport._outgoing.recovery, monotonic()
        recovery.sampled, recovery.smoothed = True, 0.3
        sock._refused(error, now)
        sock._refused(error, now + 0.4)
        assert sock._fault is None
        sock._refused(error, now + 1.3)
        assert sock._fault is error


def test_a_server_that_is_gone_for_good_is_lost_soon(h, broker, proxy):
    with h.client.connect(proxy.url, reconnect=False) as remote, proxy.away():
        jobs = remote.push("jobs")
        with pytest.raises(ConnectionLost, match="refused"):
            jobs.send("meanwhile")
            jobs.sync(timeout=PATIENCE)


def test_who_does_not_answer_is_a_timeout(h):
    with bound() as sock, pytest.raises(Timeout):
        h.client.connect(f"udp://127.0.0.1:{sock.getsockname()[1]}", timeout=50)


def test_addresses_that_others_reach_need_insecure(h):
    with pytest.raises(ValueError, match="--insecure"):
        h.broker.listen("udp://0.0.0.0:0")
    with h.broker.listen("udp://0.0.0.0:0", insecure=True):
        pass


def test_an_address_in_use_is_told(h, broker):
    with pytest.raises(OSError, match="in use"):
        h.broker.listen(broker.urls[0])


def test_a_first_datagram_costs_nothing_and_is_answered_with_less(h, broker):
    host, port = listener(broker).sock.getsockname()
    with bound() as stranger:
        descriptors = len(os.listdir("/proc/self/fd"))
        for n in range(40):
            stranger.sendto(pack_init(Init(1, 0, n + 1, bytes(16))), (host, port))
        answers = []
        while len(answers) < 40:
            h.sleep(1)
            try:
                while True:
                    answers.append(stranger.recv(65536))
            except BlockingIOError:
                pass
        assert max(map(len, answers)) < DATAGRAM_BYTES
        assert not listener(broker).sessions
        assert len(os.listdir("/proc/self/fd")) == descriptors


def test_bad_datagrams_are_counted_and_disturb_nobody(h, broker):
    chance = random.Random(5)
    address = listener(broker).sock.getsockname()
    with h.client.connect(broker.urls[0]) as remote, bound() as stranger:
        jobs, items = remote.push("jobs"), remote.pull("jobs")
        (session,) = listener(broker).sessions.values()
        for n in range(500):
            stranger.sendto(bytes([n % 6]) + bytes(chance.choices(range(256), k=chance.randrange(1, 200))), address)
            if n % 50 == 0:
                jobs.send(n)
                assert items.recv() == n
        until(h, lambda: sum(listener(broker).bad.values()) >= 400)
        assert list(listener(broker).sessions.values()) == [session]
        assert session.transport.counters.moves == 0


def test_what_was_sent_before_a_close_arrives(h, broker):
    proxy = Proxy(h, broker.urls[0], lost=0.1, doubled=0, late=0, seed=3)
    near, far = h.client.connect(proxy.url), h.client.connect(broker.urls[0])
    jobs, items = near.push("jobs"), far.pull("jobs")
    h.spawn(lambda: (jobs.send_many([bytes(100)] * 500), near.close()))
    for _ in range(500):
        items.recv()
    far.close()
    proxy.close()


def test_sessions_that_end_leave_no_descriptor(h, broker):
    def used():
        return len(os.listdir("/proc/self/fd"))

    with h.client.connect(broker.urls[0]) as remote:
        remote.push("jobs").send(0)
    until(h, lambda: not broker.sessions and not listener(broker).sessions)
    before = used()
    for n in range(20):
        with h.client.connect(broker.urls[0]) as remote:
            remote.push("jobs").send(n)
    until(h, lambda: not broker.sessions and not listener(broker).sessions)
    until(h, lambda: used() == before)
    assert len(h.poll.layers) == 0


COMMAND = [sys.executable, "-m", "vanilla.broker", "--listen"]


def test_a_broker_that_is_killed_and_started_again_is_found(h):
    def start(url):
        process = subprocess.Popen([*COMMAND, url], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        return process, process.stdout.readline().split()[-1]

    process, url = start("udp://127.0.0.1:0")
    try:
        with h.client.connect(url, backoff=(10, 50)) as remote:
            jobs = remote.push("jobs")
            jobs.send("one")
            jobs.sync()
            process.send_signal(signal.SIGKILL)
            process.wait()
            process.stdout.close()
            process, _ = start(url)
            jobs.send("two")
            assert remote.pull("jobs").recv() == "two"
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def test_a_session_whose_peer_vanishes_ends(h):
    with h.broker.listen("udp://127.0.0.1:0", udp_idle_ms=200) as broker:
        proxy = Proxy(h, broker.urls[0], lost=0, doubled=0, late=0)
        remote = h.client.connect(proxy.url)
        remote.push("jobs").send(1)
        assert len(broker.sessions) == 1
        proxy.cut = True
        until(h, lambda: not broker.sessions)
        proxy.close()
        remote.close()


def test_a_status_tells_of_each_session(h):
    broker = h.broker.listen("udp://127.0.0.1:0", udp_datagram=DATAGRAM_BYTES)
    proxy = Proxy(h, broker.urls[0], lost=0.1, doubled=0, late=0, seed=2)
    with h.client.connect(proxy.url) as remote:
        jobs, items = remote.push("jobs"), remote.pull("jobs")
        h.spawn(jobs.send_many, [bytes(1_000)] * 300)
        for _ in range(300):
            items.recv()
        until(h, lambda: remote.status()["broker"]["udp"][0]["lost"])  # worked out anew four times a second
        (told,) = remote.status()["broker"]["udp"]
        assert told["retransmitted"] > 0
        assert told["received"] > 100
        assert 0 < told["min_rtt"] <= told["rtt"] < 10_000
        assert "lost" in table(remote.status(), proxy.url)
    proxy.close()
    broker.close()


class Watched:
    """A socket that says when it was read last."""

    def __init__(self, sock):
        self._sock = sock
        self.read_at = 0.0

    def __getattr__(self, name):
        return getattr(self._sock, name)

    def recvmsg_into(self, *args):
        return self._read(self._sock.recvmsg_into, args)

    def recv_into(self, *args):
        return self._read(self._sock.recv_into, args)

    def _read(self, how, args):
        found = how(*args)
        self.read_at = monotonic()
        return found


def test_a_datagram_came_when_it_was_read_and_not_before(h, broker, monkeypatch):
    """Else one that comes while we wait for the processor makes the way shorter than it is."""
    receive, times = Transport.receive, []

    def watched(transport, data, now, *rest):
        sockets = [session._sock for session in listener(broker).sessions.values()]
        times.extend((now, sock.read_at) for sock in sockets if sock.read_at)
        return receive(transport, data, now, *rest)

    with h.client.connect(broker.urls[0]) as remote:
        (session,) = listener(broker).sessions.values()
        remote.ping()
        monkeypatch.setattr(Transport, "receive", watched)
        session._sock = Watched(session._sock)
        remote.push("jobs").send("x")
        assert remote.pull("jobs").recv() == "x"
        session._sock = session._sock._sock
    assert times
    assert all(now >= read_at for now, read_at in times)

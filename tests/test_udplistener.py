"""Who comes in over UDP, and who does not: limits, descriptors, other versions, and what is counted."""

from __future__ import annotations

import errno
import logging
import os
import socket

import programs
import pytest
from lossy import bound
from peers import PATIENCE, until

from vanilla import ConnectionLost, offload
from vanilla.broker import drops, udplistener
from vanilla.client.table import table
from vanilla.offload import BUFFER_BYTES
from vanilla.protocol.packets import (
    CLOSE,
    INIT_BYTES,
    NO_COOKIE,
    REFUSED,
    RETRY,
    VERSION,
    Init,
    Retry,
    kind_of,
    pack_data,
    pack_init,
    pack_retry,
    pack_window,
    parse_close,
    parse_init,
    parse_retry,
)

URL = "udp://127.0.0.1:0"


@pytest.fixture
def broker(h):
    with h.broker.listen(URL) as broker:
        yield broker


def listener(broker):
    return broker.listeners[0][0]


class Stranger:
    """A socket that says datagrams by hand, from any address of loopback."""

    def __init__(self, h, broker, token=77, source="127.0.0.1"):
        self.h = h
        self.token = token
        self.there = listener(broker).sock.getsockname()
        self.sock = bound()
        if source != "127.0.0.1":
            self.sock.close()
            self.sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            self.sock.setblocking(False)
            self.sock.bind((source, 0))
        self.sent = self.got = 0

    def say(self, data):
        self.sent += len(data)
        self.sock.sendto(data, self.there)

    def hear(self, kind):
        """The next datagram of *kind*."""
        found = []

        def come():
            try:
                data = self.sock.recv(65536)
            except BlockingIOError:
                return False
            self.got += len(data)
            found.append(data)
            return kind_of(data) == kind

        until(self.h, come)
        return found[-1]

    def ask(self, cookie=NO_COOKIE, version=VERSION, server=0):
        self.say(pack_init(Init(version, server, self.token, cookie)))

    def cookie(self):
        """A good one, and the token of the session that it would make."""
        self.ask()
        retry = parse_retry(self.hear(RETRY))
        return retry.cookie, retry.server

    def enter(self):
        cookie, server = self.cookie()
        self.ask(cookie, server=server)
        return server

    def close(self):
        self.sock.close()


@pytest.fixture
def stranger(h, broker):
    stranger = Stranger(h, broker)
    yield stranger
    stranger.close()


# -- limits


@pytest.mark.parametrize(
    ("limit", "words"),
    [("connections", "there are 1 connections already"), ("connections_per_address", "from 127.0.0.1 already")],
)
def test_who_is_over_a_limit_is_told_with_less_than_it_has_sent_and_costs_nothing(h, limit, words):
    with h.broker.listen(URL, **{limit: 1}) as broker, h.client.connect(broker.urls[0]) as remote:
        with pytest.raises(ConnectionLost, match=f"refused: .*{words}"):
            h.client.connect(broker.urls[0], timeout=PATIENCE)
        stranger = Stranger(h, broker)
        descriptors = len(os.listdir("/proc/self/fd"))
        for _ in range(5):
            stranger.enter()
            close = stranger.hear(CLOSE)
            assert parse_close(close).code == REFUSED and words in parse_close(close).text
            assert len(close) < INIT_BYTES
        assert len(listener(broker).sessions) == len(broker.sessions) == 1
        assert len(os.listdir("/proc/self/fd")) == descriptors
        assert remote.status()["broker"]["refused"] == {limit: 6}
        remote.close()
        until(h, lambda: not broker.sessions)
        h.client.connect(broker.urls[0], timeout=PATIENCE).close()
        stranger.close()


def test_an_address_at_its_limit_keeps_no_other_out(h):
    with h.broker.listen(URL, connections_per_address=1) as broker:
        near, far = Stranger(h, broker), Stranger(h, broker, source="127.0.0.2")
        near.enter()
        until(h, lambda: len(broker.sessions) == 1)
        far.enter()
        until(h, lambda: len(broker.sessions) == 2)
        assert broker.door._origins == {"127.0.0.1": 1, "127.0.0.2": 1}
        near.close()
        far.close()


def test_of_sessions_that_say_no_hello_the_oldest_goes_at_once_with_its_descriptor(h):
    with h.broker.listen(URL, handshakes=3) as broker:
        strangers = [Stranger(h, broker, token=n + 1) for n in range(12)]
        for stranger in strangers:
            stranger.enter()
        for stranger in strangers[:9]:
            assert parse_close(stranger.hear(CLOSE)).code == REFUSED
        assert len(broker.sessions) == len(listener(broker).sessions) == 3
        assert broker.door.refusals.counts == {"handshakes": 9}
        for stranger in strangers:
            stranger.close()


def test_a_session_whose_hello_does_not_come_ends_at_its_time(h):
    with h.broker.listen(URL, hello_ms=50) as broker:
        stranger = Stranger(h, broker)
        stranger.enter()
        until(h, lambda: len(broker.sessions) == 1)
        until(h, lambda: not broker.sessions and not listener(broker).sessions)
        assert broker.door.refusals.counts == {"hello_ms": 1}
        stranger.close()


def test_sessions_that_are_over_and_not_acknowledged_are_bounded_too(h):
    with h.broker.listen(URL, handshakes=1, connections=2) as broker:
        strangers = [Stranger(h, broker, token=n + 1) for n in range(4)]
        for stranger in strangers[:3]:
            stranger.enter()
            until(h, lambda: broker.sessions)
            (session,) = broker.sessions
            session.sock.transport.put([b"last words"])
            session.drop("")
        assert len(listener(broker).sessions) == 3
        strangers[3].enter()
        assert parse_close(strangers[3].hear(CLOSE)).code == REFUSED
        for stranger in strangers:
            stranger.close()


def test_a_first_datagram_that_comes_again_makes_no_second_session(h, broker, stranger):
    cookie, server = stranger.cookie()
    for named in (0, server, 0, 5):
        stranger.ask(cookie, server=named)
    until(h, lambda: len(broker.sessions) == 1)
    for _ in range(20):
        stranger.ask(cookie)
    (session,) = broker.sessions
    until(h, lambda: session.sock.transport.counters.received == 3 + 20)
    assert len(broker.sessions) == len(listener(broker).sessions) == 1


# -- descriptors


def test_who_finds_no_descriptor_gets_in_when_one_is_free(h, broker, stranger, monkeypatch, caplog):
    connected, full = udplistener.UDPListener._connected, True

    def lacking(self, address):
        if full:
            raise OSError(errno.EMFILE, "Too many open files")
        return connected(self, address)

    monkeypatch.setattr(udplistener.UDPListener, "_connected", lacking)
    cookie, server = stranger.cookie()
    for _ in range(20):
        stranger.ask(cookie, server=server)
    until(h, lambda: listener(broker)._waiting)
    stranger.cookie()  # it answers others all the same
    assert not listener(broker).sessions
    listener(broker).retry()
    assert len(listener(broker)._waiting) == 1
    full = False
    listener(broker).retry()
    assert list(listener(broker).sessions) == [server]
    assert not listener(broker)._waiting
    said = [record for record in caplog.records if "too many open files" in record.getMessage()]
    assert len(said) == 1


def test_the_end_of_a_session_lets_in_who_waits_for_a_descriptor(h, broker, stranger, monkeypatch):
    connected = udplistener.UDPListener._connected

    def lacking(self, address):
        if self.sessions:
            raise OSError(errno.EMFILE, "Too many open files")
        return connected(self, address)

    monkeypatch.setattr(udplistener.UDPListener, "_connected", lacking)
    remote = h.client.connect(broker.urls[0])
    server = stranger.enter()
    until(h, lambda: listener(broker)._waiting)
    remote.close()
    until(h, lambda: list(listener(broker).sessions) == [server])


def test_who_has_given_up_waiting_is_not_let_in(h, broker, stranger, monkeypatch):
    monkeypatch.setattr(udplistener, "PATIENCE", 0.0)

    def lacking(self, address):
        raise OSError(errno.EMFILE, "Too many open files")

    with monkeypatch.context() as patch:
        patch.setattr(udplistener.UDPListener, "_connected", lacking)
        stranger.enter()
        until(h, lambda: listener(broker)._waiting)
    listener(broker).retry()
    assert not listener(broker).sessions and not listener(broker)._waiting


def test_no_more_wait_for_descriptors_than_are_kept(h, broker, monkeypatch):
    monkeypatch.setattr(udplistener, "MOST_WAITING", 3)

    def lacking(self, address):
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(udplistener.UDPListener, "_connected", lacking)
    strangers = [Stranger(h, broker, token=n + 1) for n in range(9)]
    for stranger in strangers:
        stranger.enter()
        stranger.cookie()  # so that was read
        stranger.close()
    assert len(listener(broker)._waiting) == 3


# -- others than expected


def test_a_client_of_another_version_is_told_ours_and_gets_no_session(h, broker, stranger):
    cookie, server = stranger.cookie()
    stranger.ask(cookie, version=VERSION + 1, server=server)
    assert parse_retry(stranger.hear(RETRY)).version == VERSION
    assert not listener(broker).sessions
    assert listener(broker).bad["version"] == 1


def test_a_broker_of_another_version_is_a_clear_error(h):
    with bound() as sock:

        def answer():
            while True:
                try:
                    data, address = sock.recvfrom(65536)
                except BlockingIOError:
                    h.sleep(1)
                    continue
                sock.sendto(pack_retry(Retry(2, parse_init(data).client, 5, bytes(16))), address)

        task = h.spawn(answer)
        with pytest.raises(ConnectionLost, match="speaks version 2"):
            h.client.connect(f"udp://127.0.0.1:{sock.getsockname()[1]}", timeout=PATIENCE)
        task.cancel()


def test_a_client_whose_broker_was_started_again_meanwhile_connects_again(h):
    """It has sent nothing in between, so no refusal of the kernel has told it: the new broker does."""
    with programs.broker(listen=URL) as (url, process):
        remote = h.client.connect(url, backoff=(1, 10))
        jobs, events = remote.push("jobs"), remote.events
        jobs.send("one")
        jobs.sync()
        process.kill()
        process.wait()
    with programs.broker(listen=url):
        jobs.send("two")
        assert remote.pull("jobs").recv(timeout=PATIENCE) == "two"
        assert remote.status()["broker"]["udp_listeners"][0]["bad"]["unknown"] >= 1
        events.recv(timeout=PATIENCE)  # connected
        assert "does not know this session" in events.recv(timeout=PATIENCE).text
        remote.close()


# -- what is counted


def test_what_is_bad_is_counted_by_its_reason(h, broker, stranger):
    with h.client.connect(broker.urls[0]) as remote:
        stranger.say(b"")
        stranger.say(b"GET / HTTP/1.1\r\n")
        stranger.say(pack_data(1, 5, [pack_window(1, 1, 1200)]))
        stranger.ask(bytes([9] * 16))
        stranger.ask(version=7)
        stranger.ask()
        want = {"malformed": 2, "unknown": 1, "cookie": 1, "version": 1}
        until(h, lambda: listener(broker).retries == 4)  # the client's first one, and three of these
        told = remote.status()["broker"]["udp_listeners"]
        assert [one["bad"] for one in told] == [want]
        assert told[0]["url"] == broker.urls[0] and told[0]["sessions"] == 1
        assert "bad datagrams: 2 malformed, 1 unknown, 1 cookie, 1 version" in table(remote.status(), broker.urls[0])


@pytest.fixture
def narrow(monkeypatch):
    """The kernel gives small buffers."""
    real = offload.make_room

    def make_room(sock):
        real(sock)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 20_000)

    monkeypatch.setattr(offload, "make_room", make_room)
    monkeypatch.setattr(udplistener, "make_room", make_room)


@pytest.fixture
def soon(monkeypatch):
    monkeypatch.setattr(drops, "PAUSE", 10)


def test_what_the_kernel_drops_is_counted_shown_and_logged_once_with_what_to_do(h, narrow, soon, caplog):
    with h.broker.listen(URL) as broker, h.client.connect(broker.urls[0]) as remote:
        stranger = Stranger(h, broker)
        (session,) = listener(broker).sessions.values()
        own, its = stranger.say, remote._link.sock._sock.send
        for say in own, its:
            for _ in range(3):  # nobody reads meanwhile: this is the same hub
                for _ in range(200):
                    say(b"x")
                until(h, lambda: any("has dropped" in record.getMessage() for record in caplog.records))
        told = remote.status()["broker"]
        assert session.dropped > 100 and told["udp"][0]["dropped"] == session.dropped
        (one,) = told["udp_listeners"]
        assert one["dropped"] > session.dropped + 100
        assert one["buffer"] == 20_000 and one["buffer_wanted"] == BUFFER_BYTES
        assert f"dropped by the kernel {one['dropped']}" in table(remote.status(), broker.urls[0])
        remote.close()
        until(h, lambda: not listener(broker).sessions)
        assert listener(broker).describe()["dropped"] == one["dropped"]
        stranger.close()
    said = [record for record in caplog.records if "has dropped" in record.getMessage()]
    assert len(said) == 1 and said[0].levelno == logging.WARNING
    assert f"net.core.rmem_max={BUFFER_BYTES}" in said[0].getMessage()


def test_nothing_dropped_is_nothing_said(h, soon, caplog):
    with h.broker.listen(URL) as broker, h.client.connect(broker.urls[0]) as remote:
        jobs, items = remote.push("jobs"), remote.pull("jobs")
        for n in range(50):
            jobs.send(n)
            assert items.recv() == n
        assert remote.status()["broker"]["udp_listeners"][0]["dropped"] == 0
    assert not [record for record in caplog.records if "dropped" in record.getMessage()]


def test_a_kernel_that_does_not_say_what_it_drops_will_do(h, monkeypatch, soon):
    monkeypatch.setattr("vanilla.datagram.SO_MEMINFO", 12345)
    with h.broker.listen(URL) as broker, h.client.connect(broker.urls[0]) as remote:
        h.sleep(30)
        assert remote.status()["broker"]["udp_listeners"][0]["dropped"] == 0

"""A listening socket survives its own errors, and its callbacks'."""

from __future__ import annotations

import errno
import gc
import logging
import os
import socket
import subprocess
import sys
import textwrap

import pytest
from peers import until

import vanilla
from vanilla import listener, tcp
from vanilla.listener import Listener


@pytest.fixture
def h(caplog):
    caplog.set_level(logging.INFO, "vanilla")
    with vanilla.Hub() as hub:
        yield hub


@pytest.fixture
def sock():
    with tcp.bind("127.0.0.1", 0) as sock:
        yield sock


@pytest.fixture
def dial(sock):
    """Connects, blocking: the kernel's backlog takes it."""
    made = []

    def dial() -> socket.socket:
        made.append(socket.create_connection(sock.getsockname(), 30))
        return made[-1]

    yield dial
    for each in made:
        each.close()


class Accepted(list):
    """What `on_accept` got. `wait` waits for so many."""

    def __call__(self, conn, peer):
        self.append((conn, peer))

    def wait(self, h, n):
        while len(self) < n:
            h.sleep(1)
        assert len(self) == n

    def close(self):
        for conn, _ in self:
            conn.close()


@pytest.fixture
def accepted():
    accepted = Accepted()
    yield accepted
    accepted.close()


class Faulty:
    """A listening socket whose accept raises some errors first."""

    def __init__(self, sock, *errors):
        self.sock = sock
        self.errors = list(errors)
        self.asked = 0

    def _accept(self):
        self.asked += 1
        if self.errors:
            code = self.errors.pop(0)
            raise OSError(code, os.strerror(code))
        return self.sock._accept()

    def __getattr__(self, name):
        return getattr(self.sock, name)


def warnings_of(caplog):
    return [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_each_connection_is_called_back_with_its_peer(h, sock, dial, accepted):
    Listener(h, sock, accepted)
    ours = [dial() for _ in range(3)]
    accepted.wait(h, 3)
    assert [peer for _, peer in accepted] == [each.getsockname() for each in ours]
    for conn, _ in accepted:
        assert not conn.getblocking()
        assert not conn.get_inheritable()


def test_more_than_a_batch_of_connections(h, sock, dial, accepted, monkeypatch):
    monkeypatch.setattr(listener, "BATCH", 2)
    Listener(h, sock, accepted)
    for _ in range(5):
        dial()
    accepted.wait(h, 5)


def test_between_two_batches_other_descriptors_have_their_turn(h, sock, dial, accepted):
    seen = []
    ours, theirs = socket.socketpair()
    with ours, theirs:
        for _ in range(3 * listener.BATCH):
            dial()
        Listener(h, sock, accepted)
        h.poll.register(ours.fileno(), lambda _: seen.append(len(accepted)))
        theirs.send(b"x")  # it is never read, so each poll finds it
        accepted.wait(h, 3 * listener.BATCH)
        h.poll.unregister(ours.fileno())
    assert {*range(listener.BATCH, 3 * listener.BATCH, listener.BATCH)} <= {*seen}


@pytest.mark.trap("a closed listener accepts")
def test_a_closed_listener_refuses_connections_at_once(h, sock, dial, accepted):
    address = sock.getsockname()
    listening = Listener(h, sock, accepted)
    dial()
    accepted.wait(h, 1)
    listening.close()
    listening.close()
    assert listening.closed
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address)
    assert h.poll.live == 0


def test_the_end_of_the_hub_closes_its_listeners(sock, accepted):
    with vanilla.Hub() as h:
        Listener(h, sock, accepted)
    assert sock.fileno() == -1


def test_a_callback_may_close_its_listener(h, sock, dial, accepted):
    def on_accept(conn, peer):
        accepted(conn, peer)
        listening.close()

    listening = Listener(h, sock, on_accept)
    dial(), dial()
    accepted.wait(h, 1)
    h.sleep(0)
    assert len(accepted) == 1


def test_a_callback_that_raises_costs_its_connection_only(h, sock, dial, accepted, caplog):
    def on_accept(conn, peer):
        accepted(conn, peer)
        if len(accepted) == 1:
            raise ValueError("no")

    Listener(h, sock, on_accept)
    first, second = dial(), dial()
    accepted.wait(h, 2)
    assert first.recv(1) == b""
    accepted[1][0].send(b"x")
    assert second.recv(1) == b"x"
    assert "ValueError: no" in caplog.text


def test_a_connection_that_was_aborted_is_passed_over(h, sock, dial, accepted, caplog):
    faulty = Faulty(sock, errno.ECONNABORTED, errno.EPROTO)
    Listener(h, faulty, accepted)
    dial()
    accepted.wait(h, 1)
    assert faulty.asked == 4  # the last finds nothing
    assert not caplog.records


@pytest.mark.trap("EMFILE kills the listener")
@pytest.mark.parametrize("code", [errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM])
def test_running_out_makes_a_pause_and_one_warning(h, sock, dial, accepted, caplog, monkeypatch, code):
    monkeypatch.setattr(listener, "PAUSE", 1)
    faulty = Faulty(sock, *[code] * 5)
    Listener(h, faulty, accepted)
    dial()
    accepted.wait(h, 1)
    assert faulty.asked == 7
    (warning,) = warnings_of(caplog)
    assert os.strerror(code) in warning.getMessage()
    assert caplog.records[-1].levelno == logging.INFO
    faulty.errors = [code]
    dial()
    accepted.wait(h, 2)
    assert len(warnings_of(caplog)) == 2  # another episode


def test_a_pause_burns_no_cpu_and_retry_ends_it(h, sock, dial, accepted, monkeypatch):
    monkeypatch.setattr(listener, "PAUSE", 3_600_000)
    faulty = Faulty(sock, errno.EMFILE)
    listening = Listener(h, faulty, accepted)
    listening.retry()  # nothing to end
    dial()
    while not faulty.asked:
        h.sleep(1)
    for _ in range(100):
        h.sleep(0)
    assert faulty.asked == 1
    listening.retry()
    accepted.wait(h, 1)
    dial()
    accepted.wait(h, 2)


def test_a_listener_closed_in_a_pause_stays_closed(h, sock, dial, accepted, monkeypatch):
    monkeypatch.setattr(listener, "PAUSE", 1)
    faulty = Faulty(sock, *[errno.EMFILE] * 1000)
    listening = Listener(h, faulty, accepted)
    dial()
    while not faulty.asked:
        h.sleep(1)
    listening.close()
    asked = faulty.asked
    h.sleep(5)
    assert faulty.asked == asked


def test_a_paused_listener_accepts_nothing_until_resumed(h, sock, dial, accepted):
    listening = Listener(h, sock, accepted)
    listening.pause()
    dial()
    for _ in range(10):
        h.sleep(0)
    assert not accepted
    listening.resume()
    accepted.wait(h, 1)


OUT_OF_DESCRIPTORS = """
    import logging, os, resource, socket, sys, time
    import vanilla
    logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(levelname)s")
    with vanilla.Hub() as h:
        server = h.tcp.listen()
        taken = server.consume(lambda conn: conn.send(b"welcome"))
        # One descriptor is left: the client gets it, and the server has none.
        limit = max(map(int, os.listdir("/proc/self/fd"))) + 5
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
        spare = []
        while True:
            try:
                spare.append(socket.socket())
            except OSError:
                break
        spare.pop().close()
        client = socket.create_connection(("127.0.0.1", server.port))
        client.setblocking(False)
        started = time.process_time()
        h.sleep(250)
        print("idle" if time.process_time() - started < 0.15 else "busy")
        for sock in spare:
            sock.close()
        spare.clear()
        print(vanilla.stream.open_connection(h, client, "client").recv(30_000).decode())
"""


@pytest.mark.trap("EMFILE kills the listener")
def test_a_process_without_descriptors_serves_again_once_it_has_some():
    code = "import vanilla.stream\n" + textwrap.dedent(OUT_OF_DESCRIPTORS)
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert ran.stdout.split() == ["WARNING", "idle", "INFO", "welcome"], ran.stdout + ran.stderr


def test_the_end_of_an_exhaustion_is_noticed_though_a_whole_batch_came_last(h, sock, monkeypatch, caplog):
    monkeypatch.setattr(listener, "BATCH", 2)
    monkeypatch.setattr(listener, "PAUSE", 1)
    accepted = []
    listening = Listener(h, sock, lambda conn, peer: accepted.append(conn))
    take, failures = listening._take, [OSError(errno.EMFILE, "too many")]

    def fails_once():
        if failures:
            raise failures.pop()
        return take()

    listening._take = fails_once
    clients = [socket.create_connection(sock.getsockname()) for _ in range(2)]
    until(h, lambda: len(accepted) == 2)
    until(h, lambda: "accepting connections again" in caplog.text)
    for conn in clients + accepted:
        conn.close()
    listening.close()


def test_a_server_that_ran_out_and_is_then_full_loses_no_connection(h, monkeypatch):
    monkeypatch.setattr(listener, "PAUSE", 5)
    server = h.tcp.listen()
    queue = next(end for end in gc.get_objects() if type(end) is Listener and end.hub is h and not end.closed)
    take, fails = queue._take, [True]

    def fail_once():
        if fails:
            fails.pop()
            raise OSError(errno.EMFILE, "out of descriptors")
        return take()

    queue._take = fail_once
    many = listener.AHEAD + listener.BATCH
    clients = [socket.create_connection(("127.0.0.1", server.port), 30) for _ in range(many)]
    until(h, lambda: len(server._state.buffer) == listener.AHEAD)
    h.sleep(30)
    assert queue.paused and len(server._state.buffer) == listener.AHEAD
    served = [server.recv(timeout=30_000) for _ in range(many)]
    assert {conn.peer for conn in served} == {client.getsockname() for client in clients}
    for client in clients:
        client.close()

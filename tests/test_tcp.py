"""TCP: nothing blocks the hub, nothing leaks, and the peer is known."""

from __future__ import annotations

import errno
import logging
import platform
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from descriptors import open_descriptors

import vanilla
from vanilla import listener, tcp

by_reference_count = pytest.mark.skipif(platform.python_implementation() == "PyPy", reason="ends are dropped at once")

EXAMPLE = Path(__file__).parents[1] / "examples" / "echo.py"


@pytest.fixture
def h(caplog):
    caplog.set_level(logging.INFO, "vanilla")
    with vanilla.Hub() as hub:
        hub.thread.call(int).recv()  # its descriptors are there before a test counts
        yield hub


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as sock:
            sock.bind(("::1", 0))
        return True
    except OSError:
        return False


needs_ipv6 = pytest.mark.skipif(not has_ipv6(), reason="no IPv6 on the loopback")


@pytest.fixture
def closed_port():
    """Bound and not listening, so that nobody else gets it."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        yield sock.getsockname()[1]


@pytest.fixture
def full():
    """A port whose backlog is full: to connect takes for ever."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen(0)
        clients = []
        for _ in range(2):
            client = socket.socket()
            client.setblocking(False)
            client.connect_ex(sock.getsockname())
            clients.append(client)
        yield sock.getsockname()[1]
        for client in clients:
            client.close()


@pytest.fixture
def slow_look_up(monkeypatch):
    """Look-ups of names wait until the event is set, then answer with 127.0.0.1."""
    real, event = socket.getaddrinfo, threading.Event()

    def getaddrinfo(host, port, family=0, type=0, proto=0, flags=0):
        if not flags & socket.AI_NUMERICHOST:
            assert event.wait(60)
            host = "127.0.0.1"
        return real(host, port, family, type, proto, flags)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    yield event
    event.set()


def ticks(h, n=5):
    """The hub is alive: a timer fires so many times."""
    for _ in range(n):
        h.sleep(1)


# -- look-ups


def test_a_numeric_address_needs_no_look_up(h, slow_look_up):
    assert tcp.resolve(h, "127.0.0.1", 80) == [(socket.AF_INET, ("127.0.0.1", 80))]
    assert tcp.resolve(h, "::1", 80) == [(socket.AF_INET6, ("::1", 80, 0, 0))]


@pytest.mark.trap("blocking look-up")
def test_a_slow_look_up_does_not_block_the_hub(h, slow_look_up):
    task = h.spawn(tcp.resolve, h, "slow.test", 80)
    ticks(h)
    assert not task.done
    slow_look_up.set()
    assert task.join() == [(socket.AF_INET, ("127.0.0.1", 80))]


def test_the_timeout_of_connect_counts_the_look_up(h, slow_look_up):
    with pytest.raises(vanilla.Timeout):
        h.tcp.connect(80, "slow.test", timeout=5)


def test_a_name_that_is_not_there_is_a_lost_connection(h, monkeypatch):
    def getaddrinfo(*args, **kwargs):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    with pytest.raises(vanilla.ConnectionLost, match=r"tcp://no\.test:80: cannot look up 'no\.test': name or service"):
        h.tcp.connect(80, "no.test")


@pytest.mark.parametrize("port", [-1, 65536])
def test_a_port_that_does_not_exist_is_refused(h, port):
    with pytest.raises(ValueError, match="between 0 and 65535"):
        h.tcp.connect(port)
    with pytest.raises(ValueError, match="between 0 and 65535"):
        h.tcp.listen(port)


# -- dialling


def test_nobody_listens(h, closed_port):
    before = open_descriptors()
    with pytest.raises(vanilla.ConnectionLost, match=f"tcp://127.0.0.1:{closed_port}: connection refused"):
        h.tcp.connect(closed_port)
    assert open_descriptors() == before


@pytest.mark.trap("blocking connect")
def test_a_slow_connect_does_not_block_the_hub_and_times_out(h, full):
    before = open_descriptors()
    task = h.spawn(tcp.dial, h, "127.0.0.1", full, 100)
    ticks(h)
    with pytest.raises(vanilla.Timeout, match=f"connect to tcp://127.0.0.1:{full}"):
        task.join()
    assert open_descriptors() == before


def test_a_cancelled_connect_leaves_no_descriptor(h, full):
    before = open_descriptors()
    task = h.spawn(tcp.dial, h, "127.0.0.1", full)
    h.sleep(0)
    assert open_descriptors() == before + 1
    task.cancel()
    with pytest.raises(vanilla.Cancelled):
        task.join()
    assert open_descriptors() == before
    assert h.poll.live == 0


def test_each_address_is_tried(h, closed_port, monkeypatch):
    server = h.tcp.listen()
    addresses = [(socket.AF_INET, ("127.0.0.1", port)) for port in (closed_port, server.port)]
    monkeypatch.setattr(tcp, "resolve", lambda *args: addresses)
    before = open_descriptors()
    with tcp.dial(h, "two.test", 80) as sock:
        assert sock.getpeername() == ("127.0.0.1", server.port)
        with server.recv():
            assert open_descriptors() == before + 2


def test_a_socket_that_reached_itself_reached_nobody():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.connect(sock.getsockname())
        with pytest.raises(ConnectionRefusedError):
            tcp._not_itself(sock)


def is_tuned(sock: socket.socket) -> bool:
    get = sock.getsockopt
    return (
        get(socket.IPPROTO_TCP, socket.TCP_NODELAY) != 0
        and get(socket.SOL_SOCKET, socket.SO_KEEPALIVE) != 0
        and get(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == tcp.KEEP_IDLE
        and get(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL) == tcp.KEEP_INTERVAL
        and get(socket.IPPROTO_TCP, socket.TCP_KEEPCNT) == tcp.KEEP_PROBES
    )


def test_both_sides_are_tuned(h):
    with tcp.bind("127.0.0.1", 0) as server:
        with tcp.dial(h, *server.getsockname()) as ours:
            theirs, _ = server.accept()
            with theirs:
                assert is_tuned(ours)
                assert is_tuned(theirs)
                assert not ours.getblocking()


# -- listening


def test_a_taken_address_is_named(h):
    server = h.tcp.listen()
    with pytest.raises(
        OSError, match=rf"cannot listen on tcp://127\.0\.0\.1:{server.port}: address already in use"
    ) as e:
        h.tcp.listen(server.port)
    assert e.value.errno == errno.EADDRINUSE


def test_a_name_is_looked_up_without_blocking_the_hub(h, slow_look_up):
    task = h.spawn(h.tcp.listen, 0, "slow.test")
    ticks(h)
    slow_look_up.set()
    server = task.join()
    assert server.host == "127.0.0.1"
    server.close()


@pytest.mark.trap("IPv4 only")
@pytest.mark.parametrize("host", ["127.0.0.1", pytest.param("::1", marks=needs_ipv6)])
def test_every_address_is_one_of_ipv4_or_of_ipv6(h, host):
    with h.tcp.listen(host="") as server, h.tcp.connect(server.port, host) as near:
        with server.recv() as far:
            assert far.peer == near.local and far.peer[0] == host
            assert far.local[:2] == near.peer == (host, server.port)


def test_every_address_without_ipv6_is_that_of_ipv4(monkeypatch):
    monkeypatch.setattr(socket, "has_dualstack_ipv6", lambda: False)
    with tcp.bind("", 0) as sock:
        assert sock.getsockname()[0] == "0.0.0.0"


@pytest.mark.trap("a peer's address lost")
def test_the_addresses_of_both_sides_are_kept(h):
    server = h.tcp.listen()
    near = h.tcp.connect(server.port)
    far = server.recv()
    assert near.peer == far.local == ("127.0.0.1", server.port)
    assert far.peer == near.local
    near.close()
    assert far.peer == near.local
    far.close()


@pytest.mark.trap("IPv4 only")
@needs_ipv6
def test_ipv6(h):
    server = h.tcp.listen(host="::1")
    assert server.host == "::1"
    with h.tcp.connect(server.port, "::1") as near, server.recv() as far:
        assert near.peer[:2] == ("::1", server.port)
        assert far.peer[:2] == near.local[:2]
        near.send(b"six")
        assert far.recv() == b"six"
    server.close()
    with pytest.raises(vanilla.ConnectionLost, match=rf"tcp://\[::1\]:{server.port}: connection refused"):
        h.tcp.connect(server.port, "::1")


def test_a_decorated_function_serves_connections_at_the_same_time(h):
    server = h.tcp.listen()

    @server.consume
    def echo(conn):
        for data in conn.recver:
            conn.send(b"Echo: " + data)

    conns = [h.tcp.connect(server.port) for _ in range(3)]
    for i, conn in enumerate(conns):
        conn.send(str(i))
    for i, conn in reversed(list(enumerate(conns))):
        assert conn.recv() == b"Echo: %d" % i
        conn.close()


@by_reference_count
def test_a_served_connection_is_closed_when_its_function_returns(h):
    server = h.tcp.listen()
    server.consume(lambda conn: conn.send(b"bye"))
    assert h.tcp.connect(server.port).recv_n(3) == b"bye"
    assert list(h.tcp.connect(server.port).recver) == [b"bye"]


def test_a_function_that_raises_serves_the_next(h, caplog):
    server = h.tcp.listen()

    @server.consume
    def serve(conn):
        with conn:
            if conn.recv_line() == b"raise":
                raise ValueError("this one")
            conn.send(b"fine")

    for line in b"raise\n", b"go away", b"fine\n":
        with h.tcp.connect(server.port) as conn:
            conn.send(line)
            conn.sender.close()
            got = b"".join(conn.recver)
    assert got == b"fine"
    assert caplog.text.count("Traceback") == 1  # that a peer ends is no error
    assert "ValueError: this one" in caplog.text


@pytest.mark.trap("a closed listener accepts")
@pytest.mark.parametrize("parked", [False, True])
def test_a_closed_server_refuses_connections(h, parked):
    server = h.tcp.listen()
    task = h.spawn(list, server)
    if parked:
        h.sleep(0)
    server.close()
    with pytest.raises(vanilla.ConnectionLost, match="refused"):
        h.tcp.connect(server.port)
    assert task.join() == []


@by_reference_count
def test_a_dropped_server_refuses_connections(h):
    server = h.tcp.listen()
    port = server.port
    del server
    h.sleep(0)
    with pytest.raises(vanilla.ConnectionLost, match="refused"):
        h.tcp.connect(port)


def test_connections_ahead_of_their_receiver_are_bounded(h, monkeypatch):
    monkeypatch.setattr(listener, "AHEAD", 2)
    server = h.tcp.listen()
    before = open_descriptors()
    clients = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(5)]
    ticks(h)
    assert open_descriptors() == before + 5 + 2
    got = [server.recv() for _ in clients]
    assert [conn.peer for conn in got] == [client.getsockname() for client in clients]
    for each in clients + got:
        each.close()


@pytest.mark.trap("leaked descriptors")
def test_no_descriptor_is_left(h):
    before = open_descriptors()
    server = h.tcp.listen()
    server.consume(lambda conn: conn.close())
    for _ in range(20):
        conn = h.tcp.connect(server.port)
        with pytest.raises((vanilla.Closed, vanilla.ConnectionLost)):
            conn.recv()
        conn.close()
    server.close()
    assert open_descriptors() == before


def test_a_server_is_ready_in_select(h):
    server = h.tcp.listen()
    _, recver = h.pipe()
    task = h.spawn(h.select, [recver, server])
    near = h.tcp.connect(server.port)
    end, far = task.join()
    assert end is server
    near.close()
    far.close()


def test_the_example_runs():
    ran = subprocess.run([sys.executable, str(EXAMPLE)], capture_output=True, text=True, timeout=60)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.splitlines() == ["one says: Echo: hello", "two says: Echo: hello", "the server is gone"]

"""What a stream saves itself: looking in vain, reading little where much comes, and memory where nothing happens."""

from __future__ import annotations

import platform
import socket
import time

import pytest

import vanilla
from vanilla.input import MOST
from vanilla.line import CHUNK
from vanilla.stream import open_connection


@pytest.fixture
def ends(h):
    """A connection of the hub, and a plain socket at its other end."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    with theirs, open_connection(h, ours, "peer") as conn:
        yield conn, theirs


def test_what_came_while_nobody_waited_is_received(ends):
    conn, peer = ends
    for number in range(5):
        peer.sendall(b"%d" % number)
        assert conn.recv() == b"%d" % number
    peer.sendall(b"last")
    peer.close()
    assert conn.recv() == b"last"
    with pytest.raises(vanilla.Closed):
        conn.recv()


@pytest.mark.parametrize("timeout", [0, 1])
def test_what_is_there_is_received_even_if_the_time_is_over_at_once(h, ends, timeout):
    conn, peer = ends
    peer.sendall(b"first")
    assert conn.recv() == b"first"
    peer.sendall(b"second")
    h.spawn(time.sleep, 0.005)  # holds up everything, and runs as soon as we wait
    assert conn.recv(timeout) == b"second"


def test_who_waits_for_the_next_piece_asks_the_kernel_once(h, ends, monkeypatch):
    conn, peer = ends
    reads = []

    class Counted:
        def __init__(self, transport) -> None:
            self.transport = transport

        def recv(self, size):
            reads.append(size)
            return self.transport.recv(size)

        def __getattr__(self, name):
            return getattr(self.transport, name)

    peer.sendall(b"first")
    conn.recv()
    conn.recver._state.line.transport = Counted(conn.recver._state.line.transport)
    for number in range(3):
        task = h.spawn(conn.recv)
        h.sleep(0)
        peer.sendall(b"%d" % number)
        assert task.join() == b"%d" % number
    assert reads == [CHUNK] * 3


def test_much_at_once_is_read_in_larger_pieces_until_less_comes(ends):
    conn, peer = ends
    for side in peer, conn.recver._state.line.transport:
        for option in socket.SO_SNDBUF, socket.SO_RCVBUF:
            side.setsockopt(socket.SOL_SOCKET, option, 4 * MOST)
    peer.setblocking(False)
    assert peer.send(bytes(CHUNK + 100_000)) == CHUNK + 100_000
    assert [len(conn.recv()), len(conn.recv())] == [CHUNK, 100_000]
    peer.send(b"little")
    assert conn.recv() == b"little"
    peer.send(bytes(CHUNK + 1))
    assert [len(conn.recv()), len(conn.recv())] == [CHUNK, 1]


def test_what_is_sent_arrives_in_order_however_little_fits(h, ends):
    conn, peer = ends
    conn.recver._state.line.transport.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    items = [bytes([number]) * size for number, size in enumerate([100_000, 1, 0, 300_000, 5, 70_000])]

    def send() -> None:
        for item in items:
            conn.send(item)
        conn.sender.close()

    h.spawn(send)
    came = bytearray()
    peer.setblocking(False)
    while True:
        try:
            data = peer.recv(65536)
        except BlockingIOError:
            h.sleep(0)
            continue
        if not data:
            break
        came += data
    assert came == b"".join(items)


def test_an_item_that_cannot_be_sent_is_an_error_of_its_send(ends):
    conn, peer = ends
    peer.close()
    with pytest.raises(vanilla.ConnectionLost):
        conn.send(b"item")
    with pytest.raises(vanilla.ConnectionLost):
        conn.send(b"another")


@pytest.mark.skipif(platform.python_implementation() == "PyPy", reason="PyPy has no tracemalloc")
def test_an_idle_connection_takes_little_memory(h):
    import tracemalloc

    server = h.tcp.listen()
    with socket.create_connection((server.host, server.port)):
        kept = [server.recv()]
        peers = [socket.create_connection((server.host, server.port)) for _ in range(50)]
        tracemalloc.start()
        try:
            before = tracemalloc.get_traced_memory()[0]
            kept += [server.recv() for _ in peers]
            assert (tracemalloc.get_traced_memory()[0] - before) / len(peers) < 2500
        finally:
            tracemalloc.stop()
            for peer in peers:
                peer.close()

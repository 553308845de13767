"""The proxy passes on what it is to pass on, to the byte, and does what its plans say."""

from __future__ import annotations

import socket
import threading
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from proxy import Plan, Proxy, Sieve

from vanilla.protocol.frames import ACK, CREDIT, OPEN, pack_control


@pytest.fixture
def echo():
    """A server that says back what it hears, and ends when its client does: its URL."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve(conn):
        with conn:
            try:
                while data := conn.recv(65536):
                    conn.sendall(data)
            except OSError:
                pass

    def run():
        while True:
            try:
                conn, _ = listener.accept()
            except OSError:
                return
            threads.append(threading.Thread(target=serve, args=(conn,)))
            threads[-1].start()

    threads = [threading.Thread(target=run)]
    threads[0].start()
    yield f"tcp://127.0.0.1:{listener.getsockname()[1]}"
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    for thread in threads:
        thread.join(10)
        assert not thread.is_alive()


def dial(proxy):
    sock = socket.create_connection(("127.0.0.1", int(proxy.url.rpartition(":")[2])), timeout=10)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def say(proxy, what):
    """What comes back for it until the end, and what end it was; a reset may come before `connect` returns."""
    try:
        sock = dial(proxy)
    except ConnectionResetError:
        return b"", "reset"
    with sock:
        if what:
            sock.sendall(what)
        return read_all(sock)


def read_all(sock):
    """What comes until the end, and what end it was."""
    parts = []
    try:
        while data := sock.recv(65536):
            parts.append(data)
    except ConnectionResetError:
        return b"".join(parts), "reset"
    return b"".join(parts), "end"


@pytest.mark.parametrize("piece", [1, 7, 65536])
def test_what_is_sent_comes_back_whole_in_whatever_pieces(echo, piece):
    said = bytes(range(256)) * 8
    with Proxy(echo, Plan(piece=piece)) as proxy, dial(proxy) as sock:
        sock.sendall(said)
        sock.shutdown(socket.SHUT_WR)
        assert read_all(sock) == (said, "end")
    assert proxy.history == [(len(said), len(said))]


@pytest.mark.parametrize("reset", [False, True])
@pytest.mark.parametrize("at", [0, 1, 5, 9])
def test_a_connection_is_cut_at_its_byte(echo, at, reset):
    with Proxy(echo, Plan(cut_down=at, reset=reset), Plan()) as proxy:
        heard, end = say(proxy, b"0123456789" if at else b"")
        assert b"0123456789".startswith(heard)  # a reset may take with it what has passed
        if reset:
            assert end == "reset"
        else:
            assert (heard, end) == (b"0123456789"[:at], "end")
        with dial(proxy) as sock:  # its plan was for the first
            sock.sendall(b"whole")
            sock.shutdown(socket.SHUT_WR)
            assert read_all(sock) == (b"whole", "end")
    assert proxy.history[0][1] == at


def test_a_cut_on_the_way_to_the_broker_lets_no_byte_more_through(echo):
    with Proxy(echo, Plan(cut_up=4)) as proxy, dial(proxy) as sock:
        sock.sendall(b"0123456789")
        read_all(sock)
    assert proxy.history[0][0] == 4


def test_what_is_under_way_is_cut_by_an_order(echo):
    with Proxy(echo) as proxy:
        with dial(proxy) as sock:
            sock.sendall(b"x")
            assert sock.recv(1) == b"x"
            proxy.cut()
            assert read_all(sock)[0] == b""
        with dial(proxy) as sock:
            sock.sendall(b"y")
            assert sock.recv(1) == b"y"


def test_a_delay_holds_back_each_way_and_keeps_the_order(echo):
    with Proxy(echo, Plan(delay=30)) as proxy, dial(proxy) as sock:
        begin = time.monotonic()
        for number in range(10):
            sock.sendall(bytes([number]))
        sock.shutdown(socket.SHUT_WR)
        assert read_all(sock) == (bytes(range(10)), "end")
        assert time.monotonic() - begin >= 0.06


def test_where_nobody_listens_the_client_hears_an_end():
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        url = f"tcp://127.0.0.1:{nobody.getsockname()[1]}"
    with Proxy(url) as proxy, dial(proxy) as sock:
        assert read_all(sock)[0] == b""


@settings(deadline=None)
@given(st.lists(st.sampled_from([ACK, CREDIT, OPEN]), max_size=8), st.data())
def test_a_sieve_leaves_out_whole_frames_in_whatever_pieces_they_come(kinds, data):
    frames = [pack_control(kind, 3, 0, {"n": number, "b": "x" * number}) for number, kind in enumerate(kinds)]
    stream = b"".join(frames)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=6)))
    sieve = Sieve(frozenset([ACK]))
    passed = b"".join(sieve.sift(stream[a:b]) for a, b in zip([0, *cuts], [*cuts, len(stream)]))
    assert passed == b"".join(frame for kind, frame in zip(kinds, frames) if kind != ACK)

"""A TLS connection is used as a socket is: nothing waits, nothing is lost, and an end is told from a cut."""

from __future__ import annotations

import gc
import os
import platform
import socket
import ssl

import pytest
import tlspeers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from peers import PATIENCE, until

from vanilla import tlssocket
from vanilla.certificates import client_context, server_context
from vanilla.outbox import Outbox
from vanilla.poll import IN, OUT
from vanilla.tlssocket import NotTLS, TLSError, TLSSocket

by_reference_count = pytest.mark.skipif(platform.python_implementation() == "PyPy", reason="ends are dropped at once")

BIG = b"0123456789abcdef" * (1 << 18)  # 4 MiB: more than a socket takes at once


@pytest.fixture(params=["TLSv1_2", "TLSv1_3"])
def version(request):
    return getattr(ssl.TLSVersion, request.param)


def sides(h, certs, version=None, room=None):
    """A server and a client that have not begun; *room* is how many bytes the kernel takes, about."""
    raw = socket.socketpair()
    for sock in raw:
        sock.setblocking(False)
        if room is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, room)
    contexts = server_context(certs.server), client_context(certs.ca)
    if version is not None:
        contexts[1].maximum_version = version
    return TLSSocket(h, raw[0], contexts[0]), TLSSocket(h, raw[1], contexts[1], "localhost")


@pytest.fixture
def pair(h, certs, version):
    server, client = sides(h, certs, version)
    tlspeers.shake(server, client)
    yield server, client
    server.close()
    client.close()


def read(sock, size):
    """Up to *size* bytes, b"" if there are none now."""
    try:
        return sock.recv(size)
    except BlockingIOError:
        return b""


# -- as a socket does


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.lists(st.integers(0, 40_000), min_size=1, max_size=4), max_size=4),
    st.lists(st.integers(700, 70_000), min_size=1, max_size=4),
    st.sampled_from([4_608, 20_000, 300_000]),
    st.sampled_from([ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]),
)
def test_however_it_is_cut_and_whatever_the_kernel_takes_the_same_bytes_arrive(h, certs, writes, sizes, room, version):
    server, client = sides(h, certs, version, room)
    out, expected, found = Outbox(), b"", b""
    tlspeers.shake(server, client)
    for write in writes:
        buffers = [os.urandom(size) for size in write]
        expected += b"".join(buffers)
        out.put(*buffers)
        out.blocked = False
        out.write(server)
        assert out.unsent <= len(expected)
        found += read(client, sizes[0])
    turns = 0
    while len(found) < len(expected):
        out.blocked = False
        out.write(server)
        found += read(client, sizes[turns % len(sizes)])
        turns += 1
        assert turns < 10_000
    assert found == expected and not out
    server.close()
    client.close()


def test_both_directions_at_once(h, certs, version):
    server, client = sides(h, certs, version, 4_608)
    tlspeers.shake(server, client)
    outs = {server: Outbox(), client: Outbox()}
    found = {server: b"", client: b""}
    for out in outs.values():
        out.put(BIG[:300_000])
    while any(len(got) < 300_000 for got in found.values()):
        for side, out in outs.items():
            out.blocked = False
            out.write(side)
            found[side] += read(side, 5_000)
    assert set(found.values()) == {BIG[:300_000]}
    server.close()
    client.close()


def test_small_buffers_share_a_record(pair):
    server, client = pair
    assert server.sendmsg([b"x" * 10] * 1000) == 10_000
    peeked = client._sock.recv(1 << 20, socket.MSG_PEEK)
    assert len(peeked) < 10_000 + 100
    assert client.recv(1 << 20) == b"x" * 10_000


def test_large_buffers_are_not_copied(monkeypatch, pair):
    seen = []
    monkeypatch.setattr(TLSSocket, "_encrypt", lambda self, tls, parts: seen.extend(parts) or sum(map(len, parts)))
    body = bytes(100_000)
    pair[0].sendmsg([b"head", body])
    shared = [part for part in seen if isinstance(part, memoryview) and part.obj is body]
    assert sum(map(len, shared)) > 80_000
    assert sum(map(len, seen)) == 100_004 and max(map(len, seen)) == tlssocket.RECORD


def test_several_buffers_are_filled_in_order(pair):
    pair[0].send(b"abcdefgh")
    buffers = [bytearray(3), bytearray(10)]
    assert pair[1].recvmsg_into(list(map(memoryview, buffers)))[0] == 8
    assert bytes(buffers[0]) == b"abc" and buffers[1].startswith(b"defgh")
    with pytest.raises(BlockingIOError):
        pair[1].recv(1)


# -- readiness


def test_bytes_that_the_kernel_does_not_report_any_more_call_the_handler_all_the_same(h, pair):
    server, client = pair
    found = b""

    def handler(events):
        nonlocal found
        if events & IN:
            found += read(client, 1000)

    h.poll.register(client.fileno(), handler, IN)
    server.send(BIG[:30_000])
    until(h, lambda: found == BIG[:30_000])
    h.poll.unregister(client.fileno())


def test_a_handler_that_wants_to_read_no_more_is_not_called_until_it_does(h, pair):
    server, client = pair
    called = []
    h.poll.register(client.fileno(), called.append, IN)
    server.send(BIG[:10_000])
    until(h, lambda: called)
    assert client.recv(10)
    h.poll.modify(client.fileno(), 0)
    called.clear()
    for _ in range(5):
        h.sleep(0)
    assert called == []
    h.poll.modify(client.fileno(), IN)
    until(h, lambda: called)
    h.poll.unregister(client.fileno())
    assert len(client.recv(20_000)) == 9_990


def test_who_waits_to_write_in_a_handshake_does_not_spin_the_loop(h, certs):
    server, client = sides(h, certs)
    called = []

    def handler(events):
        called.append(events)
        try:
            server.send(b"first")
        except BlockingIOError:
            pass

    h.poll.register(server.fileno(), handler, OUT)
    for _ in range(20):
        h.sleep(1)
    assert called == []  # a socket would be writable all the time
    while not client.ready:
        try:
            client.handshake()
        except BlockingIOError:
            h.sleep(1)
    until(h, lambda: called and read(client, 5) == b"first")
    h.poll.unregister(server.fileno())
    server.close()
    client.close()


def test_the_last_words_leave_when_there_is_room_for_them(h, certs, version):
    server, client = sides(h, certs, version, 4_608)
    tlspeers.shake(server, client)
    h.poll.register(server.fileno(), lambda events: None, IN)
    sent = 0
    while True:
        try:
            sent += server.send(b"x" * 100)
        except BlockingIOError:
            break
    with pytest.raises(BlockingIOError):
        server.shutdown(socket.SHUT_WR)
    found = b""
    while True:
        h.sleep(1)
        try:
            got = client.recv(1000)
        except BlockingIOError:
            continue
        if not got:
            break
        found += got
    assert len(found) >= sent
    h.poll.unregister(server.fileno())
    server.close()
    client.close()


# -- the end


def test_one_direction_may_end_while_the_other_goes_on(pair):
    server, client = pair
    server.send(b"question")
    server.send(b"more")
    client.send(b"on its way")
    server.shutdown(socket.SHUT_WR)
    client.send(b", and later")
    assert server.recv(100) == b"on its way, and later"
    assert client.recv(100) == b"questionmore"
    assert client.recv(100) == b""
    client.send(b".")
    assert server.recv(100) == b"."
    client.close()
    assert server.recv(100) == b""
    assert server.recv(100) == b""


def test_an_end_while_a_record_is_read_half_loses_none_of_it(pair):
    server, client = pair
    client.send(b"0123456789")
    assert server.recv(3) == b"012"
    server.shutdown(socket.SHUT_WR)
    assert server.recv(100) == b"3456789"


def test_a_connection_that_is_cut_is_not_taken_for_one_that_ended(pair):
    server, client = pair
    client.send(b"half of it")
    client._sock.close()
    assert server.recv(100) == b"half of it"
    with pytest.raises(ConnectionResetError, match="cut off"):
        server.recv(100)


def test_bytes_that_were_changed_on_the_way_are_an_error(pair):
    server, client = pair
    client._sock.send(b"\x17\x03\x03\x00\x20" + bytes(32))
    with pytest.raises(TLSError):
        server.recv(100)


def test_closing_twice_does_nothing(pair):
    pair[0].close()
    pair[0].close()
    assert pair[0].fileno() == -1


@by_reference_count
def test_a_closed_connection_waits_for_no_garbage_collector(h, certs):
    def alive():
        return sum(type(thing) is ssl.SSLObject for thing in gc.get_objects())

    with h.broker.listen("tls://127.0.0.1:0", tls_cert=certs.server) as broker:
        gc.collect()
        gc.disable()
        try:
            before = alive()
            h.client.connect(broker.urls[0], ca=certs.ca).close()
            until(h, lambda: not broker.sessions)
            assert alive() == before
        finally:
            gc.enable()


def test_who_is_not_registered_any_more_may_still_send(h, certs):
    server, client = sides(h, certs, room=4_608)
    tlspeers.shake(server, client)
    h.poll.register(server.fileno(), lambda events: None, IN)
    h.poll.unregister(server.fileno())
    with pytest.raises(BlockingIOError):
        while True:
            server.send(b"x" * 1000)
    server.close()
    client.close()


def test_what_an_interrupted_call_left_behind_reaches_no_other_connection(h, pair):
    server, client = pair
    h.tls.exchange.incoming.write(b"of another")
    h.tls.exchange.outgoing.write(b"of another")
    server.send(b"x")
    h.tls.exchange.incoming.write(b"of another")
    assert client.recv(10) == b"x"


def test_a_forked_child_says_no_goodbye_for_its_parent(h, certs):
    with h.tls.listen(cert=certs.server) as server, h.tls.connect(server.port, ca=certs.ca) as conn:
        other = server.recv()
        conn.send(b"before")
        assert other.recv(timeout=PATIENCE) == b"before"
        pid = os.fork()
        if not pid:
            conn.close()
            os._exit(0)
        os.waitpid(pid, 0)
        conn.send(b"after")
        assert other.recv(timeout=PATIENCE) == b"after"
        other.close()


# -- handshakes


@pytest.mark.parametrize("said", [b"GET / HTTP/1.1\r\n\r\n", b"\xc6\x00\x00\x00\x30", b"\x00"])
def test_a_client_that_speaks_something_else_is_told_apart(h, certs, said):
    server, client = sides(h, certs)
    client._sock.send(said)
    with pytest.raises(NotTLS):
        server.recv(10)
    server.close()
    client.close()


@pytest.mark.parametrize(
    "said",
    [
        b"\x16\x03\x01\x00\x80\x01\x02\x00\x00",  # a ClientHello of 128 KiB
        b"\x16\x03\x01\x00\x80\x02\x00\x00\x7c",  # not a ClientHello
    ],
)
def test_a_beginning_that_is_none_is_refused_before_anything_is_allocated_for_it(h, certs, said):
    server, client = sides(h, certs)
    client._sock.send(said)
    with pytest.raises(TLSError, match="no ClientHello"):
        server.recv(10)
    assert server._tls is None
    server.close()
    client.close()


def test_a_client_that_says_half_a_hello_costs_what_it_said(h, certs):
    server, client = sides(h, certs)
    with pytest.raises(BlockingIOError):
        client.handshake()
    hello = server._sock.recv(10_000)
    for byte in hello[:-1]:
        client._sock.send(bytes([byte]))
        with pytest.raises(BlockingIOError):
            server.recv(10)
    assert server._tls is None and len(server._raw) == len(hello) - 1
    client._sock.send(hello[-1:])
    tlspeers.shake(server, client)
    server.close()
    client.close()


def test_a_connection_that_failed_is_no_error_of_another(h, certs, pair):
    server, client = sides(h, certs)
    client._context = client_context()  # which does not know the authority
    client._tls = client._make()
    with pytest.raises(TLSError, match="not accepted"):
        tlspeers.shake(server, client)
    pair[0].send(b"x")
    assert pair[1].recv(10) == b"x"
    with pytest.raises(BlockingIOError):
        pair[1].recv(10)
    with pytest.raises(TLSError, match="authority"):
        server.recv(10)
    server.close()
    client.close()


def test_the_client_sees_whom_it_talks_to_and_the_server_sees_only_whom_it_asks(h, certs):
    server, client = sides(h, certs)
    tlspeers.shake(server, client)
    assert client.identity == "localhost"
    assert server.identity == ""
    server.close()
    client.close()

"""Vectored output to a non-blocking socket."""

from __future__ import annotations

import socket

import pytest

from vanilla.outbox import IOV_MAX, Outbox


@pytest.fixture
def ends():
    a, b = socket.socketpair()
    a.setblocking(False)
    b.setblocking(False)
    with a, b:
        yield a, b


def read_all(sock):
    found = b""
    while True:
        try:
            found += sock.recv(1 << 20)
        except BlockingIOError:
            return found


def test_what_was_put_is_written_in_order(ends):
    out = Outbox()
    assert not out
    out.put(b"a", memoryview(b"bc"))
    out.put(bytearray(b"d"))
    assert out
    assert out.unsent == 4
    out.write(ends[0])
    assert read_all(ends[1]) == b"abcd"
    assert (bool(out), out.unsent, out.blocked) == (False, 0, False)


def test_there_may_be_more_buffers_than_one_system_call_takes(ends):
    out = Outbox()
    parts = [b"%d," % number for number in range(2 * IOV_MAX + 1)]
    out.put(*parts)
    out.write(ends[0])
    assert read_all(ends[1]) == b"".join(parts)


def test_what_does_not_fit_waits_until_the_socket_takes_more(ends):
    out, sent, got = Outbox(), b"", b""
    for number in range(100):
        part = bytes([number]) * (1 << 16)
        sent += part
        out.put(part)
    while out:
        out.write(ends[0])
        assert out.blocked == bool(out)
        unsent = out.unsent
        out.write(ends[0])  # nothing is tried while it is blocked
        assert out.unsent == unsent
        got += read_all(ends[1])
        assert len(got) + out.unsent == len(sent)
        out.blocked = False
    assert got == sent


def test_a_broken_connection_is_an_oserror(ends):
    out = Outbox()
    ends[1].close()
    out.put(b"a")
    with pytest.raises(OSError):
        out.write(ends[0])


def test_what_is_cleared_is_not_written(ends):
    out = Outbox()
    out.put(b"a")
    out.clear()
    out.write(ends[0])
    assert read_all(ends[1]) == b""
    assert out.unsent == 0


class Struck:
    """A socket that takes what it is given, and is then struck by a ctrl-C."""

    def __init__(self, sock):
        self.sock = sock

    def send(self, data):
        self.sock.send(data)
        raise KeyboardInterrupt


def test_what_a_ctrl_c_interrupted_is_not_written_twice(ends):
    out = Outbox()
    out.put(b"a", b"b")
    with pytest.raises(KeyboardInterrupt):
        out.write(Struck(ends[0]))
    assert (bool(out), out.unsent) == (False, 0)
    out.put(b"c")
    out.write(ends[0])
    assert read_all(ends[1]) == b"abc"

"""Cutting costs in proportion to the bytes, however they come. It is counted: the clock of a test says little."""

from __future__ import annotations

import os

import pytest

import vanilla
from vanilla.line import Half
from vanilla.message import Stream
from vanilla.stream import writer

MIB = 1 << 20
#: Long lines, in pieces of this size.
PIECE = 1 << 12


class Counting(bytearray):
    """Counts the bytes that the operations of all of its kind look at or move."""

    work = 0

    def find(self, sep, start, end):
        found = super().find(sep, start, end)
        Counting.work += (min(end, len(self)) if found < 0 else found) - start
        return found

    def __iadd__(self, chunk):
        Counting.work += len(chunk)
        return super().__iadd__(chunk)

    def __getitem__(self, key):
        got = super().__getitem__(key)
        Counting.work += len(got) if isinstance(key, slice) else 1
        return got

    def __delitem__(self, key):
        Counting.work += 1  # from the front: bytearray moves its beginning
        super().__delitem__(key)


def work_of(size, cut, piece=PIECE):
    """What it takes to receive so many bytes in pieces, some of which come while a task waits."""
    with vanilla.Hub() as h:
        sender, recver = h.queue(4)
        stream = Stream(recver)
        stream.limit = size
        stream._state.data = Counting()
        Counting.work = 0
        task = h.spawn(cut, stream, size)
        for _ in range(size // piece):
            sender.send(b"x" * piece)
        sender.send(b"\nrest")
        assert len(task.join()) == size
        work = Counting.work
        assert stream.recv_n(1) in (b"\n", b"r")
    return work


@pytest.mark.trap("quadratic buffers")
@pytest.mark.parametrize(
    "cut",
    [lambda stream, size: stream.recv_line(), lambda stream, size: stream.recv_n(size)],
    ids=["recv_line", "recv_n"],
)
def test_sixteen_times_the_line_is_sixteen_times_the_work(cut):
    small, large = work_of(MIB, cut), work_of(16 * MIB, cut)
    assert large < 17 * small
    assert large < 4 * 16 * MIB


def test_a_timeout_at_each_piece_does_not_search_again():
    def cut(stream, size):
        while True:
            try:
                return stream.recv_line(0)
            except vanilla.Timeout:
                stream.hub.sleep(0)

    assert work_of(MIB, cut) < 4 * MIB


def test_many_lines_of_one_piece_are_moved_once():
    with vanilla.Hub() as h:
        sender, recver = h.queue(1)
        stream = Stream(recver)
        stream._state.data = Counting()
        Counting.work = 0
        sender.send(b"0123456\n" * 10_000)
        for _ in range(10_000):
            assert stream.recv_line() == b"0123456"
        assert Counting.work < 4 * 80_000


class Slow:
    """A socket that takes a little at a time, and notes what it was offered."""

    def __init__(self, fd, most):
        self.fd = fd
        self.most = most
        self.owners = set()
        self.calls = 0
        self.size = 0

    def fileno(self):
        return self.fd

    def send(self, data):
        self.calls += 1
        self.owners.add(id(data.obj))
        took = min(len(data), self.most)
        self.size += took
        return took

    def shutdown(self, how):
        pass

    def close(self):
        pass


@pytest.mark.trap("quadratic buffers")
def test_what_is_half_written_is_not_copied_for_each_write(h):
    read, write = os.pipe()
    slow = Slow(write, 4096)
    sender = writer(h, slow, "slow")
    sender.send(bytearray(16 * MIB))
    h.select([sender])
    assert slow.size == 16 * MIB
    assert slow.calls == 4096
    assert len(slow.owners) == 2  # what was given, and the one copy of what did not fit at once
    sender.close()
    os.close(read)
    os.close(write)


def test_the_halves_of_a_line_have_no_dict(h):
    with h.io.pipe() as pipe:
        for end in pipe:
            assert isinstance(end._state, Half)
            assert not hasattr(end._state, "__dict__")

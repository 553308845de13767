"""The outgoing direction of a stream: what is to be sent, what was, and what has to be sent again.

The end of a stream counts as one byte more, which no datagram carries: so it is acknowledged, lost and sent again as
any other byte.

What is given is copied once, into blocks, and datagrams are cut out of a block. The rest of a block that is shorter
than a datagram is put in front of the next, so datagrams are full as long as there is more.

Invariants:
1. Blocks ascend by ``_bases``; every byte from ``acked`` up to ``sent`` is in one of them. What is not in one waits in
   ``_waiting``.
2. ``_lost`` are intervals (first, stop), ascending and apart, below ``sent``. ``_above`` are acknowledged intervals
   above ``acked``, ascending, apart, and not adjacent.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Iterable
from typing import NamedTuple

from .packets import Buffer

#: Small pieces are joined up to so many bytes.
BLOCK_BYTES = 256 << 10


class Cut(NamedTuple):
    """Bytes of the stream for datagrams: ``size`` of them, at ``at`` in ``block``. ``end``: and the stream's end."""

    offset: int
    block: bytes
    at: int
    size: int
    end: bool


class Backlog:
    """What one side sends.

    :ivar most: bytes that are kept, unsent and unacknowledged.
    :ivar sent: the stream up to here was sent, once at least.
    :ivar acked: the stream up to here is acknowledged.
    :ivar limit: the peer takes the stream up to here.
    """

    __slots__ = ("_above", "_bases", "_blocks", "_lost", "_put", "_top", "_waiting", "acked", "ended", "limit", "most",
                 "sent")  # fmt: skip

    def __init__(self, most: int, limit: int) -> None:
        self.most = most
        self.limit = limit
        self.sent = self.acked = 0
        self.ended = False
        self._put = 0  # bytes that were given, in all
        self._top = 0  # the end of the last block
        self._waiting: deque[bytes] = deque()
        self._bases: list[int] = []
        self._blocks: list[bytes] = []
        self._lost: list[tuple[int, int]] = []
        self._above: list[tuple[int, int]] = []

    @property
    def room(self) -> int:
        """Bytes that `put` takes."""
        return max(self.most - (self._put - min(self.acked, self._put)), 0)

    @property
    def unsent(self) -> int:
        return self._put - self.sent

    @property
    def done(self) -> bool:
        """All of it is acknowledged, and its end."""
        return self.ended and self.acked == self._put + 1

    @property
    def empty(self) -> bool:
        """All that was given is acknowledged."""
        return self.acked == self._put + self.ended

    def put(self, buffers: Iterable[Buffer]) -> int:
        """Take of *buffers* what there is room for: how many bytes."""
        room = size = self.room
        taken: list[Buffer] = []
        for buffer in buffers:
            if size <= 0:
                break
            taken.append(buffer if len(buffer) <= size else memoryview(buffer)[:size])
            size -= len(taken[-1])
        if size < room:
            only = taken[0]
            self._waiting.append(only if len(taken) == 1 and type(only) is bytes else b"".join(taken))
            self._put += room - size
        return room - size

    def finish(self) -> None:
        """The stream ends here."""
        self.ended = True

    # -- what to send

    @property
    def wants(self) -> bool:
        """There is something to send, and the peer takes it."""
        return bool(self._lost) or self.sent < min(self._put, self.limit) or (self.ended and self.sent == self._put)

    def cut(self, each: int, count: int) -> Cut | None:
        """The next bytes to send, at most those of *count* datagrams of *each*: what is lost first."""
        lost = self._lost
        while lost:
            first, stop = lost[0]
            missing = self._missing(first, stop)
            if missing != [(first, stop)]:
                lost[:1] = missing
                continue
            part = self._piece(first, min(stop, first + each * count))
            behind = part.offset + part.size + part.end
            lost[:1] = [(behind, stop)] if behind < stop else []
            return part
        put = min(self._put, self.limit)
        if self.sent >= put and not (self.ended and self.sent == self._put):
            return None
        if self._top - self.sent < each and self._waiting:
            self._block()
        stop = min(put, self.sent + each * count)
        part = self._piece(self.sent, stop + (self.ended and stop == self._put))
        self.sent = part.offset + part.size + part.end
        return part

    def lone(self, most: int) -> bytes | None:
        """All that there is to send, which counts as sent, if that is one piece as it was put, of at most *most* bytes,
        behind which the stream goes on; else None."""
        waiting = self._waiting
        if (
            len(waiting) != 1
            or len(waiting[0]) > most
            or self._top != self.sent
            or self._lost
            or self.ended
            or self._put > self.limit
        ):
            return None
        piece = waiting.popleft()
        self._bases.append(self.sent)
        self._blocks.append(piece)
        self._top = self.sent = self._put
        return piece

    def again(self, offset: int, each: int) -> Cut | None:
        """What was sent from *offset* on, for a probe: the bytes of one datagram."""
        offset = max(offset, self.acked)
        return self._piece(offset, min(self.sent, offset + each)) if offset < self.sent else None

    def _block(self) -> None:
        """Make a block of what waits, behind the rest of the last one."""
        waiting = self._waiting
        parts = [waiting.popleft()]
        if self._top > self.sent:
            parts.insert(0, self._blocks[-1][self.sent - self._bases[-1] :])
        size = sum(map(len, parts))
        while waiting and size < BLOCK_BYTES:
            parts.append(waiting.popleft())
            size += len(parts[-1])
        if self._bases and self._bases[-1] == self.sent:  # nothing of the last block was sent
            del self._bases[-1], self._blocks[-1]
        self._bases.append(self.sent)
        self._blocks.append(parts[0] if len(parts) == 1 else b"".join(parts))
        self._top = self.sent + size

    def _piece(self, first: int, stop: int) -> Cut:
        """Bytes from *first* on, up to *stop* or the end of their block."""
        if first >= self._put:
            return Cut(first, b"", 0, 0, True)
        index = bisect_right(self._bases, first) - 1
        block, base = self._blocks[index], self._bases[index]
        last = min(stop, base + len(block), self._put)
        return Cut(first, block, first - base, last - first, last == self._put < stop)

    # -- what became of it

    def acknowledge(self, first: int, stop: int) -> None:
        """The peer has the bytes from *first* up to *stop*."""
        if first <= self.acked:
            if stop <= self.acked:
                return
            self.acked = stop
            above = self._above
            while above and above[0][0] <= self.acked:
                self.acked = max(self.acked, above.pop(0)[1])
            if self.acked >= self._top:  # nobody needs any block any more
                self._bases.clear()
                self._blocks.clear()
            else:
                self._forget()
        else:
            _insert(self._above, first, stop)

    def _forget(self) -> None:
        """Drop the blocks that nobody needs any more."""
        count = bisect_right(self._bases, self.acked) - 1
        if count > 0:
            del self._bases[:count], self._blocks[:count]

    def lose(self, first: int, stop: int) -> None:
        """The bytes from *first* up to *stop* have to be sent again, unless they have come some other way."""
        for begin, end in self._missing(first, stop):
            _insert(self._lost, begin, end)

    def _missing(self, first: int, stop: int) -> list[tuple[int, int]]:
        """What is not acknowledged of *first* to *stop*."""
        missing: list[tuple[int, int]] = []
        first = max(first, self.acked)
        above = self._above
        for index in range(max(bisect_right(above, (first,)) - 1, 0), len(above)):
            begin, end = above[index]
            if begin >= stop:
                break
            if begin > first:
                missing.append((first, begin))
            first = max(first, end)
        if first < stop:
            missing.append((first, stop))
        return missing


def _insert(intervals: list[tuple[int, int]], first: int, stop: int) -> None:
    """Add one to intervals that ascend and are apart."""
    at = bisect_right(intervals, (first,))
    if at and intervals[at - 1][1] >= first:
        at -= 1
        first = intervals[at][0]
    last = at
    while last < len(intervals) and intervals[last][0] <= stop:
        stop = max(stop, intervals[last][1])
        last += 1
    intervals[at:last] = [(first, stop)]

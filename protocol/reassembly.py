"""What has come of a stream, in order for who reads it, and what is out of order until the rest is there.

Invariants:
1. ``_ready`` are the bytes from ``read`` up to ``next``, in order, without a hole. Of two neighbours one has
   `SMALL_BYTES` at least.
2. ``_pieces`` begin at ``_offsets``, ascend, do not overlap, and all begin above ``next``.
3. ``final`` is where the stream ends, once that is known; nothing lies beyond it.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from typing import Union

from .packets import Buffer

#: Pieces out of order. More than that, and what comes is dropped as if it had been lost: tiny ones would cost far more
#: memory than their bytes.
MOST_PIECES = 4096
#: Pieces in order that are shorter are joined, for the same reason.
SMALL_BYTES = 512


#: Whoever gives one keeps no hand on it.
Piece = Union[bytes, bytearray]


class Contradiction(Exception):
    """The peer says two things of one stream."""


class Reassembly:
    """The incoming direction of a stream.

    :ivar read: bytes that were handed out.
    :ivar next: bytes that have come without a hole.
    """

    __slots__ = ("_at", "_offsets", "_pieces", "_ready", "final", "next", "read")

    def __init__(self) -> None:
        self._ready: deque[Piece] = deque()
        self._at = 0  # of the first of them, handed out already
        self._offsets: list[int] = []
        self._pieces: list[Piece] = []
        self.read = self.next = 0
        self.final: int | None = None

    @property
    def ready(self) -> int:
        """Bytes that can be read."""
        return self.next - self.read

    @property
    def ended(self) -> bool:
        """All of it has come."""
        return self.next == self.final

    @property
    def full(self) -> bool:
        return len(self._pieces) >= MOST_PIECES

    def add(self, offset: int, body: Piece, end: bool) -> None:
        """*body* has come, the stream's bytes from *offset* on; *end*: they are its last.

        :raises Contradiction: the end is known, and is another.
        """
        stop = offset + len(body)
        if end:
            if self.final not in (None, stop) or stop < self._top():
                raise Contradiction("the stream has two ends")
            self.final = stop
        elif self.final is not None and stop > self.final:
            raise Contradiction("the stream goes on behind its end")
        if stop <= self.next:
            return
        if offset > self.next:
            self._keep(offset, body, stop)
            return
        self._append(body[self.next - offset :] if offset < self.next else body)
        self.next = stop
        if self._offsets:
            self._join()

    def _top(self) -> int:
        return self._offsets[-1] + len(self._pieces[-1]) if self._offsets else self.next

    def _keep(self, offset: int, body: Piece, stop: int) -> None:
        offsets, pieces = self._offsets, self._pieces
        at = bisect_left(offsets, offset)
        if at and (over := offsets[at - 1] + len(pieces[at - 1]) - offset) > 0:
            body = body[over:]
            offset += over
        last = at
        while last < len(offsets) and offsets[last] + len(pieces[last]) <= stop:
            last += 1
        if last < len(offsets) and offsets[last] < stop:
            body = body[: max(offsets[last] - offset, 0)]
        if body:
            offsets[at:last] = [offset]
            pieces[at:last] = [body]

    def _append(self, piece: Piece) -> None:
        ready = self._ready
        if len(piece) < SMALL_BYTES and ready and len(ready[-1]) < SMALL_BYTES:
            ready[-1] += piece
        else:
            ready.append(piece)

    def _join(self) -> None:
        """Move what is in order now."""
        count = 0
        for offset, piece in zip(self._offsets, self._pieces):
            if offset > self.next:
                break
            count += 1
            rest = offset + len(piece) - self.next
            if rest > 0:
                self._append(piece[-rest:])
                self.next += rest
        del self._offsets[:count], self._pieces[:count]

    def read_into(self, buffers: list[memoryview]) -> int:
        """Fill *buffers* as far as it goes: how many bytes."""
        total = 0
        ready = self._ready
        for buffer in buffers:
            at, size = 0, len(buffer)
            while at < size and ready:
                piece = ready[0]
                count = min(len(piece) - self._at, size - at)
                if count == len(piece):
                    buffer[at : at + count] = piece
                else:
                    buffer[at : at + count] = memoryview(piece)[self._at : self._at + count]
                at += count
                self._at += count
                if self._at == len(piece):
                    ready.popleft()
                    self._at = 0
            total += at
        self.read += total
        return total

    def take(self, most: int) -> Buffer:
        """Up to *most* of the bytes that are ready; none if there are none."""
        data = bytearray(min(most, self.ready))
        self.read_into([memoryview(data)])
        return data

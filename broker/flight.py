"""What one consumer has been sent and has not settled.

Deliveries are kept as they were sent, a batch an entry. Settling a whole batch in order, the common case, drops an
entry from the front. Whatever else is settled cuts an entry in two by counting; no message is looked at.

Invariants:
1. ``_firsts`` and ``_entries`` are of one length, ascending and disjoint; ``_firsts[i]`` is ``_entries[i].seq``.
2. ``count``, ``size`` and ``cost`` are the sums over the entries.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import NamedTuple

from .batch import OVERHEAD_BYTES, Batch


class Sent(NamedTuple):
    """Messages *low* to *high* (exclusive) of a batch; the first has the channel's number *seq*. *size* in bytes, in
    proportion."""

    seq: int
    low: int
    high: int
    batch: Batch
    size: int

    def part(self, start: int, end: int) -> Sent:
        """The numbers from *start* to *end* (exclusive) of it."""
        low = self.low + start - self.seq
        high = low + end - start
        size = self.size * (end - start) // (self.high - self.low)
        if (high - low) * 4 < self.batch.count:  # few are left: keep those, not the frame that they came in
            return Sent(start, 0, high - low, self.batch.part(low, high), size)
        return Sent(start, low, high, self.batch, size)


class Flight:
    """The unsettled deliveries of one channel, by the channel's numbers."""

    __slots__ = ("_entries", "_firsts", "cost", "count", "size")

    def __init__(self) -> None:
        self._firsts: list[int] = []
        self._entries: list[Sent] = []
        #: Messages.
        self.count = 0
        #: Bytes of messages.
        self.size = 0
        #: Bytes of memory that they keep.
        self.cost = 0

    def add(self, seq: int, batch: Batch) -> None:
        """*batch* was sent; its first message has number *seq*."""
        self._put(len(self._firsts), Sent(seq, 0, batch.count, batch, batch.size))

    def _put(self, index: int, entry: Sent) -> None:
        self._firsts.insert(index, entry.seq)
        self._entries.insert(index, entry)
        self.count += entry.high - entry.low
        self.size += entry.size
        self.cost += entry.size + OVERHEAD_BYTES

    def take(self, first: int, count: int) -> list[Sent]:
        """Take out the numbers from *first* on: those that were still in, in order. Numbers that are not in do no
        harm."""
        end = first + count
        low = max(bisect_right(self._firsts, first) - 1, 0)
        high = low
        taken: list[Sent] = []
        rests: list[Sent] = []
        while high < len(self._entries) and self._firsts[high] < end:
            entry = self._entries[high]
            high += 1
            self.count -= entry.high - entry.low
            self.size -= entry.size
            self.cost -= entry.size + OVERHEAD_BYTES
            self._divide(entry, first, end, taken, rests)
        del self._firsts[low:high], self._entries[low:high]
        for index, entry in enumerate(rests, low):
            self._put(index, entry)
        return taken

    @staticmethod
    def _divide(entry: Sent, first: int, end: int, taken: list[Sent], rests: list[Sent]) -> None:
        stop = entry.seq + entry.high - entry.low
        a, b = max(first, entry.seq), min(end, stop)
        if a >= b:
            rests.append(entry)
        elif (a, b) == (entry.seq, stop):
            taken.append(entry)
        else:
            if entry.seq < a:
                rests.append(entry.part(entry.seq, a))
            taken.append(entry.part(a, b))
            if b < stop:
                rests.append(entry.part(b, stop))

    def take_all(self) -> list[Sent]:
        """Everything, in order."""
        return self.take(0, 1 << 64)

    def __len__(self) -> int:
        return len(self._entries)

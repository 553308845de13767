"""What one consumer has been sent and has not settled.

Deliveries are kept as they were sent, a batch an entry. Settling a whole batch in order, the common case, drops an
entry from the front. Whatever else is settled cuts an entry in two by counting; no message is looked at.

Invariants:
1. ``_firsts`` and ``_entries`` are of one length, ascending and disjoint; ``_firsts[i]`` is ``_entries[i].seq``.
2. ``count`` and ``size`` are the sums over the entries.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from typing import NamedTuple

from .batch import Batch

#: What a message may cost beside its bytes: each can become an entry of its own, if its consumer settles those around.
FRAGMENT_BYTES = 512
#: Ranges of all numbers that there may be.
EVERYTHING = [(0, 1 << 64)]


class Sent(NamedTuple):
    """Messages *low* to *high* (exclusive) of a batch; the first has the channel's number *seq*. *size* in bytes; of
    a part of a batch in proportion, but never less than a quarter of what it keeps in memory."""

    seq: int
    low: int
    high: int
    batch: Batch
    size: int

    @property
    def end(self) -> int:
        """The number behind the last."""
        return self.seq + self.high - self.low

    def part(self, start: int, end: int) -> Sent:
        """The numbers from *start* to *end* (exclusive) of it."""
        low = self.low + start - self.seq
        high = low + end - start
        size = self.size * (end - start) // (self.high - self.low)
        if size * 4 < self.batch.pinned:  # few are left: keep those, not the frame that they came in
            part = self.batch.part(low, high)
            return Sent(start, 0, high - low, part, part.size)
        return Sent(start, low, high, self.batch, size)


_sent = Sent._make


class Flight:
    """The unsettled deliveries of one channel, by the channel's numbers."""

    __slots__ = ("_entries", "_firsts", "count", "size")

    def __init__(self) -> None:
        self._firsts: list[int] = []
        self._entries: list[Sent] = []
        #: Messages.
        self.count = 0
        #: Bytes of messages.
        self.size = 0

    @property
    def cost(self) -> int:
        """Bytes of memory that they may come to keep."""
        return self.size + self.count * FRAGMENT_BYTES

    def add(self, seq: int, batch: Batch) -> None:
        """*batch* was sent; its first message has number *seq*."""
        self._firsts.append(seq)
        self._entries.append(_sent((seq, 0, batch.count, batch, batch.size)))
        self.count += batch.count
        self.size += batch.size

    def settle(self, ranges: list[tuple[int, int]]) -> int:
        """Take out the numbers of *ranges*, which nobody wants back: how many of them were still in."""
        (first, count), entries = ranges[0], self._entries
        if len(ranges) == 1 and entries and first <= entries[0].seq:
            return self._settle_to(first + count)
        return sum(piece.high - piece.low for piece in self.take(ranges))

    def _settle_to(self, end: int) -> int:
        """Take out all numbers below *end*: the common case, in which no message is looked at."""
        firsts, entries = self._firsts, self._entries
        before = self.count
        done = 0
        for entry in entries:
            if entry.end > end:
                break
            self.count -= entry.high - entry.low
            self.size -= entry.size
            done += 1
        del firsts[:done], entries[:done]
        if entries and firsts[0] < end:
            entry = entries[0]
            rest = entries[0] = entry.part(end, entry.end)
            self.count -= end - firsts[0]
            self.size -= entry.size - rest.size
            firsts[0] = end
        return before - self.count

    def take_first(self, seq: int) -> Batch | None:
        """Take *seq* out if it is all of the first entry, as most often of what is settled one by one. None: it is
        not."""
        if not self._firsts or self._firsts[0] != seq:
            return None
        first = self._entries[0]
        if first.high - first.low != 1 or first.batch.count != 1:
            return None
        del self._firsts[0], self._entries[0]
        self.count -= 1
        self.size -= first.size
        return first.batch

    def take(self, ranges: list[tuple[int, int]]) -> list[Sent]:
        """Take out the numbers of *ranges*: those that were still in, in order. Numbers that are not in do no harm.

        One pass, however many ranges: the lists are cut once.

        :param ranges: (first, count), ascending and disjoint.
        """
        firsts, entries = self._firsts, self._entries
        if len(ranges) == 1 and entries and ranges[0] == (entries[0].seq, entries[0].high - entries[0].low):
            whole = entries.pop(0)
            del firsts[0]
            self.count -= whole.high - whole.low
            self.size -= whole.size
            return [whole]
        ranges = [(first, count) for first, count in ranges if self.holds(first, first + count)]
        if not ranges:
            return []
        begin = at = max(bisect_right(firsts, ranges[0][0]) - 1, 0)
        taken: list[Sent] = []
        kept: list[Sent] = []
        for first, count in ranges:
            end = first + count
            if kept and kept[-1].end > first:
                self._divide(kept.pop(), first, end, taken, kept)
            else:
                skip = max(bisect_right(firsts, first, at) - 1, at)
                kept += entries[at:skip]
                at = skip
            while at < len(entries) and firsts[at] < end:
                self._divide(entries[at], first, end, taken, kept)
                at += 1
        firsts[begin:at] = [entry.seq for entry in kept]
        entries[begin:at] = kept
        self.count -= sum(piece.high - piece.low for piece in taken)
        return taken

    def holds(self, first: int, end: int) -> bool:
        """Is any number from *first* to *end* (exclusive) in?"""
        at = bisect_right(self._firsts, end - 1) - 1
        return at >= 0 and self._entries[at].end > first

    def find(self, seq: int) -> Sent | None:
        """The entry that *seq* is in, if it is in any."""
        at = bisect_right(self._firsts, seq) - 1
        return self._entries[at] if at >= 0 and self._entries[at].end > seq else None

    def __iter__(self) -> Iterator[Sent]:
        return iter(self._entries)

    def _divide(self, entry: Sent, first: int, end: int, taken: list[Sent], kept: list[Sent]) -> None:
        """Put what of *entry* is in the range into *taken*, the rest into *kept*."""
        low, high = max(first, entry.seq), min(end, entry.end)
        if low >= high:
            kept.append(entry)
            return
        self.size -= entry.size
        for start, stop, place in (entry.seq, low, kept), (low, high, taken), (high, entry.end, kept):
            if start < stop:
                piece = entry if (start, stop) == (entry.seq, entry.end) else entry.part(start, stop)
                place.append(piece)
                if place is kept:
                    self.size += piece.size

    def __len__(self) -> int:
        return len(self._entries)

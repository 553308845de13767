"""Which packets have come, and when that has to be said.

Invariants:
1. ``_firsts`` and ``_lasts`` are ranges, ascending, apart and not adjacent, all from ``_floor`` on.
2. What is below ``_floor`` counts as come: the peer knows of it, or it is too old to matter.
"""

from __future__ import annotations

from bisect import bisect_right

from .packets import ACK_BYTES, MAX_RANGES, RANGE_BYTES, pack_ack

#: Ranges that are kept; of them the largest ones are said.
MOST_RANGES = 4 * MAX_RANGES
#: How long an acknowledgement may wait, in seconds, for more to acknowledge or for data to go with.
DELAY = 0.001
#: And if for as long only datagrams have come that are not full: who sent them had no more to send, and an answer may
#: be on its way, which the acknowledgement can go along with...
PATIENCE = 0.005
#: ...unless so many of them wait for it: a window may be as small.
MANY = 4
#: It goes along with data, but not with all of it if that leaves more often than this, in seconds; if it may still wait
#: for longer than `DELAY`, than that.
SPACING = DELAY / 2
PATIENT_SPACING = PATIENCE / 2


class Arrivals:
    """The packets that have come on one session.

    :param every: so many packets are acknowledged at once.
    :ivar at: when an acknowledgement is due, None if none is.
    :ivar largest: the number of the newest, -1 if there is none.
    """

    __slots__ = ("_every", "_firsts", "_floor", "_full", "_lasts", "_said", "_time", "_unsaid", "at",
                 "largest")  # fmt: skip

    def __init__(self, every: int) -> None:
        self._every = every
        self._firsts: list[int] = []
        self._lasts: list[int] = []
        self._floor = 0
        self._time = 0.0
        self._unsaid = 0
        self._said = float("-inf")  # when the last one was
        self._full = float("-inf")  # when the last one came that was not lone
        self.at: float | None = None
        self.largest = -1

    def add(self, first: int, count: int, now: float) -> bool:
        """*count* packets from *first* on have come; False if all of them had come before."""
        last = first + count - 1
        firsts, lasts = self._firsts, self._lasts
        if first == self.largest + 1 and lasts:
            self.largest = lasts[-1] = last
            self._time = now
            return True
        if first > self.largest:
            self.largest = last
            firsts.append(first)
            lasts.append(last)
            self._time = now
            if len(firsts) > MOST_RANGES:
                self._floor = lasts[0] + 1
                del firsts[0], lasts[0]
            return True
        return self._add_below(max(first, self._floor), last, now)

    def _add_below(self, first: int, last: int, now: float) -> bool:
        firsts, lasts = self._firsts, self._lasts
        at = bisect_right(firsts, first)
        if first > last or (at and lasts[at - 1] >= last):
            return False
        if last > self.largest:
            self.largest = last
            self._time = now
        if at and lasts[at - 1] >= first - 1:
            at -= 1
            first = firsts[at]
        stop = at
        while stop < len(firsts) and firsts[stop] <= last + 1:
            last = max(last, lasts[stop])
            stop += 1
        firsts[at:stop] = [first]
        lasts[at:stop] = [last]
        return True

    def expect(self, count: int, now: float, at_once: bool = False, lone: bool = False) -> None:
        """*count* packets want to be acknowledged; *lone*: they are not full."""
        self._unsaid += count
        if not lone:
            self._full = now
        if at_once or self._unsaid >= self._every:
            self.at = now
            return
        at = now + (PATIENCE if lone and self._unsaid < MANY and now - self._full >= PATIENCE else DELAY)
        if self.at is None or at < self.at:
            self.at = at

    def ripe(self, now: float) -> bool:
        """An ACK is to go along with data that leaves."""
        if self.at is None:
            return False
        return now >= self.at or now - self._said >= (PATIENT_SPACING if self.at - now > DELAY else SPACING)

    def item(self, now: float) -> bytes | None:
        """The ACK that says it all, None if nobody waits for one."""
        if self.at is None:
            return None
        self.at = None
        self._said = now
        self._unsaid = 0
        ranges = list(zip(self._firsts[-MAX_RANGES - 1 :], self._lasts[-MAX_RANGES - 1 :]))
        return pack_ack(ranges, max(now - self._time, 0.0))

    @property
    def size(self) -> int:
        """Bytes that `item` takes, at most."""
        return ACK_BYTES + RANGE_BYTES * min(len(self._firsts), MAX_RANGES)

    @property
    def crowded(self) -> bool:
        """There is much to say again and again, until the peer is known to have heard it."""
        return len(self._firsts) > MAX_RANGES // 2

    def forget(self, largest: int) -> None:
        """The peer has got an ACK that went up to *largest*: it need not be said again."""
        firsts, lasts = self._firsts, self._lasts
        at = bisect_right(firsts, largest) - 1 if len(firsts) > 1 else 0
        if at > 0:
            self._floor = firsts[at]
            del firsts[:at], lasts[:at]

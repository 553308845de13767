"""Leases: how long a consumer has for what it was sent, before somebody else gets it.

A delivery that is neither settled nor touched in time is taken back. Numbers are kept in pieces that share a deadline,
and what settles a delivery does not look here: a piece whose numbers are settled does nothing when its time comes. So a
lease costs a look at the clock for each batch that is sent, and nothing for an acknowledgement.

What is sent within a `PARTS`-th of the lease shares a piece, with the deadline of the last that may come into it: a
lease lasts as long as was said, and at most that much longer.

Invariants:
1. ``_firsts``, ``_ends`` and ``_dues`` are of one length; the pieces are ascending and disjoint.
2. A number that is in flight is in a piece.
3. While there is a piece there is a timer, which fires when the first of them is due, or before; or when it has
   rested from the last time.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vanilla.timers import Timer

    from .puller import Puller

#: Into so many pieces the deliveries of one lease are divided.
PARTS = 32
#: A timer that fires so late, in seconds, says that the broker stood still: its consumers' frames are still to be read.
LATE = 0.2
#: After each look at all pieces it rests, for so many seconds a piece: else many that are due one by one, as a peer may
#: touch them, would be a look each.
REST = 5e-6
#: With so many pieces it is time to look which are settled; from then on with twice as many as are left.
SWEEP = 64


class Leases:
    """The leases of one channel.

    :param ms: how long each is, in ms; 1 or more.
    """

    __slots__ = (
        "_armed",
        "_dues",
        "_ends",
        "_firsts",
        "_grain",
        "_lease",
        "_puller",
        "_rested",
        "_sweep",
        "_timer",
        "ms",
    )

    def __init__(self, puller: Puller, ms: int) -> None:
        self.ms = ms
        self._puller = puller
        self._lease = ms / 1000
        self._grain = self._lease / PARTS
        self._firsts: list[int] = []
        self._ends: list[int] = []
        #: In seconds of the monotonic clock.
        self._dues: list[float] = []
        self._timer: Timer | None = None
        #: When the timer is to fire.
        self._armed = 0.0
        #: Until when it rests.
        self._rested = 0.0
        self._sweep = SWEEP

    def sent(self, first: int, end: int) -> None:
        """The numbers from *first* to *end* (exclusive) have left; they follow on what was sent before."""
        due = self._puller.endpoint.broker.now() + self._lease
        if self._ends and self._ends[-1] == first and due <= self._dues[-1] <= due + self._grain:
            self._ends[-1] = end
            return
        self._firsts.append(first)
        self._ends.append(end)
        self._dues.append(due + self._grain)
        self._fire_by(due + self._grain)

    def touch(self, ranges: list[tuple[int, int]], ms: int) -> None:
        """The numbers of *ranges* have *ms* from now on, those that are still out."""
        due = self._puller.endpoint.broker.now() + ms / 1000
        for first, count in ranges:
            self._renew(first, first + count, due)
        if self._firsts:
            self._fire_by(due)
        if len(self._firsts) > self._sweep:
            self._drop_settled()

    def _renew(self, first: int, end: int, due: float) -> None:
        firsts, ends, dues = self._firsts, self._ends, self._dues
        begin = max(bisect_right(firsts, first) - 1, 0)
        if begin < len(ends) and ends[begin] <= first:
            begin += 1
        at = begin
        pieces: list[tuple[int, int, float]] = []
        while at < len(firsts) and firsts[at] < end:
            low, high, old = firsts[at], ends[at], dues[at]
            for start, stop, when in (low, first, old), (max(low, first), min(high, end), due), (end, high, old):
                if start < min(stop, high):
                    pieces.append((max(start, low), min(stop, high), when))
            at += 1
        firsts[begin:at] = [piece[0] for piece in pieces]
        ends[begin:at] = [piece[1] for piece in pieces]
        dues[begin:at] = [piece[2] for piece in pieces]

    def _drop_settled(self) -> None:
        """Forget the pieces of which nothing is in flight: a consumer may touch what it settles at once."""
        holds = self._puller.flight.holds
        kept = [piece for piece in zip(self._firsts, self._ends, self._dues) if holds(piece[0], piece[1])]
        self._keep(kept)
        self._sweep = max(SWEEP, 2 * len(kept))

    def _keep(self, pieces: list[tuple[int, int, float]]) -> None:
        self._firsts = [piece[0] for piece in pieces]
        self._ends = [piece[1] for piece in pieces]
        self._dues = [piece[2] for piece in pieces]

    # -- the clock

    def _fire_by(self, due: float) -> None:
        """Something is due at *due*: the timer, if one runs, may have been set for what was touched for longer."""
        if self._timer is not None:
            if self._armed <= due:
                return
            self._timer.cancel()
        self._arm(due)

    def _arm(self, due: float) -> None:
        broker = self._puller.endpoint.broker
        self._armed = due = max(due, self._rested)
        self._timer = broker.hub.after(max(due - broker.now(), 0) * 1000, self._fire)

    def _fire(self) -> None:
        """Take back what is due; if the broker stood still, what consumers have said meanwhile is read first, for which
        there is a moment more."""
        self._timer = None
        now = self._puller.endpoint.broker.now()
        late = now - self._armed
        if late > LATE:
            self._dues = [due + late + LATE for due in self._dues]
        else:
            pieces = list(zip(self._firsts, self._ends, self._dues))
            self._keep([piece for piece in pieces if piece[2] > now])
            over = [(first, end - first) for first, end, due in pieces if due <= now]
            if over:
                self._puller.lapse(over)
        self._rested = now + len(self._dues) * REST
        if self._dues:
            self._arm(min(self._dues))

    def cancel(self) -> None:
        """The channel is gone."""
        if self._timer is not None:
            self._timer.cancel()

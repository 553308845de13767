"""What a consumer with leases knows of them: which deliveries it has to renew, and which are for others now.

The broker says when a lease is over. What was not handed out is then dropped here; what was is marked
(`Delivery.expired`), and nothing that is done with it is said to the broker any more.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from vanilla.protocol.errors import ProtocolError
from vanilla.protocol.frames import TOUCH, pack_control
from vanilla.protocol.ranges import Ranges

if TYPE_CHECKING:
    from .lot import Lot
    from .pull import PullState

#: So many lots all of whose deliveries are settled are remembered: the broker may have had their leases end before.
KEPT = 64


class Lease:
    """The leases of one channel.

    :param ms: how long each is.
    """

    __slots__ = ("_lots", "_most", "_state", "_touched", "ms")

    def __init__(self, state: PullState, ms: int) -> None:
        self.ms = ms
        self._state = state
        #: Each with its first number, ascending.
        self._lots: deque[tuple[int, Lot]] = deque()
        #: When there are more, those that are settled are looked for behind one that is not.
        self._most = 2 * KEPT
        #: What is to be said at the tick's edge: numbers, by for how long they are touched.
        self._touched: dict[int | None, Ranges] = {}

    def enter(self, first: int, lot: Lot) -> None:
        """The deliveries of *lot*, which have the numbers from *first* on, are about to be handed out."""
        lots = self._lots
        lots.append((first, lot))
        while len(lots) > KEPT and lots[0][1].is_settled:
            lots.popleft()
        if len(lots) > self._most:
            late = len(lots) - KEPT
            self._lots = deque(entry for at, entry in enumerate(lots) if at >= late or not entry[1].is_settled)
            self._most = 2 * max(len(self._lots), KEPT)

    def touch(self, number: int, ms: int | None) -> None:
        """Delivery *number* is to have *ms* from now on, or as long as the lease was."""
        self._touched.setdefault(ms, Ranges()).add(number)

    def frames(self) -> list[bytes]:
        """What is to be said."""
        touched, self._touched = self._touched, {}
        made = []
        for ms, numbers in touched.items():
            fields = {} if ms is None else {"lease": ms}
            while numbers:
                made.append(pack_control(TOUCH, self._state.id, 0, {"r": numbers.take(), **fields}))
        return made

    def end(self, ranges: list[tuple[int, int]]) -> None:
        """The leases of these numbers are over.

        Of what was not handed out those that came first end first, for nobody touches them.
        """
        state = self._state
        last, count = ranges[-1]
        if last + count > state.arrived:
            raise ProtocolError("BAD_SEQUENCE", f"the lease of {last + count - 1} is over, which was never delivered")
        for first, count in ranges:
            for start, lot in self._lots:
                low, high = max(first, start), min(first + count, start + lot.count)
                if low < high:
                    state.done_b += lot.lapse(range(low, high))
        state.drop(last + count)
        total = sum(count for _, count in ranges)
        what = "delivery was" if total == 1 else "deliveries were"
        state.link.notify("lease_expired", f"{state.name!r}: {total} {what} not settled in time")

"""What was loaded at once from one frame: deliveries that share their history, and are settled together.

A delivery is three slots, and to acknowledge one in order is to append its number to a list: ranges are made of it,
and bytes counted, when the acknowledgements leave.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from .delivery import Delivery

if TYPE_CHECKING:
    from .pull import PullState

#: A lot has no more: CPython's garbage collector looks at all that is new once 700 objects more are there than were.
MOST = 512


class Lot:
    """Consecutive messages of one channel.

    ``options`` hold for all of them. ``done`` are the numbers that were acknowledged since the state has looked
    (`PullState.stir` is called when the first comes).
    """

    __slots__ = ("_count", "_settled", "_size", "done", "options", "state")

    def __init__(self, state: PullState, count: int, size: int, options: dict[str, Any]) -> None:
        self.state = state
        self.options = options
        self.done: list[int] = []
        self._count = count
        self._size = size
        self._settled = 0

    def deliveries(self, first: int, items: Sequence[Any]) -> list[Delivery]:
        """A delivery of each of *items*, which have the numbers from *first* on."""
        made = [Delivery() for _ in items]
        number = first
        for delivery, item in zip(made, items):
            delivery._lot = self
            delivery._number = number
            delivery.item = item
            number += 1
        return made

    def settle(self, count: int) -> int:
        """So many more are settled: how many bytes those are. Each is an equal part, and all of them are all of it."""
        before = self._size * self._settled // self._count
        self._settled += count
        return self._size * self._settled // self._count - before

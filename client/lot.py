"""What was loaded at once from one frame: deliveries that share their history, and are settled together.

A delivery is three slots, and to acknowledge one in order is to append its number to a list: ranges are made of it,
and bytes counted, when the acknowledgements leave.
"""

from __future__ import annotations

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from typing import TYPE_CHECKING, Any

from .delivery import Delivery

if TYPE_CHECKING:
    from .pull import PullState

#: A lot has no more: CPython's garbage collector looks at all that is new once 700 objects more are there than were.
MOST = 512
_NONE: frozenset[int] = frozenset()


class Lot:
    """Consecutive messages of one channel.

    ``options`` hold for all of them; what there is one of for each stands there as a list. ``first`` is the number of
    the first. ``done`` are the numbers that were acknowledged since the state has looked (`PullState.stir` is called
    when the first comes). ``expired`` are those that the broker has given to others.
    """

    __slots__ = ("_settled", "_size", "count", "done", "expired", "first", "options", "state")

    def __init__(self, state: PullState, count: int, size: int, options: dict[str, Any]) -> None:
        self.state = state
        self.options = options
        self.first = 0
        self.done: list[int] = []
        self.count = count
        self._size = size
        self._settled = 0
        self.expired: AbstractSet[int] = _NONE

    def deliveries(self, first: int, items: Sequence[Any]) -> list[Delivery]:
        """A delivery of each of *items*, which have the numbers from *first* on."""
        made = [Delivery() for _ in items]
        number = self.first = first
        for delivery, item in zip(made, items):
            delivery._lot = self
            delivery._number = number
            delivery.item = item
            number += 1
        return made

    def settle(self, count: int) -> int:
        """So many more are settled: how many bytes those are. Each is an equal part, and all of them are all of it."""
        before = self._size * self._settled // self.count
        self._settled = min(self._settled + count, self.count)
        return self._size * self._settled // self.count - before

    @property
    def is_settled(self) -> bool:
        """Are all of them?"""
        return self._settled == self.count

    def lapse(self, numbers: range) -> int:
        """These are for others now: how many bytes are so settled.

        Some may have been acknowledged, too late. They count twice then, and others of the lot not at all.
        """
        self.expired = self.expired | set(numbers)
        return self.settle(len(numbers))

    def take_done(self) -> list[int]:
        """The numbers that were acknowledged since it was asked last, and are to be said."""
        done, self.done = self.done, []
        return [number for number in done if number not in self.expired] if self.expired else done

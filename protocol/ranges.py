"""Sets of numbers as ranges: ``[first, count, first, count, ...]`` on the wire, ascending and apart.

Acknowledgements mostly come in order, so adding at the end is the fast path and everything else is a linear merge.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from .errors import ProtocolError
from .frames import MAX_SEQ


class Ranges:
    """A set of numbers, kept as ranges that are ascending, disjoint and not adjacent."""

    __slots__ = ("_ends", "_firsts")

    def __init__(self) -> None:
        self._firsts: list[int] = []
        self._ends: list[int] = []  # exclusive

    def add(self, first: int, count: int = 1) -> None:
        """Add *count* numbers from *first* on. Numbers that are in already do no harm."""
        end = first + count
        if count <= 0:
            return
        if not self._ends or first > self._ends[-1]:
            self._firsts.append(first)
            self._ends.append(end)
        elif first >= self._firsts[-1]:
            self._ends[-1] = max(end, self._ends[-1])
        else:
            self._merge(first, end)

    def add_each(self, numbers: list[int]) -> None:
        """Add *numbers*: each once, one at least, in any order. They are sorted in place."""
        numbers.sort()
        first, last = numbers[0], numbers[-1]
        if last - first == len(numbers) - 1:
            self.add(first, len(numbers))
            return
        for number in numbers:
            self.add(number)

    def _merge(self, first: int, end: int) -> None:
        firsts: list[int] = []
        ends: list[int] = []
        for a, b in sorted([*zip(self._firsts, self._ends), (first, end)]):
            if ends and a <= ends[-1]:
                ends[-1] = max(b, ends[-1])
            else:
                firsts.append(a)
                ends.append(b)
        self._firsts, self._ends = firsts, ends

    def take(self, most: int = 1000) -> list[int]:
        """Take out up to *most* ranges, as the wire has them."""
        flat: list[int] = []
        for first, end in zip(self._firsts[:most], self._ends[:most]):
            flat += first, end - first
        del self._firsts[:most], self._ends[:most]
        return flat

    def __iter__(self) -> Iterator[tuple[int, int]]:
        """(first, count) of each range."""
        return ((first, end - first) for first, end in zip(self._firsts, self._ends))

    def __len__(self) -> int:
        """How many ranges, not how many numbers."""
        return len(self._firsts)


def pairs(flat: list[int]) -> list[tuple[int, int]]:
    """Ranges as the wire has them, which were checked: [(first, count), ...]."""
    return list(zip(flat[::2], flat[1::2]))


def check_ranges(flat: Any) -> None:
    """Check ranges that came from a peer.

    :raises ProtocolError: BAD_MAP, unless *flat* is a list of ascending, disjoint ranges up to `MAX_SEQ`, each of 1 or
        more.
    """
    if type(flat) is not list or len(flat) % 2 or not flat:
        raise ProtocolError("BAD_MAP", "ranges are a list [first, count, ...]")
    free = 0
    for first, count in zip(flat[::2], flat[1::2]):
        if type(first) is not int or type(count) is not int or first < free or count < 1 or first + count - 1 > MAX_SEQ:
            raise ProtocolError(
                "BAD_MAP", f"ranges are ascending, disjoint, of 1 or more: [{first!r}, {count!r}] is not"
            )
        free = first + count

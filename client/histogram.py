"""How long many things took: few numbers, which several processes can send and one can add up."""

from __future__ import annotations

from collections.abc import Iterable

#: A value keeps so many of its leading bits: buckets are less than 1.6 % wide.
BITS = 7


class Histogram:
    """Counts of values from 0 on, by bucket.

    >>> waits = Histogram()
    >>> for wait in range(1000):
    ...     waits.add(wait)
    >>> waits.quantile(0.5), waits.quantile(0.99), waits.quantile(1)
    (496, 984, 992)
    """

    def __init__(self) -> None:
        self._counts: dict[int, int] = {}

    def add(self, value: int) -> None:
        """Count *value*."""
        shift = max(value.bit_length() - BITS, 0)
        bucket = (shift << BITS) + (value >> shift)
        self._counts[bucket] = self._counts.get(bucket, 0) + 1

    def pairs(self) -> list[tuple[int, int]]:
        """What `merge` takes: of each bucket its number and its count."""
        return list(self._counts.items())

    def merge(self, pairs: Iterable[tuple[int, int]]) -> None:
        """Add what another one has counted."""
        for bucket, count in pairs:
            self._counts[bucket] = self._counts.get(bucket, 0) + count

    @property
    def total(self) -> int:
        """How many values were counted."""
        return sum(self._counts.values())

    def quantile(self, part: float) -> int | None:
        """What *part* of the values, 0 to 1, are not above: the lower bound of a bucket. None: there are no values."""
        rest = part * self.total
        value = None
        for bucket, count in sorted(self._counts.items()):
            shift, top = bucket >> BITS, bucket & ((1 << BITS) - 1)
            value = top << shift
            rest -= count
            if rest <= 0:
                break
        return value

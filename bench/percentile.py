"""What stands for many measured times: the median and the 99th percentile."""

from __future__ import annotations


def percentile(values: list[int], percent: int) -> int:
    """The one of *values* that so many percent of them do not exceed: by nearest rank.

    >>> percentile([5, 1, 4, 2, 3], 50), percentile(list(range(1, 201)), 99)
    (3, 198)
    """
    return sorted(values)[max(-(-len(values) * percent // 100), 1) - 1]


def percentiles(waits: list[int]) -> dict[str, float]:
    """Of so many nanoseconds, in ms.

    >>> percentiles([2_000_000, 1_500_000, 9_000_000])
    {'median': 2.0, 'p99': 9.0}
    """
    return {"median": percentile(waits, 50) / 1e6, "p99": percentile(waits, 99) / 1e6}

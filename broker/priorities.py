"""What is ready at an endpoint whose messages have priorities: a line for each, the highest first.

Most endpoints have none of this: all is in the one deque `Endpoint.ready`, and that stays the one which is served. Here
are the others.

Invariants:
1. ``endpoint.ready`` is the line of ``at``, and of those that are not empty the highest; if all are empty, it is that
   of 0.
2. ``lines`` has no empty line but that, and each is ascending by accept number.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .batch import Batch
    from .endpoint import Endpoint


class Priorities:
    """The lines of *endpoint*, by priority."""

    __slots__ = ("at", "endpoint", "lines")

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self.at = 0
        self.lines = {0: endpoint.ready}

    def add(self, batch: Batch) -> None:
        """*batch* is new: it stands behind all of its priority."""
        self.lines.setdefault(priority_of(batch), deque()).append(batch)
        self.choose()

    def choose(self) -> None:
        """Something has changed: see which line is served now. One that is left alone needs nothing of this."""
        lines = self.lines
        for priority in [priority for priority, line in lines.items() if not line]:
            del lines[priority]
        self.at = max(lines, default=0)
        self.endpoint.ready = lines.setdefault(self.at, deque())
        if len(lines) == 1 and not self.at:
            self.endpoint.priorities = None

    def merge(self, back: Iterable[Batch]) -> None:
        """Put *back* where they stood; ascending."""
        came: dict[int, list[Batch]] = {}
        for batch in back:
            came.setdefault(priority_of(batch), []).append(batch)
        for priority, batches in came.items():
            self.lines[priority] = merged(self.lines.get(priority, deque()), batches)
        self.choose()

    def keep(self, wanted: Iterable[Batch]) -> None:
        """Of all that is ready only *wanted* is left."""
        self.lines = {0: deque()}
        self.merge(wanted)

    def __iter__(self) -> Iterator[Batch]:
        """All that is ready, in the order in which it is served."""
        for priority in sorted(self.lines, reverse=True):
            yield from self.lines[priority]

    def __len__(self) -> int:
        return sum(map(len, self.lines.values()))


def priority_of(batch: Batch) -> int:
    """0 to 9."""
    return 0 if batch.said is None else batch.said.priority


def number_of(batch: Batch) -> int:
    """By which what is ready is in order."""
    return batch.number


def merged(line: deque[Batch], back: list[Batch]) -> deque[Batch]:
    """*line* with *back* in its places, both ascending. Most of it stands in front of all that is there."""
    if line and back[-1].number > line[0].number:
        return deque(sorted((*back, *line), key=number_of))
    line.extendleft(reversed(back))
    return line

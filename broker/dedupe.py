"""The ids of messages that an endpoint has taken: a second message of one is discarded.

They are kept for a time, and no more than so many: the window. Both count from the first message of an id, whatever
comes of it.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Any

from .said import Names

if TYPE_CHECKING:
    from vanilla.timers import Timer

    from .broker import Broker
    from .endpoint import Endpoint

#: All ids together take no more than this part of the broker's memory; else producers would wait for them.
PART = 4
#: Where there are more, the largest window forgets this part of its ids.
EIGHTH = 8
#: What an id takes in memory beside its bytes: itself, a number, and their place.
ENTRY_BYTES = 250
#: The oldest are not looked for more often than this, in seconds.
PAUSE = 1.0


class Windows:
    """The windows of all endpoints of *broker*.

    ``size`` is the sum of their loads, in bytes.
    """

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._all: set[Seen] = set()
        self.size = 0

    def grown(self, seen: Seen, before: int) -> None:
        """The load of *seen* was *before*."""
        self.size += seen.load - before
        if seen.load:
            self._all.add(seen)
        else:
            self._all.discard(seen)
        most = self._broker.memory.limit // PART
        while self.size > most:
            largest = max(self._all, key=_load)
            before, forgotten = largest.load, largest.forget_some()
            self.size += largest.load - before
            self._broker.memory.unweighed[largest.endpoint] = None
            self._broker.door.refusals.say(
                "ids",
                f"endpoint {largest.endpoint.name!r}: {forgotten} ids are forgotten before their time: all ids take a "
                f"{PART}th of the broker's memory at most",
                self._broker.now(),
            )


def _load(seen: Seen) -> int:
    return seen.load


class Seen:
    """The ids of *endpoint*.

    Invariants:
    1. ``_ids`` is ascending by when an id is forgotten: the time of all is the same, and what comes last goes last.
    2. While there are ids one timer runs that forgets the oldest of them.
    """

    __slots__ = ("_ids", "_size", "_timer", "endpoint")

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        #: When each is forgotten, in seconds, monotonic.
        self._ids: OrderedDict[Any, float] = OrderedDict()
        self._size = 0
        self._timer: Timer | None = None

    @property
    def load(self) -> int:
        """What it counts with in the broker's memory, in bytes."""
        return self._size + len(self._ids) * ENTRY_BYTES

    def fresh(self, names: Names, entries: int, seconds: float) -> list[int]:
        """Note *names*: the indexes of those that are new, or nil.

        :param entries: how many are kept, and *seconds* for how long.
        """
        ids, now, before = self._ids, self.endpoint.broker.now(), self.load
        self._forget(now)
        found = []
        for index, name in enumerate(names):
            if name is not None:
                if name in ids:
                    continue
                ids[name] = now + seconds
                self._size += len(name)
                if len(ids) > entries:
                    self._size -= len(ids.popitem(last=False)[0])
            found.append(index)
        if ids and self._timer is None:
            self._wait(seconds)
        self.endpoint.broker.windows.grown(self, before)
        return found

    def forget_some(self) -> int:
        """Forget the oldest, before their time: how many."""
        count = -(-len(self._ids) // EIGHTH)
        for _ in range(count):
            self._size -= len(self._ids.popitem(last=False)[0])
        return count

    def _forget(self, now: float) -> None:
        ids = self._ids
        while ids:
            name = next(iter(ids))
            if ids[name] > now:
                return
            self._size -= len(name)
            del ids[name]

    def _wait(self, seconds: float) -> None:
        self._timer = self.endpoint.broker.hub.after(max(seconds, PAUSE) * 1000, self._look)

    def cancel(self) -> None:
        """The endpoint is gone."""
        if self._timer is not None:
            self._timer.cancel()
        before, self._size = self.load, 0
        self._ids.clear()
        self.endpoint.broker.windows.grown(self, before)

    def _look(self) -> None:
        self._timer = None
        now, before = self.endpoint.broker.now(), self.load
        self._forget(now)
        self.endpoint.broker.windows.grown(self, before)
        if self._ids:
            self._wait(next(iter(self._ids.values())) - now)
        else:
            self.endpoint.seen = None
        self.endpoint.broker.touch(self.endpoint)

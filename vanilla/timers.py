"""Timers: what is due when, with the time passed in.

Most timers of a messaging program are timeouts of a few equal lengths that never fire. Timers of one length fall due
in the order in which they were made, so each common length has a FIFO of its own: to add is to append, to cancel is
to delete, and an answered call leaves nothing behind. Lengths beyond the first few, and absolute times, go to a heap
whose cancelled entries are swept once they are the majority.

A timer is any hashable object with ``due``, ``serial`` and ``home`` (None at first) and a method ``fire``: a task is
the timer of its own timeout, so that a call with a timeout allocates nothing. It can be armed again once it has fired
or was disarmed.

Invariants:
1. A timer is in just one place, its ``home``: a FIFO or the heap, or `DUE` between falling due and its turn; fired or
   disarmed, it is in none (None).
2. A FIFO's timers have ascending ``(due, serial)``: the clock never goes back and a FIFO has one length.
3. Order among equal due times is the order in which they were armed (``serial``); timers are never compared.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict
from itertools import count
from typing import Any, Callable

Action = Callable[[], object]

INFINITY = float("inf")


def seconds(ms: float) -> float:
    """A time that a user gave in ms, in seconds. By convention a negative one is for ever, and so is infinity.

    >>> seconds(500)
    0.5

    :raises TypeError: *ms* is no real number.
    :raises ValueError: it is NaN, which no clock ever reaches.
    """
    try:
        length = ms / 1e3
        if length >= 0 or length < 0:
            return length
    except TypeError:
        raise TypeError(f"a time is a number of ms (-1 for ever), not {ms!r}") from None
    except OverflowError:  # an integer beyond all floats
        return INFINITY
    raise ValueError("a time is a number of ms (-1 for ever), not NaN")


class Due:
    """The home of timers whose turn comes in this very batch: one that fires before them may still disarm them."""

    def __delitem__(self, timer: Any) -> None:
        pass


DUE = Due()


def disarm(timer: Any) -> None:
    """Never fire, not even if due already. May be called at any time, any number of times."""
    home = timer.home
    if home is not None:
        timer.home = None
        try:
            del home[timer]
        except KeyError:  # a ctrl-C came before it was there
            pass


class Timer:
    """One thing to do at one time. ``due`` is in seconds of the monotonic clock."""

    __slots__ = ("action", "due", "home", "serial")

    def __init__(self, action: Action) -> None:
        self.due = 0.0
        self.serial = 0
        self.action: Action | None = action
        self.home: Any = None

    def cancel(self) -> None:
        """`disarm`, and let go of the action."""
        self.action = None
        disarm(self)

    def fire(self) -> None:
        action, self.action = self.action, None
        if action is not None:
            action()


class Heap:
    """Timers of rare lengths. Deletion is lazy, bounded by a sweep."""

    def __init__(self) -> None:
        self.entries: list[tuple[float, int, Any]] = []
        self.dead = 0

    def add(self, timer: Any) -> None:
        timer.home = self
        heapq.heappush(self.entries, (timer.due, timer.serial, timer))

    def __delitem__(self, timer: Any) -> None:
        self.dead += 1
        if self.dead > 64 and self.dead * 2 > len(self.entries):
            self.entries = [entry for entry in self.entries if self._alive(entry)]
            heapq.heapify(self.entries)
            self.dead = 0

    def _alive(self, entry: tuple[float, int, Any]) -> bool:
        # the serial tells an entry from an older one of the same timer, which was armed again
        return entry[2].home is self and entry[2].serial == entry[1]

    def head(self) -> Any:
        """The timer that is due first, or None."""
        while self.entries:
            if self._alive(self.entries[0]):
                return self.entries[0][2]
            heapq.heappop(self.entries)
            self.dead -= 1
        return None

    def pop(self) -> None:
        heapq.heappop(self.entries)

    def __len__(self) -> int:
        return len(self.entries) - self.dead


class Timers:
    """All timers of a hub.

    :param lengths: how many different lengths have a FIFO of their own before further ones share the heap.
    """

    def __init__(self, lengths: int = 32) -> None:
        self._lengths = lengths
        self._fifos: dict[float, OrderedDict[Any, None]] = {}
        self._heap = Heap()
        self._serials = count()
        #: No timer is due before this, in seconds: a lower bound, for who is disarmed does not raise it.
        self.soonest = INFINITY

    def after(self, delay: float, now: float, action: Action) -> Timer:
        """Call *action* once, *delay* seconds after *now*."""
        timer = Timer(action)
        self.arm(timer, delay, now)
        return timer

    def at(self, due: float, action: Action) -> Timer:
        """Call *action* once, at *due* (seconds of the monotonic clock)."""
        timer = Timer(action)
        timer.due = due
        timer.serial = next(self._serials)
        self.soonest = min(due, self.soonest)
        self._heap.add(timer)
        return timer

    def arm(self, timer: Any, delay: float, now: float) -> None:
        """Fire *timer*, which is not armed, *delay* seconds after *now*."""
        due = timer.due = now + delay
        if due < self.soonest:
            self.soonest = due
        timer.serial = next(self._serials)
        fifo = self._fifos.get(delay)
        if fifo is None:
            fifo = self._new_fifo(delay)
            if fifo is None:
                self._heap.add(timer)
                return
        timer.home = fifo
        fifo[timer] = None

    def _new_fifo(self, delay: float) -> OrderedDict[Any, None] | None:
        """A FIFO for a new length, in the place of an empty one if all places are taken; None if there is none."""
        if len(self._fifos) >= self._lengths:
            idle = next((length for length, fifo in self._fifos.items() if not fifo), None)
            if idle is None:
                return None
            del self._fifos[idle]
        fifo = self._fifos[delay] = OrderedDict()
        return fifo

    def next_due(self) -> float | None:
        """When the next timer fires, or None if there is none."""
        heads = [next(iter(fifo)).due for fifo in self._fifos.values() if fifo]
        timer = self._heap.head()
        if timer is not None:
            heads.append(timer.due)
        return min(heads) if heads else None

    def expire(self, now: float) -> list[Any]:
        """Take out what is due at *now*, in order. The caller fires, each by its turn, those still at home in `DUE`."""
        due: list[Any] = []
        if now < self.soonest:
            return due
        for fifo in self._fifos.values():
            while fifo:
                timer = next(iter(fifo))
                if timer.due > now:
                    break
                del fifo[timer]
                due.append(timer)
        timer = self._heap.head()
        while timer is not None and timer.due <= now:
            self._heap.pop()
            timer.home = DUE  # not in the heap any more: head() must not meet it again
            due.append(timer)
            timer = self._heap.head()
        for timer in due:
            timer.home = DUE
        due.sort(key=_order)
        soonest = self.next_due()
        self.soonest = INFINITY if soonest is None else soonest
        return due

    def __len__(self) -> int:
        return sum(map(len, self._fifos.values())) + len(self._heap)


def _order(timer: Any) -> tuple[float, int]:
    return timer.due, timer.serial

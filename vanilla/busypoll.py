"""Waiting that looks for a while before it sleeps: busy polling.

To sleep and be woken is what a message that comes alone costs most: the core of a virtual machine goes to its host and
comes back with cold caches, and what a process then does takes several times as long. One call through a broker is four
wake-ups. So where something comes soon each time, a loop looks for it again and again for some microseconds, and lets
others have the core between two looks. Linux does the same for sockets (net.core.busy_poll), and for idle virtual cores
(the governor "haltpoll", from which the idea of a limit that is earned is).

It must cost nothing where it brings nothing. So it has to be earned, by waits that were short, and by looks that found
something; and each time that it was of no use it becomes dearer:

* A look lasts `LOOK_US`; or `HOPS` times as long as the process has just worked, if that is more, up to `LONGEST` times
  as much. For where a wake-up is much work, it is so for the others, and who calls waits for the broker, for the
  server, and for the broker again; and what looking adds is in proportion.
* A wait is *short* when a descriptor ended it within twice the time of a look.
* After `TRIALS` more short waits than `SLOW` times the others, it looks. Each look that finds something is worth one,
  up to `LUCK`, and each that does not costs `MISS`; one that has nothing left goes back to sleep.
* The first `TRYING` looks last as long as any may. For where all have slept, all are slow; and who would find something
  soon once all are awake, has to be awake until then. These are not counted for what follows.
* If it lost more than it found, twice as many short waits are asked for the next time, up to `MOST_TRIALS`; else
  `TRIALS` again.

A wait that a timer ends is not short: it would have ended then anyway; and a look that it ends has found nothing. A
process with one core to run on never looks, for there the others would have to wait. (PyPy 3.9 does not say which cores
those are, and nobody says that a container has a share of one: there `VARIABLE` is to be set.)
"""

from __future__ import annotations

import os
import time
from typing import Callable

from .poll import Poll

#: The environment variable that says how long a look lasts, in microseconds, for hubs that are not told; 0: never look.
VARIABLE = "VANILLA_BUSY_POLL"
#: What holds without it. To sleep and be woken took 50 to 150 us, of which we give so much to save it.
LOOK_US = 150
MOST_US = 10_000
LONGEST = 4
HOPS = 3
#: Short waits before the first look, and before one that follows many that were of no use; and what others count.
TRIALS = 16
MOST_TRIALS = 4096
SLOW = 2
TRYING = 32
#: What is saved at most, and what a look without a find costs.
LUCK = 8
MISS = 3

monotonic = time.monotonic


class BusyPoll:
    """The waits of one loop.

    :param poll: what is looked at.
    :param look: how long a look lasts at least, in seconds.
    :param clock: for tests.
    """

    __slots__ = ("_clock", "_ended", "_found", "_least", "_luck", "_missed", "_most", "_poll", "_quick", "_trials",
                 "_trying")  # fmt: skip

    def __init__(self, poll: Poll, look: float, clock: Callable[[], float] = monotonic) -> None:
        self._poll = poll
        self._least = look
        self._most = LONGEST * look
        self._clock = clock
        #: When the last wait did.
        self._ended = 0.0
        #: What is left; 0: it sleeps at once.
        self._luck = 0
        #: Short waits, less `SLOW` for each other, and how many it takes.
        self._quick = 0
        self._trials = TRIALS
        #: Of the looks since it last slept at once, but for the first ones...
        self._found = self._missed = 0
        #: ...of which so many are left.
        self._trying = 0

    @property
    def looking(self) -> bool:
        """Will the next wait look first?"""
        return self._luck > 0

    def wait(self, timeout: float) -> list[tuple[int, int]]:
        """As `Poll.wait`; *timeout* in seconds, -1 for ever."""
        clock = self._clock
        begin = clock()
        look = min(max(HOPS * (begin - self._ended), self._least), self._most)
        if self._luck:
            return self._look_first(timeout, begin, self._most if self._trying else look)
        ready = self._poll.wait(timeout)
        self._ended = clock()
        if ready:
            if self._ended - begin > 2 * look:
                self._quick = max(self._quick - SLOW, 0)
            else:
                self._quick += 1
                if self._quick >= self._trials and not self._luck:
                    self._quick = 0
                    self._begin()
        return ready

    def _begin(self) -> None:
        self._found = self._missed = 0
        if cores() > 1:
            self._luck = LUCK
            self._trying = TRYING

    def _look_first(self, timeout: float, begin: float, look: float) -> list[tuple[int, int]]:
        clock, poll = self._clock, self._poll
        now, until = begin, begin + (look if timeout < 0 else min(look, timeout))
        while True:
            ready = poll.wait(0)
            if ready:
                break
            now = clock()
            if now >= until:
                ready = poll.wait(timeout if timeout < 0 else max(timeout - (now - begin), 0))
                self._ended = clock()
                self._miss()
                return ready
            _give_way()
        self._ended = clock()
        if self._trying:
            self._trying -= 1
        elif self._ended - now > self._least:  # others have had the core for so long: sleepers go before them
            self._miss()
        else:
            self._found += 1
            if self._luck < LUCK:
                self._luck += 1
        return ready

    def _miss(self) -> None:
        self._trying = 0
        self._missed += 1
        self._luck = max(self._luck - MISS, 0)
        if not self._luck:
            self._quick = 0
            lost = self._missed * MISS > self._found
            self._trials = min(2 * self._trials, MOST_TRIALS) if lost else TRIALS


def look_us(told: float | None) -> float:
    """How long a look is to last, in microseconds: what one was *told*, or the environment says, or the default.

    :raises ValueError: it is no such time.
    """
    name, us = "busy_poll", told
    if us is None:
        name, text = VARIABLE, os.environ.get(VARIABLE) or str(LOOK_US)
        try:
            us = int(text)
        except ValueError:
            raise ValueError(f"{name} is {text!r}, but must be microseconds") from None
    if not 0 <= us <= MOST_US:
        raise ValueError(f"{name} is {us:g}, but must be from 0 to {MOST_US} microseconds")
    return us


def cores() -> int:
    """How many this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1  # PyPy


_give_way = os.sched_yield

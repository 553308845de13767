"""What every library offers. A new peer is one file beside this one, with its ``LIBRARY``, and a name in `hubs.NAMES`.

The file must load where the peer is not installed: it imports it in the methods, which run in processes of their own.
Each method is written as a user of that library would write it, with everything it offers to be quick.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Callable

from sides import Side


class Sleepers:
    """What tasks that sleep note down.

    :ivar lengths: how long each is to sleep, in seconds.
    :ivar begun: when each went to sleep, on the monotonic clock.
    :ivar late: how much longer than asked each has slept, in seconds.
    """

    def __init__(self, lengths: Sequence[float]) -> None:
        self.lengths = lengths
        self.begun: list[float] = []
        self.late: list[float] = []

    def begin(self) -> float:
        """A task is about to sleep."""
        now = time.monotonic()
        self.begun.append(now)
        return now

    def end(self, begun: float, length: float) -> None:
        """It woke up."""
        self.late.append(time.monotonic() - begun - length)


class Calls:
    """What tasks note down that have a thread call a function, one call after the other.

    :ivar tasks: how many do so at the same time.
    :ivar each: how many calls each of them makes.
    :ivar waits: how long each took, in ns.
    """

    def __init__(self, tasks: int, each: int) -> None:
        self.tasks = tasks
        self.each = each
        self.waits: list[int] = []

    @staticmethod
    def work(number: int) -> int:
        """What the thread does: nothing much."""
        return number + 1

    def end(self, begun: int, number: int, result: int) -> None:
        """A call with *number* that began at *begun*, by `time.monotonic_ns`, has given *result*."""
        self.waits.append(time.monotonic_ns() - begun)
        if result != number + 1:
            raise AssertionError("a call gave another's result")


class Picks:
    """What somebody does who waits for one of several ends, again and again.

    :ivar ends: how many there are.
    :ivar count: how often.
    :ivar parked: does it have to wait each time? Else one of them is ready.
    :ivar turn: does it wait for the loop, too, between two of these?
    :ivar fresh: is the list of ends made anew each time?
    """

    def __init__(self, ends: int, count: int, parked: bool, turn: bool, fresh: bool) -> None:
        self.ends = ends
        self.count = count
        self.parked = parked
        self.turn = turn
        self.fresh = fresh

    def order(self) -> list[int]:
        """Which end is to be the one, each time: all of them as often, and in no order."""
        return [number * STEP % self.ends for number in range(self.count)]

    def check(self, expected: int, found: int) -> None:
        if expected != found:
            raise AssertionError(f"end {expected} was ready, and end {found} was chosen")


#: From one end that is chosen to the next: no number of ends that there may be shares a factor with it.
STEP = 37


class Library(Side):
    """One library. The texts are what a reader must know before comparing its figures with others."""

    guarantee = "none needed: one process"
    payload = "Python objects, handed over"
    batching = "none: a call a message at both ends, two tasks of one thread"

    def channel(self, capacity: int, timeout: int, n: int) -> float:
        """Pass *n* numbers from one task to another.

        :param capacity: how many the channel holds, 0: none, each waits until it is taken.
        :param timeout: ms that each call may wait at most, which they never do; -1: no limit, in the quickest way.
        :return: messages a second.
        """
        raise NotImplementedError

    def sleep(self, sleepers: Sleepers) -> None:
        """Start a task for each of ``sleepers.lengths``, which sleeps as long, and wait for all of them."""
        raise NotImplementedError

    def spawn(self, batches: int, size: int) -> None:
        """Start *size* tasks that return at once, and wait for all of them; *batches* times."""
        raise NotImplementedError

    def threads(self, calls: Calls) -> None:
        """Start ``calls.tasks`` tasks, each of which has a thread run ``calls.work`` for a number, waits for its
        result, and notes it by ``calls.end``, ``calls.each`` times; and wait for all of them."""
        raise NotImplementedError

    def select(self, picks: Picks) -> float:
        """Wait for one of ``picks.ends`` ends, and take what it has, as often as *picks* says.

        Where it has to wait, another task sends when it does, and is told afterwards that it may go on.

        :return: selects a second.
        """
        raise NotImplementedError

    def parked(self, n: int, waits: Callable[[], None]) -> None:
        """Start *n* tasks, each of which calls *waits*, and then receives from one channel on which nothing comes. Wait
        for them, in vain."""
        raise NotImplementedError

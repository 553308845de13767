"""What every library offers. A new peer is one file beside this one, with its ``LIBRARY``, and a name in `hubs.NAMES`.

The file must load where the peer is not installed: it imports it in the methods, which run in processes of their own.
Each method is written as a user of that library would write it, with everything it offers to be quick.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

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

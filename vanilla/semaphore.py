"""A semaphore: so many tasks at a time."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

from .exception import Timeout
from .task import leave

if TYPE_CHECKING:
    from .core import Hub


class Semaphore:
    """A number of permits; made by `Hub.semaphore`. Who waits longest gets the next one.

    Invariants:
    1. Who stands in ``_line`` is parked, and stands there once; whoever wakes it takes it out first.
    2. Somebody stands in line only while ``value`` is 0: a permit that is given back is handed over, and never free in
       between. So nobody overtakes.
    3. Who is handed a permit has it before it runs: an interruption in the same tick waits (`Hub.interrupt`).

    >>> import vanilla
    >>> with vanilla.Hub() as h:
    ...     seats = h.semaphore(2)
    ...     with seats:
    ...         seats.value
    1
    """

    __slots__ = ("__weakref__", "_bound", "_hub", "_line", "_runner", "value")

    def __init__(self, hub: Hub, value: int = 1, bound: int | None = None) -> None:
        if value < 0:
            raise ValueError(f"a semaphore has 0 permits or more, not {value}")
        if bound is not None and bound < value:
            raise ValueError(f"a semaphore that is bound to {bound} cannot begin with {value} permits")
        self._hub = hub
        self._runner = hub.runner
        self._bound = bound
        #: How many permits are free.
        self.value = value
        self._line: deque[Any] = deque()

    def acquire(self, timeout: float = -1) -> None:
        """Take a permit; wait until there is one.

        :param timeout: ms to wait, -1 for ever, 0 not at all.
        :raises Timeout: none was to be had; none was taken.
        """
        if self.value:
            self.value -= 1
        else:
            self._wait(timeout)

    def release(self, n: int = 1) -> None:
        """Give *n* permits back, or add them: whoever waits gets them first.

        :raises ValueError: *n* is less than 1, or there would be more than its bound; nothing is released.
        """
        if n < 1:
            raise ValueError(f"a release gives 1 permit or more, not {n}")
        if self._bound is not None and self.value + n > self._bound:
            raise ValueError(f"a release of {n} beside {self.value} that are free: there are {self._bound} in all")
        line = self._line
        if line:
            self._hub.check_thread()
            ready = self._hub.ready
            while n and line:
                ready.append(line.popleft())
                n -= 1
        self.value += n

    def _wait(self, timeout: float, item: Any = None) -> None:
        """Wait to be handed a permit, with *item* in the slot meanwhile."""
        me = self._runner.me()
        me.value = item
        self._line.append(me)
        try:
            self._runner.park(me, self, timeout)
        except Timeout:
            raise
        except BaseException:
            self.forget(me)  # a ctrl-C may have struck between standing in line and parking
            raise

    def __enter__(self) -> Semaphore:
        self.acquire()
        return self

    def __exit__(self, *exc: object) -> None:
        self.release()

    # what a waiter is parked on
    def forget(self, waiter: Any) -> bool:
        return leave(self._line, waiter)

    def describe(self, waiter: Any) -> str:
        return "acquire of a semaphore"

    def __repr__(self) -> str:
        return f"<{type(self).__name__}, {self.value} free, {len(self._line)} wait>"

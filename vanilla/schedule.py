"""What runs later, in a task of its own: once (`TaskTimer`), or again and again (`Schedule`)."""

from __future__ import annotations

import contextvars
import math
import time
import weakref
from typing import TYPE_CHECKING, Any, Callable

from .exception import Stop, is_failure
from .task import check_callable
from .timers import disarm, seconds

if TYPE_CHECKING:
    from .core import Hub, Task

monotonic = time.monotonic


class TaskTimer:
    """Runs a function once, in some time; made by `Hub.timer`. It is its own timer (see `timers`).

    The function runs in a copy of the context of whoever made the timer.

    >>> import vanilla
    >>> with vanilla.Hub() as h:
    ...     done = h.event()
    ...     timer = h.timer(1, done.set)
    ...     done.wait()
    ...     timer.pending
    False
    """

    __slots__ = ("__weakref__", "_call", "_context", "_hub", "_ms", "_task", "due", "home", "serial")

    def __init__(
        self, hub: Hub, ms: float, f: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        check_callable(f)
        self._hub = hub
        self._ms = ms
        self._call = f, args, kwargs
        self._context = contextvars.copy_context()
        #: What the last firing has made; it may not have begun.
        self._task: weakref.ref[Task] | None = None
        self.due = 0.0
        self.serial = 0
        self.home: Any = None
        self.reset()

    @property
    def pending(self) -> bool:
        """Will it run?"""
        return self.home is not None or self._waiting_task() is not None

    def cancel(self) -> None:
        """Never run, if it has not begun. Twice does nothing."""
        self._hub.check_thread()
        disarm(self)
        task, self._task = self._waiting_task(), None
        if task is not None:
            task.cancel()

    def reset(self, ms: float | None = None) -> None:
        """Begin to wait anew, also after it was cancelled or has run.

        :param ms: for how long; None for as long as before. 0 or less: until the loop looks at its timers.
        """
        self._hub._check()
        if ms is None:
            ms = self._ms
        length = max(seconds(ms), 0)
        self.cancel()
        self._ms = ms
        self._hub.timers.arm(self, length, monotonic())

    def _waiting_task(self) -> Task | None:
        """What has been made by the last firing and has not begun."""
        task = None if self._task is None else self._task()
        return task if task is not None and task.fiber is None and not task.done else None

    def fire(self) -> None:
        """It is due. Called by the loop."""
        if not self._hub.stopping:
            f, args, kwargs = self._call
            self._task = weakref.ref(self._context.run(self._hub.spawn, f, *args, **kwargs))

    def __repr__(self) -> str:
        f = self._call[0]
        return (
            f"<TaskTimer of {self._ms:g} ms for {getattr(f, '__qualname__', f)}{', pending' if self.pending else ''}>"
        )


class Schedule:
    """Runs a function again and again in one task; made by `Hub.every`.

    Run *n* is due *n* times *ms* after that, however late the ones before were; what falls due meanwhile is missed.

    >>> import vanilla
    >>> with vanilla.Hub() as h:
    ...     ticks = h.channel(3)
    ...     schedule = h.every(1, ticks.send, "tick")
    ...     ticks.recv(), ticks.recv()
    ...     schedule.cancel()
    ('tick', 'tick')
    """

    def __init__(
        self, hub: Hub, ms: float, f: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        check_callable(f)
        length = seconds(ms)
        if length <= 0:
            raise ValueError(f"a schedule needs more than 0 ms from one run to the next, not {ms:g}")
        self._hub = hub
        self._ms = ms
        self._length = length
        self._call = f, args, kwargs
        #: It makes no sense to wait for the next run any more.
        self._cancelled = False
        #: The fiber of its task, while that waits for the next run.
        self._waiter: Any = None
        #: How many runs have begun...
        self.runs = 0
        #: ...how many of them have raised...
        self.failed = 0
        #: ...and how many were due while another was under way, and never began.
        self.missed = 0
        self.__qualname__ = f"every {ms:g} ms {getattr(f, '__qualname__', f)}"
        self._start = monotonic()
        hub.spawn(self)

    def cancel(self) -> None:
        """No more runs; one that is under way ends by itself. Twice does nothing."""
        self._hub.check_thread()
        self._cancelled = True
        self._wake()

    def __call__(self) -> None:
        """The body of its task."""
        turn = 1
        while not self._cancelled:
            self._wait(self._start + turn * self._length)
            if self._cancelled:
                return
            self._run()
            now = (monotonic() - self._start) / self._length
            following = max(turn + 1, math.ceil(now))
            self.missed += following - turn - 1
            turn = following

    def _run(self) -> None:
        f, args, kwargs = self._call
        self.runs += 1
        try:
            f(*args, **kwargs)
        except BaseException as error:
            if not is_failure(error) or (isinstance(error, Stop) and self._hub.stopping):
                raise
            self.failed += 1
            self._hub.failed(f, error, "; the next run comes")

    def _wait(self, due: float) -> None:
        runner = self._hub.runner
        timer = self._hub.timers.at(due, self._wake)
        try:
            me = runner.me()
            self._waiter = me
            runner.park(me, self)
        finally:
            self._waiter = None
            timer.cancel()

    def _wake(self) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter is not None:
            self._hub.ready.append(waiter)

    # what its task is parked on
    def forget(self, waiter: Any) -> bool:
        if self._waiter is not waiter:
            return False
        self._waiter = None
        return True

    def describe(self, waiter: Any) -> str:
        return f"its next run, one every {self._ms:g} ms"

    def __repr__(self) -> str:
        told = f"{self.runs} runs, {self.failed} failed, {self.missed} missed"
        return f"<Schedule, {self.__qualname__}: {told}{' (cancelled)' if self._cancelled else ''}>"

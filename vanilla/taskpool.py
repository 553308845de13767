"""A pool: at most so many tasks that work for whoever asks.

What is to be done gets a *place*, and then a task of its own: to make one is cheap (see `task.Fiber`), and so each has
a copy of its asker's context. The places are a semaphore's permits.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Callable

from .channel import Channel
from .exception import Closed, Halt
from .job import CALL, Job, Places
from .message import Recver
from .poolmap import Mapping
from .task import check_callable, leave

if TYPE_CHECKING:
    from .core import Hub


class TaskPool:
    """At most *size* tasks at a time; made by `Hub.pool`. Who waits longest for a place gets the next one.

    A task of a pool that waits for another call of the same pool keeps its own place meanwhile: if all do, that is a
    deadlock.

    >>> import vanilla
    >>> with vanilla.Hub() as h, h.pool(2) as pool:
    ...     pool.call(pow, 2, 3).recv(), list(pool.map(abs, [-1, -2, -3]))
    (8, [1, 2, 3])
    """

    __slots__ = ("__weakref__", "_closed", "_hub", "_places")

    def __init__(self, hub: Hub, size: int) -> None:
        if size < 1:
            raise ValueError(f"a pool has 1 task or more, not {size}")
        self._hub = hub
        self._places = Places(hub, size)
        self._closed = False

    def call(self, f: Callable[..., Any], *args: Any, **kwargs: Any) -> Recver:
        """Run ``f(*args, **kwargs)`` in one of the pool's tasks; waits while all are busy.

        :return: a Recver that gives what it returns, or raises what it raises. If it was dropped, what *f* raises is
            logged.
        :raises Closed: the pool was closed.
        """
        check_callable(f)
        self._check("call")
        channel = Channel(self._hub, 1, f"call of {getattr(f, '__qualname__', f)}")
        recver = Recver(channel)
        self._places.take(CALL)

        def answer(job: Job, outcome: Any) -> None:
            try:
                channel.give_nowait(outcome)
                channel.close()
            except Halt:
                job.unheard(outcome)

        self._places.begin(Job(self._places, f, args, kwargs, answer))
        return recver

    def map(self, f: Callable[[Any], Any], items: Iterable[Any], ordered: bool = True) -> Recver:
        """Run ``f(item)`` for each of *items* in the pool's tasks.

        At most *size* items are taken ahead of the reader. If it closes or drops the Recver no more are begun, and
        those that run are cancelled. A map that has begun goes on when the pool is closed.

        :param items: any iterable. An exception that comes through a Recver takes the place of a result.
        :param ordered: the results are in the order of *items*, else in that in which they are done.
        :return: a Recver of what *f* returns. What it raises is raised there, in the place of that result, and the
            others go on; what *items* raises comes last. A Halt or StopIteration of *f* comes as a RuntimeError, of
            which it is the cause: it would end the reader's loop as if that was all.
        :raises Closed: the pool was closed.
        """
        check_callable(f)
        self._check("map")
        return Mapping(self._places, f, items, ordered).start()

    def join(self, timeout: float = -1) -> None:
        """Wait until nothing runs. (A map that waits for its reader, or for an item, runs nothing.)

        :param timeout: ms to wait, -1 for ever, 0 not at all.
        :raises Timeout: something still runs.
        :raises RuntimeError: called by a task of this pool, which would wait for itself.
        """
        places, runner = self._places, self._hub.runner
        if places.value == places.size:
            return
        if runner.current() in places.running:
            raise RuntimeError(f"{runner.current()} is one of this pool's: it cannot wait until nothing runs")
        runner.line_up(places.waiters, self, timeout)

    def close(self) -> None:
        """Take no more calls. Who waits to make one gets `Closed`; what runs goes on. Twice does nothing."""
        self._hub.check_thread()
        self._closed = True
        self._places.refuse(CALL, self._refusal)

    def _check(self, what: str) -> None:
        self._hub._check()
        if self._closed:
            raise self._refusal(what)

    def _refusal(self, what: str = CALL) -> Closed:
        return Closed(f"cannot {what}: this pool was closed")

    def __enter__(self) -> TaskPool:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
        self.join()

    # -- what a task that joins is parked on

    def forget(self, waiter: Any) -> bool:
        return leave(self._places.waiters, waiter)

    def describe(self, waiter: Any) -> str:
        return f"join of {self._places.tell()}"

    def __repr__(self) -> str:
        places = self._places
        return f"<TaskPool of {places.size}, {len(places.running)} busy{' (closed)' if self._closed else ''}>"

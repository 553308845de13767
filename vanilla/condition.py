"""A condition variable: wait, under a lock, until another task has changed something."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, Callable

from .deadline import Deadline
from .exception import Timeout
from .lock import Lock
from .task import leave

if TYPE_CHECKING:
    from types import TracebackType

    from .core import Hub


class Condition:
    """What `threading.Condition` is to threads; made by `Hub.condition`.

    Who is notified is taken out of the line, wakes, and acquires the lock again. An interruption that comes after that
    is raised where the task waits next, so a notification is never lost: `wait` returns. One that comes before, or a
    timeout, is raised by `wait`, which has the lock again by then.
    """

    __slots__ = ("__weakref__", "_hub", "_line", "_lock", "_runner")

    def __init__(self, hub: Hub, lock: Lock) -> None:
        if not isinstance(lock, Lock):
            raise TypeError(f"a condition needs a lock of its hub (h.lock() or h.rlock()), not {lock!r}")
        if lock._hub is not hub:
            raise ValueError("a condition needs a lock of its own hub, not of another's")
        self._hub = hub
        self._runner = hub.runner
        self._lock = lock
        self._line: deque[Any] = deque()

    def acquire(self, timeout: float = -1) -> None:
        """Its lock's: `Lock.acquire`."""
        self._lock.acquire(timeout)

    def release(self) -> None:
        """Its lock's: `Lock.release`."""
        self._lock.release()

    def wait(self, timeout: float = -1) -> None:
        """Give the lock back, wait for `notify`, and acquire the lock again, as often as it was before.

        The time to get the lock again is not part of *timeout*.

        :param timeout: ms to wait, -1 for ever, 0 not at all.
        :raises Timeout: nobody has notified us. We have the lock again; so it is with whatever else it raises, unless
            that means that nobody will ever release it: a deadlock, or the hub's end.
        :raises RuntimeError: the running task does not have the lock.
        """
        self._lock.must_hold("wait for a condition")
        depth = self._lock.give_up()
        try:
            self._runner.line_up(self._line, self, timeout)
        finally:
            self._lock.take_back(depth)

    def wait_for(self, predicate: Callable[[], Any], timeout: float = -1) -> Any:
        """`wait` until *predicate*, called without arguments and under the lock, gives something true.

        :param timeout: ms to wait, -1 for ever, 0 not at all.
        :return: what *predicate* gave.
        :raises: what `wait` raises, or *predicate*.
        """
        self._lock.must_hold("wait for a condition")
        deadline = Deadline(timeout)
        while not (result := predicate()):
            try:
                self.wait(deadline.left())
            except Timeout:
                result = predicate()  # it may be so, and nobody has said it
                if not result:
                    raise
                break
        return result

    def notify(self, n: int = 1) -> None:
        """Wake the *n* tasks that have waited longest, or as many as there are.

        :raises RuntimeError: the running task does not have the lock.
        """
        self._lock.must_hold("notify")
        line, ready = self._line, self._hub.ready
        for _ in range(min(n, len(line))):
            ready.append(line.popleft())

    def notify_all(self) -> None:
        """Wake all tasks that wait.

        :raises RuntimeError: the running task does not have the lock.
        """
        self.notify(len(self._line))

    def __enter__(self) -> Condition:
        self._lock.acquire()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._lock.__exit__(kind, error, at)

    # what a waiter is parked on
    def forget(self, waiter: Any) -> bool:
        return leave(self._line, waiter)

    def describe(self, waiter: Any) -> str:
        return "a condition to be notified"

    def __repr__(self) -> str:
        return f"<Condition, {len(self._line)} wait, {self._lock!r}>"

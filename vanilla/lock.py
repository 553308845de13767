"""Locks for tasks: one at a time, whoever waits longest first."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

from greenlet import GreenletExit

from .exception import Cancelled, Stop, Timeout
from .task import Fiber, leave

if TYPE_CHECKING:
    from types import TracebackType

    from .core import Hub


class Lock:
    """One task at a time; made by `Hub.lock`.

    Invariants:
    1. Who stands in ``_line`` is parked, with the depth that it is to get in its slot, and stands there once; whoever
       wakes it takes it out first. Or it is the `_Place` of one who comes back.
    2. Somebody stands in line only while there is a holder: a release passes the lock on, and it is never free in
       between. So nobody overtakes.
    3. Who is handed the lock is its holder before it runs: an interruption in the same tick waits (`Hub.interrupt`).

    >>> import vanilla
    >>> with vanilla.Hub() as h:
    ...     lock = h.lock()
    ...     with lock:
    ...         print(lock.holder)
    the main task
    """

    __slots__ = ("__weakref__", "_depth", "_hub", "_line", "_runner", "holder")

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._runner = hub.runner
        #: The task that has it, or None. (For a greenlet that no spawn made: what stands for it.)
        self.holder: Any = None
        #: How often its holder has acquired it.
        self._depth = 1
        self._line: deque[Any] = deque()

    def acquire(self, timeout: float = -1) -> None:
        """Wait until it is free, and take it.

        :param timeout: ms to wait, -1 for ever, 0 not at all.
        :raises Timeout: it was not to be had.
        :raises RuntimeError: the running task has it already, and would wait for itself.
        """
        current = self._runner.current()
        if self.holder is None:
            self.holder = current
        elif self.holder is current:
            raise RuntimeError(f"{current} has this lock already; one that may be acquired again is h.rlock()")
        else:
            self._wait(current, 1, timeout)

    def release(self) -> None:
        """Pass it to the task that waits longest, or leave it free.

        :raises RuntimeError: the running task does not have it.
        """
        self.must_hold("release")
        self._pass_on()

    def must_hold(self, verb: str) -> None:
        """Only its holder may *verb*.

        :raises RuntimeError: the running task is another.
        """
        current = self._runner.current()
        if self.holder is not current:
            whose = "is free" if self.holder is None else f"is held by {self._tell_holder()}"
            raise RuntimeError(f"{current} cannot {verb}: it does not have the lock, which {whose}")

    def _wait(self, current: Any, depth: int, timeout: float = -1) -> None:
        """Wait to be handed it."""
        me = self._runner.me()
        me.value = depth
        self._line.append(me)
        try:
            self._runner.park(me, self, timeout)
        except Timeout:
            raise
        except BaseException:
            # a ctrl-C may have struck here, between standing in line and parking or after having been woken...
            if not self.forget(me) and self.holder is current:  # ...or our waker, before it made us ready
                self._pass_on()
            raise

    def _pass_on(self) -> None:
        if not self._line:
            self.holder = None
            return
        waiter = self._line.popleft()
        self._depth = waiter.value
        if waiter.__class__ is _Place:
            self.holder = waiter.holder  # on its way back: it will see
        else:
            self.holder = waiter.task if waiter.__class__ is Fiber else waiter
            self._hub.ready.append(waiter)

    # -- for a Condition

    def give_up(self) -> int:
        """Release it, however often it was acquired.

        :return: how often, for `take_back`.
        """
        depth = self._depth
        self._pass_on()
        return depth

    def take_back(self, depth: int) -> None:
        """Acquire it again, whatever comes: an interruption is raised where the task waits next."""
        current, me = self._runner.current(), self._runner.me()
        place = _Place(self, current, depth)
        late: BaseException | None = None
        while self.holder is not current:
            try:
                if self.holder is None:
                    self._depth = depth
                    self.holder = current
                else:
                    place.stand(me)
                    self._runner.park(me, place)
            except BaseException as error:
                place.forget(me)
                if self._in_vain(error):
                    leave(self._line, place)
                    raise
                late = error.with_traceback(None)  # its frames are these; see core, invariant 4
                late.__context__ = None
        if late is not None and me.pending is None:
            me.pending = late

    def _in_vain(self, error: BaseException) -> bool:
        """Does *error* say that nobody will ever release it?"""
        if self._hub.forked:
            return True
        if isinstance(error, Stop):  # every task waits; or each is being ended, and the holder is none of them
            return not self._hub.stopping or self.holder not in self._hub.tasks
        return isinstance(error, GreenletExit) and not isinstance(error, Cancelled)

    def __enter__(self) -> Any:
        self.acquire()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        # an error that came out of `take_back` is not to be hidden by another
        if kind is None or self.holder is self._runner.current():
            self.release()

    # -- what a waiter is parked on

    def forget(self, waiter: Any) -> bool:
        return leave(self._line, waiter)

    def describe(self, waiter: Any) -> str:
        return f"acquire of a lock that {self._tell_holder()} holds"

    def _tell_holder(self) -> str:
        # It may be free by now: for one who was taken out of the line, and whose timer is due before it has run.
        return f"{self.holder or 'nobody'}{', which has ended,' if self.holder and self.holder.done else ''}"

    def __repr__(self) -> str:
        whose = "free" if self.holder is None else f"held by {self.holder}"
        return f"<{type(self).__name__}, {whose}, {len(self._line)} wait>"


class _Place:
    """The place in line of a task that takes its lock back: kept while an interruption is on its way to it, for it will
    not be kept from waiting on. It is what such a task is parked on."""

    __slots__ = ("_lock", "holder", "value")

    def __init__(self, lock: Lock, holder: Any, depth: int) -> None:
        self._lock = lock
        self.holder = holder
        #: As in the slot of a waiter.
        self.value = depth

    def stand(self, waiter: Any) -> None:
        """Put *waiter* here, at the end of the line if that is the first time."""
        waiter.value = self.value
        if not self._replace(self, waiter):
            self._lock._line.append(waiter)

    def forget(self, waiter: Any) -> bool:
        return self._replace(waiter, self)

    def _replace(self, old: Any, new: Any) -> bool:
        line = self._lock._line
        try:
            line[line.index(old)] = new
        except ValueError:
            return False
        return True

    def describe(self, waiter: Any) -> str:
        return self._lock.describe(waiter)


class RLock(Lock):
    """A lock that its holder may acquire again, and has to release as often; made by `Hub.rlock`."""

    __slots__ = ()

    def acquire(self, timeout: float = -1) -> None:
        """Wait until it is free or ours, and take it.

        :param timeout: ms to wait, -1 for ever, 0 not at all.
        :raises Timeout: it was not to be had.
        """
        current = self._runner.current()
        if self.holder is None:
            self._depth = 1
            self.holder = current
        elif self.holder is current:
            self._depth += 1
        else:
            self._wait(current, 1, timeout)

    def release(self) -> None:
        """Undo one `acquire`; the last one passes it to the task that waits longest, or leaves it free.

        :raises RuntimeError: the running task does not have it.
        """
        self.must_hold("release")
        self._depth -= 1
        if not self._depth:
            self._pass_on()

"""Tasks, and the switching between them.

What is hot is here and not in the Hub: Python looks up an attribute of a class with a ``__getattr__`` several times
slower. The invariants that are cited stand in `core`.
"""

from __future__ import annotations

import contextvars
import time
import weakref
from collections import deque
from collections.abc import MutableSequence
from typing import TYPE_CHECKING, Any, Callable

from greenlet import GreenletExit, getcurrent, greenlet

from .exception import Cancelled, Halt, Stop, Timeout
from .timers import disarm, seconds
from .traces import clear_frames

if TYPE_CHECKING:
    from types import TracebackType

    from .core import Hub
    from .selection import Selection
    from .timers import Timers

#: Direct switches between tasks before the loop gets its turn. With 1,000 a timer of 50 ms fired 0.7 ms late behind
#: two tasks at ping-pong, without a limit 3 s late.
BUDGET = 1000
#: In the slot of a fiber whose task has not waited yet.
UNUSED = type("UNUSED", (), {"__repr__": lambda self: "UNUSED"})()

monotonic = time.monotonic


class Waiter:
    """What Fiber and Outsider are to their hub: somebody who waits for one thing at a time.

    It is the timer of its own timeout (see `timers`).
    """

    __slots__ = ()

    hub: Hub
    runner: Runner
    #: Set on a `message.Case` only; channels tell by it what stands in their queues.
    selection: None
    #: The slot of a hand-over.
    value: Any
    #: Raised where the waiter is parked, when it is resumed.
    error: BaseException | None
    #: Raised when the waiter parks next.
    pending: BaseException | None
    #: What the waiter is parked on (has ``forget`` and ``describe``), or None.
    on: Any
    #: Seconds of the monotonic clock, when the tick began in which it has parked.
    since: float
    #: ms; valid while it is parked with a timeout, as are the next three, which are for `timers`.
    timeout: float
    due: float
    serial: int
    home: Any

    def fire(self) -> None:
        """The timeout is over."""
        self.runner.expire(self)


def stand_by(waiter: Any, hub: Hub) -> None:
    """Fill in the fields of a new Waiter."""
    waiter.hub = hub
    waiter.runner = hub.runner
    waiter.selection = waiter.value = waiter.error = waiter.pending = waiter.on = waiter.home = None
    waiter.since = hub.runner.clock


class Sleep:
    """What sleepers are parked on. It holds nobody: whoever was woken has it in the slot of a hand-over."""

    def forget(self, waiter: Any) -> bool:
        asleep = waiter.value is None
        waiter.value = self
        return asleep

    def describe(self, waiter: Any) -> str:
        return f"sleep of {waiter.timeout:g} ms"


SLEEP = Sleep()


class Fiber(greenlet, Waiter):  # type: ignore[misc]  # greenlet.error, a class, is not missed in here
    """What a task runs on; those that never wait, one after another: to make a greenlet takes three times as long as
    all else of a short task.

    Who is parked, stands in queues and is woken is the fiber and not the task. One whose task has waited, or was about
    to, runs no other: a signal handler's error may have left it in a queue or a timer, where somebody would hand it
    what is not the next task's.
    """

    # Slots: a hand-over reads and writes them several times, and a greenlet's dict takes twice as long.
    __slots__ = (
        "due",
        "error",
        "home",
        "hub",
        "on",
        "pending",
        "runner",
        "selection",
        "serial",
        "since",
        "task",
        "timeout",
        "value",
    )

    def __init__(self, hub: Hub) -> None:
        super().__init__(parent=hub.runner.loop)
        stand_by(self, hub)
        #: Which it runs; None while it is idle.
        self.task: Task | None = None

    def run(self) -> None:
        """The greenlet's body."""
        runner = self.runner
        while True:
            assert self.task is not None
            self.value = UNUSED
            self.task.run(self)
            self.task = self.pending = self.gr_context = None
            if self.value is not UNUSED:
                return
            runner.idle = self
            runner.loop.switch()
            runner.idle = None

    def runs(self) -> bool:
        """Is it the running greenlet?"""
        return self is getcurrent()

    def greenlet(self) -> greenlet:
        """The greenlet that waits."""
        return self

    def __str__(self) -> str:
        return str(self.task)


def check_callable(f: object) -> None:
    """
    :raises TypeError: *f* cannot be called: better told here than in a task.
    """
    if not callable(f):
        raise TypeError(f"not callable: {f!r}")


class Task:
    """A coroutine of a hub, made by `Hub.spawn`.

    It runs in a copy of the contextvars context of the caller of spawn.
    """

    __slots__ = (
        "__weakref__",
        "_call",
        "_context",
        "_done",
        "_joiners",
        "_raised",
        "_result",
        "_traceback",
        "_what",
        "fiber",
        "hub",
        "number",
        "pending",
    )

    #: It is parked on nothing before it has a fiber; see `waiter`.
    on = None

    def __init__(self, hub: Hub, f: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.hub = hub
        self.number = next(hub._numbers)
        self._what = getattr(f, "__qualname__", None) or repr(f)
        #: What runs it, from its start to its end.
        self.fiber: Fiber | None = None
        #: Raised in the place of its start.
        self.pending: BaseException | None = None
        self._call: tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]] | None = (f, args, kwargs)
        self._context: contextvars.Context | None = contextvars.copy_context()
        #: Who joins it, once somebody has.
        self._joiners: list[Any] | None = None
        self._done = False
        self._result: Any = None
        self._raised: BaseException | None = None
        self._traceback: TracebackType | None = None

    @property
    def waiter(self) -> Any:
        """Who waits when the task does: its fiber, and until it has started itself."""
        return self if self.fiber is None else self.fiber

    @property
    def over(self) -> bool:
        """Will it never run again? A ctrl-C that hits its first or last instruction ends it unheard."""
        return self._done or (self.fiber is not None and self.fiber.dead)

    def switch(self) -> None:
        """Start. Called by the loop, to which a new task is one of those that are ready."""
        fiber = self.hub.runner.fiber()
        fiber.task = self
        fiber.gr_context = self._context
        fiber.switch()

    @property
    def done(self) -> bool:
        """Has it returned, raised or been cancelled?"""
        return self._done

    def join(self, timeout: float = -1) -> Any:
        """Wait for the task to end.

        :param timeout: ms to wait, -1 for ever, 0 not at all.
        :return: what its function returned.
        :raises Exception: what its function raised; `Cancelled` if it was cancelled.
        :raises Timeout: it still runs.
        """
        if not self._done:
            if self._joiners is None:
                self._joiners = []
            self.hub.runner.line_up(self._joiners, self, timeout)
        if self._raised is not None:
            # always from the same place: each raise would otherwise add to the last one's traceback
            raise self._raised.with_traceback(self._traceback)
        return self._result

    def cancel(self) -> None:
        """Raise `Cancelled` where the task waits, or will wait next. Does nothing to a task that is done.

        Something that was handed to the task already is not lost: the task gets it, and is cancelled where it waits
        next.
        """
        self.hub.check_thread()
        if not self._done:
            self.hub.interrupt(self, Cancelled(f"{self} was cancelled"))

    def run(self, fiber: Fiber) -> None:
        """All that *fiber* does for it."""
        try:
            self.fiber = fiber
            self._context = None
            if self.pending is not None:
                raise self.pending
            self._result = self._invoke()
        except Cancelled as error:
            self._fail(error)
            error.over = True
        except (KeyboardInterrupt, SystemExit) as error:
            self._fail(error)
            self.hub.interrupt_main(error)
        except GreenletExit as error:  # the hub itself went away
            self._fail(error)
            raise
        except BaseException as error:
            if not (isinstance(error, Stop) and self.hub.stopping):
                self.hub.failed(self, error)
            self._fail(error)
        finally:
            self._done = True
            self._call = self.pending = self.fiber = None
            self.hub.tasks.discard(self)
            if self._joiners is not None:
                self.hub.ready.extend(self._joiners)
                self._joiners.clear()

    def _invoke(self) -> Any:
        assert self._call is not None
        f, args, kwargs = self._call
        self._call = None
        return f(*args, **kwargs)

    def _fail(self, error: BaseException) -> None:
        """Keep *error* for those who join, without what its frames hold: an end in there would not count as dropped."""
        self._raised = error
        # without the frame of `run`, which holds this task and would make it a cycle
        self._traceback = error.__traceback__ and error.__traceback__.tb_next
        error.__traceback__ = self._traceback
        clear_frames(self._traceback)

    # what a joiner is parked on
    def forget(self, waiter: Any) -> bool:
        """Take *waiter* out of those who join."""
        if self._joiners is None or waiter not in self._joiners:
            return False
        self._joiners.remove(waiter)
        return True

    def describe(self, waiter: Any) -> str:
        return f"join of {self}"

    def __str__(self) -> str:
        return f"task {self.number} ({self._what})"

    def __repr__(self) -> str:
        return f"<{self}{', done' if self._done else ''}>"


class Outsider(Waiter):
    """Stands for a greenlet that no `Hub.spawn` made, most often the thread's main one, where a `Task` is expected."""

    #: As far as the hub knows.
    done = False

    def __init__(self, hub: Hub, current: greenlet) -> None:
        stand_by(self, hub)
        self.name = "the main task" if current.parent is None else f"greenlet {id(current):#x}"
        #: None if nobody has it any more.
        self.greenlet = weakref.ref(current)

    @property
    def waiter(self) -> Outsider:
        """As `Task.waiter`."""
        return self

    def switch(self) -> None:
        current = self.greenlet()
        if current is not None:
            current.switch()

    def runs(self) -> bool:
        return self.greenlet() is getcurrent()

    def __str__(self) -> str:
        return self.name


class Runner:
    """Who runs next: the tasks that are ready, the loop when there are none, and how one waits.

    A greenlet begins at the recursion depth of whoever starts it, so only the loop starts tasks: started by each other,
    a few hundred new ones would use up the interpreter's limit. While there are new ones the budget is kept as
    ``spare``, so that who parks need ask for nothing but the budget.
    """

    __slots__ = (
        "budget",
        "clock",
        "fresh",
        "hub",
        "idle",
        "loop",
        "outside",
        "outsider",
        "ready",
        "selections",
        "spare",
        "timers",
    )

    def __init__(self, hub: Hub, loop: greenlet, timers: Timers) -> None:
        self.hub = hub
        self.loop = loop
        self.timers = timers
        self.ready: deque[Any] = deque()
        #: By waiter, the selects that may come again in this tick.
        self.selections: dict[Any, Selection] = {}
        #: Seconds of the monotonic clock, at the beginning of this tick.
        self.clock = 0.0
        #: Direct switches that are left before the loop's turn.
        self.budget = 0
        self.spare = 0
        #: Tasks in ``ready`` that have not started.
        self.fresh = 0
        #: A fiber that waits for a task: one is enough for all that never wait.
        self.idle: Fiber | None = None
        #: The outsider that was last here, and its greenlet.
        self.outside: Any = None
        self.outsider: Outsider | None = None

    def add(self, task: Task) -> None:
        """A new task: until it has started, everybody who parks gives the loop its turn."""
        self.ready.append(task)
        self.fresh += 1
        self.spare += self.budget
        self.budget = 0

    def fiber(self) -> Fiber:
        """One that can run a task. It takes itself out of ``idle``, so that it is not lost to a ctrl-C on the way."""
        idle = self.idle
        return Fiber(self.hub) if idle is None or idle.dead else idle  # dead: a ctrl-C has hit it between two tasks

    def pop(self) -> Any:
        """Whom the loop switches to next; it may pass the turn on as often as the budget says."""
        waiter = self.ready.popleft()
        if self.fresh and waiter.__class__ is Task:  # not started, or its fiber would stand here
            self.fresh -= 1
        left = self.budget + self.spare - 1
        self.budget, self.spare = (0, left) if self.fresh else (left, 0)
        return waiter

    def me(self) -> Any:
        """Who waits if the running task does: its fiber, or what stands for a greenlet that is none of this hub's."""
        current = getcurrent()
        if current.__class__ is Fiber and current.runner is self:
            current.value = None  # no longer `UNUSED`
            return current
        if current is self.outside:
            return self.outsider
        return self.hub._welcome(current)

    def current(self) -> Any:
        """The running `Task`, or the `Outsider` that stands for one. To ask, unlike `me`, is no sign of waiting."""
        current = getcurrent()
        if current.__class__ is Fiber and current.runner is self:
            return current.task
        return self.me()

    def line_up(self, queue: MutableSequence[Any], on: Any, timeout: float = -1, item: Any = None) -> Any:
        """Park the running task in *queue*, with *item* in its slot; see `park`.

        Every recv and send that waits comes through here, so `me` and `park` are written out.
        """
        me: Any = getcurrent()
        if me.__class__ is not Fiber or me.runner is not self:
            me = self.me()
        me.value = item
        try:
            queue.append(me)
            if timeout != -1 or me.pending is not None:
                return self.park(me, on, timeout)
            me.on = on
            me.since = self.clock
            if self.ready and self.budget:
                self.budget -= 1
                self.ready.popleft().switch()
            else:
                self.loop.switch()
            me.on = None
            if me.error is not None:
                throw_from(me)
        except BaseException as error:
            if not isinstance(error, (Timeout, Halt)):
                self.tidy(me, on)
            raise
        value = me.value
        me.value = None
        return value

    def tidy(self, me: Any, on: Any) -> None:
        """A ctrl-C may have come between any two lines of a wait: *me*, who may wait again, is to stand nowhere."""
        on.forget(me)
        me.on = me.value = None
        while me in self.ready:
            self.ready.remove(me)

    def park(self, me: Any, on: Any, timeout: float = -1) -> Any:
        """Wait until somebody puts *me* into ``ready``.

        :param me: the running task (`me`).
        :param on: what it waits for: ``on.forget(me)`` takes it out of there and says whether it was in;
            ``on.describe(me)`` is for people.
        :param timeout: ms; -1 or infinity for ever, 0 not at all.
        :return: what was put into ``me.value``.
        :raises Timeout: the time is over.
        :raises TypeError, ValueError: *timeout* is no number, or NaN; *me* has left *on*.
        """
        if me.pending is not None:
            self._interrupted(me, on)
        if timeout == -1:
            return self._park(me, on)
        me.timeout = timeout
        try:
            timed = timeout > 0
            if timed:
                self.timers.arm(me, timeout / 1000, monotonic())
        except (TypeError, OverflowError):
            timed = False
        if not timed:
            return self._park_untimed(me, on, timeout)
        try:
            return self._park(me, on)
        finally:
            disarm(me)

    def sleep(self, me: Any, ms: float) -> None:
        """Wait *ms* milliseconds; 0 or less until the loop has looked at its timers.

        :param me: the running task (`me`).
        """
        length = max(seconds(ms), 0)
        me.value = None  # a ctrl-C may have left something there
        if me.pending is not None:
            self._interrupted(me, SLEEP)
        me.timeout = ms
        try:
            self.timers.arm(me, length, monotonic())
            self._park(me, SLEEP)
        finally:
            disarm(me)

    def _park_untimed(self, me: Any, on: Any, timeout: float) -> Any:
        """All of `park` that needs no timer. What was handed over even now is more than any error."""
        try:
            length = seconds(timeout)
        except (TypeError, ValueError):
            if on.forget(me):
                me.value = None
                raise
            length = -1
        if length == 0:
            what = on.describe(me)
            if on.forget(me):
                me.value = None
                raise Timeout(f"not ready: {what}")
        return self._park(me, on)

    def _interrupted(self, me: Any, on: Any) -> None:
        """An interruption came before *me* parked; it leaves *on* again, unless something was handed to it even now."""
        if not on.forget(me):
            return
        me.value = None
        if self.hub.forked:
            raise self.hub._forked()
        me.error, me.pending = me.pending, None
        throw_from(me)

    def _park(self, me: Any, on: Any) -> Any:
        me.on = on
        me.since = self.clock
        if self.ready and self.budget:
            self.budget -= 1
            self.ready.popleft().switch()
        else:
            self.loop.switch()
        me.on = None
        if me.error is not None:
            throw_from(me)
        value = me.value
        me.value = None
        return value

    def expire(self, me: Any) -> None:
        """The timeout of *me* is over. If it was woken in the same moment, that stands."""
        on = me.on
        if on is SLEEP:
            if SLEEP.forget(me):
                self.ready.append(me)
            return
        what = on.describe(me)
        if on.forget(me):
            me.error = Timeout(f"{me.timeout:g} ms are over: {what}")
            self.ready.append(me)


def lost(waiter: Any) -> bool:
    """Does a parked task stand nowhere? So it is if ctrl-C hit its waker between taking it out and making it ready."""
    return waiter not in waiter.hub.ready and not waiter.runs()


def leave(line: MutableSequence[Any], waiter: Any) -> bool:
    """Take *waiter* out of *line*. Was it in there?"""
    try:
        line.remove(waiter)
    except ValueError:
        return False
    return True


def throw_from(waiter: Any) -> None:
    """Raise what is in the error slot; see invariant 4."""
    error, waiter.error = waiter.error, None
    waiter.value = None
    try:
        raise error
    finally:
        del error

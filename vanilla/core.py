"""The Hub: tasks, and the loop that runs them.

A hub belongs to one thread. Its tasks run on greenlets, see `task.Fiber`; one more greenlet is the loop. A task that
waits *parks*: its fiber says what it is parked on and switches to the next greenlet in ``ready``, or to the loop when
there is none. Whoever wakes it puts it into ``ready`` and goes on. Nothing here knows of channels or sockets: those
park and wake.

Tasks switch directly to each other only `task.BUDGET` times before the loop (`loop.Loop`) gets its turn, so that two
tasks at ping-pong starve neither timers nor I/O.

Invariants:
1. A waiter (a fiber, or an `Outsider`) is in ``ready`` at most once, and not while it is parked: who wakes it has first
   taken it out of what it is parked on (``on.forget``), or knows that it is. A task itself is in there until it starts.
2. ``waiter.error`` is set only for one that is in ``ready`` after having been parked; it is raised where the task
   parked. An interruption that comes while a hand-over is under way is kept in ``pending`` until the task parks
   again, because to raise it now would lose what was handed over.
3. Handlers of descriptors, timers and edges run in the loop and never park.
4. An error that waits in a slot is raised by code that drops its own name for it first (`throw_from`): the traceback
   refers to the frame, and a frame that refers to the error makes a cycle that keeps the caller's ends alive until
   the next collection.
"""

from __future__ import annotations

import functools
import itertools
import logging
import os
import signal
import threading
import time
import weakref
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Callable

from greenlet import getcurrent, greenlet

from . import services
from .broadcast import Broadcast
from .busypoll import look_us
from .channel import Channel, Value
from .condition import Condition
from .dump import dump
from .event import Event
from .exception import Forked, Halt, Stop
from .lock import Lock, RLock
from .loop import Loop
from .message import Dealer, Pair, Pipe, Queue, Recver, Router, Sender, State, pair, raise_at
from .poll import POLLIN, Poll
from .readiness import Registration
from .schedule import Schedule, TaskTimer
from .selection import select
from .semaphore import Semaphore
from .task import Fiber, Outsider, Runner, Task, check_callable, leave, lost, throw_from
from .taskpool import TaskPool
from .timers import Timer, Timers, seconds
from .trigger import Trigger, make_trigger

if TYPE_CHECKING:
    from vanilla.broker.broker import Service as BrokerService
    from vanilla.client.remote import Service as ClientService

    from .console import Service as ConsoleService
    from .io import Service as IOService
    from .process import Service as ProcessService
    from .signal import Service as SignalService
    from .tcp import Service as TCPService
    from .thread import Service as ThreadService
    from .tls import Service as TLSService
    from .udp import Service as UDPService
    from .unix import Service as UnixService

log = logging.getLogger("vanilla")

#: How often `Hub.stop` tells tasks that catch Stop and wait again.
ROUNDS = 100

monotonic = time.monotonic

#: Called with what raised, a Task or a callable, and the error.
Hook = Callable[[Any, BaseException], object]


class _Entry:
    """What a task is parked on that has only a queue to be taken out of."""

    __slots__ = ("queue", "what")

    def __init__(self, queue: deque[Any], what: str) -> None:
        self.queue = queue
        self.what = what

    def forget(self, waiter: Any) -> bool:
        return leave(self.queue, waiter)

    def describe(self, waiter: Any) -> str:
        return self.what


class Hub:
    """Tasks, channels, timers and descriptors of one thread.

    :param busy_poll: microseconds for which its loop may look for what comes before it sleeps, where something came
        soon many times in a row: then nobody has to be woken for it. 0: never. None: as the environment variable
        VANILLA_BUSY_POLL says, or 150. Threads that it spawns with hubs of their own inherit it.
    :ivar busy_poll: what holds.
    :raises ValueError: that is no such time.

    >>> with Hub() as h:
    ...     ch = h.channel()
    ...     task = h.spawn(ch.send, "Hello World")
    ...     ch.recv()
    'Hello World'
    """

    # Services are made at first use (`__getattr__`); those that come with vanilla:
    io: IOService
    signal: SignalService
    tcp: TCPService
    udp: UDPService
    unix: UnixService
    thread: ThreadService
    process: ProcessService
    console: ConsoleService
    tls: TLSService
    client: ClientService
    broker: BrokerService
    #: In a thread that `h.thread.spawn` made: the way to the hub that did.
    parent: Pair

    def __init__(self, busy_poll: float | None = None) -> None:
        self.busy_poll = look_us(busy_poll)
        self.timers = Timers()
        self.poll = Poll()
        self._loop = Loop(self, self.timers, self.poll, self.busy_poll / 1e6)
        self.runner = Runner(self, greenlet(self._loop.run), self.timers)
        self._loop.bind(self.runner)
        #: Who runs next; whoever wakes a task puts it here.
        self.ready = self.runner.ready
        # Waiting, for those who build channels and transports; see `task.Runner`.
        self.me = self.runner.me
        self.park = self.runner.park
        self.line_up = self.runner.line_up
        #: Every task that is not done.
        self.tasks: set[Task] = set()
        self.stopping = False
        #: Set in a forked child: this hub is the parent's.
        self.forked = False
        self._pid = os.getpid()
        self._thread = threading.get_ident()
        self._numbers = itertools.count(1)
        self._closers: dict[Callable[[], object], None] = {}
        self._hooks: dict[object, Hook] = {}
        self._making = self.rlock()
        #: By descriptor, what `register` made.
        self.registered: dict[int, Registration] = {}
        self._outsiders: weakref.WeakKeyDictionary[greenlet, Outsider] = weakref.WeakKeyDictionary()
        # Started here, where it is safe: PyPy cannot start a greenlet again whose start a ctrl-C has hit.
        self._come_back(self.me())
        _hubs.add(self)
        _here.hubs.append(weakref.ref(self, _here.hubs.remove))

    # -- tasks

    def spawn(self, f: Callable[..., Any], *args: Any, **kwargs: Any) -> Task:
        """Run ``f(*args, **kwargs)`` in a task of its own, from the next time the caller waits.

        What it raises is logged with its traceback and raised at whoever joins the task.
        """
        self._check()
        if not callable(f):  # `check_callable`, written out
            raise TypeError(f"not callable: {f!r}")
        task = Task(self, f, args, kwargs)
        self.tasks.add(task)
        self.runner.add(task)
        return task

    def spawn_later(self, ms: float, f: Callable[..., Any], *args: Any, **kwargs: Any) -> Task:
        """`spawn`, after *ms* milliseconds. Cancelling the task before that means that it never runs."""
        seconds(ms)  # what is no time, or no function, is the caller's error and not the task's
        check_callable(f)
        return self.spawn(self._later, ms, f, args, kwargs)

    def _later(self, ms: float, f: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        self.sleep(ms)
        return f(*args, **kwargs)

    def sleep(self, ms: float = 1) -> None:
        """Wait *ms* milliseconds; 0 lets everyone run who is ready, and polls."""
        self.runner.sleep(self.me(), ms)

    # -- channels

    def pipe(self) -> Pair:
        """A rendezvous between one sender and one receiver.

        >>> with Hub() as h:
        ...     sender, recver = h.pipe()
        ...     task = h.spawn(sender.send, 1)
        ...     recver.recv()
        1
        """
        return Pipe(self)

    def queue(self, size: int) -> Pair:
        """A pipe that holds up to *size* items while nobody receives.

        :raises ValueError: *size* is less than 1.
        """
        return Queue(self, size)

    def dealer(self) -> Pair:
        """Fan out: one sender, any number of receivers, each item to the one that waits longest."""
        return Dealer(self)

    def router(self) -> Pair:
        """Fan in: any number of senders, one receiver."""
        return Router(self)

    def channel(self, size: int = 0) -> Pair:
        """Any number of senders and receivers; holds up to *size* items while nobody receives (0, or -1: none)."""
        return pair(Channel(self, max(size, 0), "channel"))

    def state(self, *value: Any) -> Pair:
        """A slot that holds the last value sent: all read it, none takes it out. *value*, if given, is the first."""
        return State(self, *value)

    def value(self) -> Pair:
        """A slot that is set once, by the first `send`; all read it, none takes it out.

        A second send raises `Closed`. Closed before it is set, it raises `Closed` at who reads.
        """
        return pair(Value(self))

    def broadcast(self) -> Broadcast:
        """What is sent goes to everybody who subscribes, and waits for nobody."""
        return Broadcast(self)

    def producer(self, f: Callable[[Sender], object]) -> Recver:
        """Run ``f(sender)`` in a task of its own.

        :return: the Recver of what it sends; it ends when *f* does. What *f* raises is raised there, behind all that it
            has sent.

        >>> with Hub() as h:
        ...     def count(sender):
        ...         for i in range(3):
        ...             sender.send(i)
        ...     list(h.producer(count))
        [0, 1, 2]
        """
        check_callable(f)
        sender, recver = self.pipe()
        self.spawn(_produce, f, sender)
        return recver

    def consumer(self, f: Callable[[Any], object]) -> Sender:
        """Call ``f(item)`` for each item that is sent, one at a time, in a task of its own.

        What *f* raises is logged, and the next item goes on.

        >>> with Hub() as h:
        ...     sender = h.consumer(print)
        ...     sender.send("one")
        ...     h.sleep()
        one
        """
        sender, recver = self.pipe()
        recver.consume(f)
        return sender

    def trigger(self, f: Callable[[], object]) -> Trigger:
        """A Sender with a method ``trigger()`` that has ``f()`` run soon, in a task of its own, and never waits.

        Triggers that come before *f* has begun count as one, those that come while it runs have it run once more. What
        *f* raises is logged. To close or drop the Sender ends the task, once *f* has run for what was triggered.
        """
        return make_trigger(self, f)

    def serialize(self, f: Callable[..., Any]) -> Callable[..., Any]:
        """A function that calls *f* for one caller at a time, in the order of the calls.

        Each gets what its call has returned, or raised; *f* runs in its caller's task.

        >>> with Hub() as h:
        ...     @h.serialize
        ...     def both(word):
        ...         print(word, end=" ")
        ...         h.sleep()
        ...         print(word)
        ...     a, b = h.spawn(both, "one"), h.spawn(both, "two")
        ...     b.join()
        one one
        two two
        """
        lock = self.lock()

        @functools.wraps(f)
        def serialized(*args: Any, **kwargs: Any) -> Any:
            with lock:
                return f(*args, **kwargs)

        return serialized

    def pulse(self, ms: float, item: Any = True) -> Recver:
        """A Recver on which *item* comes every *ms* milliseconds. A pulse that nobody waits for waits itself.

        :raises ValueError: *ms* is not more than 0.
        """
        if seconds(ms) <= 0:
            raise ValueError(f"a pulse comes every so many ms, more than 0, not {ms!r}")
        return self.producer(lambda sender: self._pulse(sender, ms, item))

    def _pulse(self, sender: Sender, ms: float, item: Any) -> None:
        while not sender.halted:
            self.sleep(ms)
            sender.send(item)

    def select(self, ends: Sequence[Any], timeout: float = -1) -> tuple[Any, Any]:
        """Wait until one of several ends is ready.

        :param ends: Recvers (a Pair stands for its Recver) and Senders.
        :param timeout: ms to wait, -1 for ever, 0 not at all.
        :return: the end and, for a Recver, its item; for a Sender, None: a send will not wait.
        :raises Timeout: none is ready.
        :raises Halt: an end has ended; the error's ``end`` says which.
        """
        return select(self, ends, timeout)

    # -- descriptors

    def register(self, fd: int, *masks: int) -> Recver | list[Recver]:
        """Hear when *fd* is ready, for a library that has a descriptor of its own.

        :param masks: `poll.POLLIN` and `poll.POLLOUT`; none means POLLIN.
        :return: a Recver for each of *masks*, in a list if there are several. It gives its mask each time that the
            descriptor is ready and somebody receives; POLLERR and POLLHUP count as ready.
        :raises FileExistsError: *fd* is registered already.
        :raises OSError: it is no descriptor, or the kernel cannot wait for it: a regular file is always ready.
        """
        self._check()
        recvers = Registration(self, fd, masks or (POLLIN,)).recvers()
        return recvers[0] if len(recvers) == 1 else recvers

    def unregister(self, fd: int) -> None:
        """Forget *fd*, before it is closed: its Recvers end. Twice does nothing. To close them all does the same."""
        registration = self.registered.get(fd)
        if registration is not None:
            registration.close()

    # -- tasks together

    def pool(self, size: int) -> TaskPool:
        """At most *size* tasks that work for whoever asks.

        :raises ValueError: *size* is less than 1.
        """
        return TaskPool(self, size)

    def event(self) -> Event:
        """Something that any number of tasks wait for, until it is set."""
        return Event(self)

    def lock(self) -> Lock:
        """One task at a time, whoever waits longest first."""
        return Lock(self)

    def rlock(self) -> RLock:
        """A lock that the task which has it may acquire again."""
        return RLock(self)

    def condition(self, lock: Lock | None = None) -> Condition:
        """Wait, under *lock* (a new `rlock` unless given), until another task has changed something.

        :raises TypeError, ValueError: *lock* is none of this hub's.
        """
        return Condition(self, self.rlock() if lock is None else lock)

    def semaphore(self, value: int = 1, bound: int | None = None) -> Semaphore:
        """So many tasks at a time, whoever waits longest first.

        :param value: how many permits are free at first.
        :param bound: how many there may ever be; None is any number.
        :raises ValueError: *value* is less than 0, or more than *bound*.
        """
        return Semaphore(self, value, bound)

    def timer(self, ms: float, f: Callable[..., Any], *args: Any, **kwargs: Any) -> TaskTimer:
        """Run ``f(*args, **kwargs)`` in a task of its own in *ms* milliseconds. It can be cancelled and reset."""
        return TaskTimer(self, ms, f, args, kwargs)

    def every(self, ms: float, f: Callable[..., Any], *args: Any, **kwargs: Any) -> Schedule:
        """Run ``f(*args, **kwargs)`` every *ms* milliseconds, the first time in *ms*, in one task.

        What it raises is logged, and the next run comes.

        :raises ValueError: *ms* is not more than 0.
        """
        return Schedule(self, ms, f, args, kwargs)

    # -- waiting, for those who build channels and transports

    def _welcome(self, current: greenlet) -> Outsider:
        self._check()
        if current is self.runner.loop:
            raise RuntimeError("a handler that runs in the hub's loop must not wait: spawn a task for that")
        outsider = self._outsiders.get(current)
        if outsider is None:
            outsider = self._outsiders[current] = Outsider(self, current)
        self.runner.outside, self.runner.outsider = current, outsider
        return outsider

    def _check(self) -> None:
        if self.forked:
            raise self._forked()
        if self.stopping:
            raise Stop("the hub was stopped")
        self.check_thread()

    def check_thread(self) -> None:
        """Are we in the hub's thread? Asked where one waits, and where it costs little beside what is done.

        A send or recv that goes through at once in another thread is not noticed: to ask costs a third of it.

        :raises RuntimeError: we are not, and nothing here may be touched.
        """
        if threading.get_ident() != self._thread and not self.forked:
            raise RuntimeError("this Hub belongs to another thread; give each thread a Hub of its own")

    def dropped(self, abandon: Callable[[], object]) -> None:
        """An end was dropped: call *abandon*, in the loop if a collection in another thread has found the end."""
        if threading.get_ident() == self._thread:
            abandon()
        elif not self.stopping:
            self.thread.reach(abandon)

    def _forked(self) -> Forked:
        return Forked(f"this Hub was made in process {self._pid}; make a new one after fork")

    def wait(self, queue: deque[Any], on: Any, timeout: float = -1, item: Any = None) -> Any:
        """`line_up`, where *on* may be a text that says what for."""
        return self.line_up(queue, _Entry(queue, on) if isinstance(on, str) else on, timeout, item)

    def interrupt(self, task: Any, error: BaseException) -> None:
        """Raise *error* where *task* is parked; if it is being woken already, where it parks next. It may be done."""
        if task.done:
            return
        waiter = task.waiter
        if waiter.on is not None and (waiter.on.forget(waiter) or lost(waiter)):
            waiter.error = error
            self.ready.append(waiter)
        else:
            waiter.pending = error

    def interrupt_main(self, error: BaseException) -> None:
        """Raise *error* in the greenlets that no spawn made: ctrl-C, and whatever else a signal handler raises."""
        for outsider in list(self._outsiders.values()):
            self.interrupt(outsider, error)

    def guard(self, f: Callable[..., object], *args: Any) -> None:
        """Call *f*, which must not wait; what it raises is logged, so that it ends nothing else. Ctrl-C goes to the
        main greenlet."""
        try:
            f(*args)
        except BaseException as error:  # also a `Cancelled`, that of a task which it has joined
            self.failed(f, error)

    def failed(self, what: Any, error: BaseException, then: str = "") -> None:
        """What `guard` does about *error*: it is logged, and told to `onerror`.

        :param what: what has raised it, a Task or a callable.
        :param then: what comes of it, for the log.
        """
        if isinstance(error, (KeyboardInterrupt, SystemExit)):
            self.interrupt_main(error)
            return
        log.error("%s raised%s", getattr(what, "__qualname__", what), then, exc_info=error)
        for hook in list(self._hooks.values()):
            try:
                hook(what, error)
            except (KeyboardInterrupt, SystemExit) as worse:
                self.interrupt_main(worse)
            except BaseException:
                log.exception("%s raised, a hook for errors", getattr(hook, "__qualname__", hook))

    def onerror(self, hook: Hook) -> Callable[[], None]:
        """Call ``hook(what, error)`` for each exception that would otherwise only be logged.

        *what* is the `Task`, or the callable that a consumer, a timer, a schedule or a handler has called. The log gets
        its line all the same.

        :param hook: must not wait. What it raises is logged.
        :return: takes it back when called; twice does nothing.
        """
        check_callable(hook)
        key = object()
        self._hooks[key] = hook

        def remove() -> None:
            self._hooks.pop(key, None)

        return remove

    def dump(self) -> str:
        """What every task is doing, for people: on what it waits, since when, for how long still, and where."""
        return dump(self)

    def at_edge(self, f: Callable[[], object]) -> None:
        """Call *f* once at the edge of this tick, before descriptors are polled. It must not wait."""
        self._loop.edges.append(f)

    def at_every_edge(self, f: Callable[[], object]) -> Callable[[], None]:
        """Call *f* at the edge of each tick, from now on. It must not wait, and costs something each time: be quick.

        Unlike `at_edge` it does not keep the loop from sleeping.

        :return: ends it when called; twice does nothing.
        """
        loop = self._loop
        loop.hooks += (f,)

        def remove() -> None:
            loop.hooks = tuple(hook for hook in loop.hooks if hook is not f)

        return remove

    def after(self, ms: float, f: Callable[[], object]) -> Timer:
        """Call *f* once in *ms* milliseconds, in the loop: it must not wait. ``cancel()`` of the result prevents it."""
        self.check_thread()
        return self.timers.after(max(seconds(ms), 0), monotonic(), f)

    # -- for the loop

    def waiters(self) -> list[Any]:
        """Everybody who may be parked."""
        return [*self._outsiders.values(), *(task.waiter for task in self.tasks)]

    def leave(self) -> None:
        """A forked child has come back to its parent's loop, where nothing may run: its main task is to end it."""
        self.ready.clear()
        for outsider in list(self._outsiders.values()):
            if outsider.on is not None:
                outsider.error = self._forked()
                outsider.switch()

    # -- the end

    def onstop(self, closer: Callable[[], object]) -> None:
        """Call *closer* when the hub stops, unless it is taken back with `offstop`."""
        check_callable(closer)
        self._closers[closer] = None

    def offstop(self, closer: Callable[[], object]) -> None:
        """*closer* has nothing left to close. Twice does nothing."""
        self._closers.pop(closer, None)

    def stop(self) -> None:
        """End everything: `Stop` is raised in each task, in the order in which they were made, then descriptors are
        closed.

        To be called from outside the hub's tasks, most often by leaving ``with Hub() as h``. Twice does nothing.
        """
        if self.stopping:
            return
        if self.forked:
            self.stopping = True
            self.poll.close()
            return
        me = self.me()
        if isinstance(me, Fiber):
            raise RuntimeError("a task cannot stop its own hub; end the main task instead")
        for closer in reversed(list(self._closers)):
            self.guard(closer)
        self.stopping = True
        try:
            self._end_tasks(me)
        finally:
            self.runner.outside = self.runner.outsider = None
            self.poll.close()
            _hubs.discard(self)
        if me.pending is not None:  # a ctrl-C that would otherwise wait for this greenlet to wait again
            me.error, me.pending = me.pending, None
            throw_from(me)

    def _end_tasks(self, me: Outsider) -> None:
        for _ in range(ROUNDS):  # a task may catch Stop and wait again
            self.tasks = {task for task in self.tasks if not task.over}
            if not self.tasks:
                break
            ready = set(self.ready)
            for task in sorted(self.tasks, key=lambda task: task.number):
                self.interrupt(task, Stop("the hub was stopped"))
                if task.fiber is None and task not in ready:  # not started, and taken out of ready just before a ctrl-C
                    self.ready.append(task)
            self._come_back(me)
        if self.tasks:
            log.warning("stop: still there: %s", ", ".join(map(str, self.tasks)))
        else:  # the frames of these refer to this hub, and would keep it for ever
            for left in self.runner.idle, self.runner.loop:
                if left is not None:
                    left.parent = getcurrent()
                    left.throw()

    def _come_back(self, me: Any) -> None:
        """Let the loop run everybody who is ready, and then *me*."""
        self.ready.append(me)
        self.runner.loop.switch()
        if me.error is not None:
            throw_from(me)

    def __enter__(self) -> Hub:
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    def stop_on_term(self) -> None:
        """Wait for SIGINT or SIGTERM, then `stop`. The last line of many a program; in the main thread only."""
        with self.signal.subscribe(signal.SIGINT, signal.SIGTERM) as told:
            told.recv()
        self.stop()

    # -- services

    def __getattr__(self, name: str) -> Any:
        """The service or plug-in *name* (see `services`), made for this hub at first use."""
        if name.startswith("_"):
            raise AttributeError(name)
        factory = services.find(name)
        if factory is None:
            raise AttributeError(
                f"a Hub has no attribute or service {name!r}, and no plug-in of that name is installed"
            )
        if name in services.BUILT_IN:
            setattr(self, name, factory(self))
        else:
            with self._making:  # a plug-in may wait while it is made, and another task come by
                if name not in vars(self):
                    setattr(self, name, factory(self))
        return vars(self)[name]


def _produce(f: Callable[[Sender], object], sender: Sender) -> None:
    """`Hub.producer`. Nobody left to receive is the usual end of a producer."""
    with sender:
        try:
            f(sender)
        except Halt:
            pass
        except Exception as error:
            raise_at(sender, f, error)


_hubs: weakref.WeakSet[Hub] = weakref.WeakSet()


class _Here(threading.local):
    """The hubs of this thread, the newest last."""

    def __init__(self) -> None:
        self.hubs: list[weakref.ref[Hub]] = []


_here = _Here()


def hub_here() -> Hub | None:
    """The hub in which the running greenlet would wait: its task's, else the newest of this thread, if there is one."""
    current = getcurrent()
    if isinstance(current, Fiber):
        return current.hub
    for known in reversed(_here.hubs):
        hub = known()
        if hub is not None and not hub.stopping and not hub.forked:
            return hub
    return None


def _disown() -> None:
    """In a forked child: the parent's hubs are not ours. Their epoll descriptor is shared and must not be touched."""
    for hub in list(_hubs):
        hub.forked = True
        hub.ready.clear()
        hub.runner.budget = hub.runner.spare = 0
        hub.runner.outside = hub.runner.outsider = None  # so that `me` looks again
        for task in hub.tasks:
            task.waiter.pending = hub._forked()


os.register_at_fork(after_in_child=_disown)

"""The loop of a hub: what runs when no task does.

One round of it is a *tick*: fire timers, run who is ready, call what asked for the tick's edge (flushes gather there),
poll descriptors. So whom a timer or a descriptor has woken runs before the next poll.

It is no part of the Hub for the sake of speed: Python looks up an attribute of a class with a ``__getattr__`` several
times slower, and a message that comes alone costs each process a tick. For the same reason a tick is one function. Its
locals are gone when it returns: nothing of the last handler stays alive.
"""

from __future__ import annotations

import gc
import logging
import time
from collections import deque
from typing import TYPE_CHECKING, Any, Callable

from greenlet import GreenletExit

from .busypoll import BusyPoll, cores
from .dump import who_waits
from .exception import Stop
from .poll import Poll
from .task import BUDGET, Outsider
from .timers import DUE, INFINITY, Timers

if TYPE_CHECKING:
    from .core import Hub
    from .task import Runner

log = logging.getLogger("vanilla")

#: The longest that one poll waits, in seconds: epoll takes no more than 24 days.
LONGEST = 86400.0

monotonic = time.monotonic


def _fire(timer: Any) -> None:
    timer.home = None
    timer.fire()


class Loop:
    """The loop of *hub*; *look* is how long it may look busily before it sleeps, in seconds (`busypoll`).

    ``edges`` are called once at the edge of this tick, ``hooks`` at each tick's edge, behind them; neither may wait.
    """

    __slots__ = ("_wait", "due", "edges", "hooks", "hub", "poll", "ready", "runner", "timers")

    def __init__(self, hub: Hub, timers: Timers, poll: Poll, look: float) -> None:
        self.hub = hub
        self.timers = timers
        self.poll = poll
        self._wait = BusyPoll(poll, look).wait if look and cores() > 1 else poll.wait
        #: Timers that are due. A ctrl-C between two of them leaves the others to the next tick, as it does with edges.
        self.due: deque[Any] = deque()
        self.edges: list[Callable[[], object]] = []
        #: A tuple, so that one of them may take itself out.
        self.hooks: tuple[Callable[[], object], ...] = ()

    def bind(self, runner: Runner) -> None:
        """*runner* switches to this loop; called once, before it runs."""
        self.runner = runner
        self.ready = runner.ready

    def run(self) -> None:
        """The body of the loop's greenlet."""
        while True:
            try:
                while True:  # inside of try: a ctrl-C may come anywhere
                    self._tick()
            except GreenletExit:  # the hub's end
                raise
            except BaseException as error:  # a signal handler raised it, most likely while we polled
                self.hub.interrupt_main(error)

    def _tick(self) -> None:
        timers, ready = self.timers, self.ready
        now = self.runner.clock = monotonic()
        if timers.soonest <= now or self.due:
            self._run_timers()
        if ready:
            self._run_ready()
        if self.edges:
            self._run_edges()
        for hook in self.hooks:  # the last word: what the edges had to say leaves now
            try:
                hook()
            except BaseException as error:  # ends nothing else, see `Hub.guard`
                self.hub.failed(hook, error)
        poll = self.poll
        if ready or self.edges or poll.again:
            wait: float = 0
        elif timers.soonest == INFINITY and poll.live:
            wait = -1
        else:
            wait = self._patience()
        for fd, events in self._wait(wait) if wait else poll.wait(0):
            handler = poll.handlers.get(fd)  # one that was unregistered in this very batch is not called
            if handler is not None:
                try:
                    handler(events)
                except BaseException as error:
                    self.hub.failed(handler, error)
            else:
                poll.forget(fd)

    def _run_ready(self) -> None:
        runner, ready = self.runner, self.ready
        runner.budget, runner.spare = 0, BUDGET
        while ready and runner.budget + runner.spare:
            runner.pop().switch()
        if self.hub.forked:
            self.hub.leave()

    def _run_timers(self) -> None:
        due = self.due
        due += self.timers.expire(monotonic())
        while due:
            if due[0].home is DUE:
                self.hub.guard(_fire, due[0])
            else:
                due.popleft()

    def _run_edges(self) -> None:
        while self.edges:
            edges, self.edges = self.edges, []
            done = 0
            try:
                for edge in edges:
                    self.hub.guard(edge)
                    done += 1
            finally:
                self.edges[:0] = edges[done:]

    def _patience(self) -> float:
        """How long the poll may wait, in seconds."""
        if self.poll.live:
            return min(max(self.timers.soonest - monotonic(), 0), LONGEST)
        due = self.timers.next_due()
        if due is not None and due < INFINITY:
            return min(max(due - monotonic(), 0), LONGEST)
        self._deadlock()
        return 0

    def _deadlock(self) -> None:
        """Nothing can ever wake anybody: tell those outside, and stay usable."""
        gc.collect()  # an end that only a cycle (or PyPy) keeps may be all that is waited for
        if self.ready or self.edges or self.poll.has_news():  # another thread may have called just now
            return
        text = f"deadlock: every task waits and nothing can wake one: {who_waits(self.hub)}"
        stopped: list[Any] = [waiter for waiter in self.hub.waiters() if isinstance(waiter, Outsider) and waiter.on]
        for waiter in stopped:
            self.hub.interrupt(waiter, Stop(text))
        if not stopped:
            raise SystemError(text)

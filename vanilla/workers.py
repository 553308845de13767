"""Blocking calls in OS threads, so that the hub goes on meanwhile."""

from __future__ import annotations

import threading
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Any, Callable

from .exception import Closed, Halt
from .message import Recver, Sender
from .proxy import Proxy

if TYPE_CHECKING:
    from .bell import Bell

#: Threads at most for the calls of one hub. Further calls wait for a free one.
SIZE = 16
#: Seconds that a thread waits for the next call before it ends.
IDLE = 10.0


class _Call:
    """One call: what to do, who wants to know, and then what came of it."""

    __slots__ = ("f", "outcome", "sender")

    def __init__(self, f: Callable[[], Any], sender: Sender) -> None:
        self.f: Callable[[], Any] | None = f
        self.sender = sender
        #: What *f* returned or raised. To send an exception is to raise it at the receiver, so one slot does.
        self.outcome: Any = None

    def run(self) -> None:
        f, self.f = self.f, None  # the traceback of what it raises is to hold no more than it must
        assert f is not None
        try:
            self.outcome = f()
        except BaseException as error:  # SystemExit, too, is for the caller to know
            self.outcome = error

    def deliver(self) -> None:
        outcome, self.outcome = self.outcome, None  # or an error, its traceback and this call were a cycle
        try:
            self.sender.send(outcome)  # a queue of one has room for the first
            self.sender.close()
        except Halt:
            pass  # the caller has given up


class Workers:
    """Up to *size* daemon threads that run calls for a hub. They start when needed and end when idle.

    Everything but ``_outstanding``, which is the hub's, is under the lock of ``_changed``, which nobody holds for
    longer than a few instructions.
    """

    def __init__(self, bell: Bell, size: int = SIZE, idle: float = IDLE) -> None:
        """
        :param bell: of the hub that calls.
        :param size: 1 or more.
        :param idle: seconds that a thread waits for work before it ends.
        """
        if size < 1:
            raise ValueError("a pool has at least 1 thread")
        self.hub = bell.hub
        self.size = size
        self.idle = idle
        self._bell = bell
        self._changed = threading.Condition()
        self._todo: deque[_Call] = deque()
        self._threads = 0
        self._waiting = 0
        #: No more calls come...
        self._closed = False
        #: ...and those that have not begun never do.
        self._stopped = False
        #: Calls made and not delivered. Each counts in ``hub.poll.live``: it will wake somebody.
        self._outstanding = 0
        self.hub.onstop(self._stop)

    def call(self, f: Callable[..., Any], *args: Any) -> Recver:
        """Run ``f(*args)`` in a thread.

        :return: a Recver that gives what it returns, or raises what it raises.
        :raises Closed: this pool was closed.
        :raises Stop: the hub was stopped.
        :raises Forked: it is another process's.
        :raises RuntimeError: the system gives us no thread.
        """
        self.hub._check()
        if self._closed:
            raise Closed("this pool of threads was closed")
        sender, recver = self.hub.queue(1)
        # first: what comes of the call takes off what it has put on, wherever a ctrl-C comes in between
        self._outstanding += 1
        self.hub.poll.live += 1
        try:
            self._put(_Call(partial(f, *args), sender))
        except RuntimeError:
            self._outstanding -= 1
            self.hub.poll.live -= 1
            raise
        return recver

    def wrap(self, ob: Any) -> Any:
        """A `Proxy` of *ob*, whose methods run in this pool and return Recvers."""
        return Proxy(self.call, ob)

    def _put(self, call: _Call) -> None:
        with self._changed:
            self._todo.append(call)
            if len(self._todo) <= self._waiting:
                self._changed.notify()
            elif self._threads < self.size:
                self._start(call)

    def _start(self, call: _Call) -> None:
        self._threads += 1  # first: it may have started when a ctrl-C comes
        try:
            threading.Thread(target=self._work, name="vanilla worker", daemon=True).start()
        except RuntimeError:
            self._threads -= 1
            if not self._threads:  # else one of those will come to it
                self._todo.remove(call)
                raise

    def _work(self) -> None:
        while True:
            call = self._next()
            if call is None:
                return
            call.run()
            self._bell.ring(partial(self._deliver, call))
            del call  # an idle thread keeps nothing alive

    def _next(self) -> _Call | None:
        """Wait for a call; None: this thread is to end."""
        with self._changed:
            notified = True
            while notified and not self._todo and not self._closed:
                self._waiting += 1
                notified = self._changed.wait(self.idle)
                self._waiting -= 1
            if self._todo and not self._stopped:
                return self._todo.popleft()
            self._threads -= 1
            return None

    def _deliver(self, call: _Call) -> None:
        self._outstanding -= 1
        self.hub.poll.live -= 1
        call.deliver()
        if self._closed and not self._outstanding:
            self.hub.offstop(self._stop)

    def close(self) -> None:
        """Take no more calls. What was called is done, and its results come; then the threads end. Does not wait."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if not self._outstanding:
            self.hub.offstop(self._stop)

    def _stop(self) -> None:
        """The hub ends: so do idle threads; a call that runs goes on, and nobody hears of its end.

        Calls that wait are kept: whoever waits for one is to hear of the hub's end, not of a dropped Sender.
        """
        self._stopped = True
        self.close()
        self.hub.poll.live -= self._outstanding
        self._outstanding = 0

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

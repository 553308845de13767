"""Blocking calls in OS threads, so that the hub goes on meanwhile."""

from __future__ import annotations

import logging
import os
import threading
from collections import deque
from typing import TYPE_CHECKING, Any, Callable

from .exception import Halt, Stop
from .message import Recver, Sender

if TYPE_CHECKING:
    from .core import Hub

log = logging.getLogger("vanilla")

#: Threads at most for the calls of one hub. Further calls wait for a free one.
SIZE = 16
#: Seconds that a thread waits for the next call before it ends.
IDLE = 10.0


class Waker:
    """Wakes a hub from another thread or from a signal handler.

    :param f: called in the loop, without arguments, once or more after `wake`.
    :param background: as for `Poll.register`.
    """

    __slots__ = ("_f", "_hub", "_read", "_write")

    def __init__(self, hub: Hub, f: Callable[[], object], background: bool = False) -> None:
        # A pipe, not an eventfd: os.eventfd is 3.10 and PyPy 3.9 lacks it.
        self._read, self._write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._hub = hub
        self._f = f
        hub.poll.register(self._read, self._wake_up, background=background)

    def fileno(self) -> int:
        """The descriptor to write a byte to, for who cannot call `wake`. Non-blocking."""
        return self._write

    def wake(self) -> None:
        """Takes no lock, so that a signal handler may call it. A thread sees to it that `close` is not called
        meanwhile."""
        try:
            os.write(self._write, b"!")
        except BlockingIOError:
            pass  # the pipe is full of wake-ups

    def _wake_up(self, events: int) -> None:
        try:
            os.read(self._read, 4096)
        except BlockingIOError:
            pass
        self._f()

    def close(self) -> None:
        """Close the descriptors. Twice does nothing."""
        read, self._read = self._read, -1
        write, self._write = self._write, -1
        if read >= 0:
            if not self._hub.forked:
                self._hub.poll.unregister(read)
            os.close(read)
            os.close(write)


class _Call:
    """One call: what to do, who wants to know, and then what came of it."""

    __slots__ = ("args", "f", "outcome", "sender")

    def __init__(self, f: Callable[..., Any], args: tuple[Any, ...], sender: Sender) -> None:
        self.f = f
        self.args = args
        self.sender = sender
        #: What *f* returned or raised. To send an exception is to raise it at the receiver, so one slot does.
        self.outcome: Any = None

    def run(self) -> None:
        try:
            self.outcome = self.f(*self.args)
        except BaseException as error:  # SystemExit, too, is for the caller to know
            self.outcome = error

    def deliver(self) -> None:
        try:
            self.sender.send(self.outcome)  # a queue of one has room for the first
            self.sender.close()
        except Halt:
            pass  # the caller has given up


class Workers:
    """Up to *size* daemon threads that run calls for a hub. They start when needed and end when idle.

    Everything but ``_waker`` and ``_outstanding``, which are the hub's, is under the lock of ``_changed``, which nobody
    holds for longer than a few instructions.
    """

    def __init__(self, hub: Hub, size: int = SIZE, idle: float = IDLE) -> None:
        """
        :param idle: seconds that a thread waits for work before it ends.
        """
        self.hub = hub
        self.size = size
        self.idle = idle
        self._changed = threading.Condition(threading.Lock())
        self._todo: deque[_Call] = deque()
        self._done: deque[_Call] = deque()
        self._threads = 0
        self._waiting = 0
        self._closed = False
        #: Calls made and not delivered. Each counts in ``hub.poll.live``: it will wake somebody.
        self._outstanding = 0
        self._waker: Waker | None = None

    def call(self, f: Callable[..., Any], *args: Any) -> Recver:
        """Run ``f(*args)`` in a thread.

        :return: a Recver that gives what it returns, or raises what it raises.
        :raises Stop: the hub was stopped.
        :raises Forked: it is another process's.
        :raises RuntimeError: the system gives us no thread.
        """
        self.hub._check()
        if self._closed:
            raise Stop("the hub was stopped")
        if self._waker is None:
            self._waker = Waker(self.hub, self._deliver, background=True)
            self.hub.onstop(self.close)
        sender, recver = self.hub.queue(1)
        self._put(_Call(f, args, sender))
        self._outstanding += 1
        self.hub.poll.live += 1
        return recver

    def _put(self, call: _Call) -> None:
        with self._changed:
            self._todo.append(call)
            if len(self._todo) <= self._waiting:
                self._changed.notify()
            elif self._threads < self.size:
                self._start()

    def _start(self) -> None:
        try:
            threading.Thread(target=self._work, name="vanilla worker", daemon=True).start()
            self._threads += 1
        except RuntimeError:
            if not self._threads:  # else one of those will come to it
                self._todo.pop()
                raise

    def _work(self) -> None:
        while True:
            call = self._next()
            if call is None:
                return
            call.run()
            with self._changed:
                self._done.append(call)
                if not self._closed and self._waker is not None:
                    self._waker.wake()
            del call  # an idle thread keeps nothing alive

    def _next(self) -> _Call | None:
        """Wait for a call; None: this thread is to end."""
        with self._changed:
            notified = True
            while notified and not self._todo and not self._closed:
                self._waiting += 1
                notified = self._changed.wait(self.idle)
                self._waiting -= 1
            if self._todo and not self._closed:
                return self._todo.popleft()
            self._threads -= 1
            return None

    def _deliver(self) -> None:
        while self._done:
            self._outstanding -= 1
            self.hub.poll.live -= 1
            self._done.popleft().deliver()

    def close(self) -> None:
        """Idle threads end; a call that runs goes on, and nobody hears of its end.

        Calls that wait are kept: whoever waits for one is to hear of the hub's end, not of a dropped Sender.
        """
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            if self._waker is not None:
                self._waker.close()
        self.hub.offstop(self.close)
        self.hub.poll.live -= self._outstanding
        self._outstanding = 0


class Service:
    """``h.thread``.

    >>> import vanilla
    >>> def add(a, b):
    ...     return a + b
    >>> with vanilla.Hub() as h:
    ...     h.thread.call(add, 2, 3).recv()
    5
    """

    def __init__(self, hub: Hub) -> None:
        self._workers = Workers(hub)

    def call(self, f: Callable[..., Any], *args: Any) -> Recver:
        """Run ``f(*args)`` in a thread, one of at most `SIZE` that this hub's calls share.

        :return: a Recver that gives what it returns, or raises what it raises.
        """
        return self._workers.call(f, *args)

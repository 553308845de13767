"""Signals of the process, delivered in a hub's loop.

Three parts make it prompt and lossless. The Python handler notes the signal for each hub that wants it. The hub's
`Waker` brings the note into its loop. And ``signal.set_wakeup_fd`` wakes a hub that is blocked in epoll when the kernel
gave the signal to another thread: else nothing would run the Python handler until the main thread did something by
itself.
"""

from __future__ import annotations

import os
import signal
import threading
from functools import partial
from typing import TYPE_CHECKING, Any, Callable

from .channel import Channel
from .message import Recver
from .waker import Waker

if TYPE_CHECKING:
    from .core import Hub

Callback = Callable[[], object]
Unsubscribe = Callable[[], None]


class _Process:
    """What a process has one of: a handler a signal, and one wake-up descriptor. Hubs of the main thread share them."""

    def __init__(self) -> None:
        self.services: list[Service] = []
        #: During a fork: ``mask``, the signals that its thread had blocked before.
        self.blocked = threading.local()
        #: By signal, what was installed before us.
        self.previous: dict[int, Any] = {}
        self.previous_fd = -1
        #: A pipe whose only purpose is to end the epoll of whichever hub of the main thread runs.
        self.read = self.write = -1

    def join(self, service: Service) -> None:
        if not self.services:
            self.read, self.write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
            self.previous_fd = signal.set_wakeup_fd(self.write, warn_on_full_buffer=False)
        self.services.append(service)

    def leave(self, service: Service) -> None:
        self.services.remove(service)
        if not self.services:
            fd = signal.set_wakeup_fd(-1)
            # Whoever came after us, and is still there, stays.
            signal.set_wakeup_fd(self.previous_fd if fd == self.write else fd)
            self._close()

    def _close(self) -> None:
        os.close(self.read)
        os.close(self.write)
        self.read = self.write = -1

    def install(self, signum: int) -> None:
        if signum not in self.previous:
            self.previous[signum] = signal.signal(signum, self.handle)

    def restore(self, signum: int) -> None:
        """Put back the previous handler, if nobody wants *signum* any more."""
        if signum not in self.previous or any(signum in service.callbacks for service in self.services):
            return
        previous = self.previous.pop(signum)
        # None is a handler that C code installed: Python cannot put that back. One that came after ours stays.
        if previous is not None and signal.getsignal(signum) == self.handle:
            signal.signal(signum, previous)

    def handle(self, signum: int, frame: Any) -> None:
        """The Python handler: runs between any two instructions of the main thread."""
        for service in self.services:
            if signum in service.callbacks:
                service.noted.add(signum)
                service.waker.wake()

    def drain(self, events: int) -> None:
        try:
            os.read(self.read, 4096)
        except BlockingIOError:
            pass

    def disown(self) -> None:
        """In a forked child: the hubs are the parent's, and what they subscribed to must not be swallowed here."""
        if not self.services:
            return
        self.services = []
        signal.set_wakeup_fd(-1)
        self._close()
        for signum in list(self.previous):
            self.restore(signum)

    def block(self) -> None:
        """Before a fork: the interpreter forgets a signal that comes to the child before `disown`."""
        self.blocked.mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())
        signal.pthread_sigmask(signal.SIG_BLOCK, self.previous)  # a handler may raise in here, when that is done

    def unblock(self) -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, self.blocked.mask)

    def start_child(self) -> None:
        self.disown()
        self.unblock()


_process = _Process()
os.register_at_fork(before=_process.block, after_in_parent=_process.unblock, after_in_child=_process.start_child)


class Service:
    """``h.signal``: what one hub subscribed to."""

    waker: Waker

    def __init__(self, hub: Hub) -> None:
        self.hub = hub
        #: By signal, the callbacks in the order of their subscription, each under a key of its own.
        self.callbacks: dict[int, dict[object, Callback]] = {}
        #: Signals that came and were not delivered yet.
        self.noted: set[int] = set()

    def subscribe(self, *signums: int) -> Recver:
        """A Recver of the numbers of those signals that come, until it is closed or dropped.

        As in the kernel, a signal that comes again before it was received counts once.

        :raises RuntimeError: called outside the main thread.
        :raises OSError: a signal that cannot be caught.
        """
        channel = Channel(self.hub, len(signums), "signals")
        try:
            for signum in signums:
                channel.onclose(self.add(signum, partial(_put, channel, signum)))
        except BaseException:
            channel.close()
            raise
        return Recver(channel)

    def add(self, signum: int, callback: Callback) -> Unsubscribe:
        """`vanilla.signal.subscribe`."""
        if threading.current_thread() is not threading.main_thread():
            raise RuntimeError("signals can be subscribed to in the main thread only: Python runs their handlers there")
        self.hub._check()
        if not self.callbacks:
            self._open()
        key = object()
        self.callbacks.setdefault(signum, {})[key] = callback
        try:
            _process.install(signum)
        except BaseException:
            self._remove(signum, key)
            raise
        return partial(self._remove, signum, key)

    def _remove(self, signum: int, key: object) -> None:
        callbacks = self.callbacks.get(signum, {})
        if callbacks.pop(key, None) is None or self.hub.forked:
            return
        if not callbacks:
            del self.callbacks[signum]
            _process.restore(signum)
        if not self.callbacks:
            self._close()

    def _open(self) -> None:
        _process.join(self)
        self.waker = Waker(self.hub, self._deliver)
        self.hub.poll.register(_process.read, _process.drain, background=True)
        self.hub.onstop(self._stop)

    def _close(self) -> None:
        self.hub.offstop(self._stop)
        self.hub.poll.unregister(_process.read)
        _process.leave(self)
        self.waker.close()
        self.noted.clear()

    def _stop(self) -> None:
        for signum, callbacks in list(self.callbacks.items()):
            for key in list(callbacks):
                self._remove(signum, key)

    def _deliver(self) -> None:
        noted, self.noted = self.noted, set()
        for signum in sorted(noted):
            for callback in list(self.callbacks.get(signum, {}).values()):
                self.hub.guard(callback)


def _put(channel: Channel, signum: int) -> None:
    if signum not in channel.buffer:
        channel.give_nowait(signum)


def subscribe(hub: Hub, signum: int, callback: Callback) -> Unsubscribe:
    """Call *callback*, without arguments, in the hub's loop when the process gets *signum*.

    The handler that was there before rests until the last subscriber is gone, then it is put back.

    :param callback: must not wait. What it raises is logged, and the next is called. Signals that come faster than the
        loop turns may count as one, as in the kernel.
    :return: ends the subscription when called; twice does nothing. The end of the hub does it as well.
    :raises RuntimeError: called outside the main thread.
    :raises OSError: a signal that cannot be caught.
    """
    service: Service = hub.signal
    return service.add(signum, callback)

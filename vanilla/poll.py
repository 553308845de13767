"""Readiness of descriptors: epoll, level-triggered, a handler each.

A handler is called with the events, in the loop, and must not block. Events are looked up by descriptor when they are
handled, so a handler that was unregistered earlier in the same batch is not called.

Between a descriptor and its handler there may be a `Layer` (TLS): it has to read in order to write now and then, and
the other way round, and it may hold bytes that the kernel has given away and therefore does not report. Who registers
does not notice: a handler is still called as long as there is something to do.
"""

from __future__ import annotations

import os
import select
from typing import TYPE_CHECKING, Callable, Protocol

if TYPE_CHECKING:
    from .core import Hub
    from .timers import Timer

IN = select.EPOLLIN
OUT = select.EPOLLOUT
#: The same, by the names that `Hub.register` is called with.
POLLIN, POLLOUT = IN, OUT
#: Reported whether asked for or not; both say "read or write, and you will see".
GONE = select.EPOLLHUP | select.EPOLLERR

Handler = Callable[[int], None]


class Layer(Protocol):
    """What translates readiness for one descriptor; it stands in `Poll.layers` as long as it does."""

    def ask(self, events: int) -> int:
        """The handler wants *events*, 0 if there is none any more: what to wait for in the kernel."""

    def between(self, handler: Handler) -> Handler:
        """What to call with the kernel's events in place of *handler*."""


class Poll:
    """The descriptors of one hub.

    ``live`` counts the registrations that may wake somebody: while there is one, nothing is a deadlock.
    """

    def __init__(self) -> None:
        self._epoll = select.epoll()
        #: Who is called for which descriptor; looked up when it is its turn.
        self.handlers: dict[int, Handler] = {}
        self._background: set[int] = set()
        self.live = 0
        self.layers: dict[int, Layer] = {}
        #: Descriptors whose layer has something to be read: the next `wait` reports them, and does not wait.
        self.again: set[int] = set()

    def register(self, fd: int, handler: Handler, events: int = IN, background: bool = False) -> None:
        """Call *handler* when *fd* is ready for *events*.

        :param background: this descriptor alone is no reason to wait (the hub's own wake-up channel).
        :raises FileExistsError: *fd* is registered already.
        """
        layer = self.layers.get(fd)
        if layer is not None:
            handler, events = layer.between(handler), layer.ask(events)
        self._epoll.register(fd, events)
        self.handlers[fd] = handler
        if background:
            self._background.add(fd)
        else:
            self.live += 1

    def modify(self, fd: int, events: int) -> None:
        """Wait for other *events* from now on; 0 waits for none."""
        layer = self.layers.get(fd)
        self._epoll.modify(fd, events if layer is None else layer.ask(events))

    def ask_kernel(self, fd: int, events: int) -> None:
        """For a layer whose own needs have changed: what to wait for in the kernel."""
        self._epoll.modify(fd, events)

    def replace(self, fd: int, other: int, events: int) -> None:
        """Have *fd* be what *other* is, and wait for these *events* in the kernel if it is registered."""
        if fd in self.handlers:
            self._epoll.unregister(fd)
        os.dup2(other, fd, inheritable=False)
        if fd in self.handlers:
            self._epoll.register(fd, events)

    def unregister(self, fd: int) -> None:
        """Forget *fd*. Call it before the descriptor is closed; twice does nothing."""
        if self.handlers.pop(fd, None) is None:
            return
        if fd in self._background:
            self._background.discard(fd)
        else:
            self.live -= 1
        if fd in self.layers:
            self.layers[fd].ask(0)
        self._epoll.unregister(fd)

    def forget(self, fd: int) -> None:
        """*fd* is ready, and nobody's any more. If a ctrl-C has hit who was about to take it out, it would be ready
        again and again."""
        try:
            self._epoll.unregister(fd)
        except OSError:
            pass  # the usual case: it was unregistered in this very batch, and may be closed

    def wait(self, timeout: float) -> list[tuple[int, int]]:
        """What is ready, as (descriptor, events). *timeout* in seconds, -1 for ever."""
        if not self.again:
            return self._epoll.poll(timeout)
        again, self.again = self.again, set()
        ready = dict(self._epoll.poll(0))
        for fd in again:
            ready[fd] = ready.get(fd, 0) | IN
        return list(ready.items())

    def has_news(self) -> bool:
        """Would `wait` return at once?"""
        return bool(self.again or self._epoll.poll(0))

    def close(self) -> None:
        self.handlers.clear()
        self.layers.clear()
        self.live = 0
        self._epoll.close()


class Unpolled:
    """In place of `Poll` for one descriptor that never has to wait, so that epoll refuses it: a regular file, or a
    device such as /dev/null. It is ready whenever asked, once a tick."""

    __slots__ = ("_events", "_handler", "_hub", "_timer")

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._handler: Handler | None = None
        self._events = 0
        self._timer: Timer | None = None

    def register(self, fd: int, handler: Handler, events: int = IN, background: bool = False) -> None:
        self._handler = handler
        self.modify(fd, events)

    def modify(self, fd: int, events: int) -> None:
        self._events = events
        if self._timer is None:
            self._timer = self._hub.after(0, self._tell)

    def unregister(self, fd: int) -> None:
        self._handler = None
        self._events = 0

    def _tell(self) -> None:
        """A timer and no errand of the tick's edge: a long file must not keep the others from their turn."""
        try:
            self._timer = None
            if self._handler is not None:
                self._handler(self._events)
        finally:  # a ctrl-C in the middle does not end it, as it does not end what epoll tells
            if self._events and self._timer is None:
                self._timer = self._hub.after(0, self._tell)

"""Readiness of descriptors: epoll, level-triggered, a handler each.

A handler is called with the events, in the loop, and must not block. Events are looked up by descriptor when they are
handled, so a handler that was unregistered earlier in the same batch is not called.
"""

from __future__ import annotations

import select
from typing import Callable

IN = select.EPOLLIN
OUT = select.EPOLLOUT
#: Reported whether asked for or not; both say "read or write, and you will see".
GONE = select.EPOLLHUP | select.EPOLLERR

Handler = Callable[[int], None]


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
        #: What is ready, as [(descriptor, events)]; the argument is in seconds, -1 for ever.
        self.wait: Callable[[float], list[tuple[int, int]]] = self._epoll.poll

    def register(self, fd: int, handler: Handler, events: int = IN, background: bool = False) -> None:
        """Call *handler* when *fd* is ready for *events*.

        :param background: this descriptor alone is no reason to wait (the hub's own wake-up channel).
        :raises FileExistsError: *fd* is registered already.
        """
        self._epoll.register(fd, events)
        self.handlers[fd] = handler
        if background:
            self._background.add(fd)
        else:
            self.live += 1

    def modify(self, fd: int, events: int) -> None:
        """Wait for other *events* from now on; 0 waits for none."""
        self._epoll.modify(fd, events)

    def unregister(self, fd: int) -> None:
        """Forget *fd*. Call it before the descriptor is closed; twice does nothing."""
        if self.handlers.pop(fd, None) is None:
            return
        if fd in self._background:
            self._background.discard(fd)
        else:
            self.live -= 1
        self._epoll.unregister(fd)

    def close(self) -> None:
        self.handlers.clear()
        self.live = 0
        self._epoll.close()

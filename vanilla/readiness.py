"""`Hub.register`: to be told when a descriptor of somebody else's is ready.

The kernel is asked only while somebody waits: a descriptor that stays ready would otherwise wake the hub without end
while nobody listens. So nothing is kept either, and who comes later asks anew.

Invariants:
1. `Poll` knows the descriptor from its registration on, so that a second one is refused; it waits for the masks of
   those `Readiness` in whose ``recvers`` somebody stands, and for nothing else.
2. The descriptor counts in ``poll.live`` once for each `Readiness` in whose ``recvers`` somebody stands (``live``).
"""

from __future__ import annotations

import select
from functools import partial
from typing import TYPE_CHECKING, Any

from .channel import Channel
from .exception import Abandoned, Busy, Closed, Halt
from .message import Recver
from .poll import GONE
from .selection import EMPTY, Case

if TYPE_CHECKING:
    from .core import Hub

#: What to wait for while nobody does. Of 0 the kernel reports a hang-up again and again, of this once at most.
NOTHING = select.EPOLLONESHOT


class Registration:
    """A descriptor, and those who want to know of it."""

    __slots__ = ("closed", "fd", "hub", "kernel", "waits")

    def __init__(self, hub: Hub, fd: int, masks: tuple[int, ...]) -> None:
        """
        :param masks: at least one.
        :raises FileExistsError: *fd* is registered already.
        :raises OSError: it is no descriptor, or the kernel cannot wait for it.
        """
        self.hub = hub
        self.fd = fd
        self.closed = False
        hub.poll.register(fd, self.fire, NOTHING, background=True)
        #: For a look without waiting.
        self.kernel = select.poll()
        self.kernel.register(fd, 0)
        self.waits = [Readiness(self, mask) for mask in masks]
        hub.registered[fd] = self

    def recvers(self) -> list[Recver]:
        """An end for each mask; to be called once."""
        return [Recver(wait) for wait in self.waits]

    def mind(self) -> None:
        """Who waits may have changed (invariants 1 and 2)."""
        if self.closed or self.hub.forked:
            return
        events = 0
        for wait in self.waits:
            if wait.recvers:
                events |= wait.mask
            if wait.live != bool(wait.recvers):
                wait.live = bool(wait.recvers)
                self.hub.poll.live += 1 if wait.live else -1
        self.hub.poll.modify(self.fd, events or NOTHING)

    def fire(self, events: int) -> None:
        """The kernel's word."""
        waits = [wait for wait in self.waits if wait.recvers and events & (wait.mask | GONE)]
        for wait in waits:
            wait.hand(wait.recvers.popleft(), wait.mask)
        if waits:  # to mind otherwise would have `NOTHING` reported again
            self.mind()

    def close(self) -> None:
        """Forget the descriptor, and end all its Recvers. Twice does nothing."""
        if self.closed:
            return
        self.closed = True
        self.hub.registered.pop(self.fd, None)
        if not self.hub.forked:
            self.hub.poll.unregister(self.fd)
            self.hub.poll.live -= sum(wait.live for wait in self.waits)
        for wait in self.waits:
            wait.close()


class Readiness(Channel):
    """What is behind the Recver of one mask: a channel that never holds anything.

    ``capacity`` is -1 and the buffer is empty, so that the Recver's fast paths lead here.
    """

    __slots__ = ("live", "mask", "registration")

    def __init__(self, registration: Registration, mask: int) -> None:
        super().__init__(registration.hub, -1, "descriptor", one_recver=True)
        self.registration = registration
        self.mask = mask
        #: Does it count in ``poll.live``?
        self.live = False

    def take_nowait(self) -> Any:
        if self.halt is not None:
            raise self.halt(self._ended("receive"))
        registration = self.registration
        registration.kernel.modify(registration.fd, self.mask)
        return self.mask if not self.recvers and registration.kernel.poll(0) else EMPTY

    def wait_many(self, most: int, timeout: float) -> list[Any]:
        return [self.wait_item(timeout)]

    def wait_item(self, timeout: float) -> Any:
        item = self.take_nowait()
        if item is not EMPTY:
            return item
        if any(waiter.selection is None for waiter in self.recvers):
            raise Busy(
                f"another task waits for descriptor {self.registration.fd}; register has one receiver for each mask"
            )
        if timeout != 0:
            self.hub.at_edge(self.registration.mind)
        return self.runner.line_up(self.recvers, self, timeout)

    def watch_recv(self, case: Case) -> None:
        super().watch_recv(case)
        self.hub.at_edge(self.registration.mind)

    def forget(self, waiter: Any) -> bool:
        found = super().forget(waiter)
        if found:
            self.hub.at_edge(self.registration.mind)
        return found

    def close(self, halt: type[Halt] = Closed) -> None:
        super().close(halt)
        if all(wait.halt is not None for wait in self.registration.waits):
            self.registration.close()
        else:
            self.hub.at_edge(self.registration.mind)

    def abandon_by_recver(self) -> None:
        self.hub.at_edge(partial(self.close, Abandoned))  # a collection may have come in the middle of anything

    def describe(self, waiter: Any) -> str:
        return f"descriptor {self.registration.fd}"

"""The ends of a pipe, queue or channel that a broker hosts.

They are the pushing and the pulling end (`push`, `pull`) with other terms: an end is asked for at its first use, so
that of a Pair one process can use one end and another the other; it may be taken; and what closes one end of a pipe or
queue closes the other. Those that hold nothing are in `rendezvous`.
"""

from __future__ import annotations

import logging
from collections import deque
from typing import TYPE_CHECKING, Any, Callable, NamedTuple

from vanilla.exception import Busy, Closed
from vanilla.message import Recver
from vanilla.protocol.credit import Parked

from .pull import WINDOW_BYTES, PullState
from .push import PushState
from .recver import PullRecver
from .sender import Detached, PushSender

if TYPE_CHECKING:
    from vanilla.core import Task

    from .link import Link

log = logging.getLogger("vanilla.client")


class Shape(NamedTuple):
    """What is asked for: "pipe", "queue" or "channel", and how many messages it holds."""

    name: str
    capacity: int

    @property
    def one(self) -> bool:
        """Has it one sender and one receiver?"""
        return self.name != "channel"


class SendState(PushState):
    """What is behind one `ConduitSender`."""

    __slots__ = ("final", "shape")

    role = "send"
    keeps = False

    def __init__(self, link: Link, name: str, shape: Shape) -> None:
        self.shape = shape
        self.final = False
        super().__init__(link, name)
        self.kind = f"{shape.name} {name!r}"
        self.one_sender = shape.one

    def _open(self) -> int:
        return 0

    def check(self) -> None:
        if not self.id and self.halt is None:
            self.link.check()
            self.id = _opened(self, self.shape, self.quota.n)
            if self.link.down:
                super().suspend()
        super().check()

    def suspend(self) -> None:
        super().suspend()
        assert self.replay is not None
        if not self.senders and not self.replay.frames:  # it is claimed again when it is used again
            self.link.let_go(self)
            self.id = 0
            self.replay = None
            if self._idle is not None:  # without a channel there is no credit to give back
                self._idle.cancel()
                self._idle = None

    def _wait(self, message: Any, timeout: float) -> None:
        self._check_alone()
        super()._wait(message, timeout)

    def _check_alone(self) -> None:
        if self.one_sender and (_a_task_waits(self.senders) or self.syncs):
            raise Busy(f"another task waits to send to this {self.kind}, which has one sender")

    def refused(self, code: str, text: str) -> None:
        if code != "CLOSED":
            super().refused(code, text)
            return
        left = self.unconfirmed
        if left:
            log.warning("%s: its receiver has closed it; %d items did not arrive", self.kind, left)
        self._end(lambda: Closed(text))
        self.link.close_channel(self)


class RecvState(PullState):
    """What is behind one `ConduitRecver`."""

    __slots__ = ("final", "shape")

    role = "recv"

    def __init__(self, link: Link, name: str, shape: Shape) -> None:
        self.shape = shape
        self.final = False
        super().__init__(link, name, False, 0, WINDOW_BYTES)
        self.kind = f"{shape.name} {name!r}"
        self.one_recver = shape.one
        if not shape.capacity:
            self.window = Parked()

    def _open(self) -> int:
        return 0

    def _check(self) -> None:
        super()._check()
        if not self.id:
            self.link.check()
            self.id = _opened(self, self.shape, self.taken)

    def suspend(self) -> None:
        super().suspend()
        if not self.recvers:  # as for a sender
            self.link.let_go(self)
            self.id = 0

    def wait_item(self, timeout: float) -> Any:
        if self.one_recver and _a_task_waits(self.recvers):
            raise Busy(f"another task waits to receive from this {self.kind}, which has one receiver")
        return super().wait_item(timeout)

    def refused(self, code: str, text: str) -> None:
        if code != "CLOSED":
            super().refused(code, text)
            return
        self._end(lambda: Closed(text))  # it comes when all is acknowledged, so nothing is left here
        self.link.close_channel(self, self.taken)


def _opened(state: SendState | RecvState, shape: Shape, first: int) -> int:
    fields = {"as": shape.name, "capacity": shape.capacity}
    return state.link.open(state.role, state.name, state, first, fields)


def _a_task_waits(queue: deque[Any]) -> bool:
    return any(waiter.selection is None for waiter in queue)


class ConduitSender(PushSender):
    """The Sender of a broker's pipe, queue or channel; see `PushSender` for what it sends.

    It is claimed at its first use. ``close`` of a pipe or queue ends its Recver, wherever that is, once all is taken; a
    handle that is dropped, or whose connection ends, only lets go.
    """

    __slots__ = ()

    def close(self) -> None:
        """Let go, and close the other end of a pipe or queue. Waits for confirms as long as the connection lingers."""
        if not isinstance(self._state, Detached):
            self._state.final = self._state.one_sender
        super().close()


class ConduitRecver(PullRecver):
    """The Recver of a broker's pipe, queue or channel.

    It is claimed at its first use. An item is acknowledged as it is handed out. ``close`` of a pipe or queue ends its
    Sender, wherever that is: its next send raises `Closed`. What it had sent before stays for the next receiver.
    """

    __slots__ = ()

    def consume(self, f: Callable[[Any], object]) -> Task:
        """`Recver.consume`."""
        return Recver.consume(self, f)

    def close(self) -> None:
        """Let go, and close the other end of a pipe or queue. Twice does nothing."""
        self._state.final = self._state.one_recver
        super().close()

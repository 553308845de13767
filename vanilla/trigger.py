"""`Hub.trigger`: have something run soon, however often it is asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Callable

from .channel import Channel
from .message import Recver, Sender
from .task import check_callable

if TYPE_CHECKING:
    from .core import Hub


class Trigger(Sender):
    """The Sender that `Hub.trigger` returns."""

    __slots__ = ()

    def trigger(self) -> None:
        """Have the function run soon. Never waits; several times before it has begun count as one.

        :raises Closed: this trigger was closed.
        """
        state = self._state
        if state.halt is not None or not state.buffer:
            state.hub.check_thread()
            state.give_nowait(True)


class _Run:
    """What the task calls for each item."""

    __slots__ = ("__qualname__", "f")

    def __init__(self, f: Callable[[], object]) -> None:
        self.f = f
        self.__qualname__ = getattr(f, "__qualname__", repr(f))

    def __call__(self, item: Any) -> None:
        self.f()


def make_trigger(hub: Hub, f: Callable[[], object]) -> Trigger:
    """`Hub.trigger`."""
    check_callable(f)
    state = Channel(hub, 1, "trigger")
    Recver(state).consume(_Run(f))
    return Trigger(state)

"""The handle of a pulling end: what `Remote.pull` gives to its caller."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, Callable

from vanilla.exception import Busy, Halt, is_failure
from vanilla.message import Recver
from vanilla.selection import EMPTY

from .pull import PullState

if TYPE_CHECKING:
    from vanilla.core import Task


class PullRecver(Recver):
    """A Recver of a named endpoint; made by `Remote.pull`.

    It asks the broker for nothing until somebody receives, and for as much ahead as it takes in some milliseconds. An
    item that arrives and is not received within 100 ms goes back, unless a fixed prefetch asked for it.
    """

    __slots__ = ()

    def consume(self, f: Callable[[Any], object]) -> Task:
        """Call ``f(item)`` for each item, one at a time, in a task of its own, and acknowledge the item when *f*
        returns.

        What *f* raises is logged with its traceback; the item is delivered again, after the endpoint's back-off.
        The end belongs to that task from now on: to receive from it elsewhere is `Busy`.

        :return: the task. It raises `ConnectionLost` when the broker is gone.
        """
        if not callable(f):
            raise TypeError(f"consume calls what it is given, and cannot call {f!r}")
        state: PullState = self._state
        if state.owner is not None or state.recvers or state.buffer:
            raise Busy(f"this {state.kind} is in use already")
        state.begin_to_ack()
        self._buffer = deque()  # no fast path for others
        state.owner = self.hub.spawn(_consume, self, f)
        return state.owner

    def recv(self, timeout: float = -1) -> Any:
        """The next item, or with ``ack=True`` its `Delivery`; wait while there is none.

        :param timeout: ms to wait, -1 for ever; 0 takes only what has arrived, and asks the broker for one if nothing
            has.
        :raises Timeout: nothing came. What comes later waits here for 100 ms, then it goes back.
        :raises ConnectionLost: the broker is gone.
        :raises Closed: this end was closed.
        """
        if self._buffer:
            return self._buffer.popleft()
        return self._state.wait_item(timeout)

    def __next__(self) -> Any:  # a call less for each item of a loop
        buffer = self._buffer
        return buffer.popleft() if buffer else super().__next__()

    def _try(self) -> Any:
        self._state.check_owner()
        item = self._state.take_nowait()
        if item is EMPTY:
            self._state.link.poll()
            item = self._state.take_nowait()
        return item


def _consume(recver: PullRecver, f: Callable[[Any], object]) -> None:
    try:
        while True:
            delivery = recver._take()
            try:
                with delivery:
                    f(delivery.item)
            except BaseException as error:
                if recver.halted or not is_failure(error):
                    raise
                recver.hub.failed(f, error, "; the item is delivered again")
    except Halt:
        pass

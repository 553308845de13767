"""Select: a task that waits on several ends at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from .exception import Halt, Timeout

if TYPE_CHECKING:
    from .core import Hub

#: What ``take_nowait`` returns when nothing is there. A channel may carry None, 0, '' and False.
EMPTY = type("EMPTY", (), {"__repr__": lambda self: "EMPTY"})()


class Case:
    """One end within one select. It stands in a channel's queues where a task would stand."""

    __slots__ = ("end", "selection", "state")

    def __init__(self, selection: Selection, end: Any, state: Any) -> None:
        self.selection = selection
        self.end = end
        self.state = state


class Selection:
    """A task parked in select. When one case fires, the others are withdrawn at that moment and ``live`` is over."""

    __slots__ = ("cases", "live", "task")

    def __init__(self, task: Any) -> None:
        #: Its fiber, or an Outsider.
        self.task = task
        self.cases: list[Case] = []
        self.live = True

    def fire(self, case: Case, item: Any) -> None:
        """*case*, already taken out of its queue, has an item (or, for a Sender, room)."""
        self.forget(self.task)
        self.task.value = case.end, item
        self.task.hub.ready.append(self.task)

    def fail(self, case: Case, error: Exception) -> None:
        self.forget(self.task)
        if isinstance(error, Halt):
            error.end = case.end
        self.task.error = error
        self.task.hub.ready.append(self.task)

    def forget(self, task: Any) -> bool:
        """Withdraw every case. Was the task still waiting?"""
        live, self.live = self.live, False
        cases, self.cases = self.cases, []
        for case in cases:
            case.state.forget(case)
        return live

    def describe(self, task: Any) -> str:
        return "select({})".format(", ".join(case.state.describe(case) for case in self.cases))


def select(hub: Hub, ends: Sequence[Any], timeout: float, start: int) -> tuple[Any, Any]:
    """`Hub.select`. *start* says which end is asked first: each call another, so that no end starves."""
    if not ends:
        raise ValueError("select needs at least one end")
    for i in range(len(ends)):
        end = ends[(start + i) % len(ends)]
        try:
            item = end._try()
        except Halt as halt:
            halt.end = end
            raise
        if item is not EMPTY:
            return _selected(end, item)
    if timeout == 0:
        raise Timeout("select: no end is ready")
    return _selected(*_park_select(hub, ends, timeout))


def _park_select(hub: Hub, ends: Sequence[Any], timeout: float) -> tuple[Any, Any]:
    me = hub.me()
    selection = Selection(me)
    try:
        for end in ends:
            try:
                selection.cases.append(end._watch(selection, end))
            except Halt as halt:  # it has ended since it was tried
                halt.end = end
                raise
            if not selection.live:
                break  # to watch this end was enough to fire it
        else:
            value: tuple[Any, Any] = hub.park(me, selection, timeout)
            return value
        selection.forget(me)  # the case that has come too late to be withdrawn when the selection fired
        return hub.park(me, selection)
    finally:
        selection.forget(me)


def _selected(end: Any, item: Any) -> tuple[Any, Any]:
    if isinstance(item, BaseException):
        try:
            raise item
        finally:
            del item  # no cycle, as in Recver.recv
    return end, item

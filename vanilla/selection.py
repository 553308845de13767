"""Select: a task that waits on several ends at once.

A select over a hundred ends is most often one in a loop, which asks for the same hundred again and again, and each
time one of them has something. To look at all of them, and to stand in all their queues and leave them again, would
make it dearer with each end. So a `Selection` is *kept* until the tick's edge after it was last used: its cases stay
where they stand, *dormant*, and the next select of the same task over the same ends looks at those only that have
something to tell. Whoever finds a dormant case in a queue takes it out, and goes on as if it had not been there; its
selection notes it (``hints``).

What is kept are the cases of ordinary channels (`Case.keeps`). Ends of another kind, streams and those of a
connection say, are asked one by one each time, and watched only as long as the task waits.

Invariants:
1. A case that keeps stands in its channel's queue, or it is in ``hints``.
2. A dormant case of a Recver stands in a channel only while nobody waits to send there; a select that waits to send
   takes it out (`Channel.watch_send`). So to go from dormant to live needs no word to anybody.
3. ``live`` means that the task is parked, or about to be: then a case that fires wakes it. Nothing that was handed to
   a case is ever lost: a dormant one takes nothing.
4. The ends are referred to until the edge at most: an end that somebody drops is noticed by then.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from random import getrandbits
from typing import TYPE_CHECKING, Any

from .exception import Halt, Timeout

if TYPE_CHECKING:
    from .core import Hub

#: What ``take_nowait`` returns when nothing is there. A channel may carry None, 0, '' and False.
EMPTY = type("EMPTY", (), {"__repr__": lambda self: "EMPTY"})()
#: Up to so many ends are asked one by one for as long as one of them is ready.
FEW = 8
#: Selects over more in one tick before it pays to make cases though none of them has waited.
OFTEN = 4
#: Cases that `Selection.describe` names.
NAMED = 5


class Case:
    """One end within one select. It stands in a channel's queues where a task would stand."""

    __slots__ = ("end", "keeps", "selection", "sends", "stands", "state")

    def __init__(self, selection: Selection, end: Any, state: Any, sends: bool) -> None:
        self.selection = selection
        self.end = end
        self.state = state
        #: Is it a Sender's?
        self.sends = sends
        #: May it stand in a queue while its select does not wait?
        self.keeps: bool = state.keeps_cases
        #: For one that keeps: is it in a queue?
        self.stands = False

    def watch(self) -> None:
        """Stand in the queue of the end; or fire, if it is ready.

        :raises Halt: the end has ended since it was tried.
        """
        self.stands = self.keeps
        try:
            if self.sends:
                self.state.watch_send(self)
            else:
                self.state.watch_recv(self)
        except Halt as halt:
            halt.end = self.end
            if self.stands:
                self.stands = False
                self.selection.hints.append(self)
            raise

    def stand_by(self) -> bool:
        """Stand there dormant, though the select does not wait (yet); False if that may not be (invariant 2).

        Only for one that keeps, and that was found not ready.
        """
        state = self.state
        if self.sends:
            state.senders.append(self)
        elif state.senders:
            return False
        else:
            state.recvers.append(self)
        self.stands = True
        return True


class Selection:
    """The select of one task over some ends, which may come again."""

    __slots__ = ("cases", "ending", "ends", "hints", "live", "looks", "others", "passing", "task")

    def __init__(self, task: Any, ends: Sequence[Any]) -> None:
        #: Its fiber, or an Outsider.
        self.task = task
        #: A copy, to be compared with those of the next select.
        self.ends = ends if isinstance(ends, tuple) else list(ends)
        self.live = False
        #: Selects that asked one end after the other and found one ready.
        self.looks = 0
        #: Those that keep. Empty until it pays.
        self.cases: list[Case] = []
        #: Of these, those to be looked at, in turn.
        self.hints: deque[Case] = deque()
        #: The ends of other kinds, and, while the task waits, their cases.
        self.others: list[Any] = []
        self.passing: list[Case] = []
        #: Is `_edge` to come?
        self.ending = False

    # -- what channels call

    def fire(self, case: Case, item: Any) -> bool:
        """*case*, already taken out of its queue, has an item (or, for a Sender, room). False: it takes nothing."""
        if case.stands:
            case.stands = False
            self.hints.append(case)
        if not self.live:
            return False
        self.forget(self.task)
        self.task.value = case.end, item
        self.task.hub.ready.append(self.task)
        return True

    def fail(self, case: Case, error: Exception) -> None:
        """*case*, already taken out of its queue, has ended."""
        if case.stands:
            case.stands = False
            self.hints.append(case)
        if not self.live:
            return
        self.forget(self.task)
        if isinstance(error, Halt):
            error.end = case.end
        self.task.error = error
        self.task.hub.ready.append(self.task)

    # -- what the task is parked on

    def forget(self, task: Any) -> bool:
        """Be dormant. Was the task still waiting?"""
        live, self.live = self.live, False
        if self.passing:
            passing, self.passing = self.passing, []
            for case in passing:
                case.state.forget(case)
        return live

    def describe(self, task: Any) -> str:
        cases = self.cases + self.passing
        told = ", ".join(case.state.describe(case) for case in cases[:NAMED])
        return f"select({told}{f' and {len(cases) - NAMED} more' if len(cases) > NAMED else ''})"

    # -- kept from one select to the next

    def prepare(self) -> None:
        """Make the cases, none of which stands anywhere yet."""
        self.cases = [end._case(self, end) for end in self.ends if end._keeps]
        self.others = [end for end in self.ends if not end._keeps]
        self.hints.extend(self.cases)

    def found(self) -> None:
        """One was ready, and there were no cases."""
        self.looks += 1
        if self.looks == OFTEN:
            self.prepare()
        self.keep()

    def keep(self) -> None:
        """Be there for the next select, until the edge after it was last used."""
        if not self.ending:
            self.ending = True
            self.task.runner.selections[self.task] = self
            self.task.hub.at_edge(self._edge)

    def _edge(self) -> None:
        self.ending = False
        if not self.live:
            self.drop()

    def drop(self) -> None:
        """Keep nothing."""
        self.live = False
        selections = self.task.runner.selections
        if selections.get(self.task) is self:
            del selections[self.task]
        cases, self.cases = self.cases, []
        self.hints.clear()
        self.others = []
        self.ends = ()
        for case in cases:
            if case.stands:
                case.stands = False
                case.state.forget(case)

    # -- selecting

    def look(self, start: int) -> Any:
        """The first that is ready, as (end, item), or `EMPTY`. Its two kinds go by turns, so that neither starves."""
        if not self.others:
            return self._look_at_hints()
        if start % 2:
            found = _scan(self.others, start)
            return self._look_at_hints() if found is EMPTY else found
        found = self._look_at_hints()
        return _scan(self.others, start) if found is EMPTY else found

    def _look_at_hints(self) -> Any:
        hints = self.hints
        for _ in range(len(hints)):
            case = hints[0]
            hints.rotate(-1)  # it has had its turn, whatever comes of it
            try:
                item = case.end._try()
            except Halt as halt:
                halt.end = case.end
                raise
            if item is not EMPTY:
                return case.end, item
            if case.stand_by():
                # most often the last one; but to ask a Sender may have taken out another case of this select
                hints.pop() if hints[-1] is case else hints.remove(case)
        return EMPTY

    def park(self, timeout: float) -> tuple[Any, Any]:
        """Wait until one is ready. All were found not to be."""
        if not self.cases:
            self.prepare()
        me = self.task
        self.live = True
        try:
            self._watch()
            value: tuple[Any, Any] = me.runner.park(me, self, timeout)
            return value
        finally:
            self.forget(me)
            self.keep()

    def _watch(self) -> None:
        """Stand with every end that one does not stand with, until one of them fires."""
        for end in self.others:
            case = end._case(self, end)
            self.passing.append(case)
            case.watch()
            if not self.live:
                return
        while self.hints and self.live:
            self.hints.popleft().watch()


def select(hub: Hub, ends: Sequence[Any], timeout: float) -> tuple[Any, Any]:
    """`Hub.select`. Which end is asked first is left to chance, as in Go, so that none starves: a count of calls, even
    one of each task, may fall in step with something, say with tasks that take turns."""
    start = getrandbits(16)
    runner = hub.runner
    if hub.stopping:
        hub._check()
    selection = runner.selections.get(runner.me()) if runner.selections else None
    if selection is not None and selection.ends != ends:
        selection.drop()
        selection = None
    if selection is not None and selection.cases:
        found = selection.look(start)
    elif ends:
        found = _scan(ends, start)
        if found is not EMPTY and len(ends) > FEW:
            _kept(selection, runner, ends).found()
    else:
        raise ValueError("select needs at least one end")
    if found is EMPTY:
        if timeout == 0:
            raise Timeout("select: no end is ready")
        found = _kept(selection, runner, ends).park(timeout)
    end, item = found
    if isinstance(item, BaseException):
        try:
            raise item
        finally:
            del item, found  # no cycle, as in Recver.recv
    return end, item


def _kept(selection: Selection | None, runner: Any, ends: Sequence[Any]) -> Selection:
    """*selection*, or a new one: a look at a stream may let others have their turn, and an edge drops what is kept."""
    return selection if selection is not None and selection.ends else Selection(runner.me(), ends)


def _scan(ends: Sequence[Any], start: int) -> Any:
    """The first of *ends* that is ready, as (end, item), or `EMPTY`."""
    for i in range(len(ends)):
        end = ends[(start + i) % len(ends)]
        try:
            item = end._try()
        except Halt as halt:
            halt.end = end
            raise
        if item is not EMPTY:
            return end, item
    return EMPTY

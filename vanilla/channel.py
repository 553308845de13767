"""What is behind the ends of a channel: one state for all kinds.

Pipe, queue, dealer, router and channel are one :class:`Channel` with another capacity and another number of tasks
that may wait at an end. Its ends are in `message`; they keep references to its deques, because that is where the time
goes: an end that asks the state for each message costs four times as much.

The rule of every operation: ``*_nowait`` decides, and the blocking form adds nothing but the waiting. A hand-over
puts the item into the waiter's slot and the waiter into ``ready``; nobody is switched to.

Invariants of a Channel:
1. Who stands in ``recvers`` or ``senders`` is parked, or a `Case` of a parked select, and stands there once. Whoever
   wakes a waiter takes it out first, so "was it still in there?" is the whole answer to "did the timeout come too
   late?". Besides, there may be cases of selects that are to come again (*dormant*, see `selection`): who meets one
   takes it out, and goes on.
2. If ``recvers`` is not empty, then ``buffer`` is empty and no task is parked in ``senders`` (only selects may be).
3. Tasks are parked in ``senders`` only while ``buffer`` holds ``capacity`` items.
4. Once ``halt`` is set, ``capacity`` is -1 and nobody is parked: the fast paths need not ask whether the channel is
   open.
5. A channel refers to its ends nowhere, so that a dropped end is noticed (`Abandoned`).
"""

from __future__ import annotations

from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Any, Callable

from .exception import Abandoned, Busy, Closed, Halt
from .selection import EMPTY, Case, Selection

if TYPE_CHECKING:
    from types import TracebackType

    from .core import Hub

Waiter = Any  # a Fiber, an Outsider or a Case


class Channel:
    """The state between a Sender and a Recver.

    :param hub: whose tasks use it.
    :param capacity: how many items it holds while nobody receives; 0 is a rendezvous.
    :param kind: its name in errors and dumps.
    :param one_sender: a second task that waits to send is an error (`Busy`).
    :param one_recver: likewise for receiving.
    """

    #: May a `Case` stay in the queues while its select does not wait? Not in those of subclasses, unless they say so.
    keeps_cases = True

    __slots__ = (
        "__weakref__",
        "buffer",
        "capacity",
        "closers",
        "halt",
        "hub",
        "kind",
        "one_recver",
        "one_sender",
        "recvers",
        "runner",
        "senders",
    )

    def __init_subclass__(cls) -> None:
        if "keeps_cases" not in cls.__dict__:
            cls.keeps_cases = False

    def __init__(
        self, hub: Hub, capacity: int = 0, kind: str = "channel", one_sender: bool = False, one_recver: bool = False
    ) -> None:
        self.hub = hub
        self.runner = hub.runner
        self.capacity = capacity
        self.kind = kind
        self.one_sender = one_sender
        self.one_recver = one_recver
        self.buffer: deque[Any] = deque()
        self.senders: deque[Waiter] = deque()
        self.recvers: deque[Waiter] = deque()
        self.halt: type[Halt] | None = None
        #: What to call when it ends, with its arguments.
        self.closers: list[tuple[Callable[..., object], tuple[Any, ...]]] = []

    # -- receiving

    def take_nowait(self) -> Any:
        """The next item, or `EMPTY`.

        :raises Halt: the channel has ended and is drained.
        """
        if self.buffer:
            item = self.buffer.popleft()
            if self.senders:
                self.admit()
            return item
        for sender in self.senders:  # a rendezvous; a select on the Sender holds no item and is passed over
            if sender.selection is None:
                self.senders.remove(sender)
                self.hub.ready.append(sender)
                return sender.value
        if self.halt is not None:
            raise self.halt(self._ended("receive"))
        return EMPTY

    def take_many(self, most: int) -> list[Any]:
        """Up to *most* items, without waiting. An exception comes alone.

        :raises Halt: the channel has ended and is drained.
        """
        buffer = self.buffer
        items = [buffer.popleft() for _ in range(min(most, len(buffer)))]
        for place, item in enumerate(items):
            if isinstance(item, BaseException):
                most = max(place, 1)
                buffer.extendleft(reversed(items[most:]))
                del items[most:]
                break
        if items and self.senders:
            self.admit()
        while len(items) < most and self._has_item(bool(items)):
            items.append(self.take_nowait())
            if isinstance(items[0], BaseException):
                break
        return items

    def _has_item(self, no_exception: bool) -> bool:
        """Is there an item, and if so asked, one that is no exception?

        :raises Halt: the channel has ended and is drained, and an exception would do.
        """
        for item in self.buffer or (sender.value for sender in self.senders if sender.selection is None):
            return not (no_exception and isinstance(item, BaseException))
        if self.halt is not None and not no_exception:
            raise self.halt(self._ended("receive"))
        return False

    def wait_item(self, timeout: float) -> Any:
        """Wait until there is an item and take it.

        :raises Timeout: nothing came in *timeout* ms; nothing was taken.
        """
        if self.buffer or self.senders or self.recvers or self.halt is not None:
            item = self.take_nowait()
            if item is not EMPTY:
                return item
            if self.one_recver and _a_task_waits(self.recvers):
                raise Busy(f"another task waits to receive from this {self.kind}, which has one receiver; see h.dealer")
            if timeout != 0:
                self._invite(None)
        return self.runner.line_up(self.recvers, self, timeout)

    def wait_many(self, most: int, timeout: float) -> list[Any]:
        """Wait until there is an item; then `take_many`.

        :raises Timeout: nothing came in *timeout* ms; nothing was taken.
        """
        items = self.take_many(most)
        if not items:
            self.buffer.appendleft(self.wait_item(timeout))
            items = self.take_many(most)
        return items

    def admit(self) -> None:
        """Room has come up: move in the items of parked senders, tell selects."""
        buffer, senders = self.buffer, self.senders
        while senders and len(buffer) < self.capacity:
            sender = senders.popleft()
            if sender.selection is None:
                buffer.append(sender.value)
                self.hub.ready.append(sender)
            else:
                sender.selection.fire(sender, None)

    def watch_recv(self, case: Case) -> None:
        """A select waits for an item; or has it at once, if one has come since this end was tried."""
        item = self.take_nowait()
        if item is not EMPTY:
            case.selection.fire(case, item)
            return
        self.recvers.append(case)
        self._invite(case.selection)

    def _invite(self, inviter: Selection | None) -> None:
        """A receiver is about to wait: the select that waits longest on the Sender hears of it.

        Just one, or those behind would wait in a send that was to go through at once. *inviter*, a select on both
        ends of this channel, does not invite itself.
        """
        for case in list(self.senders):
            if case.selection is not inviter:
                self.senders.remove(case)
                if case.selection.fire(case, None):
                    return

    # -- sending

    def give_nowait(self, item: Any) -> bool:
        """Hand *item* to a waiting receiver, or buffer it. False: there is no room.

        :raises Halt: the channel has ended.
        """
        while self.recvers:
            if self.hand(self.recvers.popleft(), item):
                return True
        if len(self.buffer) < self.capacity:
            self.buffer.append(item)
            return True
        if self.halt is not None:
            raise self.halt(self._ended("send"))
        return False

    def wait_room(self, item: Any, timeout: float) -> None:
        """Wait until *item* is taken or buffered. Only for a Sender that found neither receiver nor room.

        :raises Timeout: it was not, in *timeout* ms, and will not be.
        """
        if self.halt is not None:
            raise self.halt(self._ended("send"))
        if self.senders and self.one_sender and _a_task_waits(self.senders):
            raise Busy(f"another task waits to send to this {self.kind}, which has one sender; see h.router")
        self.runner.line_up(self.senders, self, timeout, item)

    def has_room(self) -> bool:
        """Would a send go through at once?

        :raises Halt: the channel has ended.
        """
        if self.halt is not None:
            raise self.halt(self._ended("send"))
        return len(self.buffer) < self.capacity or (bool(self.recvers) and self._awaited(None))

    def watch_send(self, case: Case) -> None:
        """A select waits for room; or has it at once, if it has come since this end was tried."""
        if self.has_room() and (len(self.buffer) < self.capacity or self._awaited(case.selection)):
            case.selection.fire(case, None)
        else:
            self.senders.append(case)

    def _awaited(self, selection: Selection | None) -> bool:
        """Does anybody but *selection* wait to receive? Takes out dormant cases until that is known."""
        for recver in list(self.recvers):
            if recver.selection is None:
                return True
            if not recver.selection.live:
                self.recvers.remove(recver)
                recver.selection.fire(recver, None)
            elif recver.selection is not selection:
                return True
        return False

    # -- the end

    def close(self, halt: type[Halt] = Closed) -> None:
        """End the channel: wakes everybody who waits. What is buffered can still be received. Twice does nothing."""
        if self.halt is not None:
            return
        self.halt = halt
        self.capacity = -1
        self._fail_all()
        closers, self.closers = self.closers, []
        for f, args in closers:
            self.hub.guard(f, *args)

    def _fail_all(self) -> None:
        """Wake everybody who waits: the channel has ended."""
        assert self.halt is not None
        while self.recvers:
            self.fail(self.recvers.popleft(), self.halt(self._ended("receive")))
        while self.senders:
            self.fail(self.senders.popleft(), self.halt(self._ended("send")))

    def abandon_by_sender(self) -> None:
        """The Sender was dropped."""
        self._abandon()

    def abandon_by_recver(self) -> None:
        """The Recver was dropped: nobody can ever take what is buffered."""
        self._abandon()

    def _abandon(self) -> None:
        """An end was dropped. A collection may have come between any two lines of any task, and run us there.

        So who was about to park, and did so behind this, is woken at the edge; and closers, which may do anything, have
        to wait for it.
        """
        closers, self.closers = self.closers, []
        self.close(Abandoned)
        if self.hub.stopping:
            self._abandoned(closers)
        else:
            self.hub.at_edge(partial(self._abandoned, closers))

    def _abandoned(self, closers: list[tuple[Callable[..., object], tuple[Any, ...]]]) -> None:
        self._fail_all()
        for f, args in closers:
            self.hub.guard(f, *args)

    def onclose(self, f: Callable[..., object], *args: Any) -> None:
        """Call ``f(*args)`` when the channel ends; at once if it has."""
        if self.halt is None:
            self.closers.append((f, args))
        else:
            f(*args)

    def hand(self, waiter: Waiter, item: Any) -> bool:
        """Give *item* to a waiter that was taken out of its queue. False: it was dormant, and takes nothing."""
        if waiter.selection is None:
            waiter.value = item
            self.hub.ready.append(waiter)
            return True
        taken: bool = waiter.selection.fire(waiter, item)
        return taken

    def fail(self, waiter: Waiter, error: Exception) -> None:
        """Raise *error* at a waiter that was taken out of its queue."""
        if waiter.selection is None:
            waiter.error = error
            self.hub.ready.append(waiter)
        else:
            waiter.selection.fail(waiter, error)

    def _ended(self, verb: str) -> str:
        how = "was closed" if self.halt is Closed else "has lost its other end" if self.halt is Abandoned else "ended"
        return f"cannot {verb}: this {self.kind} {how}"

    # -- what a parked task is parked on

    def forget(self, waiter: Waiter) -> bool:
        """Take *waiter* out of the queues. Was it still waiting?"""
        for queue in self.recvers, self.senders:
            try:
                queue.remove(waiter)
                return True
            except ValueError:
                pass
        return False

    def describe(self, waiter: Waiter) -> str:
        verb = "recv" if waiter in self.recvers else "send"
        return f"{verb} on a {self.kind}"


class State(Channel):
    """A slot that holds the last value sent. Receiving reads it and leaves it there; every reader gets it.

    ``recvers`` and ``buffer`` stay empty and ``capacity`` is -1, so that the ends' fast paths lead here. Who waits
    for the first value stands in ``readers``.
    """

    __slots__ = ("readers", "traceback", "value")

    def __init__(self, hub: Hub) -> None:
        super().__init__(hub, -1, "state")
        self.value: Any = EMPTY
        self.traceback: TracebackType | None = None
        self.readers: deque[Waiter] = deque()

    def take_nowait(self) -> Any:
        if self.value is EMPTY and self.halt is not None:
            raise self.halt(self._ended("receive"))
        if isinstance(self.value, BaseException):
            # raised at every reader: each would otherwise add to the traceback
            self.value.__traceback__ = self.traceback
        return self.value

    def wait_many(self, most: int, timeout: float) -> list[Any]:
        return [self.wait_item(timeout)]

    def wait_item(self, timeout: float) -> Any:
        item = self.take_nowait()
        return self.runner.line_up(self.readers, self, timeout) if item is EMPTY else item

    def watch_recv(self, case: Case) -> None:
        item = self.take_nowait()
        if item is EMPTY:
            self.readers.append(case)
        else:
            case.selection.fire(case, item)

    def wait_room(self, item: Any, timeout: float) -> None:
        self.hub.check_thread()
        self.give_nowait(item)  # there is always room

    def give_nowait(self, item: Any) -> bool:
        self.has_room()
        self.value = item
        if isinstance(item, BaseException):
            self.traceback = item.__traceback__
        while self.readers:
            self.hand(self.readers.popleft(), item)
        return True

    def has_room(self) -> bool:
        if self.halt is not None:
            raise self.halt(self._ended("send"))
        return True

    def clear(self) -> None:
        """Forget the value: receivers wait for the next one."""
        self.value = EMPTY
        self.traceback = None

    def _fail_all(self) -> None:
        assert self.halt is not None
        while self.readers:
            self.fail(self.readers.popleft(), self.halt(self._ended("receive")))

    def forget(self, waiter: Waiter) -> bool:
        try:
            self.readers.remove(waiter)
        except ValueError:
            return False
        return True

    def describe(self, waiter: Waiter) -> str:
        return "recv on a state"


class Value(State):
    """A slot that is set once: to set it ends the sending, and what was set stays to be read."""

    __slots__ = ()

    def __init__(self, hub: Hub) -> None:
        super().__init__(hub)
        self.kind = "value"

    def give_nowait(self, item: Any) -> bool:
        super().give_nowait(item)
        self.close()
        return True

    def _ended(self, verb: str) -> str:
        return super()._ended(verb) if self.value is EMPTY else f"cannot {verb}: this value is set already"

    def describe(self, waiter: Waiter) -> str:
        return "recv on a value"


def _a_task_waits(queue: deque[Waiter]) -> bool:
    """Does a task stand in *queue*, and not only selects?"""
    for waiter in queue:  # noqa: SIM110 (a generator would cost more than all the rest)
        if waiter.selection is None:
            return True
    return False

"""Channels: one state, two kinds of end.

Pipe, queue, dealer, router and channel are one :class:`Channel` with another capacity and another number of tasks
that may wait at an end. An end holds no state of its own. It keeps references to the state's deques, because that is
where the time goes: an end that asks the state for each message costs four times as much.

The rule of every operation: ``*_nowait`` decides, and the blocking form adds nothing but the waiting. A hand-over
puts the item into the waiter's slot and the waiter into ``ready``; nobody is switched to.

Invariants of a Channel:
1. Who stands in ``recvers`` or ``senders`` is parked, or a `Case` of a parked select, and stands there once. Whoever
   wakes a waiter takes it out first, so "was it still in there?" is the whole answer to "did the timeout come too
   late?".
2. If ``recvers`` is not empty, then ``buffer`` is empty and no task is parked in ``senders`` (only selects may be).
3. Tasks are parked in ``senders`` only while ``buffer`` holds ``capacity`` items.
4. Once ``halt`` is set, ``capacity`` is -1 and nobody is parked: the fast paths need not ask whether the channel is
   open.
5. A channel refers to its ends nowhere, so that a dropped end is noticed (`Abandoned`).
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from operator import index
from typing import TYPE_CHECKING, Any, Callable

from .deadline import Deadline
from .exception import Abandoned, Busy, Closed, Halt, Timeout

if TYPE_CHECKING:
    from types import TracebackType

    from .core import Hub, Task

log = logging.getLogger("vanilla")

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
        #: A Task, or an Outsider.
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

    def forget(self, task: Task) -> bool:
        """Withdraw every case. Was the task still waiting?"""
        live, self.live = self.live, False
        cases, self.cases = self.cases, []
        for case in cases:
            case.state.forget(case)
        return live

    def describe(self, task: Task) -> str:
        return "select({})".format(", ".join(case.state.describe(case) for case in self.cases))


Waiter = Any  # a Task, an Outsider or a Case


class Channel:
    """The state between a Sender and a Recver.

    :param hub: whose tasks use it.
    :param capacity: how many items it holds while nobody receives; 0 is a rendezvous.
    :param kind: its name in errors and dumps.
    :param one_sender: a second task that waits to send is an error (`Busy`).
    :param one_recver: likewise for receiving.
    """

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
        self.closers: list[Callable[[], object]] = []

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
        for case in self.senders:
            if case.selection is not inviter:
                self.senders.remove(case)
                case.selection.fire(case, None)
                return

    # -- sending

    def give_nowait(self, item: Any) -> bool:
        """Hand *item* to a waiting receiver, or buffer it. False: there is no room.

        :raises Halt: the channel has ended.
        """
        if self.recvers:
            recver = self.recvers.popleft()
            if recver.selection is None:
                recver.value = item
                self.hub.ready.append(recver)
            else:
                recver.selection.fire(recver, item)
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
        return bool(self.recvers) or len(self.buffer) < self.capacity

    def watch_send(self, case: Case) -> None:
        """A select waits for room; or has it at once, if it has come since this end was tried."""
        others = any(recver.selection is not case.selection for recver in self.recvers)
        if self.has_room() and (others or len(self.buffer) < self.capacity):
            case.selection.fire(case, None)
        else:
            self.senders.append(case)

    # -- the end

    def close(self, halt: type[Halt] = Closed) -> None:
        """End the channel: wakes everybody who waits. What is buffered can still be received. Twice does nothing."""
        if self.halt is not None:
            return
        self.halt = halt
        self.capacity = -1
        self._fail_all()
        closers, self.closers = self.closers, []
        for closer in closers:
            self.hub.guard(closer)

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
        self.close(Abandoned)
        # A collection may strike between a task's last look at ``halt`` and its parking, and run us there.
        self.hub.at_edge(self._fail_all)

    def onclose(self, closer: Callable[[], object]) -> None:
        """Call *closer* when the channel ends; at once if it has."""
        if self.halt is None:
            self.closers.append(closer)
        else:
            closer()

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
            reader = self.readers.popleft()
            if reader.selection is None:
                reader.value = item
                self.hub.ready.append(reader)
            else:
                reader.selection.fire(reader, item)
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


def _a_task_waits(queue: deque[Waiter]) -> bool:
    """Does a task stand in *queue*, and not only selects?"""
    for waiter in queue:  # noqa: SIM110 (a generator would cost more than all the rest)
        if waiter.selection is None:
            return True
    return False


class End:
    """What Sender and Recver have in common.

    An end closes its channel with ``close()`` or at the end of a ``with`` block. Dropped without that, it leaves the
    other end `Abandoned`: at once on CPython, whenever the garbage collector comes by on PyPy.
    """

    __slots__ = ("__weakref__", "_state")

    def __init__(self, state: Any) -> None:
        self._state = state

    @property
    def hub(self) -> Hub:
        """The hub whose tasks use this end."""
        hub: Hub = self._state.hub
        return hub

    @property
    def halted(self) -> bool:
        """Has the channel ended? A Recver may still hold buffered items."""
        return self._state.halt is not None

    def close(self) -> None:
        """End the channel. The other end can still receive what is buffered. Twice does nothing."""
        self.hub.check_thread()
        self._state.close()

    def onclose(self, closer: Callable[[], object]) -> None:
        """Call *closer*, without arguments, when the channel ends; at once if it has ended."""
        self._state.onclose(closer)

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of a {self._state.kind}{' (ended)' if self.halted else ''}>"


class Sender(End):
    """The end that sends."""

    __slots__ = ("_buffer", "_ready", "_recvers")

    def __init__(self, state: Any) -> None:
        super().__init__(state)
        self._buffer: deque[Any] = state.buffer
        self._recvers: deque[Waiter] = state.recvers
        self._ready = state.hub.ready

    def send(self, item: Any, timeout: float = -1) -> None:
        """Send *item*; wait while the channel is full.

        :param item: any object. An exception is raised at the receiver.
        :param timeout: ms to wait, -1 for ever, 0 not at all.
        :raises Timeout: the item was not sent.
        :raises Halt: the channel has ended (`Closed`, `Abandoned`) or the hub has (`Stop`).
        """
        if self._recvers:
            recver = self._recvers.popleft()
            if recver.selection is None:
                recver.value = item
                self._ready.append(recver)
            else:
                recver.selection.fire(recver, item)
        elif len(self._buffer) < self._state.capacity:
            self._buffer.append(item)
        else:
            self._state.wait_room(item, timeout)

    def send_many(self, items: Iterable[Any], timeout: float = -1) -> None:
        """Send each of *items*, in order; wait while the channel is full.

        :param items: a list or tuple goes as fast as can be; of another iterable each item is sent as it comes.
        :param timeout: ms to wait for all of them together, -1 for ever, 0 not at all.
        :raises: what `send` raises, or *items*; the exception's ``sent`` says how many were sent before. (Of one that
            a signal handler raised in the middle, how many at least.)
        """
        sent = 0
        try:
            deadline = Deadline(timeout)
            if isinstance(items, (list, tuple)):
                while sent < len(items):
                    sent += self._send_run(items, sent) or self._send_one(items[sent], deadline)
            else:
                for item in items:
                    sent += self._send_one(item, deadline)
        except BaseException as error:
            error.sent = sent  # type: ignore[attr-defined]
            raise

    def _send_run(self, items: Sequence[Any], start: int) -> int:
        """Send as many of *items* from index *start* on as go at once: how many; 0 if one alone may."""
        if self._recvers:
            return 0
        room = self._state.capacity - len(self._buffer)
        run = items[start : start + room] if room > 0 else ()
        self._buffer.extend(run)
        return len(run)

    def _send_one(self, item: Any, deadline: Deadline) -> int:
        self.send(item, deadline.left())
        return 1

    def clear(self) -> None:
        """Forget the value of a `state`.

        :raises TypeError: this channel is not a state.
        """
        if not isinstance(self._state, State):
            raise TypeError(f"only a state can be cleared, this is a {self._state.kind}")
        self._state.clear()

    def _try(self) -> Any:
        return None if self._state.has_room() else EMPTY

    def _watch(self, selection: Selection, end: Any) -> Case:
        case = Case(selection, end, self._state)
        self._state.watch_send(case)
        return case

    def __del__(self) -> None:
        try:
            if self._state.halt is None and not self._state.hub.forked:
                self._state.abandon_by_sender()
        except AttributeError:
            pass  # __init__ did not get as far


class Recver(End):
    """The end that receives. Iterating over it receives until the channel ends."""

    __slots__ = ("_buffer", "_ready", "_senders")

    def __init__(self, state: Any) -> None:
        super().__init__(state)
        self._buffer: deque[Any] = state.buffer
        self._senders: deque[Waiter] = state.senders
        self._ready = state.hub.ready

    def recv(self, timeout: float = -1) -> Any:
        """The next item; wait while there is none.

        :param timeout: ms to wait, -1 for ever, 0 not at all.
        :raises Timeout: nothing came; nothing is lost.
        :raises Halt: the channel has ended and is drained.
        :raises Exception: whatever exception the other end sent.
        """
        if self._buffer:
            item = self._buffer.popleft()
            if self._senders:
                self._state.admit()
        elif self._senders and self._senders[0].selection is None:
            sender = self._senders.popleft()
            item = sender.value
            self._ready.append(sender)
        else:
            item = self._state.wait_item(timeout)
        if not isinstance(item, BaseException):
            return item
        try:
            raise item
        finally:
            del item  # or error, traceback and this frame are a cycle; see core, invariant 4

    def recv_many(self, most: int, timeout: float = -1) -> list[Any]:
        """The next items: at least one, for which it waits, and up to *most* if more are there.

        All of them are handed out at once: what a plain `recv` from a broker's endpoint acknowledges is here the list.

        :param most: 1 or more.
        :param timeout: ms to wait, -1 for ever, 0 not at all.
        :raises Timeout: nothing came; nothing is lost.
        :raises Halt: the channel has ended and is drained.
        :raises Exception: whatever exception the other end sent, when it is its turn.
        """
        count = index(most)
        if count < 1:
            raise ValueError("recv_many receives one item or more")
        items = self._state.wait_many(count, timeout)
        if not isinstance(items[0], BaseException):
            return items
        try:
            raise items[0]
        finally:
            del items  # as in `recv`

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        # No generator: its frame would keep the last item alive while this waits for the next.
        try:
            return self.recv()
        except Halt:
            raise StopIteration from None

    def pipe(self, target: Sender | Pair | Callable[[Recver, Sender], object]) -> Recver | None:
        """Forward all that comes.

        :param target: a Sender or Pair, which gets every item and is closed when this end is done, unless it is made
            for many senders (`router`, `channel`, `state`); or a callable, which is run in a task with two arguments,
            this Recver and a Sender, to filter or change what passes.
        :return: the Recver of the callable's output, or of the Pair; None for a Sender.
        """
        hub = self.hub
        if callable(target):
            sender, recver = hub.pipe()
            hub.spawn(run_stage, target, self, sender)
            return recver
        hub.spawn(forward, self, target.sender if isinstance(target, Pair) else target)
        return target.recver if isinstance(target, Pair) else None

    def map(self, f: Callable[[Any], Any]) -> Recver:
        """A Recver of ``f(item)`` for each item. What *f* raises is raised there, and the next item goes on."""
        recver = self.pipe(_Map(f))
        assert recver is not None
        return recver

    def consume(self, f: Callable[[Any], object]) -> Task:
        """Call ``f(item)`` for each item, one at a time, in a task of its own.

        What *f* raises is logged with its traceback, and the next item goes on.

        :return: the task; it is done when the channel ends.
        """
        return self.hub.spawn(drain, self, f)

    def _take(self) -> Any:
        """The next item as it was sent, an exception too."""
        return self._state.wait_item(-1)

    def _try(self) -> Any:
        return self._state.take_nowait()

    def _watch(self, selection: Selection, end: Any) -> Case:
        case = Case(selection, end, self._state)
        self._state.watch_recv(case)
        return case

    def __del__(self) -> None:
        try:
            if self._state.halt is None and not self._state.hub.forked:
                self._state.abandon_by_recver()
        except AttributeError:
            pass


class Pair:
    """A Sender and a Recver: the two ends of one channel, or of the two directions of a connection.

    It unpacks: ``sender, recver = h.pipe()``.
    """

    __slots__ = ("recver", "sender")

    def __init__(self, sender: Sender, recver: Recver) -> None:
        self.sender = sender
        self.recver = recver

    def __iter__(self) -> Iterator[Any]:
        yield self.sender
        yield self.recver

    def send(self, item: Any, timeout: float = -1) -> None:
        """`Sender.send`."""
        self.sender.send(item, timeout)

    def recv(self, timeout: float = -1) -> Any:
        """`Recver.recv`."""
        return self.recver.recv(timeout)

    def send_many(self, items: Iterable[Any], timeout: float = -1) -> None:
        """`Sender.send_many`."""
        self.sender.send_many(items, timeout)

    def recv_many(self, most: int, timeout: float = -1) -> list[Any]:
        """`Recver.recv_many`."""
        return self.recver.recv_many(most, timeout)

    def clear(self) -> None:
        """`Sender.clear`."""
        self.sender.clear()

    def pipe(self, target: Any) -> Any:
        """`Recver.pipe`, keeping this Sender in front: returns a Pair where `Recver.pipe` returns a Recver."""
        recver = self.recver.pipe(target)
        return None if recver is None else Pair(self.sender, recver)

    def map(self, f: Callable[[Any], Any]) -> Pair:
        """`Recver.map`, keeping this Sender in front."""
        return Pair(self.sender, self.recver.map(f))

    def consume(self, f: Callable[[Any], object]) -> Task:
        """`Recver.consume`."""
        return self.recver.consume(f)

    def onclose(self, closer: Callable[[], object]) -> None:
        """`End.onclose` of the Recver."""
        self.recver.onclose(closer)

    def close(self) -> None:
        """Close both ends."""
        self.sender.close()
        self.recver.close()

    def __enter__(self) -> Pair:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.sender!r} {self.recver!r}>"

    # in a select a Pair stands for its Recver
    def _try(self) -> Any:
        return self.recver._try()

    def _watch(self, selection: Selection, end: Any) -> Case:
        return self.recver._watch(selection, end)


def forward(upstream: Recver, downstream: Sender) -> None:
    """Move items until either side ends; then end the other. What many send to, one of them does not end."""
    shared = not getattr(downstream._state, "one_sender", True)
    if not shared:
        downstream.onclose(upstream.close)  # at once, not when the next item comes
    try:
        while True:
            downstream.send(upstream._take())
    except Halt:
        pass
    finally:
        if not shared:
            downstream.close()
        upstream.close()


def run_stage(f: Callable[[Recver, Sender], object], upstream: Recver, downstream: Sender) -> None:
    """One callable between two channels. When it is done, or a side ends, both sides end."""
    downstream.onclose(upstream.close)
    try:
        f(upstream, downstream)
    except Halt:
        pass
    finally:
        downstream.close()
        upstream.close()


class _Map:
    """The callable that `Recver.map` puts between two channels."""

    def __init__(self, f: Callable[[Any], Any]) -> None:
        self.f = f
        self.__qualname__ = f"map of {getattr(f, '__qualname__', f)}"

    def __call__(self, upstream: Recver, downstream: Sender) -> None:
        while True:
            downstream.send(self.apply(upstream._take()))

    def apply(self, item: Any) -> Any:
        if isinstance(item, BaseException):
            return item
        try:
            return self.f(item)
        except Exception as error:
            return error


def drain(upstream: Recver, f: Callable[[Any], object]) -> None:
    """`Recver.consume`."""
    try:
        while True:
            _consume(f, upstream._take())  # no name for the item here: it would live until the next one comes
    except Halt:
        pass


def _consume(f: Callable[[Any], object], item: Any) -> None:
    if isinstance(item, BaseException):
        log.error("consume: an exception came through the channel", exc_info=item)
        return
    try:
        f(item)
    except Exception:
        log.exception("consume: %s raised; the next item goes on", getattr(f, "__qualname__", f))


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

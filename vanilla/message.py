"""The kinds of end, and what runs between channels: `pipe`, `map`, `consume`.

An end holds no state of its own, see `channel`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from operator import index
from typing import TYPE_CHECKING, Any, Callable

from .channel import Channel, Waiter
from .channel import State as Slot
from .cutter import LIMIT, Cutter
from .deadline import Deadline
from .exception import Halt, is_failure
from .selection import EMPTY, Case, Selection
from .tap import Tap
from .task import check_callable
from .traces import clear_frames

if TYPE_CHECKING:
    from .core import Hub, Task


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

    @property
    def _keeps(self) -> bool:
        """Of a `Case` for this end."""
        keeps: bool = self._state.keeps_cases
        return keeps

    def close(self) -> None:
        """End the channel. The other end can still receive what is buffered. Twice does nothing."""
        self.hub.check_thread()
        self._state.close()

    def onclose(self, f: Callable[..., object], *args: Any) -> None:
        """Call ``f(*args)`` when the channel ends; at once if it has ended. It must not wait."""
        self._state.onclose(f, *args)

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
            elif not recver.selection.fire(recver, item):  # dormant
                del recver  # it refers to the other end, which may be dropped while this one waits
                if not self._state.give_nowait(item):
                    self._state.wait_room(item, timeout)
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
            if type(items) is list and len(items) == 1:
                self.send(items[0], timeout)  # else one large message would cost more so than alone
                return
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
        if not isinstance(self._state, Slot):
            raise TypeError(f"only a state can be cleared, this is a {self._state.kind}")
        self._state.clear()

    def _try(self) -> Any:
        return None if self._state.has_room() else EMPTY

    def _case(self, selection: Selection, end: Any) -> Case:
        return Case(selection, end, self._state, True)

    def __del__(self) -> None:
        try:
            if self._state.halt is None and not self._state.hub.forked:
                self._state.hub.dropped(self._state.abandon_by_sender)
        except AttributeError:
            pass  # __init__ did not get as far


class Recver(End):
    """The end that receives. Iterating over it receives until the channel ends."""

    __slots__ = ("_buffer", "_plain", "_ready", "_senders")

    def __init__(self, state: Any) -> None:
        self._state = state  # in place of End.__init__: there is one of these for each call in a thread
        self._buffer: deque[Any] = state.buffer
        self._senders: deque[Waiter] = state.senders
        self._ready = state.hub.ready
        #: A type that is no exception's: that of the last item. Most channels carry one type, and need not ask again.
        self._plain: type = type(None)

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
        if type(item) is self._plain:
            return item
        if not issubclass(type(item), BaseException):  # isinstance, to say no, looks up the item's __class__ besides
            self._plain = type(item)
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
        if count == 1:
            return [self.recv(timeout)]  # likewise
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
        into = getattr(target, "sender", target)  # a Pair's, a broadcast's
        if not isinstance(into, Sender):
            if not callable(target):
                raise TypeError(f"pipe takes a Sender, a Pair or a callable, not {target!r}")
            sender, recver = hub.pipe()
            hub.spawn(run_stage, target, self, sender)
            return recver
        hub.spawn(forward, self, into)
        return target.recver if isinstance(target, Pair) else None

    def map(self, f: Callable[[Any], Any]) -> Recver:
        """A Recver of ``f(item)`` for each item. What *f* raises is raised there, and the next item goes on."""
        check_callable(f)
        recver = self.pipe(_Map(f))
        assert recver is not None
        return recver

    def consume(self, f: Callable[[Any], object]) -> Task:
        """Call ``f(item)`` for each item, one at a time, in a task of its own.

        What *f* raises is logged with its traceback, and the next item goes on.

        :return: the task; it is done when the channel ends.
        """
        check_callable(f)
        return self.hub.spawn(drain, self, f)

    def _take(self) -> Any:
        """The next item as it was sent, an exception too."""
        return self._state.wait_item(-1)

    def _try(self) -> Any:
        return self._state.take_nowait()

    def _case(self, selection: Selection, end: Any) -> Case:
        return Case(selection, end, self._state, False)

    def __del__(self) -> None:
        try:
            if self._state.halt is None and not self._state.hub.forked:
                self._state.hub.dropped(self._state.abandon_by_recver)
        except AttributeError:
            pass


class Stream(Recver):
    """The Recver of a byte stream: receives pieces as they come, or cuts them out by length or separator.

    Reads on demand: while nobody receives, what the peer sends waits where it is. One task at a time may receive
    (`Busy`). At its end `Closed` is raised once all was received; bytes that are too few for `recv_n` or an unfinished
    line are left for `recv`. A connection that broke raises `ConnectionLost`, which does not end an iteration in
    silence.

    >>> import vanilla
    >>> with vanilla.Hub() as h:
    ...     sender, recver = h.queue(10)
    ...     stream = Stream(recver)
    ...     sender.send(b"one\\ntw")
    ...     sender.send("o\\n...")
    ...     stream.recv_line(), stream.recv_line(), stream.recv_n(2), stream.recv()
    (b'one', b'two', b'..', b'.')
    """

    __slots__ = ("limit", "sep")

    _state: Cutter

    def __init__(self, recver: Recver | Cutter, sep: bytes | str = b"\n") -> None:
        """
        :param recver: whose items are cut: bytes, and str as UTF-8. An exception among them is raised where it comes.
            It belongs to this Stream from now on, and ends with it. (What builds transports gives a `Cutter` of its
            own.)
        :param sep: what ends a line.
        :raises TypeError: *recver* is no Recver, or one that gives its last item again and again (`Hub.state`).
        """
        if not isinstance(recver, Cutter):
            if not isinstance(recver, Recver) or isinstance(recver._state, Slot):
                raise TypeError(f"a Stream is made of a Recver that gives each item once, not of {recver!r}")
            recver = Tap(recver)
        super().__init__(recver)
        #: What ends a line for `recv_line`.
        self.sep = sep
        #: Bytes of a line at most, without its separator.
        self.limit = LIMIT

    def recv_n(self, n: int, timeout: float = -1) -> bytes:
        """Exactly *n* bytes.

        :param timeout: ms, -1 for ever, 0: only if they are there.
        :raises Timeout: there are fewer yet. They are kept for the next call, whichever that is.
        :raises Closed: the stream has ended with fewer.
        :raises ConnectionLost: the connection broke.
        """
        if n < 0:
            raise ValueError(f"cannot receive {n} bytes")
        if n == 0:
            return b""
        got = self._state.receive(partial(self._state.exactly, n), timeout)
        return got if got.__class__ is bytes else _raise(got)

    def recv_partition(self, sep: bytes | str, timeout: float = -1) -> bytes:
        """What comes before the next *sep*, which is taken and left out.

        :param sep: bytes, or str in UTF-8; not empty.
        :param timeout: ms, -1 for ever, 0: only if it is there.
        :raises Timeout: no *sep* yet. What came is kept for the next call, whichever that is.
        :raises TooLong: no *sep* within ``limit`` bytes. Nothing is lost.
        :raises Closed: the stream has ended without.
        :raises ConnectionLost: the connection broke.
        """
        sep = sep.encode() if isinstance(sep, str) else bytes(sep)
        if not sep:
            raise ValueError("the separator is empty")
        got = self._state.receive(partial(self._state.line_by, sep, self.limit), timeout)
        return got if got.__class__ is bytes else _raise(got)

    def recv_line(self, timeout: float = -1) -> bytes:
        """`recv_partition` by ``sep``, which is a newline unless set."""
        return self.recv_partition(self.sep, timeout)

    def _try(self) -> Any:
        self._state.breathe()  # a select is a wait, though this end may be ready each time
        return super()._try()


def _raise(error: BaseException) -> Any:
    try:
        raise error
    finally:
        del error  # as in `Recver.recv`


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

    def onclose(self, f: Callable[..., object], *args: Any) -> None:
        """`End.onclose` of the Recver."""
        self.recver.onclose(f, *args)

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

    def _case(self, selection: Selection, end: Any) -> Case:
        return self.recver._case(selection, end)

    @property
    def _keeps(self) -> bool:
        return self.recver._keeps


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
    except Exception as error:
        if shared:
            raise  # it is logged: the others go on
        raise_at(downstream, forward, error)
    finally:
        if not shared:
            downstream.close()
        upstream.close()


def run_stage(f: Callable[[Recver, Sender], object], upstream: Recver, downstream: Sender) -> None:
    """One callable between two channels. When it is done, or a side ends, both sides end.

    What it raises is raised at who receives from it: an iteration would otherwise end as if all had come.
    """
    downstream.onclose(upstream.close)
    try:
        f(upstream, downstream)
    except Halt:
        pass
    except BaseException as error:
        if not is_failure(error):
            raise
        raise_at(downstream, f, error)
    finally:
        downstream.close()
        upstream.close()


def raise_at(sender: Sender, f: Callable[..., object], error: BaseException) -> None:
    """Send *error*, which *f* has raised; if nobody is left to receive it, log it. To be called where it is caught."""
    # without its frames' locals: an end in there would not count as dropped as long as the error is kept
    clear_frames(error.__traceback__)
    try:
        sender.send(error)
    except (Halt, TypeError):  # one of bytes, or to another process, takes none
        sender.hub.failed(f, error)


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
        except BaseException as error:
            if not is_failure(error):
                raise
            return error


def drain(upstream: Recver, f: Callable[[Any], object]) -> None:
    """`Recver.consume`."""
    try:
        while True:
            _consume(
                upstream.hub, f, upstream._take()
            )  # no name for the item here: it would live until the next one comes
    except Halt:
        pass


def _consume(hub: Hub, f: Callable[[Any], object], item: Any) -> None:
    if isinstance(item, BaseException):
        hub.failed(f, item, ", or was sent, the exception that came through its channel")
        return
    try:
        f(item)
    except BaseException as error:
        if not is_failure(error):
            raise
        hub.failed(f, error, "; the next item goes on")


# -- what makes channels, by the names that Vanilla's documentation has; the Hub's methods call these


def Pipe(hub: Hub) -> Pair:
    """`Hub.pipe`."""
    return pair(Channel(hub, 0, "pipe", one_sender=True, one_recver=True))


def Dealer(hub: Hub) -> Pair:
    """`Hub.dealer`."""
    return pair(Channel(hub, 0, "dealer", one_sender=True))


def Router(hub: Hub) -> Pair:
    """`Hub.router`."""
    return pair(Channel(hub, 0, "router", one_recver=True))


def Queue(hub: Hub, size: int) -> Pair:
    """`Hub.queue`."""
    if size < 1:
        raise ValueError("a queue holds at least 1 item; for a rendezvous use pipe or channel")
    return pair(Channel(hub, size, "queue", one_sender=True, one_recver=True))


def State(hub: Hub, *value: Any) -> Pair:
    """`Hub.state`."""
    slot = Slot(hub)
    if value:
        (slot.value,) = value
    return pair(slot)


def pair(state: Channel) -> Pair:
    """Both ends of a channel."""
    return Pair(Sender(state), Recver(state))

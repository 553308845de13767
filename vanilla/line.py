"""What the ends of a byte stream refer to: the descriptor, and the state of each direction.

A connection is two channels, one for each direction. Each has only its local end; the state of that end is an `Input`
or an `Output`, which speak the protocol that `message.Recver` and `message.Sender` expect of a channel's state, with
the fast paths of the ends kept off (``buffer`` and the other side's queue are always empty, ``capacity`` is -1). What
the two share is the `Line`: the descriptor and the interest in it.

Invariants:
1. Nothing is read unless somebody receives, and then at most `CHUNK` bytes at a time. Nothing is read after the end.
2. At most one task is parked in ``Input.recvers``, and ``Input.cut`` is what it waits for; selects may stand there
   besides.
3. While somebody stands in ``Input.recvers``, ``Input.data`` does not satisfy the first of them.
4. At most one item is in ``Output.pending``, as views on what was sent. Tasks are parked in ``Output.senders`` only
   while it is.
5. The descriptor is closed once, when both directions are done: an Input by its end or by being closed, an Output by
   being closed and flushed, either by the loss of the connection. So a Recver that has come to its end holds no
   descriptor.
6. The line counts in ``poll.live`` while anybody waits or something is pending, and `Poll` knows of it at least then.
   Interest in reading that nobody has any more is withdrawn only when it fires: who receives again and again costs no
   system call.
"""

from __future__ import annotations

import logging
import socket
from collections import deque
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any, Callable

from .exception import Abandoned, Busy, Closed, ConnectionLost, Forked, Halt, Stop, Timeout
from .outbox import IOV_MAX
from .poll import GONE, IN, OUT
from .selection import EMPTY, Case

if TYPE_CHECKING:
    from .core import Hub
    from .timers import Timer

log = logging.getLogger("vanilla")

#: Bytes read at once at most.
CHUNK = 65536
#: Bytes of a line at most, unless the stream's ``limit`` is set.
LIMIT = 16 * 1024 * 1024
#: Reads, or writes, that go through at once before everyone else has a turn: the peer may be faster than we are.
STREAK = 16
#: ms for the last item to make progress after both ends are gone.
LINGER = 30_000


class TooLong(ValueError):
    """There is no separator within the stream's limit. What was read is still there: `Stream.recv` takes it."""


Transport = Any  # a socket.socket, a stream.Descriptor, or what else has its methods


class Line:
    """A descriptor, what its two directions want of it, and its end."""

    __slots__ = ("events", "fd", "hub", "input", "live", "name", "output", "streak", "timer", "transport")

    def __init__(self, hub: Hub, transport: Transport, name: str) -> None:
        self.hub = hub
        self.transport = transport
        #: For people.
        self.name = name
        #: -1 once closed.
        self.fd: int = transport.fileno()
        self.input: Input | None = None
        self.output: Output | None = None
        #: What `Poll` waits for; 0: it does not know of us.
        self.events = 0
        #: Do we count in ``poll.live``?
        self.live = False
        #: Reads and writes since somebody else had a turn.
        self.streak = 0
        #: Runs after both ends are gone while something is pending.
        self.timer: Timer | None = None

    def breathe(self) -> None:
        """Called by tasks before they read or write: from time to time it lets everyone else run first."""
        if self.streak >= STREAK:
            self.streak = 0
            self.hub.sleep(0)

    def want(self, events: int) -> None:
        """Somebody is about to wait for *events*."""
        if self.hub.stopping:
            raise Stop("the hub was stopped")
        if self.hub.forked:
            raise Forked(f"{self.name} belongs to the process that this one was forked from")
        self.streak = 0
        if events & ~self.events:
            self._poll(self.events | events)
        if not self.live:
            self.live = True
            self.hub.poll.live += 1

    def relax(self) -> None:
        """Somebody may have stopped waiting."""
        if self.live and not self._wanted():
            self.live = False
            self.hub.poll.live -= 1

    def _wanted(self) -> int:
        events = IN if self.input is not None and self.input.recvers else 0
        output = self.output
        if output is not None and (output.pending or output.senders or (output.halt is not None and not output.done)):
            events |= OUT
        return events

    def _poll(self, events: int) -> None:
        before, self.events = self.events, events
        if self.hub.forked or events == before:
            pass  # a forked child shares the parent's epoll, and must not touch it
        elif not before:
            self.hub.poll.register(self.fd, self._ready, events, background=True)
        elif not events:
            self.hub.poll.unregister(self.fd)
        else:
            self.hub.poll.modify(self.fd, events)

    def _ready(self, events: int) -> None:
        self.streak = 0
        unwanted = events & ~self._wanted()
        if self.input is not None and events & (IN | GONE):
            self.input.readable()
        if self.output is not None and events & (OUT | GONE):
            self.output.writable()
        if self.fd < 0:
            return
        keep = self._wanted()
        if not unwanted:
            keep |= self.events & IN  # invariant 6
        self._poll(keep)
        self.relax()

    def lose(self, error: OSError) -> ConnectionLost:
        """The descriptor failed: what to raise for it."""
        return ConnectionLost(f"{self.name}: {(error.strerror or str(error)).lower()}")

    def settle(self) -> None:
        """A direction may be done: close the descriptor if both are (invariant 5)."""
        if self.fd < 0 or (self.input is not None and self.input.halt is None):
            return
        if self.output is None or self.output.done:
            self.close()
        elif self.output.halt is not None and self.timer is None:
            self._linger(self.output)

    def _linger(self, output: Output) -> None:
        """Nobody is left to see to it that the last item leaves."""
        hub = self.hub
        if hub.stopping or hub.forked:
            self.close()
            return
        hub.onstop(self.close)
        self.timer = hub.after(LINGER, partial(self._give_up, output, output.left()))

    def _give_up(self, output: Output, before: int) -> None:
        left = output.left()
        if left < before:
            self.timer = self.hub.after(LINGER, partial(self._give_up, output, left))
        else:
            self.close()

    def close(self) -> None:
        """Close the descriptor. Twice does nothing."""
        if self.fd < 0:
            return
        if self.timer is not None:
            self.timer.cancel()
            self.hub.offstop(self.close)
        if self.output is not None and self.output.pending:
            log.warning("%s: closed; bytes not sent: %d", self.name, self.output.left())
        self._poll(0)
        if self.live:
            self.live = False
            self.hub.poll.live -= 1
        self.fd = -1
        self.transport.close()
        self.input = self.output = None  # so that no cycle is left for the garbage collector


class _Half:
    """What the state of either end has: the parts of a channel's state that do not depend on the direction."""

    __slots__ = ("__weakref__", "buffer", "closers", "error", "halt", "hub", "line", "recvers", "senders")

    capacity = -1
    kind = "stream"
    keeps_cases = False

    def __init__(self, line: Line) -> None:
        self.hub = line.hub
        self.line = line
        self.buffer: deque[Any] = deque()
        self.recvers: deque[Any] = deque()
        self.senders: deque[Any] = deque()
        self.halt: type[Halt] | None = None
        #: The failure that set ``halt``, if it was one.
        self.error: str | None = None
        #: What to call when it ends.
        self.closers: list[tuple[Callable[..., object], tuple[Any, ...]]] = []

    def ended(self, verb: str) -> Exception:
        """What to raise at who comes, or waits, after the end."""
        if self.error is not None:
            return ConnectionLost(self.error)
        return Closed(f"cannot {verb}: the stream {self.line.name} was closed")

    def onclose(self, f: Callable[..., object], *args: Any) -> None:
        """Call ``f(*args)`` when this direction ends; at once if it has. The end of an input is known once it is
        received."""
        if self.halt is None:
            self.closers.append((f, args))
        else:
            f(*args)

    def halted(self, error: ConnectionLost | None) -> None:
        self.halt = Closed
        self.error = None if error is None else str(error)
        closers, self.closers = self.closers, []
        for f, args in closers:
            self.hub.guard(f, *args)

    def fail(self, waiter: Any, error: Exception) -> None:
        if waiter.selection is None:
            waiter.error = error
            waiter.value = None
            self.hub.ready.append(waiter)
        else:
            waiter.selection.fail(waiter, error)


Cut = Callable[[], Any]


class Input(_Half):
    """What the Recver of a stream refers to."""

    __slots__ = ("cut", "data", "searched")

    def __init__(self, line: Line) -> None:
        super().__init__(line)
        line.input = self
        #: Read and not received.
        self.data = bytearray()
        #: A separator, and how far ``data`` was searched for it: a long line must not be searched again with each
        #: chunk.
        self.searched: tuple[bytes, int] = b"", 0
        #: Takes out of ``data`` what the parked task waits for, or gives EMPTY.
        self.cut: Cut | None = None

    # -- cuts

    def whole(self) -> Any:
        return self._take(len(self.data)) if self.data else EMPTY

    def exactly(self, size: int) -> Any:
        return self._take(size) if len(self.data) >= size else EMPTY

    def line_by(self, sep: bytes, limit: int) -> Any:
        before, start = self.searched
        if before != sep:
            start = 0
        at = self.data.find(sep, start, limit + len(sep))
        if at >= 0:
            found = self._take(at)
            del self.data[: len(sep)]
            return found
        if len(self.data) >= limit + len(sep):
            raise TooLong(f"{self.line.name}: no {sep!r} within the limit of {limit} bytes; see the limit of Stream")
        self.searched = sep, max(len(self.data) - len(sep) + 1, 0)
        return EMPTY

    def _take(self, size: int) -> bytes:
        data = self.data
        self.searched = b"", 0
        if size == len(data):
            taken = bytes(data)
            data.clear()
        else:
            taken = bytes(data[:size])
            del data[:size]
        return taken

    # -- receiving

    def take_nowait(self) -> Any:
        if self.recvers:
            return EMPTY  # they were here first
        if self.data:
            return self.whole()
        chunk = self._read() if self.halt is None else None
        if chunk is not None:
            return chunk
        if self.halt is not None:
            raise self.ended("receive")
        return EMPTY

    def wait_item(self, timeout: float) -> bytes:
        return self.receive(self.whole, timeout)

    def wait_many(self, most: int, timeout: float) -> list[bytes]:
        """A stream has no items: all that is there is one piece."""
        return [self.wait_item(timeout)]

    def receive(self, cut: Cut, timeout: float) -> bytes:
        """Wait until *cut* gives something."""
        if timeout != 0:
            self.line.breathe()
        if self.cut is not None:
            raise Busy(f"another task waits to receive from {self.line.name}; a stream has one receiver")
        got = self._attempt(cut)
        if got is EMPTY:
            if self.halt is not None:
                raise self.ended("receive")
            if timeout == 0:
                raise Timeout(f"not ready: recv from {self.line.name}")
            me = self.hub.me()
            self.line.want(IN)
            self.cut = cut
            self.recvers.append(me)
            got = self.hub.park(me, self, timeout)
        found: bytes = got
        return found

    def _attempt(self, cut: Cut) -> Any:
        got = cut()
        if got is EMPTY and self.halt is None and not self.recvers:
            chunk = self._read()
            if chunk is not None:
                if cut == self.whole:
                    return chunk
                self.data += chunk
                got = cut()
        return got

    def watch_recv(self, case: Case) -> None:
        if self.halt is None:
            self.line.want(IN)
        self.recvers.append(case)
        if self.data or self.halt is not None:
            self.serve()  # after this end of the select was tried, another of its ends let other tasks run

    def _read(self) -> bytes | None:
        """What is there, or None; then the stream may have ended."""
        try:
            chunk: bytes = self.line.transport.recv(CHUNK)
        except (BlockingIOError, InterruptedError):
            return None
        except OSError as error:
            self._lost(self.line.lose(error))
            return None
        if chunk:
            self.line.streak += 1
            return chunk
        output = self.line.output
        if output is not None and output.error is not None:
            self._lost(ConnectionLost(output.error))  # the kernel tells of a reset once, and it has told the sender
        else:
            self._end(None)
        return None

    def _lost(self, error: ConnectionLost) -> None:
        output = self.line.output
        if output is not None:
            output.lost(error)
        self._end(error)

    def _end(self, error: ConnectionLost | None) -> None:
        self.halted(error)
        self.line.settle()

    def readable(self) -> None:
        """The descriptor may have something."""
        if not self.recvers or self.halt is not None:
            return
        chunk = self._read()
        if chunk is not None:
            if not self.data and (self.cut is None or self.cut == self.whole):
                self._hand(self.recvers.popleft(), chunk)
                return
            self.data += chunk
        self.serve()

    def serve(self) -> None:
        """Give to who waits as much as can be had."""
        while self.recvers:
            waiter = self.recvers[0]
            cut = self.whole if waiter.selection is not None or self.cut is None else self.cut
            try:
                got = cut()
            except TooLong as error:
                self._withdraw(waiter)
                self.fail(waiter, error)
                continue
            if got is not EMPTY:
                self._hand(self.recvers.popleft(), got)
            elif self.halt is not None:
                self._withdraw(waiter)
                self.fail(waiter, self.ended("receive"))
            else:
                return

    def _hand(self, waiter: Any, got: bytes) -> None:
        if waiter.selection is None:
            self.cut = None
            waiter.value = got
            self.hub.ready.append(waiter)
        else:
            waiter.selection.fire(waiter, got)

    def _withdraw(self, waiter: Any) -> None:
        self.recvers.popleft()
        if waiter.selection is None:
            self.cut = None

    # -- the end

    def close(self, halt: type[Halt] = Closed) -> None:
        """Nothing more is read. What was can still be received."""
        if self.halt is None:
            self.halted(None)
            self.serve()
            self.line.settle()
            self.line.relax()

    def abandon_by_recver(self) -> None:
        self.close(Abandoned)

    # -- what a parked task is parked on

    def forget(self, waiter: Any) -> bool:
        try:
            self.recvers.remove(waiter)
        except ValueError:
            return False
        if waiter.selection is None:
            self.cut = None
            if self.data:
                self.serve()  # a select behind it, which is content with less
        self.line.relax()
        return True

    def describe(self, waiter: Any) -> str:
        return f"recv from {self.line.name}"


class Output(_Half):
    """What the Sender of a stream refers to."""

    __slots__ = ("done", "pending")

    def __init__(self, line: Line) -> None:
        super().__init__(line)
        line.output = self
        #: The rest of the item that was taken last.
        self.pending: deque[memoryview] = deque()
        #: Closed and flushed, or lost.
        self.done = False

    def left(self) -> int:
        """Bytes pending."""
        return sum(map(len, self.pending))

    # -- sending

    def has_room(self) -> bool:
        if self.halt is not None:
            raise self.ended("send")
        return not self.pending

    def give_nowait(self, item: Any) -> bool:
        """Take *item*, unless the one before is still pending."""
        views = _views(item)
        if not self.has_room():
            return False
        self._start(views)
        return True

    def wait_room(self, item: Any, timeout: float) -> None:
        """Wait until the item before is written; then take this one, and write as much of it as fits now."""
        views = _views(item)
        if timeout != 0:
            self.line.breathe()
        if self.has_room():
            self._start(views)
        elif timeout == 0:
            raise Timeout(f"not ready: send to {self.line.name}")
        else:
            self.line.want(OUT)
            self.hub.wait(self.senders, self, timeout, views)

    def watch_send(self, case: Case) -> None:
        if self.halt is None:
            self.line.want(OUT)
            self.senders.append(case)
        else:
            self.fail(case, self.ended("send"))

    def _start(self, views: deque[memoryview]) -> None:
        """
        :raises ConnectionLost: the item is not sent.
        """
        self.pending = views
        self._write()
        if self.error is not None:
            raise self.ended("send")
        if self.pending:
            self.pending = deque(view if view.readonly else memoryview(bytes(view)) for view in self.pending)
            self.line.want(OUT)

    def _write(self) -> None:
        """Write what fits, but not for ever: the peer may be faster than we are."""
        pending, transport = self.pending, self.line.transport
        for _ in range(STREAK):
            if not pending:
                return
            try:
                if len(pending) == 1:
                    sent = transport.send(pending[0])
                else:
                    sent = transport.sendmsg(list(islice(pending, IOV_MAX)))
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                self.lost(self.line.lose(error))
                return
            self.line.streak += 1
            _drop(pending, sent)

    def writable(self) -> None:
        """The descriptor may take something."""
        if self.pending:
            self._write()
        while self.senders and not self.pending and self.halt is None:
            sender = self.senders.popleft()
            if sender.selection is None:
                self._start_for(sender)
            else:
                sender.selection.fire(sender, None)
        if self.halt is not None and not self.pending:
            self._finish()

    def _start_for(self, sender: Any) -> None:
        views, sender.value = sender.value, None
        try:
            self._start(views)
        except (ConnectionLost, Halt) as error:
            sender.error = error
        self.hub.ready.append(sender)

    # -- the end

    def close(self, halt: type[Halt] = Closed) -> None:
        """Take nothing more. What is pending is written, then the peer is told of the end."""
        if self.halt is not None:
            return
        self.halted(None)
        self._fail_all()
        if self.hub.forked:
            self.pending.clear()  # it is the parent's to send
        elif self.hub.stopping:
            self._write()  # the last occasion
        if not self.pending:
            self._finish()
        else:
            self.line.settle()

    def abandon_by_sender(self) -> None:
        self.close(Abandoned)

    def lost(self, error: ConnectionLost) -> None:
        """The peer is gone; what is pending cannot reach it."""
        self.pending = deque()
        if self.done:
            return
        self.done = True
        if self.halt is None:
            self.halted(error)
        self._fail_all()
        self.line.settle()

    def _finish(self) -> None:
        if self.done:
            return
        self.done = True
        try:
            if not self.hub.forked:  # there, the connection is the parent's
                self.line.transport.shutdown(socket.SHUT_WR)
        except BlockingIOError:  # TLS has a last word, and no room for it yet
            self.done = self.hub.stopping
            if not self.done:
                self.line.want(OUT)
        except OSError:
            pass  # the peer was faster
        self.line.settle()
        self.line.relax()

    def _fail_all(self) -> None:
        while self.senders:
            self.fail(self.senders.popleft(), self.ended("send"))

    # -- what a parked task is parked on

    def forget(self, waiter: Any) -> bool:
        try:
            self.senders.remove(waiter)
        except ValueError:
            return False
        return True

    def describe(self, waiter: Any) -> str:
        return f"send to {self.line.name}"


def _views(item: Any) -> deque[memoryview]:
    """*item* as views of bytes, without empty ones."""
    parts = item if isinstance(item, (list, tuple)) else (item,)
    views: deque[memoryview] = deque()
    for part in parts:
        try:
            view = memoryview(part.encode() if isinstance(part, str) else part)
        except TypeError:
            raise TypeError(f"a stream sends bytes, str, or a list of those, not {type(part).__name__}") from None
        if view.nbytes:
            views.append(view if view.format == "B" and view.ndim == 1 and view.contiguous else view.cast("B"))
    return views


def _drop(views: deque[memoryview], sent: int) -> None:
    """*sent* bytes are written."""
    while sent:
        size = len(views[0])
        if sent < size:
            views[0] = views[0][sent:]
            return
        views.popleft()
        sent -= size

"""What the Sender of a byte stream refers to: one item under way, and who waits to send the next."""

from __future__ import annotations

import socket
from collections import deque
from itertools import islice
from typing import Any

from .cutter import NOTHING
from .exception import Abandoned, Closed, ConnectionLost, Halt, Timeout
from .line import CHUNK, STREAK, Half, Line
from .outbox import IOV_MAX
from .poll import OUT
from .selection import Case


class Output(Half):
    """The outgoing direction of a `Line`.

    At most one item is in ``pending``, as views on what was sent. Tasks are parked in ``senders`` only while it is.
    """

    __slots__ = (
        "__weakref__",
        "buffer",
        "closers",
        "done",
        "error",
        "halt",
        "hub",
        "line",
        "pending",
        "recvers",
        "senders",
    )

    def __init__(self, line: Line) -> None:
        self.hub = line.hub
        self.buffer = self.recvers = NOTHING
        #: A list, as `Cutter.recvers`.
        self.senders = []
        self.bind(line)
        line.output = self
        #: The rest of the item that was taken last.
        self.pending: deque[memoryview] = NOTHING
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
        if timeout != 0:
            self.line.breathe()
        if type(item) is bytes and item and not self.pending and self.halt is None:
            item = self._send(item)
            if not item:
                return
        views = _views(item)
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

    def _send(self, item: bytes) -> bytes | memoryview:
        """Write what fits of *item*, with nothing pending: one piece of bytes is what most send.

        :return: the rest.
        :raises ConnectionLost: the item is not sent.
        """
        line = self.line
        try:
            sent = line.transport.send(item)
        except (BlockingIOError, InterruptedError):
            return item
        except OSError as error:
            self.lost(line.lose(error))
            raise self.ended("send") from None
        line.streak += 1 + sent // CHUNK
        return b"" if sent == len(item) else memoryview(item)[sent:]

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
            self.line.streak += 1 + sent // CHUNK
            _drop(pending, sent)

    def writable(self) -> None:
        """The descriptor may take something."""
        if self.pending:
            self._write()
        while self.senders and not self.pending and self.halt is None:
            sender = self.senders.pop(0)
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
        self.pending = NOTHING
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
            self.fail(self.senders.pop(0), self.ended("send"))

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

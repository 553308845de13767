"""What a Stream receives from: the bytes that came and were not received, and who waits for which piece of them.

Where bytes come from is a matter of those who inherit: a descriptor (`input.Input`) or another Recver (`tap.Tap`). They
read when they are asked (`Cutter.more`), and call `Cutter.feed` when something comes while somebody waits (`want`).

Invariants:
1. Nothing is read unless somebody receives.
2. At most one task is parked in ``recvers``, and ``cut`` is what it waits for; selects may stand there besides.
3. While somebody stands in ``recvers``, ``data`` does not satisfy the first of them.
4. What was read is in ``data`` until it is handed out: a timeout, a cancel or an error takes nothing out of there.
5. No byte is searched or moved more often than a bounded number of times, however long a line is and in however many
   pieces it comes.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, Callable

from .exception import Busy, Halt, Timeout
from .selection import EMPTY, Case

if TYPE_CHECKING:
    from .core import Hub

#: Bytes of a line at most, unless the stream's ``limit`` is set.
LIMIT = 16 * 1024 * 1024

#: What nobody stands in, of any stream: the fast paths of its ends look there, and find it empty.
NOTHING: deque[Any] = deque(maxlen=0)

#: Takes a piece out of ``data``, or gives EMPTY.
Cut = Callable[[], Any]


class TooLong(ValueError):
    """There is no separator within the stream's limit. What was read is still there: `Stream.recv` takes it."""


class Cutter:
    """The state behind a Stream, as `message.Recver` expects a channel's, with the fast paths of the end kept off
    (``buffer`` and ``senders`` are always empty, ``capacity`` is -1)."""

    __slots__ = ("__weakref__", "breathe", "buffer", "cut", "data", "hub", "name", "recvers", "searched", "senders")

    capacity = -1
    keeps_cases = False

    def __init__(self, hub: Hub, name: str, breathe: Callable[[], object]) -> None:
        """
        :param name: where the bytes come from, for people.
        :param breathe: called by tasks that are about to receive: from time to time it may let everyone else run.
        """
        self.breathe = breathe
        self.hub = hub
        self.name = name
        self.buffer: deque[Any] = NOTHING
        self.senders: deque[Any] = NOTHING
        #: A list: an empty deque takes ten times the memory, and there are as many as connections.
        self.recvers: Any = []
        #: Read and not received.
        self.data = bytearray()
        #: A separator, and how far ``data`` was searched for it (invariant 5).
        self.searched: tuple[bytes, int] = b"", 0
        #: What the parked task waits for.
        self.cut: Cut | None = None

    # -- for those who inherit

    def more(self, cut: Cut, timeout: float) -> Any:
        """Read what there is without waiting, until *cut* gives something: that, or EMPTY.

        What is no bytes is an exception that was sent. It is given as it is.

        :param timeout: of the one who receives; 0: it may never give the loop a turn.
        :raises Exception: nothing will come any more, as `TooLong` of *cut*.
        """
        raise NotImplementedError

    def want(self) -> None:
        """Somebody has lined up in ``recvers``: from now on `feed`, `deal` or `refuse` is to be called."""
        raise NotImplementedError

    def relax(self) -> None:
        """Somebody has left ``recvers``: if nobody is there any more, nothing is to be read."""
        raise NotImplementedError

    # -- cuts

    def whole(self) -> Any:
        """All that is there."""
        return self._take(len(self.data), 0) if self.data else EMPTY

    def exactly(self, size: int) -> Any:
        """So many bytes."""
        return self._take(size, 0) if len(self.data) >= size else EMPTY

    def line_by(self, sep: bytes, limit: int) -> Any:
        """What is before *sep*, which goes.

        :raises TooLong: there is none within *limit* bytes.
        """
        before, start = self.searched
        if before != sep:
            start = 0
        at = self.data.find(sep, start, limit + len(sep))
        if at >= 0:
            return self._take(at, len(sep))
        if len(self.data) >= limit + len(sep):
            raise TooLong(f"{self.name}: no {sep!r} within the limit of {limit} bytes; see the limit of Stream")
        self.searched = sep, max(len(self.data) - len(sep) + 1, 0)
        return EMPTY

    def _take(self, size: int, skip: int) -> bytes:
        """The first *size* bytes; *skip* more go with them."""
        data = self.data
        self.searched = b"", 0
        taken = bytes(data) if size == len(data) else bytes(data[:size])
        if size + skip == len(data):
            data.clear()
        else:
            del data[: size + skip]
        return taken

    # -- receiving

    def take_nowait(self) -> Any:
        """All that is there, an exception that was sent, or EMPTY.

        :raises Exception: nothing will come any more.
        """
        if self.recvers:
            return EMPTY  # they were here first
        return self.whole() if self.data else self.more(self.whole, -1)

    def wait_item(self, timeout: float) -> Any:
        return self.receive(self.whole, timeout)

    def wait_many(self, most: int, timeout: float) -> list[Any]:
        """A stream has no items: all that is there is one piece."""
        return [self.wait_item(timeout)]

    def receive(self, cut: Cut, timeout: float) -> Any:
        """Wait until *cut* gives something: that, or an exception that was sent."""
        if timeout != 0:
            self.breathe()
        if self.cut is not None:
            raise Busy(f"another task waits to receive from {self.name}; a stream has one receiver")
        got = cut() if self.data else EMPTY
        if got is EMPTY and not self.recvers:
            got = self.more(cut, timeout)
        if got is not EMPTY:
            return got
        if timeout == 0:
            raise Timeout(f"not ready: recv from {self.name}")
        me = self.hub.me()
        self.cut = cut
        self.recvers.append(me)
        try:
            self.want()
            return self.hub.park(me, self, timeout)
        except BaseException as error:
            if not isinstance(error, (Timeout, Halt)):
                self.hub.runner.tidy(me, self)
            raise

    def watch_recv(self, case: Case) -> None:
        self.recvers.append(case)
        try:
            self.want()
        except BaseException:
            self.forget(case)
            raise
        if self.data:
            self.serve()  # after this end of the select was tried, another of its ends let other tasks run

    # -- what comes while somebody waits

    def feed(self, chunk: bytes) -> None:
        """*chunk* has come."""
        if self.data or not (self.cut is None or self.cut == self.whole):
            self.data += chunk
            self.serve()
            return
        waiter = self.recvers.pop(0)  # as `deal`: most of what comes goes this way
        if waiter.selection is None:
            self.cut = None
            waiter.value = chunk
            self.hub.ready.append(waiter)
        else:
            waiter.selection.fire(waiter, chunk)

    def serve(self) -> None:
        """Give to who waits as much as can be had."""
        while self.recvers:
            cut = self.whole if self.recvers[0].selection is not None or self.cut is None else self.cut
            try:
                got = cut()
            except TooLong as error:
                self.refuse(error)
                return
            if got is EMPTY:
                return
            self.deal(got)

    def deal(self, item: Any) -> None:
        """The first of those who wait gets *item*."""
        waiter = self._pop()
        if waiter.selection is None:
            waiter.value = item
            self.hub.ready.append(waiter)
        else:
            waiter.selection.fire(waiter, item)

    def refuse(self, error: Exception) -> None:
        """*error* is raised at the first of those who wait; the next may be content with what there is."""
        waiter = self._pop()
        if waiter.selection is None:
            waiter.error = error
            self.hub.ready.append(waiter)
        else:
            waiter.selection.fail(waiter, error)
        self.serve()

    def _pop(self) -> Any:
        waiter = self.recvers.pop(0)
        if waiter.selection is None:
            self.cut = None
        return waiter

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
        self.relax()
        return True

    def describe(self, waiter: Any) -> str:
        return f"recv from {self.name}"

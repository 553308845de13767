"""A streamed reply at the server: a Sender's channel, whose items go to the caller within the credit that it gives."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgpack

from vanilla.channel import Channel
from vanilla.exception import Closed, Halt, Timeout
from vanilla.message import Sender
from vanilla.protocol.frames import COUNTED_BYTES, END, PART, pack_control, pack_head

from .batch import RUN_BYTES, Batch, Message

if TYPE_CHECKING:
    from .router import RouterState

#: What the index of a part takes, at most.
INDEX_BYTES = 9


class StreamState(Channel):
    """One streamed reply. It is begun by an empty part, which asks for credit.

    Invariant: who waits in ``senders`` has its packed item in its slot, as in `push.PushState`.
    """

    __slots__ = ("_limit_b", "_limit_n", "_size", "batch", "n", "number", "router")

    def __init__(self, router: RouterState, number: int) -> None:
        super().__init__(router.hub, -1, f"stream of a reply: {router.kind}", one_sender=True)
        self.router = router
        self.number = number
        #: Items that were framed, and the bytes of all that were taken.
        self.n = self._size = 0
        self._limit_n = self._limit_b = 0
        self.batch = Batch()
        router.put_replies()
        self._put([], 0, 0)
        router.link.flush()

    # -- sending

    def wait_room(self, item: Any, timeout: float) -> None:
        if self.halt is not None:
            raise self.halt(self._ended("send"))
        message = self.router.pack(item, INDEX_BYTES)
        if self._fits_now():
            self._add(message)
        elif timeout == 0:
            raise Timeout(f"there is no room: send on a {self.kind}")
        else:
            self.runner.line_up(self.senders, self, timeout, message)

    def _fits_now(self) -> bool:
        """Is there room, perhaps once what was taken has left and the socket was looked at?"""
        if self.senders:
            return False
        if self._fits():
            return True
        self.frame()
        self.router.link.poll()
        if self.halt is not None:
            raise self.halt(self._ended("send"))
        return not self.senders and self._fits()

    def _fits(self) -> bool:
        if self.router.link.full:
            self.router.link.crowded = True
            return False
        return self.n + self.batch.count < self._limit_n and self._size < self._limit_b

    def _add(self, message: Message) -> None:
        if (
            self.batch.count
            and self.batch.size + message.size + INDEX_BYTES + COUNTED_BYTES > self.router.link.frame_limit
        ):
            self.frame()
        self.batch.add(message)
        self._size += message.size
        if self.batch.size >= RUN_BYTES:
            self.flush()
        else:
            self.router.link.dirty[self] = None

    def has_room(self) -> bool:
        if self.halt is not None:
            raise self.halt(self._ended("send"))
        return not self.senders and self._fits()

    def watch_send(self, case: Any) -> None:
        if self.has_room():
            case.selection.fire(case, None)
        else:
            self.senders.append(case)

    def credit(self, n: int, b: int) -> None:
        """The caller takes more."""
        self._limit_n = max(self._limit_n, n)
        self._limit_b = max(self._limit_b, b)
        self.serve()

    def serve(self) -> None:
        """Take the items of those who wait, as far as credit and output go."""
        while self.senders and self._fits():
            waiter = self.senders.popleft()
            if waiter.selection is None:
                self._add(waiter.value)
                waiter.value = None
                self.hub.ready.append(waiter)
            else:
                waiter.selection.fire(waiter, None)

    # -- frames

    def frame(self) -> None:
        """Move what was taken into the link's output, as one part."""
        count, size = self.batch.count, self.batch.size
        if count:
            self._put(self.batch.take(), count, size)
            self.n += count

    def _put(self, parts: list[Any], count: int, size: int) -> None:
        index = msgpack.packb(self.n)
        head = pack_head(PART, self.router.id, self.number, count + 1, len(index) + size)
        self.router.link.put(head + index, *parts)

    def emit(self) -> bool:
        self.frame()
        return False

    def flush(self) -> None:
        """Send what was taken, now."""
        self.frame()
        self.router.link.flush()

    # -- the end

    def close(self, halt: type[Halt] = Closed) -> None:
        if self.halt is None:
            self.frame()
            self.stop()
            self.router.streams.pop(self.number, None)
            if self.router.take_over(self.number):
                self.router.link.put(pack_control(END, self.router.id, self.number, {"n": self.n}))
                self.router.link.dirty[self.router] = None
                self.hub.at_edge(self.router.link.edge)

    def stop(self) -> None:
        """Nobody wants it any more."""
        if self.halt is None:
            self.router.link.dirty.pop(self, None)
            super().close()

    def abandon_by_sender(self) -> None:
        """It was dropped, anywhere, without its end: the caller hears of that."""
        router, number = self.router, self.number
        if self.halt is None:
            self.hub.at_edge(lambda: router.forsake(number, "the server has dropped this stream before its end"))

    def abort(self, error: BaseException) -> None:
        """Whoever sends has raised *error*: the caller is not to take what came for all."""
        if self.halt is None:
            self.router.refuse_request(self.number, "RAISED", str(error), type(error).__qualname__, "")


class StreamSender(Sender):
    """What `Request.stream` returns."""

    __slots__ = ()

    def __exit__(self, *exc: object) -> None:
        error = exc[1]
        if isinstance(error, BaseException):
            self._state.abort(error)
        else:
            self.close()

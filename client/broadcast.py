"""Broadcasts: what one sends goes to everybody who subscribes, wherever they are."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Callable

from vanilla.message import Recver
from vanilla.protocol.connection import Event
from vanilla.protocol.errors import ProtocolError
from vanilla.protocol.frames import ACK, ARRAY_HEAD_BYTES, DATA, MAX_SEQ, NACK, SENT
from vanilla.protocol.ranges import pairs

from .numbers import whole
from .pull import PullState
from .push import PushState
from .recver import PullRecver
from .sender import PushSender

if TYPE_CHECKING:
    from vanilla.core import Task

    from .link import Link

log = logging.getLogger("vanilla.client")

#: What may be under way to a subscriber, or wait for it: items, packed, and their bytes.
BUFFER = 131_072
BUFFER_BYTES = 8 << 20


class PublishState(PushState):
    """What is behind a publisher. It needs no credit, so it waits for its own socket alone.

    If what it sends may be lost, that has no place in the stream: then it waits for its channel, too, at first.
    """

    __slots__ = ()

    role = "publish"
    keeps = False

    def __init__(self, link: Link, name: str) -> None:
        super().__init__(link, name)
        self.kind = f"broadcast {name!r}"
        if not link.down:
            self._begin()

    def _begin(self) -> None:
        """The channel was asked for. What does not come behind that, in the stream, has to wait until it is there."""
        if self.loose:
            self._want = True
        else:
            self.quota.raise_to(MAX_SEQ, MAX_SEQ)

    def reopen(self) -> None:
        self._begin()
        super().reopen()

    def opened(self, first: int) -> None:
        super().opened(first)
        if self.loose:
            self.quota.raise_to(MAX_SEQ, MAX_SEQ)
            self._serve()

    def _look_idle(self) -> None:
        self._idle = None

    frames: dict[int, Callable[[Any, Event], None]] = {ACK: PushState._ack, NACK: PushState._nack}


class SubscribeState(PullState):
    """What is behind one `Subscription`. Its numbers, unlike those on the wire, leave out what was missed."""

    __slots__ = ("_number", "_position", "missed")

    role = "subscribe"

    def __init__(self, link: Link, name: str, size: int, window_bytes: int) -> None:
        self.missed = 0
        #: The number on the wire of what is to come next.
        self._number = 0
        #: Bytes of the messages that were sent on this connection, as far as is known.
        self._position = 0
        super().__init__(link, name, False, size, window_bytes)
        self.kind = f"subscription to {name!r}"
        self._claim()

    def _claim(self) -> None:
        """Credit, right behind OPEN: what is published next on this connection is not to be missed."""
        self._request(0)
        self.emit()

    def reopen(self) -> None:
        super().reopen()
        self._number = self.arrived
        self._position = 0
        self._claim()
        self.link.notify("missed", f"{self.kind}: what was published while there was no connection did not come")

    def _data(self, event: Event) -> None:
        self._follow(event.seq, event.count)
        super()._data(event._replace(seq=self.arrived))

    def _miss(self, event: Event) -> None:
        for first, count in pairs(event.payload["r"]):
            self._follow(first, count)
            self.missed += count

    def _follow(self, first: int, count: int) -> None:
        if first != self._number:
            raise ProtocolError("BAD_SEQUENCE", f"message {first} came where {self._number} was next")
        self._number += count

    # -- what may be lost

    def came(self, event: Event, position: int) -> None:
        """A frame that came beside the stream. What it has overtaken is lost."""
        if event.seq < self._number:
            return
        self._skip(event.seq, position)
        self._position += len(event.payload) - ARRAY_HEAD_BYTES
        self._data(event)

    def _sent(self, event: Event) -> None:
        """All that was sent up to there has come by now, or is lost. What was sent since may have come as well."""
        if event.seq > self._number:
            self._skip(event.seq, event.payload["b"])

    def _skip(self, number: int, position: int) -> None:
        """What lies below *number* and before *position*, and has not come, was missed."""
        count, size = number - self._number, position - self._position
        if count < 0 or size < 0 or (size and not count):
            raise ProtocolError("BAD_SEQUENCE", f"{size} bytes in {count} messages are missing")
        if count:
            self.missed += count
            self._number = number
            self._position = position
            self.arrived_b += size
            self.done_b += size
            self._told = 0  # credit counts what is missed
            self.link.dirty[self] = None

    def _wire_number(self, number: int) -> int:
        return number + self._number - self.arrived if self.link.loose else number

    frames: dict[int, Callable[[Any, Event], None]] = {DATA: _data, NACK: _miss, SENT: _sent}

    def _note_taken(self) -> None:
        """What was handed out makes room; nobody is told which it was."""
        if self.taken > self._acked:
            self._acked = self.taken
            self.link.dirty[self] = None
        if not self.buffer:
            self.done_b += self._load_b
            self._load_b = 0

    def _bury(self, number: int, size: int) -> None:
        log.warning("%s: a message cannot be decoded; it counts as missed", self.kind)
        self.missed += 1
        self.done_b += size


class Subscription(PullRecver):
    """What a subscriber receives from."""

    __slots__ = ()

    @property
    def missed(self) -> int:
        """How many items went by, so far, because this end was too far behind, which is known as soon as it has room
        again; and of a connection with ``?reliable=0``, how many were lost on their way here."""
        missed: int = self._state.missed
        return missed

    def consume(self, f: Callable[[Any], object]) -> Task:
        """`Recver.consume`."""
        return Recver.consume(self, f)


class RemoteBroadcast:
    """A broadcast that a broker hosts; made by `Remote.broadcast`.

    ``send`` waits for no subscriber: who is too slow misses items, and is told how many.
    """

    __slots__ = ("_linger", "_link", "_name", "_publish", "_sender")

    def __init__(self, link: Link, name: str, linger: float, publish: Callable[[PushState], object]) -> None:
        self._link = link
        self._name = name
        self._linger = linger
        #: Is told of the state that may have something unconfirmed.
        self._publish = publish
        self._sender: PushSender | None = None

    @property
    def sender(self) -> PushSender:
        """The Sender behind `send`, for `Recver.pipe` and select. Made at first use."""
        if self._sender is None:
            state = PublishState(self._link, self._name)
            self._publish(state)
            self._sender = PushSender(state, self._linger)
        return self._sender

    def send(self, item: Any, timeout: float = -1) -> None:
        """Send *item* to all who subscribe. See `PushSender.send`; it waits only while the socket takes nothing."""
        self.sender.send(item, timeout)

    def send_many(self, items: Iterable[Any], timeout: float = -1) -> None:
        """`Sender.send_many`."""
        self.sender.send_many(items, timeout)

    def flush(self) -> None:
        """`PushSender.flush`."""
        self.sender.flush()

    def sync(self, timeout: float = -1) -> None:
        """Wait until the broker has all that was sent so far. Whether anybody subscribes is nothing to it."""
        self.sender.sync(timeout)

    def subscribe(self, size: int = BUFFER, window: int = BUFFER_BYTES) -> Subscription:
        """A Recver of all that is sent from now on.

        :param size: items that may be under way or wait here; beyond that they are missed.
        :param window: the same in bytes of packed items.
        :raises TypeError, ValueError: one of them is no whole number from 1 on.
        :raises ConnectionLost: the broker is gone.
        """
        size, window = whole(size, "the size of a subscription", 1), whole(window, "its window", 1)
        return Subscription(SubscribeState(self._link, self._name, size, window))

    def connect(self, recver: Recver) -> None:
        """Send all that comes from *recver*. Its end is not this one's."""
        recver.pipe(self.sender)

    def close(self) -> None:
        """No more is sent from here. Subscribers go on. Twice does nothing."""
        if self._sender is not None:
            self._sender.close()

    def __enter__(self) -> RemoteBroadcast:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<RemoteBroadcast {self._name!r}>"

"""Pipes, queues and channels: work queues with a capacity of their own, and one sender and one receiver or many.

Without capacity it is a rendezvous: a message is accepted only when a receiver waits for one, and its sender hears what
became of it. A sender that waits no longer cancels, and whether its message is withdrawn or delivered is decided here,
once: while it is ready it can be withdrawn, and while it is with a receiver that may still give it back nobody knows.

Invariants of a rendezvous, beside those of `endpoint`:
1. ready + granted never grows above the credit that its receivers have given and not used by a grant.
2. Each message of a sender that is there is in its ``open`` or ``cancelled`` until the sender has heard of it: by ACK
   (taken, or a dead letter) or by FAIL, once.
3. What is ready has a sender that is there and has not cancelled it.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Callable, NamedTuple

from vanilla.protocol.errors import ProtocolError, Refused
from vanilla.protocol.frames import (
    ACK,
    CANCEL,
    CLOSE,
    CREDIT,
    DATA,
    DATA_OPTIONS,
    FAIL,
    NACK,
    WANT,
    Buffer,
    pack_control,
)
from vanilla.protocol.ranges import Ranges

from .batch import Batch
from .endpoint import Endpoint
from .puller import Puller
from .pusher import Pusher, ascending, unwanted

if TYPE_CHECKING:
    from vanilla.protocol.connection import Event

    from .broker import Broker
    from .session import Session

#: What may be asked for: has it one sender and one receiver, and the least and the largest capacity, None for the
#: broker's.
SHAPES: dict[str, tuple[bool, int, int | None]] = {
    "pipe": (True, 0, 0),
    "queue": (True, 1, None),
    "channel": (False, 0, None),
}


class Conduit(Endpoint):
    """A pipe, queue or channel that holds messages.

    ``one``: it has one sender and one receiver. ``closed``: its sender has closed it; the receiver hears of that when
    all is taken, and a new sender opens it again.
    """

    __slots__ = ("closed", "kind", "one")

    def __init__(self, broker: Broker, name: str) -> None:
        super().__init__(broker, name)
        self.kind = ""
        self.one = self.closed = False

    @classmethod
    def at(cls, broker: Broker, name: str, fields: dict[str, Any]) -> Conduit:
        shape, capacity = fields.get("as", "channel"), fields.get("capacity", 0)
        if shape not in SHAPES:
            raise Refused("BAD_KIND", f"there is no {shape[:50]!r}; there are {', '.join(SHAPES)}")
        one, least, most = SHAPES[shape]
        most = broker.options.capacity if most is None else most
        if not least <= capacity <= most:
            raise Refused("TOO_MANY", f"a {shape} of this broker holds {least} to {most} messages, not {capacity}")
        kind = f"a {shape}"
        there = broker.endpoints.get(name)
        if there is not None and (there.kind != kind or there.capacity != capacity):
            size = f" of {there.capacity}" if isinstance(there, Conduit) else ""
            raise Refused("MISMATCH", f"{name!r} is {there.kind}{size}, not {kind} of {capacity}")
        made = broker.endpoint(name, Conduit if capacity else Rendezvous)
        assert isinstance(made, Conduit)
        made.kind, made.one, made.capacity = kind, one, capacity
        return made

    def match(self) -> None:
        super().match()
        if self.closed and self.empty:
            for puller in list(self.pullers):
                puller.session.expel(puller.id, "CLOSED", f"the sender of {self.name!r} has closed it")

    def settle(self, count: int) -> None:
        super().settle(count)
        if self.closed:
            self.broker.touch(self)

    def close_senders(self) -> None:
        """The receiver has closed its end. What was accepted stays, for the next one."""
        for pusher in list(self.pushers):
            pusher.session.expel(pusher.id, "CLOSED", f"the receiver of {self.name!r} has closed it")


class Rendezvous(Conduit):
    """A pipe or channel that holds nothing: what is ready is on its way to a receiver that waits.

    ``waiting`` is how many messages its receivers have asked for, at the last match.
    """

    __slots__ = ("waiting",)

    def __init__(self, broker: Broker, name: str) -> None:
        super().__init__(broker, name)
        self.waiting = 0

    def match(self) -> None:
        super().match()
        waiting = sum(puller.limit_n - puller.sent_n for puller in self.hungry)
        self.waiting = min(waiting, self.broker.options.capacity)  # receivers may ask for any number

    @property
    def room_n(self) -> int:
        return self.waiting - self.ready_n - self.granted_n

    @property
    def at_ease(self) -> bool:
        return False

    def put_back(self, batches: Iterable[Batch]) -> None:
        super().put_back([part for batch in batches for part in self._wanted(batch)])

    def _wanted(self, batch: Batch) -> list[Batch]:
        """What of *batch* its sender still waits for. The rest is dropped, and the sender told."""
        pusher: ConduitPusher = batch.origin.pusher
        if pusher.gone:
            self.dropped += batch.count
            return []
        first = batch.number + batch.origin.shift
        if not pusher.cancelled or pusher.cancelled.isdisjoint(range(first, first + batch.count)):
            return [batch]
        kept: list[Batch] = []
        for index in range(batch.count):
            if first + index in pusher.cancelled:
                self.dropped += 1
                pusher.withdrawn(first + index, seen=batch.redelivered)
            else:
                kept.append(batch.part(index, index + 1))
        return kept

    def sift(self, pusher: ConduitPusher) -> None:
        """*pusher* has cancelled something, or is gone: look again at what is ready of it."""
        self.ready = deque(self._sifted(self.ready, pusher))
        self.back = self._sifted(self.back, pusher)
        self.broker.touch(self)

    def _sifted(self, batches: Iterable[Batch], pusher: ConduitPusher) -> list[Batch]:
        kept: list[Batch] = []
        for batch in batches:
            if batch.origin.pusher is not pusher:
                kept.append(batch)
                continue
            self.ready_n -= batch.count
            self.ready_b -= batch.size
            for part in self._wanted(batch):
                self.ready_n += part.count
                self.ready_b += part.size
                kept.append(part)
        return kept

    def bury(self, batch: Batch, reason: str) -> None:
        before = self.dead
        super().bury(batch, reason)
        if self.dead - before == batch.count:
            batch.origin.taken(batch.number, batch.count)


class Origin(NamedTuple):
    """Where messages of a rendezvous came from: their sender's number is the endpoint's and *shift*."""

    pusher: ConduitPusher
    shift: int

    def taken(self, number: int, count: int) -> None:
        """They are settled. *number* is the endpoint's of the first."""
        self.pusher.taken(number + self.shift, count)


class ConduitPusher(Pusher):
    """A sender of a pipe, queue or channel.

    Of a rendezvous: ``open`` are the numbers of which it has not heard yet, ``cancelled`` likewise those that it does
    not wait for, ``unwanted`` what it has cancelled in this tick, (first, count) in any order, ``settled`` what it is
    to be told at the tick's edge. ``gone``: nobody is there to be told.
    """

    __slots__ = ("cancelled", "gone", "meets", "open", "settled", "unwanted")

    endpoint: Conduit
    kind = "send"

    def __init__(self, session: Session, id: int, endpoint: Conduit, first: int) -> None:
        if endpoint.one and endpoint.pushers:
            raise Refused("TAKEN", f"{endpoint.name!r} is {endpoint.kind}, and has its sender")
        self.meets = isinstance(endpoint, Rendezvous)
        self.open: set[int] = set()
        self.cancelled: set[int] = set()
        self.unwanted: list[tuple[int, int]] = []
        self.settled = Ranges()
        self.gone = False
        endpoint.closed = False
        super().__init__(session, id, endpoint, first)

    def _take(self, seq: int, count: int, body: Buffer, options: dict[str, Any]) -> None:
        batch = self.endpoint.accept(count, body)
        if self.meets:
            batch.origin = Origin(self, seq - batch.number)
            self.open.update(range(seq, seq + count))
        else:
            self.stir()

    def cancel(self, event: Event) -> None:
        """These are not waited for any more. To find them costs a look at all that are open: once a tick."""
        if self.meets:  # else nothing is open: what was sent is in the queue
            self.unwanted += unwanted(event.payload["r"], self.quota.n)
            self.stir()

    def _withdraw(self) -> None:
        """Of what was cancelled, what is ready is withdrawn, and what comes back will be."""
        ranges = ascending(self.unwanted)
        self.unwanted.clear()
        firsts = [first for first, _ in ranges]
        found = {number for number in self.open if firsts[0] <= number < sum(ranges[bisect_right(firsts, number) - 1])}
        if found:
            self.open -= found
            self.cancelled |= found
            self.endpoint.sift(self)  # type: ignore[attr-defined]  # it is a rendezvous

    def close(self, event: Event) -> None:
        """It goes; a pipe or queue may end with it."""
        self.endpoint.closed = self.endpoint.one and event.payload.get("end", False)

    frames: dict[int, Callable[[Any, Event], None]] = {
        DATA: Pusher.data,
        DATA_OPTIONS: Pusher.data,
        WANT: Pusher.want,
        CANCEL: cancel,
        CLOSE: close,
    }

    def _goal(self) -> tuple[int, int]:
        return (self.want_n, self.want_b) if self.meets else super()._goal()

    def taken(self, number: int, count: int) -> None:
        """Messages from *number* on are settled."""
        numbers = range(number, number + count)
        self.open.difference_update(numbers)
        self.cancelled.difference_update(numbers)
        self.settled.add(number, count)
        self.stir()

    def withdrawn(self, number: int, seen: bool) -> None:
        """A message that was cancelled is dropped."""
        self.cancelled.discard(number)
        code = "PEER_LOST" if seen else "WITHDRAWN"
        text = "its receiver was lost, and may have taken it" if seen else "nobody took it in time"
        self.session.put(pack_control(FAIL, self.id, number, {"count": 1, "code": code, "text": text, "by": "broker"}))

    def emit(self) -> None:
        if not self.meets:
            super().emit()
            return
        self.dirty = False
        if self.unwanted and not self.gone:
            self._withdraw()
        while self.settled and not self.gone:
            self.session.put(pack_control(ACK, self.id, 0, {"r": self.settled.take()}))

    def detach(self, seen: int | None) -> None:
        self.gone = True
        if isinstance(self.endpoint, Rendezvous):
            self.endpoint.sift(self)
        super().detach(seen)


class ConduitPuller(Puller):
    """A receiver of a pipe, queue or channel."""

    __slots__ = ("meets",)

    endpoint: Conduit

    def __init__(self, session: Session, id: int, endpoint: Conduit, first: int = 0) -> None:
        if endpoint.one and endpoint.pullers:
            raise Refused("TAKEN", f"{endpoint.name!r} is {endpoint.kind}, and has its receiver")
        self.meets = isinstance(endpoint, Rendezvous)
        super().__init__(session, id, endpoint, first)

    def ack(self, event: Event) -> None:
        if not self.meets:
            super().ack(event)
            return
        for piece in self._take(self._delivered(event)):
            piece.batch.origin.taken(piece.batch.number + piece.low, piece.high - piece.low)
            self.endpoint.settle(piece.high - piece.low)
        self.line_up()

    def nack(self, event: Event) -> None:
        if not event.payload.get("back") and "dead" not in event.payload:
            raise ProtocolError("BAD_MAP", f"of {self.endpoint.kind} NACK gives back, or names a dead letter")
        super().nack(event)

    def close(self, event: Event) -> None:
        """It goes; a pipe or queue may end with it."""
        if self.endpoint.one and event.payload.get("end"):
            self.endpoint.close_senders()

    frames: dict[int, Callable[[Any, Event], None]] = {CREDIT: Puller.credit, ACK: ack, NACK: nack, CLOSE: close}

    def line_up(self) -> None:
        super().line_up()
        if self.meets:  # there is more room now
            self.endpoint.broker.touch(self.endpoint)

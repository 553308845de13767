"""The broker's side of a channel: a producer or a consumer of one endpoint, over one connection.

Both kinds answer the same calls of `Session`: one method a frame (`FRAMES`), ``emit`` at the tick's edge, ``detach`` at the end.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, List, Optional, Tuple

from vanilla.protocol.credit import Quota
from vanilla.protocol.errors import BadMessage, ProtocolError
from vanilla.protocol.frames import (
    ACK,
    ARRAY_HEAD_BYTES,
    CREDIT,
    DATA,
    DATA_OPTIONS,
    MORE,
    NACK,
    WANT,
    Buffer,
    pack_control,
    pack_head,
)
from vanilla.protocol.options import pack_options, read_options
from vanilla.protocol.ranges import pairs
from vanilla.protocol.scan import check, scan

from .batch import Batch
from .endpoint import FIRST_BYTES, FIRST_MESSAGES, Endpoint
from .flight import Flight

if TYPE_CHECKING:
    from vanilla.protocol.connection import Event

    from .session import Session

#: Small batches of one consumer share a frame up to this size.
FRAME_BYTES = 64 << 10
_FAR = 1 << 62


class Pusher:
    """A producer on one endpoint.

    ``window_*`` is how much credit it gets unasked: it doubles whenever more than half of it was used between two grants.
    ``want_*`` is what it said it waits for.
    """

    __slots__ = (
        "asking",
        "confirmed",
        "dirty",
        "endpoint",
        "epoch",
        "id",
        "quota",
        "session",
        "want_b",
        "want_n",
        "window_b",
        "window_n",
    )

    kind = "push"

    def __init__(self, session: Session, id: int, endpoint: Endpoint, first: int) -> None:
        self.session = session
        self.id = id
        self.endpoint = endpoint
        self.quota = Quota(first)
        self.confirmed = first
        self.epoch = 0
        self.window_n, self.window_b = FIRST_MESSAGES, FIRST_BYTES
        self.want_n = self.want_b = 0
        self.asking = self.dirty = False
        endpoint.pushers.add(self)
        self.ask()

    # -- frames

    def data(self, event: Event) -> None:
        """Messages. All of the frame is accepted, or the connection ends."""
        array = memoryview(event.payload)
        at = ARRAY_HEAD_BYTES
        count = event.count
        depth = self.session.broker.DEPTH
        if event.kind == DATA_OPTIONS:
            at = scan(array, at, 1, _FAR, depth)[1]
            read_options(array[ARRAY_HEAD_BYTES:at], "broker")
            count -= 1
        if count < 1:
            raise BadMessage("a data frame carries at least one message")
        check(array, count, depth, at)
        quota, endpoint = self.quota, self.endpoint
        size = len(array) - at
        if event.seq != quota.n:
            raise ProtocolError("BAD_SEQUENCE", f"message {event.seq} came where {quota.n} was next")
        if count > quota.left_n or size > quota.left_b:
            raise ProtocolError("OVER_CREDIT", f"{count} messages, {size} bytes; left {quota.left_n}, {quota.left_b}")
        quota.spend(count, size)
        endpoint.granted_n -= count
        endpoint.granted_b -= size
        endpoint.accept(count, array[at:])
        self.want_n = self.want_b = 0
        self.ask()
        self.stir()

    def want(self, event: Event) -> None:
        """It waits for credit, or gives some back."""
        fields = event.payload
        if "limit" in fields:
            before = self.quota.limit_n, self.quota.limit_b
            self.quota.lower_to(*fields["limit"])
            self.endpoint.granted_n -= before[0] - self.quota.limit_n
            self.endpoint.granted_b -= before[1] - self.quota.limit_b
            self.epoch = fields.get("epoch", 0)
            self.window_n, self.window_b = FIRST_MESSAGES, FIRST_BYTES
        self.want_n, self.want_b = fields.get("n", 0), min(fields.get("b", 0), self.session.broker.options.frame_bytes)
        self.ask()

    # -- credit

    def ask(self) -> None:
        """Stand in line for credit."""
        if not self.asking:
            self.asking = True
            self.endpoint.asking.append(self)
        self.endpoint.broker.touch(self.endpoint)

    def grant(self, share: int) -> bool:
        """Give credit out of the endpoint's room. False: there is not enough, it has to wait.

        :param share: the messages that are its part of the room.
        """
        endpoint, quota = self.endpoint, self.quota
        if endpoint.broker.draining:
            return False
        lack_n, lack_b = max(self.want_n - quota.left_n, 0), max(self.want_b - quota.left_b, 0)
        more_n, more_b = self._unasked() if endpoint.at_ease else (0, 0)
        more_n, more_b = max(lack_n, more_n), max(lack_b, more_b)
        if not more_n and not more_b:
            return True
        room_n, room_b = endpoint.room_n, endpoint.room_b
        if 0 < room_b < lack_b and not endpoint.ready_n and not endpoint.delayed_n:
            room_b = lack_b  # larger than the endpoint can ever hold: the one message over capacity, not to wait for ever
        if (lack_n and room_n < 1) or lack_b > room_b:
            return False
        more_n, more_b = max(min(more_n, room_n, share), 0), max(min(more_b, room_b), 0)
        if not more_n and not more_b:
            return quota.left_n > 0 and quota.left_b > 0  # who has spent all keeps its place
        self._give(more_n, more_b)
        return True

    def _unasked(self) -> Tuple[int, int]:
        """What keeps a stream from stopping: nothing until half of the window is used, and then a wider one."""
        quota, endpoint = self.quota, self.endpoint
        more_n = more_b = 0
        if quota.left_n * 2 <= self.window_n:
            if quota.b:
                self.window_n = min(self.window_n * 2, endpoint.capacity)
            more_n = self.window_n - quota.left_n
        if quota.left_b * 2 <= self.window_b:
            if quota.b:
                self.window_b = min(self.window_b * 2, endpoint.capacity_b)
            more_b = self.window_b - quota.left_b
        return more_n, more_b

    def _give(self, more_n: int, more_b: int) -> None:
        quota, endpoint = self.quota, self.endpoint
        quota.raise_to(quota.limit_n + more_n, quota.limit_b + more_b)
        endpoint.granted_n += more_n
        endpoint.granted_b += more_b
        self.want_n = self.want_b = 0
        fields = {"n": quota.limit_n, "b": quota.limit_b, "epoch": self.epoch}
        self.session.put(pack_control(CREDIT, self.id, 0, fields))

    # -- the rest

    def stir(self) -> None:
        """There is something to `emit` at the tick's edge."""
        if not self.dirty:
            self.dirty = True
            self.session.broker.emitters.append(self)

    def emit(self) -> None:
        """Confirm what was accepted in this tick."""
        self.dirty = False
        count = self.quota.n - self.confirmed
        if count:
            self.session.put(pack_control(ACK, self.id, 0, {"r": [self.confirmed, count]}))
            self.confirmed = self.quota.n

    def detach(self, seen: Optional[int]) -> None:
        """The channel is gone: what it was granted is free again."""
        endpoint = self.endpoint
        endpoint.granted_n -= self.quota.left_n
        endpoint.granted_b -= self.quota.left_b
        endpoint.pushers.discard(self)
        if self.asking:
            self.asking = False
            endpoint.asking.remove(self)
        endpoint.broker.touch(endpoint)


class Puller:
    """A consumer of one endpoint."""

    __slots__ = ("endpoint", "flight", "hungry", "id", "limit_b", "limit_n", "sent_b", "sent_n", "session")

    kind = "pull"

    def __init__(self, session: Session, id: int, endpoint: Endpoint) -> None:
        self.session = session
        self.id = id
        self.endpoint = endpoint
        self.flight = Flight()
        #: Credit: numbers below, and bytes in all.
        self.limit_n = self.limit_b = 0
        self.sent_n = self.sent_b = 0
        self.hungry = False
        endpoint.pullers.add(self)

    # -- frames

    def credit(self, event: Event) -> None:
        """It takes more."""
        self.limit_n = max(self.limit_n, event.payload["n"])
        self.limit_b = max(self.limit_b, event.payload["b"])
        self.line_up()

    def ack(self, event: Event) -> None:
        """It has handled these."""
        for first, count in pairs(event.payload["r"]):
            self._check(first, count)
            size = self.flight.size
            done = sum(piece.high - piece.low for piece in self.flight.take(first, count))
            self._left_flight(done, size - self.flight.size)
            self.endpoint.settle(done)
        self.line_up()

    def nack(self, event: Event) -> None:
        """It gives these back, for one of three reasons."""
        fields = event.payload
        for first, count in pairs(fields["r"]):
            self._check(first, count)
            size = self.flight.size
            pieces = self.flight.take(first, count)
            batches = [piece.batch.part(piece.low, piece.high) for piece in pieces]
            self._left_flight(sum(batch.count for batch in batches), size - self.flight.size)
            self._give_back(batches, fields)
        self.line_up()

    def _give_back(self, batches: List[Batch], fields: Any) -> None:
        endpoint = self.endpoint
        if fields.get("back"):
            endpoint.put_back(sorted(batches, key=lambda batch: batch.number))
            return
        for batch in batches:
            if "dead" in fields:
                endpoint.bury(batch, fields["dead"][:100])
            else:
                endpoint.failed(batch, fields.get("delay"))
        endpoint.broker.touch(endpoint)

    def _check(self, first: int, count: int) -> None:
        if first + count > self.sent_n:
            raise ProtocolError("BAD_SEQUENCE", f"number {first + count - 1} is settled and was never delivered")

    def _left_flight(self, count: int, size: int) -> None:
        self.endpoint.flight_n -= count
        self.endpoint.flight_b -= size

    # -- deliveries

    @property
    def can_take(self) -> bool:
        """Has it credit, and is what it holds within bounds?"""
        return (
            self.limit_n > self.sent_n
            and self.limit_b > self.sent_b
            and self.flight.cost < self.session.broker.options.unsettled_bytes
        )

    def line_up(self) -> None:
        """Stand in line for messages, if it can take any."""
        if self.hungry or not self.can_take:
            return
        if self.session.full:
            self.session.starved.add(self)
            return
        self.hungry = True
        self.endpoint.hungry.append(self)
        if self.endpoint.ready:
            self.endpoint.broker.touch(self.endpoint)

    def deliver(self, most: int) -> None:
        """Send up to *most* messages of the endpoint."""
        endpoint, session = self.endpoint, self.session
        frame: List[Batch] = []
        size = 0
        while most > 0 and endpoint.ready and self.can_take and not session.full:
            batch = endpoint.pop(min(most, self.limit_n - self.sent_n), self.limit_b - self.sent_b)
            most -= batch.count
            if frame and (size + batch.size > FRAME_BYTES or batch.history != frame[0].history):
                self._send(frame, size, 0)
                frame, size = [], 0
            self._fly(batch)
            frame.append(batch)
            size += batch.size
        if frame:
            cut = endpoint.ready and (self.limit_n <= self.sent_n or self.limit_b <= self.sent_b)
            self._send(frame, size, MORE if cut else 0)

    def _fly(self, batch: Batch) -> None:
        self.flight.add(self.sent_n, batch)
        self.sent_n += batch.count
        self.sent_b += batch.size
        self.endpoint.flight_n += batch.count
        self.endpoint.flight_b += batch.size

    def _send(self, frame: List[Batch], size: int, more: int) -> None:
        """One frame of the batches that were just counted as sent."""
        first = frame[0]
        count = sum(batch.count for batch in frame)
        seq = self.sent_n - count
        parts: List[Buffer] = [batch.body for batch in frame]
        if first.redelivered:
            options = pack_options({"redelivered": True, "attempts": first.attempts + 1})
            head = pack_head(DATA_OPTIONS | more, self.id, seq, count + 1, size + len(options))
            self.session.put(head + options, *parts)
        else:
            self.session.put(pack_head(DATA | more, self.id, seq, count, size), *parts)

    # -- the rest

    def detach(self, seen: Optional[int]) -> None:
        """The channel is gone: what is unsettled goes back.

        :param seen: numbers below this were handed to the application; None: the connection was lost, any may have been.
        """
        endpoint = self.endpoint
        endpoint.pullers.discard(self)
        if self.hungry:
            self.hungry = False
            endpoint.hungry.remove(self)
        self.session.starved.discard(self)
        pieces = self.flight.take_all()
        endpoint.flight_n -= sum(piece.high - piece.low for piece in pieces)
        endpoint.flight_b -= sum(piece.size for piece in pieces)
        endpoint.returned(pieces, self.sent_n if seen is None else seen, crashed=seen is None)
        endpoint.broker.touch(endpoint)


#: Which method answers which frame; what else may come is the connection's business.
FRAMES = {
    DATA: Pusher.data,
    DATA_OPTIONS: Pusher.data,
    WANT: Pusher.want,
    CREDIT: Puller.credit,
    ACK: Puller.ack,
    NACK: Puller.nack,
}

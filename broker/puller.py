"""The broker's side of a consumer's channel: one consumer of one endpoint, over one connection."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Callable

from vanilla.protocol.errors import ProtocolError
from vanilla.protocol.frames import (
    ACK,
    COUNTED_BYTES,
    CREDIT,
    DATA,
    DATA_OPTIONS,
    MORE,
    NACK,
    TOUCH,
    Buffer,
    pack_control,
    pack_head,
)
from vanilla.protocol.options import pack_options
from vanilla.protocol.ranges import Ranges, pairs
from vanilla.protocol.terms import MAX_MS

from .batch import Batch
from .endpoint import Endpoint
from .flight import EVERYTHING, Flight, Sent
from .lease import Leases
from .pusher import LITTLE_BYTES
from .said import PLAIN, look_of, pack_said

if TYPE_CHECKING:
    from vanilla.protocol.connection import Event

    from .session import Session

#: Small batches of one consumer share a frame up to this size.
FRAME_BYTES = 64 << 10


class Puller:
    """A consumer of one endpoint."""

    __slots__ = ("endpoint", "flight", "held", "id", "leases", "limit_b", "limit_n", "sent_b", "sent_n", "session")

    def __init__(self, session: Session, id: int, endpoint: Endpoint, first: int = 0) -> None:
        self.session = session
        self.id = id
        self.endpoint = endpoint
        self.flight = Flight()
        #: None: it has all the time in the world.
        self.leases: Leases | None = None
        #: Its part of ``session.held``.
        self.held = 0
        #: Credit: numbers below, and bytes in all.
        self.limit_n, self.limit_b = first, 0
        self.sent_n, self.sent_b = first, 0
        endpoint.pullers.add(self)

    def resume(self, first: int) -> None:
        """It comes back: its numbers go on, and nothing else is known of it."""

    # -- frames

    def credit(self, event: Event) -> None:
        """It takes more."""
        n, b = event.payload["n"], event.payload["b"]
        if n > self.limit_n:
            self.limit_n = n
        if b > self.limit_b:
            self.limit_b = b
        self.line_up()

    def ack(self, event: Event) -> None:
        """It has handled these."""
        ranges = self._delivered(event)
        if self.endpoint.keys is not None:
            self._ack_keyed(ranges)
            return
        before_b = self.flight.size
        count = self.flight.settle(ranges)
        self._landed(count, before_b - self.flight.size)
        self.endpoint.settle(count)
        self.line_up()

    def _ack_keyed(self, ranges: list[tuple[int, int]]) -> None:
        """`ack`, where some messages may have keys: it has to be known which messages these are."""
        assert self.endpoint.keys is not None
        for piece in self._take(ranges):
            self.endpoint.keys.gone(piece.batch, piece.low, piece.high)
            self.endpoint.settle(piece.high - piece.low)
        self.line_up()

    def nack(self, event: Event) -> None:
        """It gives these back, for one of three reasons."""
        batches = [piece.batch.part(piece.low, piece.high) for piece in self._take(self._delivered(event))]
        self._give_back(batches, event.payload)
        self.line_up()

    def touch(self, event: Event) -> None:
        """It goes on with these."""
        ranges = self._delivered(event)
        if self.leases is not None:
            self.leases.touch(ranges, min(event.payload.get("lease", self.leases.ms), MAX_MS))
        self.line_up()

    frames: dict[int, Callable[[Any, Event], None]] = {CREDIT: credit, ACK: ack, NACK: nack, TOUCH: touch}

    # -- leases

    def lend(self, lease: int | None) -> None:
        """Each delivery is for *lease* ms, 0 being for ever; as long as the endpoint says if None. Before the first."""
        ms = self.endpoint.terms.lease if lease is None else min(lease, MAX_MS)
        if ms:
            self.leases = Leases(self, ms)

    def lapse(self, ranges: list[tuple[int, int]]) -> None:
        """The leases of these are over: those that are unsettled go to somebody else, and it is told.

        It gets nothing more until it is heard of: whoever let this happen may stand still, and have credit.
        """
        pieces = self._take(ranges)
        if not pieces:
            return
        numbers = Ranges()
        for piece in pieces:
            numbers.add(piece.seq, piece.high - piece.low)
        while numbers:
            self.session.put(pack_control(NACK, self.id, 0, {"r": numbers.take(), "code": "LEASE_EXPIRED"}))
        self.endpoint.hungry.pop(self, None)
        self.session.starved.discard(self)
        batches = [piece.batch.part(piece.low, piece.high) for piece in pieces]
        for batch in batches:
            batch.failed_by = self.session.who
        self.endpoint.lapsed(batches)

    # -- what is settled

    def _give_back(self, batches: list[Batch], fields: Any) -> None:
        endpoint = self.endpoint
        if fields.get("back"):
            endpoint.put_back(batches)
            return
        for batch in batches:
            batch.failed_by = self.session.who
            if "dead" in fields:
                batch.attempts += 1
                endpoint.bury(batch, fields["dead"][:100])
            else:
                endpoint.failed(batch, fields.get("delay"))
        endpoint.broker.touch(endpoint)

    def _delivered(self, event: Event) -> list[tuple[int, int]]:
        """The ranges of an ACK or NACK."""
        ranges = pairs(event.payload["r"])
        first, count = ranges[-1]
        if first + count > self.sent_n:
            raise ProtocolError("BAD_SEQUENCE", f"number {first + count - 1} is settled and was never delivered")
        return ranges

    def _take(self, ranges: list[tuple[int, int]]) -> list[Sent]:
        """Take them out of flight: those that were still in."""
        count, size = self.flight.count, self.flight.size
        pieces = self.flight.take(ranges)
        self._landed(count - self.flight.count, size - self.flight.size)
        return pieces

    def _landed(self, count: int, size: int) -> None:
        """*count* messages, *size* bytes, are in flight no more."""
        self.endpoint.flight_n -= count
        self.endpoint.flight_b -= size
        self._weigh()
        self.session.settled()

    def _weigh(self) -> None:
        """Keep the session's sum of what its consumers hold."""
        cost = self.flight.cost
        self.session.held += cost - self.held
        self.held = cost

    # -- deliveries

    @property
    def can_take(self) -> bool:
        """Has it credit, and is what it holds within bounds?"""
        return (
            self.limit_n > self.sent_n
            and self.limit_b > self.sent_b
            and self.session.held < self.session.broker.options.unsettled_bytes
        )

    def line_up(self) -> None:
        """Stand in line for messages, if it can take any; or wait for the connection, if that is what it lacks."""
        if self in self.endpoint.hungry:
            return
        if not self.can_take or self.session.full:
            if self.limit_n > self.sent_n and self.limit_b > self.sent_b:
                self.session.starved.add(self)
            return
        self.endpoint.hungry[self] = None
        if self.endpoint.ready_n:
            self.endpoint.broker.touch(self.endpoint)

    def deliver(self, most: int) -> None:
        """Send up to *most* messages of the endpoint."""
        endpoint, session = self.endpoint, self.session
        frame: list[Batch] = []
        count, size, largest = 0, 0, min(FRAME_BYTES, session.broker.options.frame_bytes - COUNTED_BYTES)
        while most > 0 and endpoint.ready and self.can_take and not session.full:
            batch = endpoint.pop(min(most, self.limit_n - self.sent_n), self.limit_b - self.sent_b)
            if batch is None:
                break
            most -= batch.count
            length = batch.size if batch.said is None else len(batch.body) + batch.said.bytes_of(batch.count)
            if frame and (size + length > largest or not self._alike(batch, frame[0])):
                self._send(frame, count, size, 0)
                frame, count, size = [], 0, 0
            self._fly(batch)
            frame.append(batch)
            count += batch.count
            size += length
            if size >= largest:  # now, so that the output is known to be full before more is taken
                self._send(frame, count, size, self._more)
                frame, count, size = [], 0, 0
        if frame:
            self._send(frame, count, size, self._more)

    @property
    def _more(self) -> int:
        """The flag of a delivery that was cut only by credit."""
        spent = self.limit_n <= self.sent_n or self.limit_b <= self.sent_b
        return MORE if spent and self.endpoint.ready else 0

    def send_one(self, batch: Batch) -> None:
        """Send *batch*, for which it has credit, in a frame of its own."""
        seq = self.sent_n
        self._fly(batch)
        if batch.size >= LITTLE_BYTES or self._terms(batch):
            self._send([batch], batch.count, batch.size, 0)
        else:
            self.session.put(pack_head(DATA, self.id, seq, batch.count, batch.size) + batch.body)

    def _fly(self, batch: Batch) -> None:
        self.flight.add(self.sent_n, batch)
        self._weigh()
        if self.leases is not None:
            self.leases.sent(self.sent_n, self.sent_n + batch.count)
        self.sent_n += batch.count
        self.sent_b += batch.size if batch.said is None else len(batch.body)
        self.endpoint.flight_n += batch.count
        self.endpoint.flight_b += batch.size

    def _send(self, frame: list[Batch], count: int, size: int, more: int) -> None:
        """One frame of the batches, *count* messages of *size* bytes, that were just counted as sent."""
        seq = self.sent_n - count
        parts: list[Buffer] = [batch.body for batch in frame]
        terms = self._terms(frame[0])
        is_plain = look_of(frame[0]) == PLAIN
        if terms or not is_plain:
            if is_plain:
                options = pack_options(terms)
            else:
                options, size = pack_said(terms, frame), sum(map(len, parts))
            head = pack_head(DATA_OPTIONS | more, self.id, seq, count + 1, size + len(options))
            self.session.put(head + options, *parts)
        else:
            self.session.put(pack_head(DATA | more, self.id, seq, count, size), *parts)

    def _alike(self, one: Batch, other: Batch) -> bool:
        """May they share a frame, and so its options?"""
        return one.history == other.history and (one.said is other.said or look_of(one) == look_of(other))

    def _terms(self, batch: Batch) -> dict[str, Any]:
        """The options of a delivery."""
        terms: dict[str, Any] = {}
        if batch.redelivered:
            terms = {"redelivered": True, "attempts": batch.attempts + 1}
        if batch.death is not None:
            terms["dead"] = batch.death.describe(self.endpoint.broker.now())
        return terms

    # -- the rest

    def detach(self, seen: int | None) -> None:
        """The channel is gone: what is unsettled goes back.

        :param seen: numbers below this were handed to the application; None: the connection was lost, any may have
            been.
        """
        endpoint = self.endpoint
        if self.leases is not None:
            self.leases.cancel()
        endpoint.pullers.discard(self)
        endpoint.hungry.pop(self, None)
        self.session.starved.discard(self)
        pieces = self._take(EVERYTHING)
        if seen is None:
            endpoint.returned(pieces, self.sent_n, crashed=True, who=self.session.who)
        else:
            endpoint.returned(pieces, seen, crashed=False)
        endpoint.broker.touch(endpoint)

"""A server of a service, over one connection.

Requests are delivered to it as messages are to a consumer. It settles each by an answer, which goes to who asked and to
nobody else: the broker keeps in the flight whose request a number was.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Callable

from vanilla.protocol.errors import ProtocolError
from vanilla.protocol.frames import (
    ARRAY_HEAD_BYTES,
    CANCEL,
    CREDIT,
    END,
    FAIL,
    NACK,
    PART,
    REPLY,
    pack_control,
    pack_head,
    part_index,
)
from vanilla.protocol.scan import check, scan

from .channels import Puller
from .flight import EVERYTHING, Sent
from .service import Asked, Run, Service, runs
from .stream import Stream

if TYPE_CHECKING:
    from vanilla.protocol.connection import Event

    from .batch import Batch
    from .session import Session

_FAR = 1 << 62


class Server(Puller):
    """One server."""

    __slots__ = ("streams",)

    endpoint: Service

    def __init__(self, session: Session, id: int, endpoint: Service, first: int = 0) -> None:
        super().__init__(session, id, endpoint)
        #: Streamed replies that are under way, by its numbers.
        self.streams: dict[int, Stream] = {}

    # -- frames

    def reply(self, event: Event) -> None:
        """Answers to consecutive requests."""
        array, count = memoryview(event.payload), event.count
        check(array, count, self.session.broker.DEPTH, ARRAY_HEAD_BYTES)
        at, number = ARRAY_HEAD_BYTES, event.seq
        for run in self._answered(event.seq, count):
            if run.seq > number:  # these are not wanted any more
                at = scan(array, at, run.seq - number, _FAR)[1]
            number = run.seq + run.count
            end = len(array) if number == event.seq + count else scan(array, at, run.count, _FAR)[1]
            session = run.caller.session
            session.put(pack_head(REPLY, run.caller.id, run.first, run.count, end - at), array[at:end])
            at = end

    def part(self, event: Event) -> None:
        """Items of a streamed reply."""
        array = memoryview(event.payload)
        check(array, event.count, self.session.broker.DEPTH, ARRAY_HEAD_BYTES)
        index, at = part_index(array, event.count)
        stream = self.streams.get(event.seq) or self._begin(event.seq)
        if stream is not None:
            stream.part(index, event.count - 1, len(array) - at, array[ARRAY_HEAD_BYTES:])

    def _begin(self, seq: int) -> Stream | None:
        self._check_delivered(seq, 1)
        sent = self.flight.find(seq)
        if sent is None:
            return None
        asked: Asked = sent.batch.origin
        return Stream(asked.caller, sent.batch.number + sent.low + seq - sent.seq + asked.base, self, seq)

    def end(self, event: Event) -> None:
        """The end of a streamed reply."""
        stream = self.streams.get(event.seq)
        if stream is not None:
            stream.end(event.payload["n"])
        elif event.payload["n"]:
            self._check_delivered(event.seq, 1)
            if self.flight.find(event.seq) is not None:
                raise ProtocolError("BAD_SEQUENCE", f"request {event.seq} has no stream that could end")
        self._answered(event.seq, 1)

    def fail(self, event: Event) -> None:
        """Requests that failed."""
        fields = event.payload
        more = {key: fields[key] for key in ("type", "trace") if key in fields}
        for run in self._answered(event.seq, fields["count"]):
            run.caller.fail(run.first, run.count, fields["code"], fields["text"], {**more, "by": "server"})

    def nack(self, event: Event) -> None:
        """It gives back what it has not begun; a request is never delivered twice."""
        if not event.payload.get("back"):
            raise ProtocolError("BAD_MAP", "a request can be given back unseen, or answered, and nothing else")
        super().nack(event)

    frames: dict[int, Callable[[Any, Event], None]] = {
        CREDIT: Puller.credit,
        NACK: nack,
        REPLY: reply,
        PART: part,
        END: end,
        FAIL: fail,
    }

    # -- answers

    def _check_delivered(self, seq: int, count: int) -> None:
        if seq + count > self.sent_n:
            raise ProtocolError("BAD_SEQUENCE", f"request {seq + count - 1} is answered and was never delivered")

    def _answered(self, seq: int, count: int) -> list[Run]:
        """Take *count* requests out of flight: whose they were. Those that nobody wants any more are passed over."""
        self._check_delivered(seq, count)
        before = self.flight.count
        pieces = self._take([(seq, count)])
        self.endpoint.settle(before - self.flight.count)
        self.line_up()
        return list(runs(pieces))

    def _take(self, ranges: list[tuple[int, int]]) -> list[Sent]:
        if self.streams:
            for stream in list(self.streams.values()):
                if any(first <= stream.seq < first + count for first, count in ranges):
                    stream.close()
        return super()._take(ranges)

    def cancel(self, ranges: list[tuple[int, int]]) -> int:
        """These are not wanted any more.

        :return: how many of them it had.
        """
        before = self.flight.count
        self._take(ranges)
        self.session.put(pack_control(CANCEL, self.id, 0, {"r": [number for pair in ranges for number in pair]}))
        self.line_up()
        return before - self.flight.count

    # -- deliveries

    def send_one(self, batch: Batch) -> None:
        """Send *batch*, for which it has credit, in a frame of its own."""
        self._fly(batch)
        self._send([batch], batch.count, batch.size, 0)

    def _alike(self, one: Batch, other: Batch) -> bool:
        a, b = one.origin, other.origin
        return bool(
            (a.deadline, a.trace) == (b.deadline, b.trace) and a.caller.session.identity == b.caller.session.identity
        )

    def _terms(self, batch: Batch) -> dict[str, Any]:
        asked: Asked = batch.origin
        terms: dict[str, Any] = {}
        if asked.deadline != math.inf:
            terms["deadline"] = max(int((asked.deadline - self.endpoint.broker.now()) * 1000), 0)
        if asked.trace:
            terms["trace"] = True
        if asked.caller.session.identity:
            terms["identity"] = asked.caller.session.identity
        return terms

    # -- the rest

    def detach(self, seen: int | None) -> None:
        """The channel is gone: what it may have begun fails, the rest goes to others."""
        service, taken = self.endpoint, self.sent_n if seen is None else seen
        service.pullers.discard(self)
        service.hungry.pop(self, None)
        self.session.starved.discard(self)
        lost: list[Batch] = []
        for sent in self._take(EVERYTHING):
            batch = sent.batch.part(sent.low, sent.high)
            begun = min(max(taken - sent.seq, 0), batch.count)
            if begun:
                lost.append(batch.part(0, begun))
            if begun < batch.count:
                service.put_back([batch.part(begun, batch.count)])
        service.fail(lost, "PEER_LOST")
        if not service.pullers:
            service.forsake()
        service.broker.touch(service)

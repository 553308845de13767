"""A server of a service, over one connection.

Requests are delivered to it as messages are to a consumer. It settles each by an answer, which goes to who asked and to
nobody else: the broker keeps in the flight whose request a number was.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Callable

import msgpack

from vanilla.protocol.errors import BadMessage, ProtocolError
from vanilla.protocol.frames import (
    ARRAY_HEAD_BYTES,
    CANCEL,
    CREDIT,
    END,
    FAIL,
    NACK,
    PART,
    REPLY,
    Buffer,
    pack_control,
    pack_head,
    part_index,
)
from vanilla.protocol.ranges import pairs
from vanilla.protocol.scan import check, scan

from .batch import Batch
from .flight import EVERYTHING, Sent
from .puller import Puller
from .service import Asked, Run, Service, overlaps, runs
from .stream import Stream

if TYPE_CHECKING:
    from vanilla.protocol.connection import Event

    from .session import Session

#: Ranges in one CANCEL: it fits into the smallest frame that a client takes.
CANCELS = 400
_FAR = 1 << 62


class Server(Puller):
    """One server."""

    __slots__ = ("streams",)

    endpoint: Service

    def __init__(self, session: Session, id: int, endpoint: Service, first: int = 0) -> None:
        super().__init__(session, id, endpoint, first)
        #: Streamed replies that are under way, by its numbers.
        self.streams: dict[int, Stream] = {}

    # -- frames

    def reply(self, event: Event) -> None:
        """Answers to consecutive requests."""
        _, _, seq, count, payload = event
        if not count:
            raise BadMessage("a frame of replies carries at least one")
        check(payload, count, self.session.broker.options.depth, ARRAY_HEAD_BYTES)
        if count == 1 and not self.streams:
            batch = self.flight.take_first(seq)
            if batch is not None:
                self._answer_one(seq, batch, payload)
                return
        array = memoryview(payload)
        if self._streaming([(event.seq, count)]):
            raise ProtocolError("BAD_SEQUENCE", "a streamed reply ends with END or FAIL, not with a REPLY")
        at, number = ARRAY_HEAD_BYTES, event.seq
        for run in self._answered(event.seq, count):
            if run.seq > number:  # these are not wanted any more
                at = scan(array, at, run.seq - number, _FAR)[1]
            number = run.seq + run.count
            end = len(array) if number == event.seq + count else scan(array, at, run.count, _FAR)[1]
            run.caller.answer(run.first, run.count, Batch.kept(array[at:end]))
            at = end

    def _answer_one(self, seq: int, batch: Batch, array: Buffer) -> None:
        """`reply` to one request that came alone."""
        self._landed(1, batch.size)
        self.endpoint.settle(1)
        self.line_up()
        asked: Asked = batch.origin
        asked.caller.answer(batch.number + asked.base, 1, Batch.kept(memoryview(array)[ARRAY_HEAD_BYTES:]))

    def part(self, event: Event) -> None:
        """Items of a streamed reply."""
        array = memoryview(event.payload)
        check(array, event.count, self.session.broker.options.depth, ARRAY_HEAD_BYTES)
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
        had = stream.n if stream is not None else 0
        if event.payload["n"] != had:
            self._check_delivered(event.seq, 1)
            if self.flight.find(event.seq) is not None:
                raise ProtocolError("BAD_SEQUENCE", f"the stream of {had} items ends with {event.payload['n']}")
        for run in self._answered(event.seq, 1):
            run.caller.session.put(pack_control(END, run.caller.id, run.first, {"n": had}))

    def fail(self, event: Event) -> None:
        """Requests that failed."""
        fields = event.payload
        more = {key: fields[key] for key in ("type", "trace") if key in fields}
        maps: dict[int, bytes] = {}  # one may be long, and the runs many: those of one length share it
        for run in self._answered(event.seq, fields["count"]):
            if run.caller.deaf:
                run.caller.fail_unread(run.first, run.count)
                continue
            if run.count not in maps:
                said = {"count": run.count, "code": fields["code"], "text": fields["text"], **more, "by": "server"}
                maps[run.count] = msgpack.packb(said)
            packed = maps[run.count]
            run.caller.session.put(pack_head(FAIL, run.caller.id, run.first, 1, len(packed)), packed)

    def nack(self, event: Event) -> None:
        """It gives back what it has not begun; a request is never delivered twice."""
        if not event.payload.get("back"):
            raise ProtocolError("BAD_MAP", "a request can be given back unseen, or answered, and nothing else")
        if self._streaming(pairs(event.payload["r"])):
            raise ProtocolError("BAD_SEQUENCE", "a request that was answered in part cannot be given back")
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
        for stream in self._streaming(ranges):
            stream.close()
        return super()._take(ranges)

    def _streaming(self, ranges: list[tuple[int, int]]) -> list[Stream]:
        """The streams under way among *ranges*, which ascend. What few are asked for is looked up."""
        streams = self.streams
        if not streams:
            return []
        if sum(count for _, count in ranges) <= len(streams):
            numbers = (number for first, count in ranges for number in range(first, first + count))
            return [streams[number] for number in numbers if number in streams]
        return [stream for seq, stream in streams.items() if any(overlaps(seq, 1, ranges))]

    def cancel(self, ranges: list[tuple[int, int]]) -> int:
        """These are not wanted any more.

        :return: how many of them it had.
        """
        before = self.flight.count
        self._take(ranges)
        for start in range(0, len(ranges), CANCELS):
            flat = [number for pair in ranges[start : start + CANCELS] for number in pair]
            self.session.put(pack_control(CANCEL, self.id, 0, {"r": flat}))
        self.line_up()
        return before - self.flight.count

    # -- deliveries

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
        begun = [(0, taken)] if taken else []
        begun += [(seq, 1) for seq in sorted(self.streams) if seq >= taken]  # whatever it says of them
        lost = self._take(begun) if begun else []
        service.put_back([sent.batch.part(sent.low, sent.high) for sent in self._take(EVERYTHING)])
        service.fail([sent.batch.part(sent.low, sent.high) for sent in lost], "PEER_LOST")
        if not service.pullers:
            service.forsake()
        service.broker.touch(service)

"""A service: a named endpoint of requests, which servers answer.

Requests come in, wait and go out as messages of a work queue do, in batches and by credit (`Endpoint`). What differs is
their end: each is delivered once at most, and its requester is told how it ended, by a server's answer or, where there
cannot be one, by the broker's FAIL.

Invariants, beside those of an endpoint:
6. A request is in one place: ``ready`` or ``back``, ``aside``, or one server's flight. Who takes it out of there sees
   that its requester is told, or that it was the requester who wanted it no more.
7. ``ready_n``, ``ready_b`` are the sums over ``ready``, ``back`` and ``aside``.
8. At every moment: accepted = acknowledged (answered by a server) + ready + in flight + dropped (all others).
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from vanilla.protocol.errors import FAILURES

from .batch import Batch
from .endpoint import Endpoint
from .flight import Sent

if TYPE_CHECKING:
    from .broker import Broker
    from .caller import Caller

Ranges = list[tuple[int, int]]


class Asked(NamedTuple):
    """Whose requests a batch holds, and on which terms: what `Batch.origin` is here.

    The number that the requester gave to a message is its accept number and ``base``.
    """

    caller: Caller
    base: int
    wait: bool
    #: Seconds, monotonic; infinity if there is none.
    deadline: float
    trace: bool


class Run(NamedTuple):
    """*count* requests of one caller that follow on each other at both ends: *first* is the caller's number, *seq* the
    server's."""

    caller: Caller
    first: int
    count: int  # type: ignore[assignment]  # hides tuple.count, which nobody asks for
    seq: int


class Service(Endpoint):
    """One service. Its ``pushers`` are the requesters, its ``pullers`` the servers."""

    kind = "a service"

    __slots__ = ("aside",)

    def __init__(self, broker: Broker, name: str) -> None:
        super().__init__(broker, name)
        #: Requests of those who do not read their replies.
        self.aside: dict[Caller, list[Batch]] = {}

    # -- requests go out

    def pop(self, most: int, most_b: int) -> Batch | None:
        while self.ready:
            asked: Asked = self.ready[0].origin
            if asked.caller.session.full:
                self._set_aside(asked.caller)
            elif asked.deadline < self.broker.now():
                self.fail([self._drop_first()], "DEADLINE")
            else:
                return super().pop(most, most_b)
        return None

    def _set_aside(self, caller: Caller) -> None:
        """It has to read what it has got before more is worked out for it."""
        self.aside.setdefault(caller, []).append(self.ready.popleft())
        caller.session.crowded.add(caller)

    def resume(self, caller: Caller) -> None:
        """It has read."""
        self.back += self.aside.pop(caller, ())
        self.broker.touch(self)

    def _drop_first(self) -> Batch:
        batch = self.ready.popleft()
        self.ready_n -= batch.count
        self.ready_b -= batch.size
        return batch

    # -- requests end

    def refuse(self, count: int) -> None:
        """*count* requests came for which there is nobody."""
        self.accepted += count
        self.dropped += count

    def fail(self, batches: Iterable[Batch], code: str) -> None:
        """No server will answer these: they are nowhere any more, and their requesters are told."""
        for batch in batches:
            asked: Asked = batch.origin
            self.dropped += batch.count
            asked.caller.fail(batch.number + asked.base, batch.count, code, FAILURES[code], {"by": "broker"})

    def forsake(self) -> None:
        """The last server is gone: who did not want to wait does not."""
        waiting = self._waiting()
        self.ready.clear()
        self.back.clear()
        self.aside.clear()
        for batch in waiting:
            if batch.origin.wait:
                self.back.append(batch)
            else:
                self.ready_n -= batch.count
                self.ready_b -= batch.size
                self.fail([batch], "NO_SERVICE")
        self.broker.touch(self)

    def withdraw(self, caller: Caller, ranges: Ranges) -> None:
        """*caller* does not want the answers to these any more.

        :param ranges: its own numbers, ascending.
        """
        self.ready = deque(self._without(self.ready, caller, ranges))
        self.back = list(self._without(self.back, caller, ranges))
        if caller in self.aside:
            self.aside[caller] = list(self._without(self.aside[caller], caller, ranges))
        waiting = self._waiting()
        self.ready_n = sum(batch.count for batch in waiting)
        self.ready_b = sum(batch.size for batch in waiting)
        server: Any
        for server in self.pullers:
            delivered: Ranges = []
            for sent in server.flight:
                asked: Asked = sent.batch.origin
                if asked.caller is caller:
                    first = sent.batch.number + sent.low + asked.base
                    for start, count in overlaps(first, sent.high - sent.low, ranges):
                        delivered.append((sent.seq + start - first, count))
            if delivered:
                self.dropped += server.cancel(delivered)
        self.broker.touch(self)

    def _waiting(self) -> list[Batch]:
        """All that no server has."""
        return [*self.ready, *self.back, *(batch for batches in self.aside.values() for batch in batches)]

    def _without(self, batches: Iterable[Batch], caller: Caller, ranges: Ranges) -> Iterator[Batch]:
        """*batches*, and what of them *caller* still wants."""
        for batch in batches:
            asked: Asked = batch.origin
            if asked.caller is not caller:
                yield batch
                continue
            first, at = batch.number + asked.base, 0
            for start, count in overlaps(first, batch.count, ranges):
                if start - first > at:
                    yield batch.part(at, start - first)
                at = start - first + count
                self.dropped += count
            if at < batch.count:
                yield batch.part(at, batch.count)


def overlaps(first: int, count: int, ranges: Ranges) -> Iterator[tuple[int, int]]:
    """Which of the *count* numbers from *first* on are in *ranges*, as ranges."""
    end = first + count
    for start, many in ranges[max(bisect_right(ranges, (first, 1 << 65)) - 1, 0) :]:
        if start >= end:
            return
        low, high = max(start, first), min(start + many, end)
        if low < high:
            yield low, high - low


def runs(pieces: list[Sent]) -> Iterator[Run]:
    """What came off a flight, by requester: as few runs as may be."""
    run: Run | None = None
    for seq, low, high, batch, _ in pieces:
        asked: Asked = batch.origin
        first = batch.number + low + asked.base
        if run and run.caller is asked.caller and (run.first + run.count, run.seq + run.count) == (first, seq):
            run = run._replace(count=run.count + high - low)
        else:
            if run:
                yield run
            run = Run(asked.caller, first, high - low, seq)
    if run:
        yield run

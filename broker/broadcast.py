"""A broadcast: what a publisher sends goes to everybody who subscribes, and nobody's reading slows it.

A batch is shared by all subscribers: for each it costs a head and an append, and no message is looked at but where a
subscriber's credit ends in the middle. Who has no credit left, or does not take output, misses what comes: that is
counted, and told by number as soon as it can take something again.

Of its accounts, a message is acknowledged when one subscriber at least was sent it, and else dropped.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Callable

from vanilla.protocol.frames import CREDIT, DATA, NACK, SENT, Buffer, pack_control, pack_head
from vanilla.protocol.scan import scan

from .endpoint import Endpoint
from .memory import MESSAGE_BYTES
from .puller import FRAME_BYTES
from .pusher import Pusher
from .unmetered import Unmetered

if TYPE_CHECKING:
    from vanilla.protocol.connection import Event

    from .broker import Broker
    from .session import Session


class Broadcast(Endpoint):
    """One broadcast. Its ``pushers`` are the publishers, its ``pullers`` the subscribers.

    ``ready`` holds what has come in this tick. ``missed`` is how many messages its subscribers have missed, together.
    """

    kind = "a broadcast"

    __slots__ = ("missed",)

    def __init__(self, broker: Broker, name: str) -> None:
        super().__init__(broker, name)
        self.missed = 0

    def match(self) -> None:
        """Send what has come in this tick to everybody."""
        ready = self.ready
        subscribers: Any = self.pullers
        for count, body in _joined(ready):
            reached = max((subscriber.offer(count, body) for subscriber in subscribers), default=0)
            self.acknowledged += reached
            self.dropped += count - reached
        ready.clear()
        self.ready_n = self.ready_b = 0

    @property
    def load(self) -> int:
        return self.ready_b + len(self.ready) * MESSAGE_BYTES  # what is on its way counts as output


def _joined(batches: Any) -> Iterator[tuple[int, Buffer]]:
    """Their messages, the small ones in frames together: how many, and packed."""
    count = size = 0
    bodies: list[Buffer] = []
    for batch in batches:
        if bodies and size + batch.size > FRAME_BYTES:
            yield count, bodies[0] if len(bodies) == 1 else b"".join(bodies)
            count, size, bodies = 0, 0, []
        count += batch.count
        size += batch.size
        bodies.append(batch.body)
    if bodies:
        yield count, bodies[0] if len(bodies) == 1 else b"".join(bodies)


class Publisher(Unmetered):
    """A producer of a broadcast."""

    __slots__ = ()

    frames: dict[int, Callable[[Any, Event], None]] = {DATA: Pusher.data, SENT: Pusher.sent}


class Subscriber:
    """A consumer of a broadcast.

    ``limit_*`` is its credit, in messages and bytes of which ``sent_*`` are used. ``next`` is the number of the next
    message, sent or missed; from ``told`` on it has not heard of them.
    """

    __slots__ = ("endpoint", "id", "limit_b", "limit_n", "next", "sent_b", "sent_n", "session", "told")

    def __init__(self, session: Session, id: int, endpoint: Broadcast, first: int = 0) -> None:
        self.session = session
        self.id = id
        self.endpoint = endpoint
        self.limit_n, self.limit_b = first, 0
        self.sent_n, self.sent_b = first, 0
        self.next = self.told = first
        endpoint.pullers.add(self)  # type: ignore[arg-type]  # its endpoint asks it for `offer` alone

    def resume(self, first: int) -> None:
        """See `Puller.resume`."""

    def credit(self, event: Event) -> None:
        """It takes more."""
        self.limit_n = max(self.limit_n, event.payload["n"])
        self.limit_b = max(self.limit_b, event.payload["b"])
        self.line_up()

    def line_up(self) -> None:
        """It has credit, or takes output again: tell it what it has missed."""
        beside = self.session.beside
        if self.session.full:
            self.session.starved.add(self)
        elif beside is not None:
            if self.next > self.told:
                beside.account(self)
        elif self.next > self.told and self.can_take:
            self.session.put(pack_control(NACK, self.id, 0, {"r": [self.told, self.next - self.told]}))
            self.told = self.next

    @property
    def can_take(self) -> bool:
        """Has it credit?"""
        return self.limit_n > self.sent_n and self.limit_b > self.sent_b

    frames: dict[int, Callable[[Any, Event], None]] = {CREDIT: credit}

    def offer(self, count: int, body: Buffer) -> int:
        """Send as much of *count* messages as it takes: how many. The rest it misses."""
        seq, session = self.next, self.session
        if session.beside is not None:
            return session.beside.offer(self, count, body)
        self.next += count
        if not self.can_take or session.full:
            self.endpoint.missed += count
            if session.full:
                session.starved.add(self)
            return 0
        if self.told < seq:
            session.put(pack_control(NACK, self.id, 0, {"r": [self.told, seq - self.told]}))
        left_n, left_b, size = self.limit_n - self.sent_n, self.limit_b - self.sent_b, len(body)
        if count > left_n or size > left_b:
            taken, size = scan(body, 0, min(count, left_n), left_b)
            self.endpoint.missed += count - taken
            count, body = taken, memoryview(body)[:size]
        self.sent_n += count
        self.sent_b += size
        self.told = seq + count
        session.put(pack_head(DATA, self.id, seq, count, size), body)
        return count

    def detach(self, seen: int | None) -> None:
        """It is gone."""
        self.session.starved.discard(self)
        if self.session.beside is not None:
            self.session.beside.forget(self)
        self.endpoint.pullers.discard(self)  # type: ignore[arg-type]
        self.endpoint.broker.touch(self.endpoint)

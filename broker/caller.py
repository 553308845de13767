"""A requester of a service, over one connection.

Its requests come as a producer's messages do. They are not confirmed: each is answered.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Callable

from vanilla.protocol.errors import FAILURES
from vanilla.protocol.frames import (
    CANCEL,
    CREDIT,
    DATA,
    DATA_OPTIONS,
    FAIL,
    REPLY,
    WANT,
    Buffer,
    pack_control,
    pack_head,
)

from .flight import EVERYTHING
from .pusher import Pusher, ascending, unwanted
from .service import Asked, Service

if TYPE_CHECKING:
    from vanilla.protocol.connection import Event

    from .session import Session
    from .stream import Stream


#: Of a deadline in ms: what is further away counts as this.
FAR_MS = 1 << 53


class Caller(Pusher):
    """One requester."""

    __slots__ = ("cancelled", "streams")

    kind = "call"
    endpoint: Service

    def __init__(self, session: Session, id: int, endpoint: Service, first: int) -> None:
        super().__init__(session, id, endpoint, first)
        #: What it does not want any more, gathered over a tick: (first, count), in any order.
        self.cancelled: list[tuple[int, int]] = []
        #: Streamed replies that are under way, by its numbers.
        self.streams: dict[int, Stream] = {}

    # -- frames

    def _take(self, seq: int, count: int, body: Buffer, options: dict[str, Any]) -> None:
        service, wait = self.endpoint, options.get("wait", False)
        if not service.pullers and not wait:
            service.refuse(count)
            self.fail(seq, count, "NO_SERVICE", FAILURES["NO_SERVICE"], {"by": "broker"})
            return
        deadline = math.inf
        if options and "deadline" in options:
            deadline = service.broker.now() + min(options["deadline"], FAR_MS) / 1000
        origin = Asked(self, seq - service.accepted, wait, deadline, options.get("trace", False))
        if self.session.full or not service.pass_on(count, body, origin):
            service.accept(count, body).origin = origin

    def credit(self, event: Event) -> None:
        """It takes more of a streamed reply; one that has ended meanwhile needs none."""
        stream = self.streams.get(event.seq)
        if stream is not None:
            stream.raise_to(event.payload["n"], event.payload["b"])

    def cancel(self, event: Event) -> None:
        """It does not want these any more. To find them costs a look at all that waits: once a tick."""
        self.cancelled += unwanted(event.payload["r"], self.quota.n)
        self.stir()

    frames: dict[int, Callable[[Any, Event], None]] = {
        DATA: Pusher.data,
        DATA_OPTIONS: Pusher.data,
        WANT: Pusher.want,
        CREDIT: credit,
        CANCEL: cancel,
    }

    # -- answers

    def fail(self, seq: int, count: int, code: str, text: str, more: dict[str, Any]) -> None:
        """Tell it that *count* requests failed, *seq* being the first."""
        self.session.put(pack_control(FAIL, self.id, seq, {"count": count, "code": code, "text": text, **more}))

    def answer(self, seq: int, count: int, body: Buffer) -> None:
        """Tell it the answers to *count* requests, *seq* being the first; but if it does not read, only that."""
        if self.deaf:
            self.fail_unread(seq, count)
        else:
            self.session.put(pack_head(REPLY, self.id, seq, count, len(body)), body)

    @property
    def deaf(self) -> bool:
        """Does it leave more unread than is kept for one connection?"""
        session = self.session
        return session.out.unsent > session.broker.options.unsettled_bytes

    def fail_unread(self, seq: int, count: int) -> None:
        """The answers to *count* requests, *seq* being the first, are dropped: that is told in a few bytes."""
        self.fail(seq, count, "UNREAD", FAILURES["UNREAD"], {"by": "broker"})

    # -- the rest

    def line_up(self) -> None:
        """It has read what it was sent: its requests may go to servers again."""
        self.endpoint.resume(self)

    def emit(self) -> None:
        self.dirty = False
        if self.cancelled:
            ranges = ascending(self.cancelled)
            self.cancelled.clear()
            self.endpoint.withdraw(self, ranges)

    def detach(self, seen: int | None) -> None:
        self.session.crowded.discard(self)
        self.cancelled.clear()
        if self.quota.b:  # else it has never asked, and there is nothing to be looked for
            self.endpoint.withdraw(self, EVERYTHING)
        self.endpoint.aside.pop(self, None)
        super().detach(seen)

"""What the broker holds in memory for others, in all, and who waits for it to become less.

One sum counts, in bytes: what endpoints hold (`Endpoint.load`: messages that are ready, delayed or in flight, and
credit that producers have and have not used), unsent output, and frames under way that no credit covers. Each of these
knows what it was last counted with and reports the difference, once a tick or once a frame, never once a message.

At the limit producers wait, and nobody else: no producer gets more credit. Everything is still read, for what may come
is bounded without looking at this sum: messages by credit that was counted when it was given, so that all producers
together cannot pass the limit; what is passed over is not kept; and other frames under way have a share of their own,
see `Memory.hold`. So there is nothing to deadlock: acknowledgements come in, deliveries go out, granted credit holds.

A delivery that is in flight and still unsent counts twice: a consumer may settle what it has not read. Answers that
nobody reads count, and are bounded a connection (`Caller.deaf`); they may pass the limit of the sum.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vanilla.protocol.errors import ProtocolError

if TYPE_CHECKING:
    from .broker import Broker
    from .endpoint import Endpoint
    from .session import Session

#: What messages that came in a frame of their own cost beside their bytes: a few objects that stand for them.
MESSAGE_BYTES = 256
#: Frames under way that no credit covers have this part of the memory: 16 for a sixteenth.
UNDER_WAY_PART = 16
#: How long freed memory gathers before it is granted, in ms.
PAUSE = 2
#: Endpoints that get their turn at once.
TURNS = 100


class Memory:
    """The sum, and the line of endpoints whose producers wait for it.

    While less than three quarters of it are in use the sum is kept as a bound, for that costs next to nothing: what is
    granted is added at once, and endpoints that have changed are noted. Else these are weighed at each tick's edge.

    Invariants, whenever a tick's edge has done its work:
    1. ``used`` is the sum of ``endpoint.counted``, ``session.counted`` and ``session.under_way`` over all there are.
    2. ``endpoint.counted`` is `Endpoint.load`, unless the endpoint is in ``unweighed``; ``session.counted`` is what the
       session has unsent.
    3. An endpoint stands in ``line`` once if a producer of it was refused for want of memory, or it came while others
       stood there. Who stands there has not got what it needs since memory became free last, or a timer runs.
    """

    def __init__(self, broker: Broker, limit: int) -> None:
        self.broker = broker
        self.limit = limit
        self.used = 0
        #: Up to here credit is given that nobody has asked for, and the sum is a bound.
        self.ease = limit * 3 // 4
        self.unweighed: dict[Endpoint, None] = {}
        self.line: dict[Endpoint, None] = {}
        #: Turns that are left of a round, and does the timer run that gives them?
        self._due = 0
        self._armed = False
        #: Sessions with a frame under way that no credit covers, by when it began, and the sum of their bytes.
        self._under_way: dict[Session, None] = {}
        self._under_way_b = 0

    def account(self, delta: int) -> None:
        """So many bytes more are held, or less."""
        self.used += delta
        if self.line and delta < 0:
            self._begin_round()

    def tend(self, touched: dict[Endpoint, None]) -> None:
        """At the edge of each tick, in which the endpoints *touched* may have changed."""
        self.unweighed.update(touched)
        if self.used > self.ease:
            self.weigh()

    def weigh(self) -> None:
        """Bring the sum up to date."""
        unweighed, self.unweighed = self.unweighed, {}
        before = self.used
        for endpoint in unweighed:
            load = endpoint.load
            self.used += load - endpoint.counted
            endpoint.counted = load
        if self.line and self.used < before:
            self._begin_round()

    def forget(self, endpoint: Endpoint) -> None:
        """*endpoint* is gone."""
        self.unweighed.pop(endpoint, None)
        self.line.pop(endpoint, None)
        self.account(-endpoint.counted)
        endpoint.counted = 0

    # -- the line

    def share(self, room: int) -> int:
        """What of *room* bytes one producer may get while others wait: an equal part, and never all."""
        return min(room - room // 4, room // (len(self.line) + 1))

    def wait(self, endpoint: Endpoint) -> None:
        """*endpoint* has a producer that needs more than there is: let it ask again when there is more."""
        self.line.setdefault(endpoint)

    def stand_in_line(self, endpoint: Endpoint) -> None:
        """*endpoint* wants to grant and others wait: they come first. It may need less than they do."""
        self.wait(endpoint)
        self._begin_round()

    def _begin_round(self) -> None:
        """Let each that stands in line have its turn, a moment from now."""
        self._due = len(self.line)
        if not self._armed:
            self._armed = True
            self.broker.hub.after(PAUSE, self._serve)

    def _serve(self) -> None:
        """Give the first in line their turns. Who needs more than there is goes to the end, and stops nobody."""
        self.weigh()
        turns = min(TURNS, self._due, len(self.line))
        self._due -= turns
        for _ in range(turns):
            endpoint = next(iter(self.line))
            del self.line[endpoint]
            self.broker.hub.guard(endpoint.grant_in_turn)
        self._armed = self._due > 0 and bool(self.line)
        if self._armed:
            self.broker.hub.after(PAUSE, self._serve)

    # -- frames under way

    def hold(self, session: Session, size: int) -> None:
        """A frame of *size* bytes that no credit covers, an acknowledgement say, is under way on *session*; 0: none is.

        Together they have a part of the memory, and where that is used up the one that began first is given up, with
        its connection. A good peer's frame comes whole in no time and is never the first, however many others begin
        frames and do not end them.
        """
        self._under_way.pop(session, None)
        if size:
            self._under_way[session] = None
        self._under_way_b += size - session.under_way
        self.account(size - session.under_way)
        session.under_way = size
        while self._under_way_b * UNDER_WAY_PART > self.limit and len(self._under_way) > 1:
            self._give_up(next(iter(self._under_way)))

    def _give_up(self, session: Session) -> None:
        text = f"the frame of {session.under_way} bytes that it began is not whole, and the memory for such is used up"
        session.fail(ProtocolError("TOO_MANY", text), "memory")
        session.drop("")

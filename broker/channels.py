"""The broker's side of a channel: a producer or a consumer of one endpoint, over one connection.

Each kind (`KINDS` in `session`) answers the same calls of `Session`: one method a frame (``frames``), ``emit`` at the
tick's edge, ``detach`` at the end.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Callable

from vanilla.protocol.credit import Quota
from vanilla.protocol.errors import BadMessage, ProtocolError
from vanilla.protocol.frames import (
    ACK,
    ARRAY_HEAD_BYTES,
    COUNTED_BYTES,
    CREDIT,
    DATA,
    DATA_OPTIONS,
    EXTRA_BYTES,
    MAX_FIRST,
    MORE,
    NACK,
    TOUCH,
    WANT,
    Buffer,
    pack_control,
    pack_head,
)
from vanilla.protocol.options import LISTS, pack_options, read_options
from vanilla.protocol.ranges import Ranges, pairs
from vanilla.protocol.scan import check, scan
from vanilla.protocol.terms import MAX_MS

from .batch import Batch
from .endpoint import FIRST_BYTES, FIRST_MESSAGES, LONE_FIRST_MESSAGES, Endpoint
from .flight import EVERYTHING, Flight, Sent
from .lease import Leases
from .memory import MESSAGE_BYTES
from .said import PLAIN, look_of, pack_said

if TYPE_CHECKING:
    from vanilla.protocol.connection import Event

    from .session import Session

#: Small batches of one consumer share a frame up to this size.
FRAME_BYTES = 64 << 10
#: Messages of less are copied out of the array that they came in: a view of it takes 300 bytes.
LITTLE_BYTES = 1024
#: Where the oldest messages make room, credit goes beyond what was asked for, by this part of the capacity at most.
SPARE_PART = 64
_FAR = 1 << 62
_NO_OPTIONS: dict[str, Any] = {}


class Pusher:
    """A producer on one endpoint.

    ``window_*`` is how much credit it gets unasked: it doubles whenever more than half of it was used between two
    grants. ``want_*`` is what it said it waits for. ``held_*`` is its part of the endpoint's sums of unused credit.
    """

    __slots__ = (
        "again",
        "confirmed",
        "dirty",
        "endpoint",
        "epoch",
        "held_b",
        "held_n",
        "id",
        "quota",
        "session",
        "want_b",
        "want_n",
        "window_b",
        "window_n",
    )

    #: The options that its messages may have.
    kind = "push"

    def __init__(self, session: Session, id: int, endpoint: Endpoint, first: int) -> None:
        self.session = session
        self.id = id
        self.endpoint = endpoint
        self.quota = Quota(first)
        self.confirmed = first
        #: Of a producer that has come back: the number of the next message that may come a second time; -1: none may.
        self.again = -1
        self.epoch = 0
        endpoint.pushers.add(self)
        self._first_window()
        self.want_n = self.want_b = 0
        self.held_n = self.held_b = 0
        self.dirty = False
        self.ask()

    # -- frames

    def data(self, event: Event) -> None:
        """Messages. All of the frame is accepted, or the connection ends."""
        kind, _, seq, count, array = event
        at = ARRAY_HEAD_BYTES
        depth = self.session.broker.options.depth
        options, extra = _NO_OPTIONS, 0
        if kind == DATA_OPTIONS:
            at = scan(array, at, 1, _FAR, depth)[1]
            extra = at - ARRAY_HEAD_BYTES if self.kind == "push" else 0  # some of it is kept as long as the messages
            count -= 1
            options = read_options(array[ARRAY_HEAD_BYTES:at], self.kind, count)
        if count < 1:
            raise BadMessage("a data frame carries at least one message")
        check(array, count, depth, at)
        quota = self.quota
        if seq != quota.n:
            at, left = self._pass_over(seq, array, at, count)
            options = {name: value[count - left :] if name in LISTS else value for name, value in options.items()}
            seq, count = quota.n, left
        size = len(array) - at
        left_n, left_b = quota.limit_n - seq - count, quota.limit_b - quota.b - size - extra
        if left_n < 0 or left_b < 0:
            self._overdrawn(count, size + extra)
        if self.want_n and self.endpoint.terms.overflow == "drop-oldest":
            self.want_n = self.want_b = 0  # this may be it, and nothing is to be dropped for it twice
        if count:
            self._take(seq, count, memoryview(array)[at:] if size >= LITTLE_BYTES else bytes(array[at:]), options)
        quota.n = seq + count  # behind it: what was not taken is not to be confirmed
        quota.b += size + extra
        self._recount()
        if left_n * 2 <= self.window_n or left_b * 2 <= self.window_b:  # else it would be given nothing
            self.ask()

    def _take(self, seq: int, count: int, body: Buffer, options: dict[str, Any]) -> None:
        """*count* messages, of which *seq* is the first, are accepted."""
        if options or self.endpoint.terms.ttl:
            self.endpoint.admit(count, body, options)
        elif not self.endpoint.pass_on(count, body):
            self.endpoint.accept(count, body)
        self.stir()

    def resume(self, first: int) -> None:
        """It comes back, and would begin again with *first*: what lies below ``quota.n`` has come already."""
        if first < self.quota.n:
            self.again = first

    def _pass_over(self, seq: int, array: Buffer, at: int, count: int) -> tuple[int, int]:
        """Of a frame that begins before what is new: where in it that begins, and how many messages it is, which may
        be none. The bytes of the others count as sent all the same: the producer counts them."""
        quota = self.quota
        if seq != self.again:
            raise ProtocolError("BAD_SEQUENCE", f"message {seq} came where {quota.n} was next")
        known = min(count, quota.n - seq)
        self.again = self.again + known if count < quota.n - seq else -1
        new = scan(array, at, known, _FAR)[1]
        if new - at > quota.left_b:
            self._overdrawn(0, new - at)
        quota.spend(0, new - at)
        return new, count - known

    def _overdrawn(self, count: int, size: int) -> None:
        left_n, left_b = self.quota.left_n, self.quota.left_b
        raise ProtocolError("OVER_CREDIT", f"{count} messages, {size} bytes; left {left_n}, {left_b}")

    def covers(self, kind: int, size: int) -> bool:
        """Is a frame that has begun, with an array of *size* bytes, paid for by credit?

        :raises ProtocolError: OVER_CREDIT, of a frame of messages that is not, and so need not be waited for.
        """
        if kind not in (DATA, DATA_OPTIONS):
            return False
        size -= ARRAY_HEAD_BYTES + (EXTRA_BYTES if kind == DATA_OPTIONS and self.kind != "push" else 0)
        if size > self.quota.left_b:
            self._overdrawn(1, size)
        return True

    def want(self, event: Event) -> None:
        """It waits for credit, or gives some back."""
        fields = event.payload
        if "limit" in fields:
            self.quota.lower_to(*fields["limit"])
            self._recount()
            self.epoch = fields.get("epoch", 0)
            self._first_window()
        self.want_n = fields.get("n", self.want_n)
        self.want_b = min(fields.get("b", self.want_b), self.session.broker.options.frame_bytes)
        self.ask()

    # -- credit

    def _first_window(self) -> None:
        """What is given to a producer of which nothing is known, or which was idle: its part of an eighth of all there
        is, within bounds. A queue that is used now and then gets its batch in one piece so, not in three."""
        eighth = self.endpoint.capacity // 8
        share = eighth // max(len(self.endpoint.pushers), 1)
        self.window_n = min(max(share, FIRST_MESSAGES), LONE_FIRST_MESSAGES, eighth)
        self.window_b = min(FIRST_BYTES, self.endpoint.capacity_b // 8)

    def ask(self) -> None:
        """Stand in line for credit."""
        self.session.owed = True
        self.endpoint.asking.setdefault(self)  # who stands in line keeps its place
        self.endpoint.broker.touch(self.endpoint)

    def grant(self, share_n: int, share_b: int) -> bool:
        """Give credit out of the endpoint's room. False: there is not enough, it has to wait.

        :param share_n: the messages, and *share_b* the bytes, that are its part of the room.
        """
        endpoint, quota = self.endpoint, self.quota
        left_n, left_b = quota.left_n, quota.left_b
        goal_n, goal_b = self._goal()
        if goal_n <= left_n and goal_b <= left_b:
            return True
        room_n, room_b = endpoint.room_n + self.held_n, endpoint.room_b + self.held_b
        least_b = max(left_b, self.want_b, 1)
        if 0 < room_b < least_b and not endpoint.ready_n and not endpoint.delayed_n:
            # Larger than the endpoint can ever hold: the one message over capacity, which must not wait for ever.
            room_b = least_b
        least_n = max(left_n, 1)
        lacks = room_n < least_n or room_b < least_b
        if lacks and endpoint.terms.overflow != "block" and not endpoint.broker.draining:
            if not self.want_n and not self.want_b:
                return True  # who needs it says so, and is not to keep those behind it waiting
            if endpoint.terms.overflow == "reject":
                return self._reject()
            goal_n, goal_b = share_n, share_b = self._displace(least_n, least_b)
            room_n, room_b = endpoint.room_n + self.held_n, endpoint.room_b + self.held_b
            if 0 < room_b < least_b and not endpoint.ready_n and not endpoint.delayed_n:
                room_b = least_b
            lacks = room_n < least_n or room_b < least_b
        if endpoint.broker.draining or lacks:
            return not (self.want_n or self.want_b or self.spent)  # who has something left may ask again
        memory = endpoint.broker.memory
        spare = memory.limit - memory.used
        if spare < self._price(least_n, least_b):
            if (self.want_n or self.want_b) and endpoint.terms.overflow == "reject":
                return self._reject()
            if self.want_n or self.want_b or self.spent:
                memory.wait(endpoint)
                return False
            return True
        # Three quarters of what is free at most: whoever holds credit and stands still is not to stop the others.
        n = max(left_n, min(goal_n, max(room_n - room_n // 4, 1), share_n + self.held_n))
        b = max(least_b, min(goal_b, room_b - room_b // 4, share_b + self.held_b))
        offer = memory.share(spare) if memory.line else spare - spare // 4
        if self._price(n, b) > offer:
            most_n = min(spare - least_b + self.held_b, offer // 2) // MESSAGE_BYTES
            n = max(least_n, min(n, self.held_n + most_n))
            b = max(least_b, min(b, offer - self._price(n, 0)))
        self._give(n - left_n, b - left_b)
        return True

    def _reject(self) -> bool:
        """The queue is full, and its producers do not wait: what this one waits with is refused."""
        numbers = [self.quota.n, min(max(self.want_n, 1), MAX_FIRST)]
        self.session.put(pack_control(NACK, self.id, 0, {"r": numbers, "code": "FULL"}))
        self.want_n = self.want_b = 0
        return True

    def _displace(self, least_n: int, least_b: int) -> tuple[int, int]:
        """The queue is full, and its oldest messages go: for all that waits, and a bit more that may be about to come.

        :return: the credit that there is room for, if enough could go.
        """
        endpoint = self.endpoint
        n = max(least_n, self.want_n, min(self.window_n, endpoint.capacity // SPARE_PART))
        b = max(least_b, self.want_b, min(self.window_b, endpoint.capacity_b // SPARE_PART))
        n, b = min(n, endpoint.capacity), max(min(b, endpoint.capacity_b), least_b)
        endpoint.drop_oldest(n - self.held_n, b - self.held_b)
        return n, b

    def _price(self, n: int, b: int) -> int:
        """What memory it takes more to hold credit for so many messages and bytes."""
        return b - self.held_b + (n - self.held_n) * MESSAGE_BYTES

    def _goal(self) -> tuple[int, int]:
        """The credit that it should have: what it asked for, and what keeps a stream from stopping.

        To one that did not ask, the latter only while the endpoint can afford it; and nothing until half of the window
        is used, and then a wider one.
        """
        quota, endpoint = self.quota, self.endpoint
        goal_n, goal_b = self.want_n, self.want_b
        if not endpoint.at_ease and not goal_n and not goal_b:
            return 0, 0
        if quota.left_n * 2 <= self.window_n:
            if quota.b:
                self.window_n = min(max(self.window_n * 2, 1), endpoint.capacity)
            goal_n = max(goal_n, self.window_n)
        if quota.left_b * 2 <= self.window_b:
            if quota.b:
                self.window_b = min(max(self.window_b * 2, 1), endpoint.capacity_b)
            goal_b = max(goal_b, self.window_b)
        return goal_n, goal_b

    @property
    def spent(self) -> bool:
        """Is one of its limits used up, so that it cannot send?"""
        return self.quota.left_n <= 0 or self.quota.left_b <= 0

    def _recount(self) -> None:
        """Keep the endpoint's sums. Credit of one kind without the other cannot be used and takes no room."""
        quota, endpoint = self.quota, self.endpoint
        n, b = quota.limit_n - quota.n, quota.limit_b - quota.b
        if n <= 0 or b <= 0:
            n = b = 0
        endpoint.granted_n += n - self.held_n
        endpoint.granted_b += b - self.held_b
        self.held_n, self.held_b = n, b

    def _give(self, more_n: int, more_b: int) -> None:
        quota, endpoint = self.quota, self.endpoint
        quota.raise_to(quota.limit_n + more_n, quota.limit_b + more_b)
        held_n, held_b = self.held_n, self.held_b
        self._recount()
        more = self.held_b - held_b + (self.held_n - held_n) * MESSAGE_BYTES
        endpoint.counted += more
        endpoint.broker.memory.used += more
        self.want_n = self.want_b = 0
        endpoint.granted_at = endpoint.broker.now()
        fields = {"n": quota.limit_n, "b": quota.limit_b, "epoch": self.epoch}
        self.session.put(pack_control(CREDIT, self.id, 0, fields))

    frames: dict[int, Callable[[Any, Event], None]] = {DATA: data, DATA_OPTIONS: data, WANT: want}

    # -- the rest

    def stir(self) -> None:
        """There is something to `emit` at the tick's edge."""
        if not self.dirty:
            self.dirty = self.session.owed = True
            self.session.broker.emitters.append(self)

    def emit(self) -> None:
        """Confirm what was accepted in this tick."""
        self.dirty = False
        count = self.quota.n - self.confirmed
        if count:
            self.session.put(pack_control(ACK, self.id, 0, {"r": [self.confirmed, count]}))
            self.confirmed = self.quota.n

    def detach(self, seen: int | None) -> None:
        """The channel is gone: what it was granted is free again."""
        endpoint = self.endpoint
        endpoint.granted_n -= self.held_n
        endpoint.granted_b -= self.held_b
        endpoint.pushers.discard(self)
        endpoint.asking.pop(self, None)
        endpoint.broker.touch(endpoint)
        if seen is None and type(self) is Pusher:
            endpoint.broker.producers.keep(self.session, endpoint.name, self.quota.n)


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
            if frame and (size + batch.size > largest or not self._alike(batch, frame[0])):
                self._send(frame, count, size, 0)
                frame, count, size = [], 0, 0
            self._fly(batch)
            frame.append(batch)
            count += batch.count
            size += batch.size
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


# -- what a producer has cancelled


def unwanted(flat: list[int], sent: int) -> list[tuple[int, int]]:
    """The ranges of a CANCEL, as far as its producer has *sent*: nothing is cancelled in advance."""
    return [(first, min(count, sent - first)) for first, count in pairs(flat) if first < sent]


def ascending(ranges: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """*ranges*, in any order, as disjoint ones in order."""
    found = Ranges()
    for first, count in sorted(ranges):  # in order, each costs the same, however many there are
        found.add(first, count)
    return list(found)

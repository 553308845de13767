"""The broker's side of a producer's channel: one producer of one endpoint, over one connection.

Each kind of channel (`KINDS` in `session`) answers the same calls of `Session`: one method a frame (``frames``),
``emit`` at the tick's edge, ``detach`` at the end.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Callable

from vanilla.protocol.credit import Quota
from vanilla.protocol.errors import BadMessage, ProtocolError
from vanilla.protocol.frames import (
    ACK,
    ARRAY_HEAD_BYTES,
    CREDIT,
    DATA,
    DATA_OPTIONS,
    EXTRA_BYTES,
    MAX_FIRST,
    NACK,
    SENT,
    WANT,
    Buffer,
    pack_control,
)
from vanilla.protocol.options import LISTS, read_options
from vanilla.protocol.ranges import Ranges, pairs
from vanilla.protocol.scan import check, scan

from .endpoint import FIRST_BYTES, FIRST_MESSAGES, LONE_FIRST_MESSAGES, Endpoint
from .memory import MESSAGE_BYTES

if TYPE_CHECKING:
    from vanilla.protocol.connection import Event

    from .session import Session

#: Messages of less are copied out of the array that they came in: a view of it takes 300 bytes.
LITTLE_BYTES = 1024
#: Where the oldest messages make room, credit goes beyond what was asked for, by this part of the capacity at most.
SPARE_PART = 64
#: What a producer that has given back its credit gets unasked is so small a part of the room at most: in a small queue
#: it would be what others wait for.
REST_PART = 64
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
        "rested",
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
        #: It has given back what it had, and sent nothing since.
        self.rested = False
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
        if self.want_n and self.endpoint.terms.overflow == "drop-oldest" and self.session.beside is None:
            self.want_n = self.want_b = 0  # this may be it, and nothing is to be dropped for it twice
        if count:
            self.rested = False
            self._take(seq, count, memoryview(array)[at:] if size >= LITTLE_BYTES else bytes(array[at:]), options)
        quota.n = seq + count  # behind it: what was not taken is not to be confirmed
        quota.b += size + extra
        self._recount()
        if left_n * 2 <= self.window_n or left_b * 2 <= self.window_b:  # else it would be given nothing
            self.ask()

    def come(self, event: Event, position: int) -> None:
        """Messages that came beside the stream, behind *position* bytes of others. What they have overtaken is lost."""
        if event.seq < self.quota.n:
            return
        self._miss(event.seq, position)
        self.data(event)
        self._ask_again()

    def sent(self, event: Event) -> None:
        """All that was sent up to there has come by now, or is lost. What was sent since may have come as well."""
        if event.seq > self.quota.n:
            self._miss(event.seq, event.payload["b"])
            self._ask_again()

    def _miss(self, n: int, b: int) -> None:
        """What lies below number *n* and before byte *b*, and has not come, is lost. It has used its credit."""
        quota, beside = self.quota, self.session.beside
        count, size = n - quota.n, b - quota.b
        if count < 0 or size < 0 or (size and not count) or (count and beside is None):
            raise ProtocolError("BAD_SEQUENCE", f"{size} bytes in {count} messages are missing")
        if count > quota.left_n or size > quota.left_b:
            self._overdrawn(count, size)
        if count and beside is not None:
            beside.miss(self, quota.n, count)
            quota.spend(count, size)
            self._recount()
            self.stir()

    def _ask_again(self) -> None:
        """When it said what it wants it may have sent more than had come by then."""
        if self.want_n or self.want_b or self.spent:
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
            self._first_window(self.endpoint.room_n // REST_PART)
            self.rested = True
        self.want_n = fields.get("n", self.want_n)
        self.want_b = min(fields.get("b", self.want_b), self.session.broker.options.frame_bytes)
        self.ask()

    # -- credit

    def _first_window(self, most_n: int = _FAR) -> None:
        """What is given to a producer of which nothing is known, or which was idle: its part of an eighth of all there
        is, within bounds. A queue that is used now and then gets its batch in one piece so, not in three."""
        eighth = self.endpoint.capacity // 8
        share = eighth // max(len(self.endpoint.pushers), 1)
        self.window_n = min(max(share, FIRST_MESSAGES), LONE_FIRST_MESSAGES, eighth, most_n)
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
        is used, and then a wider one. One that rests gets little, for it may rest on.
        """
        quota, endpoint = self.quota, self.endpoint
        goal_n, goal_b = self.want_n, self.want_b
        if not goal_n and not goal_b and (not endpoint.at_ease or (self.rested and not self.window_n)):
            return 0, 0
        if quota.left_n * 2 <= self.window_n:
            if quota.b and not self.rested:
                self.window_n = min(max(self.window_n * 2, 1), endpoint.capacity)
            goal_n = max(goal_n, self.window_n)
        if quota.left_b * 2 <= self.window_b:
            if quota.b and not self.rested:
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

    frames: dict[int, Callable[[Any, Event], None]] = {DATA: data, DATA_OPTIONS: data, WANT: want, SENT: sent}

    # -- the rest

    def stir(self) -> None:
        """There is something to `emit` at the tick's edge."""
        if not self.dirty:
            self.dirty = self.session.owed = True
            self.session.broker.emitters.append(self)

    def emit(self) -> None:
        """Confirm what was accepted in this tick."""
        self.dirty = False
        first, stop = self.confirmed, self.quota.n
        if stop > first:
            beside = self.session.beside
            came = [first, stop - first] if beside is None else beside.report(self, first, stop)
            if came:
                self.session.put(pack_control(ACK, self.id, 0, {"r": came}))
            self.confirmed = stop

    def detach(self, seen: int | None) -> None:
        """The channel is gone: what it was granted is free again."""
        endpoint = self.endpoint
        endpoint.granted_n -= self.held_n
        endpoint.granted_b -= self.held_b
        endpoint.pushers.discard(self)
        endpoint.asking.pop(self, None)
        endpoint.broker.touch(endpoint)
        if self.session.beside is not None:
            self.session.beside.forget(self)
            return
        if seen is None and type(self) is Pusher:
            endpoint.broker.producers.keep(self.session, endpoint.name, self.quota.n)


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

"""An endpoint: a named work queue, its producers and its consumers.

Work is done per batch, and matching per tick: what came in during a tick is handed out at its edge, in `match`, and the
room that this made is granted to producers in `grant`. Nothing in here does I/O.

At every moment: accepted = acknowledged + ready + delayed + in flight + dead + dropped (`Endpoint.balance`).

Invariants:
1. ``ready`` is ascending by accept number, so what comes back stands where it stood. Where messages have priorities
   it holds those of the highest that there is, and is empty only if nothing is ready (`priorities`).
2. ``ready_n``, ``ready_b`` are the sums over what is ready, ``back`` and what stands aside for its key (`keys`);
   ``delayed_*`` likewise; ``granted_*`` the credit that producers have and have not used; ``flight_*`` the sums over
   the consumers' flights.
3. ready + delayed + granted never grows above the capacity by a grant; only returns and one oversize message may exceed
   it.
4. A consumer stands in ``hungry`` once if it has credit and its connection takes output and unsettled messages,
   otherwise not at all; one that waited for settlements from the tick's edge on, and one that let a lease run out from
   its next frame on.
5. A producer stands in ``asking`` once if it wants credit.
"""

from __future__ import annotations

import logging
import math
from collections import OrderedDict, deque
from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING, Any

from vanilla.protocol.errors import Refused
from vanilla.protocol.ranges import Ranges
from vanilla.protocol.scan import scan
from vanilla.protocol.terms import check_terms

from .batch import Batch, split_first
from .death import death_of
from .dedupe import Seen
from .expiry import Expiry
from .flight import Sent
from .keys import Keys
from .memory import MESSAGE_BYTES
from .priorities import Priorities, merged, number_of, priority_of
from .said import NAMES_BYTES, Names, Said

if TYPE_CHECKING:
    from vanilla.timers import Timer

    from .broker import Broker
    from .puller import Puller
    from .pusher import Pusher

log = logging.getLogger("vanilla.broker")

#: A producer's first grant, before anything is known of it: a lone one may send a burst at once, one of many a few.
FIRST_MESSAGES = 16
LONE_FIRST_MESSAGES = 128
FIRST_BYTES = 64 << 10
#: Where there is no place for dead letters they come round after so many ms at least, and the log says so once in so
#: many seconds.
NO_PLACE_MS = 1_000
NO_PLACE_LOG = 60
#: Between two grants of a nearly full endpoint, in seconds.
GRANT_PAUSE = 0.002
#: Ends the name of an endpoint's dead letters.
DEAD = ".dead"
_FAR = 1 << 62
_NO_DROPS: dict[str, int] = {}


class Endpoint:
    """One named endpoint. Made by `Broker.endpoint` on first use, gone when idle and empty unless it is `kept`."""

    #: What it is called where another kind was asked for.
    kind = "a work queue"
    #: Messages that consumers were not sent because they were behind: of a broadcast alone.
    missed = 0

    __slots__ = (
        "_no_place",
        "accepted",
        "acknowledged",
        "asking",
        "back",
        "broker",
        "capacity",
        "capacity_b",
        "counted",
        "dead",
        "declared",
        "delayed",
        "delayed_b",
        "delayed_n",
        "dropped",
        "drops",
        "duplicates",
        "expiry",
        "flight_b",
        "flight_n",
        "granted_at",
        "granted_b",
        "granted_n",
        "grave",
        "hungry",
        "keys",
        "lost",
        "mark",
        "name",
        "named",
        "pause",
        "priorities",
        "pullers",
        "pushers",
        "rate_in",
        "rate_out",
        "ready",
        "ready_b",
        "ready_n",
        "seen",
        "terms",
    )

    def __init__(self, broker: Broker, name: str) -> None:
        self.broker = broker
        self.name = name
        self.terms = broker.terms
        #: Somebody has asked for options, so it stays when it is idle.
        self.declared = False
        #: Dead letters of others come here, and stay.
        self.grave = False
        self.capacity = self.terms.capacity
        self.capacity_b = self.terms.capacity_bytes
        self.ready: deque[Batch] = deque()
        self.ready_n = self.ready_b = 0
        #: What has come back in this tick; counted as ready.
        self.back: list[Batch] = []
        #: Batches that wait for their redelivery, each with its timer.
        self.delayed: dict[Batch, Timer] = {}
        self.delayed_n = self.delayed_b = 0
        self.flight_n = self.flight_b = 0
        #: What there is only while messages need it: see there.
        self.priorities: Priorities | None = None
        self.expiry: Expiry | None = None
        self.keys: Keys | None = None
        self.seen: Seen | None = None
        #: Messages have had keys or ids here.
        self.named = False
        #: What `Memory` counts for it.
        self.counted = 0
        self.granted_n = self.granted_b = 0
        #: When credit was last given, and the timer of the pause after it.
        self.granted_at = -GRANT_PAUSE
        self.pause: Timer | None = None
        self.accepted = self.acknowledged = self.dead = self.dropped = 0
        #: When it was last logged that dead letters have no place.
        self._no_place = -math.inf
        #: ``dropped`` by reason, of work queues: overflow, expired...
        self.drops: dict[str, int] = _NO_DROPS
        #: Messages that were discarded for their ids, and not accepted.
        self.duplicates = 0
        #: Messages that were sent here by who dials with ?reliable=0, and did not come; none of them was accepted.
        self.lost = 0
        self.pushers: set[Pusher] = set()
        self.pullers: set[Puller] = set()
        # Ordered sets: whoever waits longest is first, and who leaves is found at once.
        self.hungry: OrderedDict[Puller, None] = OrderedDict()
        self.asking: OrderedDict[Pusher, None] = OrderedDict()
        #: (time, accepted, acknowledged) when the rates were last worked out.
        self.mark = (broker.now(), 0, 0)
        self.rate_in = self.rate_out = 0.0

    @classmethod
    def at(cls, broker: Broker, name: str, fields: dict[str, Any]) -> Endpoint:
        """The endpoint *name*, made if it is not there, for whoever opens it with *fields*.

        :raises Refused: it is not what they ask for, or they ask for what cannot be.
        """
        options = check_terms(fields.get("options") or {})
        if options.get("dead") == name:  # they would come round again for ever
            raise Refused("BAD_OPTION", f"the dead letters of {name!r} cannot go to {name!r} itself")
        is_new = name not in broker.endpoints
        endpoint = broker.endpoint(name, cls)
        if options:
            endpoint._declare(options, is_new)
        return endpoint

    def _declare(self, options: dict[str, Any], is_new: bool) -> None:
        """Settle *options*, or see that they are what holds.

        :raises Refused: CONFLICT.
        """
        if is_new:
            self.terms = self.terms.with_options(options)
            self.capacity, self.capacity_b = self.terms.capacity, self.terms.capacity_bytes
        else:
            self.terms.agree(self.name, options)
        self.declared = True

    # -- messages come in

    def accept(self, count: int, body: Any, said: Said | None = None) -> Batch:
        """Take *count* new messages, of which *said* is said."""
        batch = Batch(self.accepted, count, body, self.broker.now())
        self.accepted += count
        if said is None and self.priorities is None:
            self.ready.append(batch)
        else:
            self._stand(batch, said)
        self.ready_n += count
        self.ready_b += batch.size
        self.broker.touch(self)
        return batch

    def take_over(self, batch: Batch, said: Said | None) -> Batch:
        """Take what was another endpoint's, with what is *said* of it: new here, so that if it has no end, that is
        after the time that messages have here."""
        ttl = self.terms.ttl
        if ttl and (said is None or said.expires == math.inf):
            said = (said or Said()).until(self.broker.now() + ttl / 1000)
        return self.accept(batch.count, batch.body, said)

    def pass_on(self, count: int, body: Any, origin: Any = None) -> bool:
        """Hand *count* new messages to the consumer that waits longest, without a stop in ``ready``: the way of what
        comes alone.

        False: others come first, or could take their share, or it takes less, or there is output for it in this tick
        already, with which they can share a frame.
        """
        hungry = self.hungry
        if self.ready_n or not hungry:
            return False
        puller = next(iter(hungry))
        session = puller.session
        left_n, left_b = puller.limit_n - puller.sent_n, puller.limit_b - puller.sent_b
        if session.dirty or count > left_n or session.full or not puller.can_take:
            return False
        if count > 1 and (len(hungry) > 1 or len(body) > left_b):
            return False
        batch = Batch(self.accepted, count, body, self.broker.now())
        batch.origin = origin
        self.accepted += count
        self.broker.memory.unweighed[self] = None
        puller.send_one(batch)
        if self.asking:
            self.broker.touch(self)  # what was granted for it is free
        if count < left_n and batch.size < left_b:
            hungry.move_to_end(puller)
        else:
            del hungry[puller]
        return True

    def admit(self, count: int, body: Any, options: dict[str, Any]) -> None:
        """Take *count* messages that were sent with *options*, which were checked; but for those that came before."""
        now = self.broker.now()
        new = Batch(self.accepted, count, body, now)
        said = Said.of(options, now, count, self.terms.ttl)
        if said is not None:
            new.say(said)
        delay, redelivered = options.get("delay", 0), options.get("redelivered", False)
        for batch in [new] if said is None or said.ids is None else self._without_known(new, said.ids):
            if delay:
                batch.redelivered = redelivered
                batch.number = self.accepted
                self.accepted += batch.count
                self._note(batch)
                self.postpone(batch, delay)
            else:
                self.accept(batch.count, batch.body, batch.said).redelivered = redelivered
        self.broker.touch(self)

    def _without_known(self, batch: Batch, ids: Names) -> list[Batch]:
        """What of *batch*, whose messages have *ids*, has not come before."""
        if self.seen is None:
            self.seen = Seen(self)
        fresh = self.seen.fresh(ids, self.terms.dedupe_entries, self.terms.dedupe / 1000)
        self.duplicates += batch.count - len(fresh)
        if not fresh:
            return []
        found = Ranges()
        found.add_each(fresh)
        return [batch.part(first, first + count) for first, count in found]

    def _stand(self, batch: Batch, said: Said | None) -> None:
        """*batch* is ready, behind all of its priority."""
        if said is not None:
            batch.say(said)
            self._note(batch)
        if self.priorities is None and not priority_of(batch):
            self.ready.append(batch)
        else:
            self._lines().add(batch)

    def _lines(self) -> Priorities:
        """A line for each priority."""
        if self.priorities is None:
            self.priorities = Priorities(self)
        return self.priorities

    def _note(self, batch: Batch) -> None:
        """*batch* is here, of which something is said: see that there is what that needs."""
        said = batch.said
        if said is None:
            return
        self.named |= said.keys is not None or said.ids is not None
        if said.keys is not None and self.keys is None:
            self.keys = Keys(self)
        if said.expires < math.inf:
            if self.expiry is None:
                self.expiry = Expiry(self)
            self.expiry.note(said.expires)

    def put_back(self, batches: Iterable[Batch]) -> None:
        """Insert *batches* where they stood, at the tick's edge."""
        for batch in batches:
            self.ready_n += batch.count
            self.ready_b += batch.size
            self.back.append(batch)
            if batch.said is not None:
                self._note(batch)
                if self.keys is not None:
                    self.keys.back(batch)
        self.broker.touch(self)

    def _merge_back(self) -> None:
        """Once a tick, however much came back how often: most of it stands in front of all that is ready."""
        back, self.back = self.back, []
        back.sort(key=number_of)
        if self.priorities is None and not any(map(priority_of, back)):
            self.ready = merged(self.ready, back)
        else:
            self._lines().merge(back)

    # -- messages go out

    def match(self) -> None:
        """Hand out what is ready to the consumers that have credit, in turn and in equal shares."""
        hungry = self.hungry
        if self.back:
            self._merge_back()
        while self.ready and hungry:
            ready_n = self.ready_n if self.keys is None else self.ready_n - self.keys.count
            share = -(-ready_n // len(hungry))
            for _ in range(len(hungry)):
                if not self.ready:
                    break
                puller = hungry.popitem(last=False)[0]
                puller.deliver(share)
                puller.line_up()

    def pop(self, most: int, most_b: int) -> Batch | None:
        """Take the first batch out of ``ready``: up to *most* messages, and no more once they have *most_b* bytes.

        :return: None if there is none that may go now.
        """
        if self.ready[0].said is not None or self.priorities is not None:
            most = self._fit(most)
            if not most:
                return None
        batch = self.ready[0]
        if batch.count <= most and batch.size <= most_b:
            self.ready.popleft()
        else:
            count, at = scan(batch.body, 0, min(most, batch.count), most_b)
            if count < batch.count:
                batch, self.ready[0] = batch.cut(count, at)
            else:
                self.ready.popleft()
        self.ready_n -= batch.count
        self.ready_b -= batch.size
        if batch.said is not None and self.keys is not None:
            self.keys.hold(batch)
        if self.priorities is not None and not self.ready:
            self.priorities.choose()
        return batch

    def drop_oldest(self, n: int, b: int) -> None:
        """Drop what is ready, from its front, until there is room for *n* messages and *b* bytes or nothing is left.

        Where messages have priorities or keys, those of the lowest priority go, whether they stand aside or not.
        """
        if self.back:
            self._merge_back()
        if self.priorities is not None or self.keys is not None:
            self._drop_least(n - self.room_n, b - self.room_b)
            return
        while self.ready and (self.room_n < n or self.room_b < b):
            lack_n, lack_b = n - self.room_n, b - self.room_b
            batch = self.pop(lack_n if lack_n > 0 else _FAR, lack_b if lack_b > 0 else _FAR)
            if batch is None:
                break
            self.drop(batch.count, "overflow")

    def _drop_least(self, lack_n: int, lack_b: int) -> None:
        """`drop_oldest`, until *lack_n* messages and *lack_b* bytes are gone."""
        gone, dropped, kept = [], [], []
        for batch in sorted(self.in_line(), key=lambda batch: (priority_of(batch), batch.number)):
            if lack_n <= 0 and lack_b <= 0:
                break
            count = max(scan(batch.body, 0, batch.count, lack_b)[0], min(lack_n, batch.count))
            gone.append(batch)
            dropped.append(batch.part(0, count))
            if count < batch.count:
                kept.append(batch.part(count, batch.count))
            lack_n -= count
            lack_b -= dropped[-1].size
        if not gone:
            return  # to touch the endpoint for nothing would be to come back here at each edge
        self.take_out(gone)
        self.put_back(kept)
        for batch in dropped:
            self.drop(batch.count, "overflow")
            if self.keys is not None:
                self.keys.gone(batch)

    def drop(self, count: int, reason: str) -> None:
        """*count* messages are gone for good, and were not handled; whoever calls this has taken them out."""
        self.dropped += count
        self.drops = {**self.drops, reason: self.drops.get(reason, 0) + count}
        self.broker.memory.unweighed[self] = None

    def _fit(self, most: int) -> int:
        """See that the first batch that is ready may go: how many of its messages, up to *most*; 0: nothing is left
        that may. What is overdue leaves, and what cannot go for its key stands aside."""
        while self.ready:
            batch = self.ready[0]
            said = batch.said
            if said is None:
                return most
            if said.expires <= self.broker.now():
                self._replace_first(None)
                self.ready_n -= batch.count
                self.ready_b -= batch.size
                self.expire(batch)
                continue
            count = most if said.keys is None or self.keys is None else self.keys.fit(batch, said, most)
            if count:
                return count
            assert self.keys is not None
            self._replace_first(self.keys.set_aside(batch, said))
        return 0

    def _replace_first(self, batch: Batch | None) -> None:
        """In the place of the first that is ready stands *batch*, or nothing."""
        if batch is not None:
            self.ready[0] = batch
            return
        self.ready.popleft()
        if self.priorities is not None and not self.ready:
            self.priorities.choose()

    def expire(self, batch: Batch) -> None:
        """*batch*, which was taken out, is overdue: it is dropped, or where a place for dead letters is named, it is
        one."""
        if self.keys is not None:
            self.keys.gone(batch)
        if self.terms.dead:
            self.bury(batch, "EXPIRED")
            return
        self.drop(batch.count, "expired")
        self.broker.touch(self)

    # -- what waits

    def in_line(self) -> list[Batch]:
        """All that is ready, in the order in which it would be delivered, and behind it what stands aside."""
        if self.back:
            self._merge_back()
        return [*(self.priorities or self.ready), *(self.keys or ())]

    def backlog(self) -> list[Batch]:
        """`in_line`, and behind it what is delayed."""
        return [*self.in_line(), *sorted(self.delayed, key=number_of)]

    def take_out(self, batches: Iterable[Batch]) -> None:
        """*batches* of `backlog` do not wait here any more; whoever says so counts where they have gone."""
        gone = set(batches)
        if self.keys is not None:
            self.keys.take_out(gone)
        if self.priorities is not None:
            self.priorities.keep([batch for batch in self.priorities if batch not in gone])
        else:
            self.ready = deque(batch for batch in self.ready if batch not in gone)
        for batch in gone:
            timer = self.delayed.pop(batch, None)
            if timer is None:
                self.ready_n -= batch.count
                self.ready_b -= batch.size
            else:
                timer.cancel()
                self.delayed_n -= batch.count
                self.delayed_b -= batch.size
            if self.keys is not None:
                self.keys.gone(batch)
        self.broker.touch(self)

    # -- messages come back

    def settle(self, count: int) -> None:
        """*count* deliveries are acknowledged: that makes no room here, but some may wait for memory, or the end."""
        self.acknowledged += count
        broker = self.broker
        broker.memory.unweighed[self] = None
        if broker.draining or broker.memory.line:
            broker.touch(self)

    def returned(self, pieces: list[Sent], seen: int, crashed: bool, who: str = "") -> None:
        """A consumer is gone: its unsettled deliveries go back to the front, in order.

        :param seen: the consumer's numbers below this may have been handled.
        :param crashed: the connection was lost. The oldest message, which may be the reason, has failed once more.
        :param who: it was.
        """
        back: list[Batch] = []
        for piece in pieces:
            batch = piece.batch.part(piece.low, piece.high)
            if piece.seq < seen < piece.seq + batch.count:
                parts = [batch.part(0, seen - piece.seq), batch.part(seen - piece.seq, batch.count)]
                parts[0].redelivered = True
                back += parts
                continue
            batch.redelivered |= piece.seq < seen
            back.append(batch)
        if crashed and back:
            back[:1] = split_first(back[0])
            back[0].attempts += 1
            back[0].failed_by = who
            if back[0].attempts >= self.terms.max_attempts:
                self.bury(back.pop(0), "MAX_ATTEMPTS")
        self.put_back(back)

    def failed(self, batch: Batch, delay: int | None) -> None:
        """Each message of *batch* was refused by its consumer: again later, in *delay* ms or after the back-off."""
        batch.attempts += 1
        batch.redelivered = True
        terms = self.terms
        if batch.attempts >= terms.max_attempts:
            self.bury(batch, "MAX_ATTEMPTS")
        else:
            self.postpone(batch, terms.backoff << min(batch.attempts - 1, 32) if delay is None else delay)

    def lapsed(self, batches: list[Batch]) -> None:
        """A consumer has let the leases of *batches* run out: each message has failed, and is for others, at once."""
        back: list[Batch] = []
        for batch in batches:
            batch.attempts += 1
            batch.redelivered = True
            if batch.attempts >= self.terms.max_attempts:
                self.bury(batch, "MAX_ATTEMPTS")
            else:
                back.append(batch)
        self.put_back(back)

    def postpone(self, batch: Batch, delay: float) -> None:
        """Deliver *batch* in *delay* ms. If it is overdue before, it is looked at then."""
        if batch.said is not None and batch.said.expires < math.inf:
            left = (batch.said.expires - self.broker.now()) * 1000
            delay = min(delay, left) if left > 0 else delay
        if delay <= 0:
            self.put_back([batch])
            return
        self.delayed[batch] = self.broker.hub.after(delay, lambda: self._release(batch))
        self.delayed_n += batch.count
        self.delayed_b += batch.size

    def divide_delayed(self, batch: Batch, parts: tuple[Batch, Batch]) -> bool:
        """In the place of *batch* stand its *parts*, each as long as it would have. False: it is not delayed."""
        timer = self.delayed.pop(batch, None)
        if timer is None:
            return False
        timer.cancel()
        for part in parts:
            left = max(timer.due - self.broker.now(), 0) * 1000
            self.delayed[part] = self.broker.hub.after(left, partial(self._release, part))
        return True

    def _release(self, batch: Batch) -> None:
        del self.delayed[batch]
        self.delayed_n -= batch.count
        self.delayed_b -= batch.size
        self.put_back([batch])

    def bury(self, batch: Batch, reason: str) -> None:
        """Move *batch* to the dead letters. Where there is no room, it stays here, delayed, and comes round again."""
        grave = self.broker.grave(self)
        if grave is not None and 0 < grave.room_n < batch.count:
            room = grave.room_n
            self.bury(batch.part(0, room), reason)
            batch = batch.part(room, batch.count)
        if grave is None or grave.room_n < batch.count or (grave.room_b < batch.size and grave.ready_n):
            now = self.broker.now()
            level = logging.WARNING if now - self._no_place >= NO_PLACE_LOG else logging.DEBUG
            if level == logging.WARNING:
                self._no_place = now
            log.log(level, "endpoint %r: no place for %d dead letters (%s); they stay", self.name, batch.count, reason)
            if reason != "EXPIRED":
                batch.attempts = min(batch.attempts, self.terms.max_attempts - 1)
                batch.redelivered = True
            self.postpone(batch, max(self.terms.backoff << 4, NO_PLACE_MS))
            return
        log.warning("endpoint %r: %d messages to %r: %s", self.name, batch.count, grave.name, reason)
        self.dead += batch.count
        if self.keys is not None:
            self.keys.gone(batch)
        letter = grave.take_over(batch, None if batch.said is None else batch.said.until(math.inf))
        letter.death = death_of(batch, self, reason, letter.time)
        self.broker.touch(self)

    # -- credit

    @property
    def room_n(self) -> int:
        """Messages that may still be granted."""
        return self.capacity - self.ready_n - self.delayed_n - self.granted_n

    @property
    def room_b(self) -> int:
        """Bytes that may still be granted."""
        return self.capacity_b - self.ready_b - self.delayed_b - self.granted_b

    def grant(self) -> None:
        """Give room to the producers that ask, in turn, until there is none.

        While the endpoint is nearly full this waits a moment after each time, and grants what has gathered: else every
        message that a consumer takes would be a frame of credit, and a wake-up, for a producer that may send one more.
        """
        if self.asking and not self._pauses():
            memory = self.broker.memory
            if memory.line:
                memory.stand_in_line(self)
            else:
                self._grant()

    def grant_in_turn(self) -> None:
        """`grant`, for who has stood in line for memory."""
        if self.asking and not self._pauses():
            self._grant()

    def _grant(self) -> None:
        asking = self.asking
        for _ in range(len(asking)):
            pusher = next(iter(asking))
            if not pusher.grant(max(self.room_n // len(asking), 1), max(self.room_b // len(asking), 1)):
                return  # whoever waits longest is not passed over
            del asking[pusher]

    def _pauses(self) -> bool:
        """Was credit given just now, and is there little to give?"""
        if self.terms.overflow != "block":
            return False  # nobody waits for consumers here
        tight = self.room_n * 8 < self.capacity or self.room_b * 8 < self.capacity_b
        left = self.granted_at + GRANT_PAUSE - self.broker.now() if tight else 0
        if left > 0 and self.pause is None:
            self.pause = self.broker.hub.after(left * 1000, self._resume)
        return left > 0

    def _resume(self) -> None:
        self.pause = None
        self.broker.touch(self)

    @property
    def at_ease(self) -> bool:
        """Is less than half of the capacity promised, and memory there? Only then credit is given that nobody has asked
        for."""
        memory = self.broker.memory
        return self.granted_n * 2 < self.capacity and self.granted_b * 2 < self.capacity_b and memory.used < memory.ease

    # -- accounts

    @property
    def load(self) -> int:
        """What it counts with in the broker's memory, in bytes. Each message that is granted may come in a frame of its
        own."""
        pieces = len(self.ready if self.priorities is None else self.priorities) + len(self.back) + len(self.delayed)
        pieces += sum(len(puller.flight) for puller in self.pullers)
        if self.keys is not None:
            pieces += self.keys.pieces
        size = self.ready_b + self.delayed_b + self.flight_b + self.granted_b
        if self.seen is not None:
            size += self.seen.load
        if self.named:
            size += (self.ready_n + self.delayed_n + self.flight_n) * NAMES_BYTES
        return size + (pieces + self.granted_n) * MESSAGE_BYTES

    @property
    def balance(self) -> int:
        """Accepted messages that nothing accounts for: 0, always."""
        known = self.acknowledged + self.ready_n + self.delayed_n + self.flight_n + self.dead + self.dropped
        return self.accepted - known

    @property
    def empty(self) -> bool:
        return not (self.ready_n or self.delayed_n or self.flight_n)

    @property
    def idle(self) -> bool:
        """Nobody is here and nothing: the endpoint may go."""
        return not self.pushers and not self.pullers and self.empty

    @property
    def kept(self) -> bool:
        """Does it stay when it is idle, unless its place is needed? It has options of its own, or remembers ids."""
        return self.declared or self.seen is not None

    def forget(self) -> None:
        """It goes: no timer is to keep it, or what it remembers, in memory."""
        for each in (self.expiry, self.seen):
            if each is not None:
                each.cancel()
        self.expiry = self.seen = None

    @property
    def settled(self) -> bool:
        """Would waiting change nothing? (When the broker is about to end.)"""
        return self.empty or (not self.pullers and not self.flight_n)

    def work_out_rates(self, now: float) -> None:
        """Messages a second since the last time, if that is long enough ago to say."""
        then, accepted, acknowledged = self.mark
        if now - then >= 1:
            self.rate_in = (self.accepted - accepted) / (now - then)
            self.rate_out = (self.acknowledged - acknowledged) / (now - then)
            self.mark = now, self.accepted, self.acknowledged

    def oldest(self) -> float | None:
        """When the oldest message that waits here was accepted."""
        times = [batch.time for batch in self.delayed]
        if self.ready and self.priorities is None:
            times.append(self.ready[0].time)
        times += [batch.time for batch in (*(self.priorities or ()), *(self.keys or ()))]
        return min(times) if times else None

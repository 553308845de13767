"""What an administrator may have done with messages that wait: count, peek, purge, replay (frame ADMIN).

Each order is about one endpoint that holds messages, and about those that wait in it, ready or delayed: what a consumer
has in flight is the consumer's. An order is done within one tick and without I/O, so nobody ever sees a message in two
places, or in none. `ORDERS` says who does which.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Callable

import msgpack

from vanilla.protocol.errors import Refused
from vanilla.protocol.frames import ADMIN, Buffer, pack_control
from vanilla.protocol.scan import scan
from vanilla.protocol.urls import check_name

from .batch import Batch
from .conduit import Conduit
from .death import milliseconds
from .endpoint import DEAD, Endpoint
from .said import PLAIN, look_of

if TYPE_CHECKING:
    from vanilla.protocol.connection import Event

    from .broker import Broker
    from .session import Session

log = logging.getLogger("vanilla.broker")

#: The kinds whose messages nobody waits for: those of a rendezvous, and requests, are their senders' as long as these
#: do.
HOLDERS = (Endpoint, Conduit)
#: Messages of a page that `peek` shows have so many bytes at most, or there is one.
PAGE_BYTES = 256 << 10
#: So many reasons `count` names at most, the most frequent; one takes so many bytes at most.
REASONS, REASON_BYTES = 100, 420
#: So many obstacles `replay` names at most: in each is the name of an endpoint.
OBSTACLES = 3
_FAR = 1 << 62


class Lot:
    """The messages that an order is about.

    :raises Refused: BAD_NAME; or MISMATCH: the endpoint is of a kind that holds none.
    """

    def __init__(self, broker: Broker, fields: dict[str, Any]) -> None:
        self.broker = broker
        name = _checked(fields["name"])
        #: Where they lie.
        self.place = _place_of_the_dead(broker, name) if fields.get("dead") else name
        #: Only those that died there; "" if that is no matter.
        self.origin = name if self.place != name else ""
        #: Only those that died for this; None if that is no matter.
        self.reason: str | None = fields.get("reason")
        #: None: it is not there, so there are no messages.
        self.endpoint = broker.endpoints.get(self.place)
        if self.endpoint is not None and type(self.endpoint) not in HOLDERS:
            raise Refused("MISMATCH", f"{self.place!r} is {self.endpoint.kind}: nothing waits there for orders")

    def batches(self) -> list[Batch]:
        """Them, in order, the delayed ones last."""
        waiting = () if self.endpoint is None else self.endpoint.backlog()
        return [batch for batch in waiting if self._has(batch)]

    def _has(self, batch: Batch) -> bool:
        death = batch.death
        if death is None:  # somebody has pushed it here
            return self.reason is None and (not self.origin or self.place == self.origin + DEAD)
        return self.origin in ("", death.endpoint) and self.reason in (None, death.reason)


def _checked(name: str) -> str:
    try:
        return check_name(name)
    except ValueError as error:
        raise Refused("BAD_NAME", str(error)) from None


def _place_of_the_dead(broker: Broker, name: str) -> str:
    """Where the dead letters of *name* lie. Dead letters have none of their own, unless that endpoint names a place."""
    there = broker.endpoints.get(name)
    if there is not None and there.terms.dead:
        return there.terms.dead
    return name if name.endswith(DEAD) or (there is not None and there.grave) else name + DEAD


def obey(session: Session, event: Event) -> bytes:
    """Do what an ADMIN frame of *session* says: the answer.

    :raises Refused: it cannot be done, and nothing was.
    """
    fields = event.payload
    lot = Lot(session.broker, fields)
    answer = ORDERS[fields["do"]](lot, fields, session.who)
    return pack_control(ADMIN, 0, event.seq, answer)


def _count(lot: Lot, fields: dict[str, Any], who: str) -> dict[str, Any]:
    """How many there are, why they died, and since when the oldest is there."""
    batches = lot.batches()
    answer: dict[str, Any] = {"n": sum(batch.count for batch in batches)}
    if batches:
        answer["oldest"] = _age(lot.broker.now(), min(batch.time for batch in batches))
    reasons: Counter[str] = Counter()
    for batch in batches:
        if batch.death is not None:
            reasons[batch.death.reason] += batch.count
    most = min(REASONS, lot.broker.options.frame_bytes // 2 // REASON_BYTES)
    answer["reasons"] = dict(reasons.most_common(most))
    return answer


def _age(now: float, time: float) -> int:
    """How long before *now* the *time* was, in ms."""
    return milliseconds(now) - milliseconds(time)


def _peek(lot: Lot, fields: dict[str, Any], who: str) -> dict[str, Any]:
    """Show a page of them, packed as they are, with their history."""
    first = fields.get("from", 0)
    most = fields.get("n", _FAR)
    now = lot.broker.now()
    largest = min(PAGE_BYTES, lot.broker.options.frame_bytes)
    page: list[dict[str, Any]] = []
    size = 0
    for batch, body in _messages(lot.batches(), first):
        shown = _show(now, batch, body)
        size += len(msgpack.packb(shown))
        if len(page) >= most or (page and size > largest):
            return {"n": len(page), "messages": page, "next": first + len(page)}
        page.append(shown)
    return {"n": len(page), "messages": page}


def _show(now: float, batch: Batch, body: Buffer) -> dict[str, Any]:
    shown = {"body": bytes(body), "age": _age(now, batch.time), "attempts": batch.attempts}
    if batch.death is not None:
        shown["dead"] = batch.death.describe(now)
    return shown


def _messages(batches: list[Batch], skip: int) -> Iterator[tuple[Batch, Buffer]]:
    """Each message but the first *skip*, packed, and the batch that it is in."""
    for batch in batches:
        if skip >= batch.count:
            skip -= batch.count
            continue
        view = memoryview(batch.body)
        at = scan(view, 0, skip, _FAR)[1]
        for _ in range(batch.count - skip):
            end = scan(view, at, 1, _FAR)[1]
            yield batch, view[at:end]
            at = end
        skip = 0


def _purge(lot: Lot, fields: dict[str, Any], who: str) -> dict[str, Any]:
    """Drop them for good."""
    batches = lot.batches()
    count = sum(batch.count for batch in batches)
    if lot.endpoint is not None and count:
        lot.endpoint.take_out(batches)
        lot.endpoint.drop(count, "purged")
        log.warning("endpoint %r: %d messages were purged by %s", lot.place, count, who)
    return {"n": count}


def _replay(lot: Lot, fields: dict[str, Any], who: str) -> dict[str, Any]:
    """Move them to where they came from, or to another work queue, as far as there is room.

    There they are new: accepted now, with no attempts. Here they count as acknowledged.
    """
    if lot.broker.draining:
        raise Refused("GOING_AWAY", "the broker is shutting down, and begins nothing new")
    to = _checked(fields["to"]) if "to" in fields else ""
    if to == lot.place:
        raise Refused("MISMATCH", f"they are in {to!r} already")
    batches = lot.batches()
    move = Move(lot, to, min(fields.get("n", _FAR), sum(batch.count for batch in batches)))
    for batch in batches:
        move.carry(batch)
    if move.moved:
        move.finish()
        log.warning("endpoint %r: %d messages were replayed by %s", lot.place, move.moved, who)
    answer: dict[str, Any] = {"n": move.moved, "left": move.left}
    if move.left:
        answer["text"] = "; ".join(list(move.obstacles)[:OBSTACLES])
    return answer


class Move:
    """A replay that is under way.

    :param to: a work queue, or "" for where each came from.
    :param left: how many messages are to move.
    """

    def __init__(self, lot: Lot, to: str, left: int) -> None:
        self.lot = lot
        self.to = to
        self.left = left
        self.moved = 0
        #: Batches of which something has moved, and what has not of those that are ready.
        self.taken: list[Batch] = []
        self.kept: list[Batch] = []
        #: Why some have not, in the order in which that was found.
        self.obstacles: dict[str, None] = {}

    def carry(self, batch: Batch) -> None:
        """Move *batch*, or what is to move of it and has room."""
        if not self.left:
            return
        try:
            target = self._target(batch)
        except Refused as error:
            self.obstacles[error.text] = None
            return
        # The last may pass the room in bytes, as with any credit: one larger than that would wait for ever.
        count, at = scan(batch.body, 0, max(min(batch.count, self.left, target.room_n), 0), target.room_b)
        if count < min(batch.count, self.left):
            self.obstacles[f"{target.name!r} is full"] = None
        if not count:
            return
        part = batch
        if count < batch.count:
            part, rest = batch.cut(count, at)
            assert self.lot.endpoint is not None
            if self.lot.endpoint.divide_delayed(batch, (part, rest)):
                batch = part
            else:
                self.kept.append(rest)
        target.take_over(part, part.said)
        self.taken.append(batch)
        self.moved += count
        self.left -= count

    def _target(self, batch: Batch) -> Endpoint:
        """Where *batch* is to go, made if it is not there.

        :raises Refused: it can go nowhere; the text says why.
        """
        death, broker = batch.death, self.lot.broker
        if self.to:
            return broker.endpoint(self.to)
        if death is None:
            raise Refused("MISMATCH", f"some came to {self.lot.place!r} from no other endpoint: say where to")
        there = broker.endpoints.get(death.endpoint)
        if there is None and death.queued:
            return broker.endpoint(death.endpoint)
        if there is None or type(there) not in HOLDERS:
            kind = "gone, and was no work queue" if there is None else there.kind
            raise Refused("MISMATCH", f"{death.endpoint!r} is {kind}: say where to")
        if type(there) is not Endpoint and look_of(batch) != PLAIN:
            raise Refused(
                "MISMATCH", f"{death.endpoint!r} is {there.kind}, where messages have no options: say where to"
            )
        return there

    def finish(self) -> None:
        """Take out of the endpoint what has moved."""
        endpoint = self.lot.endpoint
        assert endpoint is not None
        endpoint.take_out(self.taken)
        endpoint.put_back(self.kept)
        endpoint.settle(self.moved)


#: What may be ordered. Each is given the messages, the map of the ADMIN, and by whom it is, and returns the map of the
#: answer.
ORDERS: dict[str, Callable[[Lot, dict[str, Any], str], dict[str, Any]]] = {
    "count": _count,
    "peek": _peek,
    "purge": _purge,
    "replay": _replay,
}

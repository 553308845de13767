"""The pulling end: a Recver of the items of a named endpoint of a broker.

Frames wait packed in ``arrivals``. From there items are *loaded*: decoded into ``buffer``, the deque from which
`Recver.recv` pops, about a millisecond of work at a time. So acknowledging, asking for more and reading the clock
happen once a load, and a recv costs what it costs on a local channel. Who receives many at a call is handed what was
loaded as it is.

Numbers: the broker numbers the messages of a channel from 0. What is below ``taken`` was handed out, up to ``loaded``
it is in ``buffer``, up to ``arrived`` in ``arrivals``. Without ``ack`` what is handed out is acknowledged; with it,
`Delivery` does that.

Invariants:
1. ``taken == loaded - len(buffer)``, so nothing is counted when an item is received.
2. A receiver is parked only while ``buffer`` and ``arrivals`` are empty and the broker has credit for it.
3. ``done_b`` counts the bytes of messages that are acknowledged or given back; the broker may send ``window_bytes``
   beyond it.
4. NACKs are put out before ACKs: a number that is in both, for it could not be decoded, is in flight no more when its
   ACK comes.
5. While something lies in ``buffer`` unacknowledged, the state is in the link's ``dirty``: acknowledgements leave at
   the edge.
6. A lot is in ``_stirred`` while something is in its ``done``: with ``ack`` that is all that happens a message.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from typing import TYPE_CHECKING, Any, Callable

from vanilla.channel import Channel
from vanilla.exception import Busy, Closed, ConnectionLost, Halt, Refused, Timeout
from vanilla.protocol.connection import Event
from vanilla.protocol.credit import Window
from vanilla.protocol.errors import BadMessage, ProtocolError
from vanilla.protocol.frames import (
    ACK,
    ARRAY_HEAD_BYTES,
    CREDIT,
    DATA,
    DATA_OPTIONS,
    MAX_SEQ,
    MORE,
    NACK,
    OPEN,
    pack_control,
)
from vanilla.protocol.options import LISTS, read_options
from vanilla.protocol.ranges import Ranges, pairs
from vanilla.protocol.scan import scan
from vanilla.selection import EMPTY

from .arrival import Arrival
from .delivery import Delivery
from .lease import Lease
from .lot import MOST, Lot
from .packing import UNDECODABLE, unpack

if TYPE_CHECKING:
    from vanilla.core import Task
    from vanilla.timers import Timer

    from .link import Link

log = logging.getLogger("vanilla.client")

#: What a consumer lets the broker send beyond what it has settled, in bytes: some milliseconds' worth at memory speed.
WINDOW_BYTES = 1 << 21
#: Who wants so many items at once gets them past the buffer. For fewer a load would be too dear.
MANY = 512
#: Acknowledgements that are older than this, in seconds, leave before the next item is handed out.
ACK_AGE = 0.001
#: What nobody has received for so many ms goes back to the broker.
UNCLAIMED_MS = 100

monotonic = time.monotonic


class PullState(Channel):
    """What is behind one `PullRecver`."""

    __slots__ = (
        "_acked",
        "_acks",
        "_done",
        "_end_error",
        "_late",
        "_limit_b",
        "_load_b",
        "_more",
        "_nacks",
        "_parked",
        "_stirred",
        "_told",
        "_unclaimed",
        "ack",
        "arrivals",
        "arrived",
        "arrived_b",
        "done_b",
        "due",
        "fields",
        "first",
        "id",
        "lease",
        "link",
        "loaded",
        "name",
        "owner",
        "window",
        "window_bytes",
    )

    #: What it opens.
    role = "pull"
    #: Is the other end to be closed with it?
    final = False
    #: A load is this part of the window: a window lasts 5 to 10 ms, so a load about one.
    loads = 8

    def __init__(
        self,
        link: Link,
        name: str,
        ack: bool,
        prefetch: int,
        window_bytes: int,
        fields: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(link.hub, -1, f"{self.role} from {name!r}")
        #: What else its OPEN says.
        self.fields = fields
        self.link = link
        self.name = name
        self.ack = ack
        self.window = Window(prefetch)
        self.window_bytes = window_bytes
        self.arrivals: deque[Arrival] = deque()
        #: Numbers below this came on a connection that was lost.
        self.first = 0
        self.loaded = self.arrived = 0
        self.arrived_b = self.done_b = 0
        #: The bytes that are in ``buffer`` or were, since the last load.
        self._load_b = 0
        self._acked = 0
        self._acks = Ranges()
        #: The numbers that were acknowledged one by one: those that are counted in ``done_b``, and where the rest is.
        self._done: list[int] = []
        self._stirred: list[Lot] = []
        self._nacks: list[tuple[int, int, dict[str, Any]]] = []
        #: The credit that the broker was told of.
        self._told = self._limit_b = 0
        self._more = False
        #: When somebody was last found to wait.
        self._parked = 0.0
        #: From when on acknowledgements leave at once, on the monotonic clock.
        self.due = 0.0
        self._unclaimed: Timer | None = None
        #: Deliveries of before that were settled in this tick.
        self._late = 0
        self._end_error: Callable[[], Exception] | None = None
        #: None: a delivery may take as long as it likes.
        self.lease: Lease | None = None
        #: The task that consumes, to which this end then belongs.
        self.owner: Task | None = None
        self.id = self._open()

    def _open(self) -> int:
        """Ask for the channel: its number, or 0 to do so later."""
        return self.link.open(self.role, self.name, self, fields=self.fields)

    @property
    def taken(self) -> int:
        """Numbers below this were handed out."""
        return self.loaded - len(self.buffer)

    # -- receiving

    def take_nowait(self) -> Any:
        if self.buffer or self._fill(1):
            return self.buffer.popleft()
        self._request(1)
        return EMPTY

    def _fill(self, most: int) -> bool:
        """Load into the empty buffer, *most* items or as many as seem good: is there something in it now?"""
        if self._may_load():
            self._load(self._portion(most), self.buffer)
            self._check()  # the broker may have broken the protocol...
            self._mind_age()
            self._check()  # ...or be gone: what was loaded is then no longer ours
        return bool(self.buffer)

    def _may_load(self) -> bool:
        """The buffer is empty: has anything arrived?"""
        self._check()
        self._note_taken()
        return bool(self.arrivals)

    def _portion(self, most: int) -> int:
        """How many items to load where *most* are wanted."""
        return max(self.window.size // self.loads, len(self.recvers), most)

    def take_many(self, most: int) -> list[Any]:
        self.check_owner()
        buffer = self.buffer
        items: list[Any] = []
        try:
            while left := most - len(items):
                if left >= MANY and not buffer:
                    self._load_many(left, items)
                    if len(items) == most - left:
                        break
                elif not buffer and not self._fill(left):
                    break
                elif len(buffer) <= left:
                    items += buffer
                    buffer.clear()
                else:
                    items += [buffer.popleft() for _ in range(left)]
        except (ConnectionLost, Halt, Refused):
            if not items:
                raise  # else the next call does
        return items

    def _load_many(self, most: int, items: list[Any]) -> None:
        """`_load` past the buffer: what is decoded is handed out at once. So whatever may end the connection comes
        before."""
        if self._may_load():
            self._mind_age()
            self._check()
            self._load(most, items)
            self._check()

    def wait_item(self, timeout: float) -> Any:
        self.check_owner()
        item = self.take_nowait()
        if item is not EMPTY:
            return item
        if timeout == 0:
            return self._poll()
        return self.hub.wait(self.recvers, self, timeout)

    def check_owner(self) -> None:
        """An end that is consumed belongs to its consumer."""
        if self.owner is not None and self.hub.me() is not self.owner.waiter:
            raise Busy(f"this {self.kind} is consumed by {self.owner}")

    def _poll(self) -> Any:
        """Ask, and look at the socket, without a turn of the loop: whoever polls may never give it one."""
        self.link.poll_now()
        item = self.take_nowait()
        if item is EMPTY:
            raise Timeout(f"nothing has arrived: recv on a {self.kind}")
        return item

    def watch_recv(self, case: Any) -> None:
        item = self.take_nowait()
        if item is not EMPTY:  # it has come since this end was tried
            case.selection.fire(case, item)
            return
        self.recvers.append(case)
        self._request(0)

    def _load(self, most: int, place: deque[Any] | list[Any]) -> None:
        """Decode the next items, *most* at most, to the end of *place*, and then count them: none if nothing that has
        arrived can be decoded."""
        if self.ack:
            most = min(most, MOST)
        found = False
        while self.arrivals and not found:
            arrival = self.arrivals[0]
            try:
                items, size = arrival.take(most)
            except BadMessage as error:
                self.link.faulted(error)
                return
            if not arrival.left:
                self.arrivals.popleft()
            if items[0] is UNDECODABLE:
                self._bury(self.loaded, size)
            else:
                found = True
                place.extend(self._deliveries(arrival, items, size) if self.ack else items)
                self._load_b = size
            self.loaded += len(items)
        if self.window.size > 1 and self.window.due(self.loaded):
            self.window.renew(self.loaded, len(self.recvers), self._more, monotonic())
        self.link.dirty[self] = None

    def _take_one(self, array: memoryview, more: bool) -> bool:
        """A message came alone, and somebody waits for it: hand it out at once. False: it cannot be decoded."""
        try:
            (item,) = unpack(array)
        except (ValueError, TypeError, OverflowError):
            return False
        self._note_taken()
        number, size = self.loaded, len(array) - ARRAY_HEAD_BYTES
        self.loaded = self.arrived = number + 1
        self.arrived_b += size
        self._more = more
        if self.ack:
            item = self._delivery(number, size, item)
        else:
            self._load_b = size
            self.link.dirty[self] = None
        window = self.window
        if window.size > 1 and window.due(number + 1):
            window.renew(number + 1, len(self.recvers), more, monotonic())
            self.link.dirty[self] = None
        self.hand(self.recvers.popleft(), item)
        if self.recvers:
            self._request(0)
        return True

    def _delivery(self, number: int, size: int, item: Any) -> Any:
        """What is handed out in place of *item*, which came without options."""
        return self._lot(number, 1, size, {}).deliveries(number, (item,))[0]

    def _deliveries(self, arrival: Arrival, items: list[Any], size: int) -> list[Delivery]:
        """Each item with its number."""
        options, count = arrival.options, len(items)
        if options:  # of keys and ids each lot has its own
            at = arrival.count - arrival.left - count
            options = {name: value[at : at + count] if name in LISTS else value for name, value in options.items()}
        return self._lot(self.loaded, count, size, options).deliveries(self.loaded, items)

    def _lot(self, first: int, count: int, size: int, options: dict[str, Any]) -> Lot:
        lot = Lot(self, count, size, options)
        if self.lease is not None:
            self.lease.enter(first, lot)
        return lot

    def _bury(self, number: int, size: int) -> None:
        log.warning("%s: message %d cannot be decoded; it goes to the dead letters", self.kind, number)
        self._nacks.append((number, 1, {"dead": "UNDECODABLE"}))
        self.done_b += size

    def _hand_out(self) -> None:
        """Give what has arrived to those who wait."""
        while self.recvers:
            if not self.buffer:
                self._note_taken()
                if self.arrivals:
                    self._load(self._portion(1), self.buffer)
                if not self.buffer:
                    return
            self.hand(self.recvers.popleft(), self.buffer.popleft())

    # -- asking for more

    def _request(self, extra: int) -> None:
        """Let the broker send: for those who wait, and *extra* more, who are about to."""
        parked = len(self.recvers) + extra
        self._parked = now = monotonic()
        if self.window.limit - self.taken < parked or self.window.due(self.taken):
            self.window.renew(self.taken, parked, self._more, now)
        if self._credit_due():
            self.link.dirty[self] = None

    def _credit_due(self) -> bool:
        """Is there credit that the broker should be told of?"""
        limit, window_b, told_b = self.window.limit, self.window_bytes, self._limit_b
        limit_b = self.done_b + window_b
        return limit > self._told or (
            limit > self.first and ((limit_b - told_b) * 2 >= window_b or self.arrived_b >= told_b < limit_b)
        )

    def _credit(self) -> bytes | None:
        """The CREDIT frame that is due, if one is."""
        if not self._credit_due():
            return None
        limit_b = self.done_b + self.window_bytes
        self._limit_b = limit_b
        self._told = self.window.limit
        return pack_control(
            CREDIT, self.id, 0, {"n": min(self._wire_number(self.window.limit), MAX_SEQ), "b": min(limit_b, MAX_SEQ)}
        )

    def _wire_number(self, number: int) -> int:
        """What is *number* here, in a CREDIT."""
        return number

    # -- settling

    def _note_taken(self) -> None:
        """Without ``ack``: what was handed out is done."""
        if self.ack:
            return
        taken = self.taken
        if taken > self._acked:
            self._acks.add(self._acked, taken - self._acked)
            self._acked = taken
            self.link.dirty[self] = None
        if not self.buffer:
            self.done_b += self._load_b
            self._load_b = 0

    def begin_to_ack(self) -> None:
        """From here on each item has to be settled."""
        self._note_taken()
        self.ack = True

    def stir(self, lot: Lot) -> None:
        """The first delivery of *lot* since `_gather` is about to be done."""
        self._check()
        self._stirred.append(lot)
        self.link.dirty[self] = None

    def _gather(self) -> None:
        """Count what was done."""
        for lot in self._stirred:
            if lot.done[0] < self.first:
                self._tell_late(len(lot.done))
                lot.done.clear()
                continue
            done = lot.take_done()
            self.done_b += lot.settle(len(done))
            self._done += done
        self._stirred.clear()

    def refuse(self, number: int, lot: Lot, fields: dict[str, Any]) -> None:
        """A delivery is not done."""
        self._check()
        if number < self.first:
            self._tell_late(1)
            return
        if number in lot.expired:
            return
        self._nacks.append((number, 1, fields))
        self.done_b += lot.settle(1)
        self.link.dirty[self] = None
        self._mind_age()

    def touch(self, number: int, lot: Lot, ms: int | None) -> None:
        """A delivery takes longer."""
        self._check()
        if number < self.first:
            self._tell_late(1)
            return
        if self.lease is not None and number not in lot.expired:
            self.lease.touch(number, ms)
            self.link.dirty[self] = None
            self._mind_age()

    def _mind_age(self, now: float = 0.0) -> None:
        """Acknowledgements are not kept for long, even by somebody who never waits; nor is half a window of credit.

        Large messages use a window up in less than the age: the broker would stand still until the last is handed out.
        """
        if self._stirred:
            self._gather()
        now = now or monotonic()
        if now >= self.due or (self.done_b + self.window_bytes - self._limit_b) * 2 >= self.window_bytes:
            self.leave(now)

    def leave(self, now: float) -> None:
        """Say what there is to say, without waiting for the tick's edge."""
        self.due = now + ACK_AGE
        if not self.emit():
            self.link.dirty.pop(self, None)
        self.link.flush()

    def emit(self) -> bool:
        self._note_taken()
        self._gather()
        if self._done:
            done, self._done = self._done, []
            self._acks.add_each(done)
        if self._nacks:
            nacks, self._nacks = self._nacks, []
            for number, count, fields in nacks:
                self.link.put(pack_control(NACK, self.id, 0, {"r": [number, count], **fields}))
        while self._acks:
            self.link.put(pack_control(ACK, self.id, 0, {"r": self._acks.take()}))
        if self.lease is not None:
            for frame in self.lease.frames():
                self.link.put(frame)
        credit = self._credit()
        if credit is not None:
            self.link.put(credit)
        return bool(self.buffer) and not self.ack

    # -- frames

    def _data(self, event: Event) -> None:
        kind, _, seq, count, array = event
        if seq != self.arrived:
            raise ProtocolError("BAD_SEQUENCE", f"delivery {seq} came where {self.arrived} was next")
        if kind & MORE and self.recvers:
            self.window.waited(self._parked, monotonic())
        alone = count == 1 and self.recvers and not (self.buffer or self.arrivals) and kind & ~MORE == DATA
        if alone and self._take_one(array, bool(kind & MORE)):
            return
        at = ARRAY_HEAD_BYTES
        options: dict[str, Any] = {}
        if kind & ~MORE == DATA_OPTIONS:
            at = scan(array, at, 1, len(array))[1]
            count -= 1
            options = self._read_options(array[ARRAY_HEAD_BYTES:at], count)
        if count < 1:
            raise BadMessage("a data frame carries at least one message")
        arrival = Arrival(array, at, count, options)
        self.arrivals.append(arrival)
        self.link.lent.append(arrival)
        self._more = bool(kind & MORE)
        self.arrived += count
        self.arrived_b += arrival.size
        self._arrived()

    def _opened(self, event: Event) -> None:
        if "lease" in event.payload:
            self.lease = Lease(self, event.payload["lease"])

    def _nack(self, event: Event) -> None:
        if self.lease is not None:
            self.lease.end(pairs(event.payload["r"]))

    def drop(self, end: int) -> None:
        """What has a number below *end* and was not handed out is not to be. The broker is to hear of us: it gives
        nothing to who may stand still."""
        while self.buffer and self.taken < end:
            self.buffer.popleft()
        if end > self.loaded:
            self._note_taken()
        while self.loaded < end:
            arrival = self.arrivals[0]
            items, size = arrival.take(min(end - self.loaded, arrival.left))
            if not arrival.left:
                self.arrivals.popleft()
            self.loaded += len(items)
            self.done_b += size
        self._told = 0
        self.link.dirty[self] = None

    def _read_options(self, packed: memoryview, count: int) -> dict[str, Any]:
        return read_options(packed, self.role, count)

    def _arrived(self) -> None:
        if self.recvers:
            self._hand_out()
        if self.recvers:
            self._request(0)
        if self._unclaimed is None and (self.arrivals or self.buffer) and not self.window.fixed:
            self._watch_unclaimed()

    frames: dict[int, Callable[[PullState, Event], None]] = {
        **dict.fromkeys((DATA, DATA | MORE, DATA_OPTIONS, DATA_OPTIONS | MORE), _data),
        OPEN: _opened,
        NACK: _nack,
    }

    # -- what nobody receives

    def _watch_unclaimed(self) -> None:
        taken = self.taken
        self._unclaimed = self.hub.after(UNCLAIMED_MS, lambda: self._look_unclaimed(taken))

    def _look_unclaimed(self, taken: int) -> None:
        self._unclaimed = None
        if self._end_error is not None or not (self.buffer or self.arrivals):
            return
        if self.taken != taken:
            self._watch_unclaimed()
            return
        self._give_back()

    def _give_back(self) -> None:
        """Let others have what was asked for and is not received."""
        self._note_taken()
        first = self.taken
        self.done_b += self._forget_items()
        self._nacks.append((first, self.arrived - first, {"back": True}))
        self._acked = self.loaded = self.arrived
        self.link.dirty[self] = None
        if self.recvers:
            self._request(0)

    def _forget_items(self) -> int:
        """Drop what has arrived and was not handed out: how many bytes that was."""
        size = 0
        for arrival in self.arrivals:
            size += arrival.size
            arrival.left = 0  # nobody is to copy it
        if self.ack:
            size += self._buffered_b()
        else:
            size += self._load_b
            self._load_b = 0
        self.loaded = self._acked = self.taken
        self.buffer.clear()
        self.arrivals.clear()
        return size

    def _buffered_b(self) -> int:
        """With ``ack``: the bytes of what is in ``buffer``, and is about to be dropped."""
        return sum(delivery._lot.settle(1) for delivery in self.buffer)

    # -- a lost connection, and the next

    def suspend(self) -> None:
        # What was prefetched, or handed out and not settled, is the broker's again.
        self._forget_items()
        for lot in self._stirred:
            lot.done.clear()
        self._stirred.clear()
        self._done.clear()
        self.lease = None  # until the broker says so again
        self._acks = Ranges()
        self._nacks.clear()
        self.first = self.arrived = self.loaded
        self.arrived_b = self.done_b = self._load_b = self._limit_b = 0
        self._told = self.first
        self.window.restart(self.first)
        if self._unclaimed is not None:
            self._unclaimed.cancel()
            self._unclaimed = None

    def reopen(self) -> None:
        self._told, self._limit_b = self.first, 0
        self.link.reopen(self, self.first)
        if self.recvers:
            self._request(0)
        self.link.dirty[self] = None

    def opened(self, first: int) -> None:
        """It has the number that it was asked to have."""

    def _tell_late(self, count: int) -> None:
        """Deliveries of before the loss are settled: the broker has given them to somebody else."""
        if not self._late:
            self.hub.at_edge(self._count_late)
        self._late += count

    def _count_late(self) -> None:
        late, self._late = self._late, 0
        self.link.notify("lease_expired", f"{self.kind}: too late for {late} deliveries: the connection was lost since")

    # -- the end

    def _check(self) -> None:
        if self._end_error is not None:
            raise self._end_error()

    def lose(self) -> None:
        # What was prefetched is the broker's again, which gives it to others.
        self._forget_items()
        self._end(self.link.error)

    def refused(self, code: str, text: str) -> None:
        self.link.close_channel(self, self.taken)
        self._forget_items()
        self._end(lambda: Refused(code, text))

    def _end(self, error: Callable[[], Exception]) -> None:
        self.halt = Closed
        self._end_error = error
        for lot in self._stirred:
            lot.done.clear()  # so that whoever acknowledges more is told
        self._stirred.clear()
        if self._unclaimed is not None:
            self._unclaimed.cancel()
        while self.recvers:
            self.fail(self.recvers.popleft(), error())
        self.link.call_closers(self)

    def close(self, halt: type[Halt] = Closed) -> None:
        """Detach: what was handed out is settled as it is now, the rest goes back."""
        if self.halt is None:
            self.emit()
            self.link.close_channel(self, self.taken, self.final)
            self._forget_items()
            self._end(
                lambda: halt(f"this {self.kind} was closed or dropped; what was unsettled went back to the broker")
            )

    def abandon_by_recver(self) -> None:
        """Called by the garbage collector, anywhere: the rest waits for the loop."""
        self.hub.at_edge(self.close)

    def drained(self) -> None:
        """Nothing waits for room here."""

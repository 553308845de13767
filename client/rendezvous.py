"""The sending end of a remote rendezvous: ``send`` returns when a receiver has taken the item.

Credit comes only while a receiver waits. A Timeout before it came means that the item never left. Afterwards the broker
decides: asked to cancel, it either withdraws the item, or the item was delivered and the send succeeds. A receiver that
was found has `GRACE_MS` to take it, whatever the timeout, or a poll could never succeed.

Invariants, beside those of `push`:
1. Each parcel that was added is in ``parcels`` until the broker has said what became of it.
2. Who waits for that stands in ``syncs``.
3. Credit that nobody waits for is given back after `UNUSED_MS`: a receiver waits for what it stands for.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Callable

from vanilla.deadline import Deadline
from vanilla.exception import ConnectionLost, Timeout
from vanilla.protocol.connection import Event
from vanilla.protocol.errors import ProtocolError
from vanilla.protocol.frames import ACK, CANCEL, CREDIT, FAIL, WANT, pack_control
from vanilla.protocol.ranges import pairs

from .batch import Message, make_message
from .conduit import SendState, Shape

if TYPE_CHECKING:
    from vanilla.timers import Timer

    from .link import Link

#: How long an item on its way is left alone, in ms: the broker gives back in this time what a receiver did not take.
GRACE_MS = 100
#: How long credit is kept that nobody waits for, in ms.
UNUSED_MS = 100


class Parcel:
    """A packed item that is to be taken; it stands where a `batch.Message` would.

    ``number`` is -1 until it has one. ``done``: it is known what became of it; ``error`` if it was not taken.
    """

    __slots__ = ("done", "error", "number", "parts", "size", "waiter")

    def __init__(self, message: Message) -> None:
        self.parts, self.size = message
        self.number = -1
        self.done = False
        self.error: Exception | None = None
        self.waiter: Any = None


class RendezvousState(SendState):
    """What is behind the Sender of a pipe, or of a channel that holds nothing."""

    __slots__ = ("_unused", "parcels")

    stocks = False

    def __init__(self, link: Link, name: str, shape: Shape) -> None:
        #: By number.
        self.parcels: dict[int, Parcel] = {}
        self._unused: Timer | None = None
        super().__init__(link, name, shape)

    # -- sending

    def push(self, item: Any, timeout: float) -> None:
        deadline = Deadline(timeout)
        parcel = Parcel(make_message(item, self.link))
        self.check()
        self._check_alone()
        try:
            if self.senders or not self._fits_now(parcel.size):
                self._wait(parcel, deadline.left())  # type: ignore[arg-type]
            else:
                self._add(parcel)
            self._flush()
            self._wait_taken(parcel, deadline)
        except Timeout:
            raise
        except BaseException:  # the task is cancelled, say, or this end was closed
            self._cancel(parcel)
            raise
        if parcel.error is not None:
            raise parcel.error

    def take_run(self, items: Sequence[Any], start: int) -> int:
        return 0  # each is handed over before the next

    def _add(self, parcel: Any) -> None:
        super()._add(parcel)
        parcel.number = self.quota.n + self.batch.count - 1
        self.parcels[parcel.number] = parcel

    def _decide(self, alone: bool = True) -> None:
        self._flush()

    # -- what becomes of it

    def _wait_taken(self, parcel: Parcel, deadline: Deadline) -> None:
        left = deadline.left()
        try:
            self._park(parcel, left if left < 0 else max(left, GRACE_MS))
        except Timeout:
            self._cancel(parcel)
            self._park(parcel, -1)

    def _park(self, parcel: Parcel, timeout: float) -> None:
        if parcel.done:
            return
        me = parcel.waiter = self.hub.me()
        self.syncs.append(me)
        self.hub.park(me, self, timeout)

    def _cancel(self, parcel: Parcel) -> None:
        """Ask the broker to withdraw it, if it has left; its answer says what became of it."""
        if parcel.number in self.parcels and self.halt is None:
            self._frame()
            self.link.put(pack_control(CANCEL, self.id, 0, {"r": [parcel.number, 1]}))
            self.link.flush()

    def _settled(self, number: int, error: Exception | None) -> None:
        parcel = self.parcels.pop(number)
        parcel.done = True
        parcel.error = error
        if parcel.waiter in self.syncs:
            self.syncs.remove(parcel.waiter)
            self.hub.ready.append(parcel.waiter)

    # -- frames

    def _credit(self, event: Event) -> None:
        super()._credit(event)
        self._mind_credit()

    def _ack(self, event: Event) -> None:
        for first, count in pairs(event.payload["r"]):
            self._check_sent(first + count)
            for number in [number for number in self.parcels if first <= number < first + count]:
                self._settled(number, None)
        self._leave()

    def _fail(self, event: Event) -> None:
        fields = event.payload
        end = event.seq + fields["count"]
        self._check_sent(end)
        for number in [number for number in self.parcels if event.seq <= number < end]:
            withdrawn = fields["code"] == "WITHDRAWN"
            kind = Timeout if withdrawn else ConnectionLost
            self._settled(number, kind(f"{fields['text']}: send on a {self.kind}"))
        self._leave()

    def _leave(self) -> None:
        if not self.users:
            self.leave()

    def _check_sent(self, end: int) -> None:
        if end > self.quota.n:
            raise ProtocolError("BAD_SEQUENCE", f"message {end - 1} is settled and was never sent")

    frames: dict[int, Callable[[Any, Event], None]] = {CREDIT: _credit, ACK: _ack, FAIL: _fail}

    # -- credit that is not used

    def forget(self, waiter: Any) -> bool:
        found = super().forget(waiter)
        self._mind_credit()
        return found

    def _mind_credit(self) -> None:
        if self._unused is None and not self.senders and self.halt is None and (self._want or self.quota.left_n > 0):
            self._unused = self.hub.after(UNUSED_MS, self._look_unused)

    def _look_unused(self) -> None:
        self._unused = None
        if self.halt is None and not self.senders and not self.batch.count:
            quota = self.quota
            self._epoch += 1
            self._want = False
            limit = [quota.n, quota.b]
            self.link.put(pack_control(WANT, self.id, 0, {"n": 0, "b": 0, "limit": limit, "epoch": self._epoch}))
            quota.lower_to(*limit)

    # -- a lost connection

    def suspend(self) -> None:
        for number in list(self.parcels):
            text = "the connection was lost before it was known whether the item was taken"
            self._settled(number, ConnectionLost(f"{self.link.url}: {text}: send on a {self.kind}"))
        self.batch.clear()
        if self._unused is not None:  # what it was about to give back is gone
            self._unused.cancel()
            self._unused = None
        super().suspend()

    def _lose_sent(self, n: int) -> None:
        self._confirmed = n  # each send was told

    # -- the end

    @property
    def unconfirmed(self) -> int:
        return len(self.parcels)

    def sync(self, timeout: float) -> None:
        """Each send has waited already."""
        self.check()

    def _end(self, error: Callable[[], Exception]) -> None:
        for number in list(self.parcels):  # one of them may have been taken from who waits, who has not heard of it yet
            self._settled(number, error())
        super()._end(error)
        if self._unused is not None:
            self._unused.cancel()

"""What a Recver with ``ack=True`` hands out: an item that has to be settled."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from vanilla.protocol.frames import MAX_SEQ

from .death import Death, read_death

if TYPE_CHECKING:
    from .lot import Lot

monotonic = time.monotonic


class Delivery:
    """One item that has to be settled: `ack`, `nack`, or a ``with`` block, which does the one or the other.

    ``item`` is what was sent; ``headers``, ``key``, ``id`` and ``priority`` are what it was sent with. It belongs to
    the Recver that it came from: when that is closed, or dropped, the item goes back.
    """

    # One is made for each message: `Lot.deliveries` does it, without a call of __init__, and what is the same for all
    # that came together is the lot's.
    __slots__ = ("_lot", "_number", "item")

    _lot: Lot
    #: The channel's; its complement (``~``) once it is settled.
    _number: int
    item: Any

    @property
    def redelivered(self) -> bool:
        """May somebody have seen it before?"""
        redelivered: bool = self._lot.options.get("redelivered", False)
        return redelivered

    @property
    def attempts(self) -> int:
        """Which try this is: 1 and how many have failed."""
        attempts: int = self._lot.options.get("attempts", 1)
        return attempts

    @property
    def dead(self) -> Death | None:
        """The history of a dead letter; None of all others."""
        return read_death(self._lot.options.get("dead"))

    @property
    def settled(self) -> bool:
        """Was it acknowledged or refused?"""
        return self._number < 0

    @property
    def headers(self) -> dict[str, Any]:
        """The headers that it was sent with."""
        return dict(self._lot.options.get("headers", ()))

    @property
    def key(self) -> str | bytes | None:
        """The key that it was sent with: text or bytes; None if it has none."""
        return self._name("keys")

    @property
    def id(self) -> str | bytes | None:
        """The id that it was sent with: text or bytes; None if it has none."""
        return self._name("ids")

    @property
    def priority(self) -> int:
        """The priority that it was sent with, 0 to 9."""
        priority: int = self._lot.options.get("priority", 0)
        return priority

    def _name(self, which: str) -> Any:
        names = self._lot.options.get(which)
        return None if names is None else names[max(self._number, ~self._number) - self._lot.first]

    def ack(self) -> None:
        """It is done: the broker forgets it. Does nothing if it is settled, or if it is `expired`.

        :raises ConnectionLost: too late: the broker gives it to somebody else.
        :raises Closed: likewise; the Recver was closed or dropped.
        """
        number = self._number
        if number >= 0:
            self._number = ~number
            lot = self._lot
            if not lot.done:
                lot.state.stir(lot)
            lot.done.append(number)
            now = monotonic()
            if now >= lot.state.due:
                lot.state.leave(now)

    def nack(self, delay: int | None = None) -> None:
        """It failed: it is delivered again, or becomes a dead letter after too many attempts. Does nothing if it is
        settled, or if it is `expired`.

        :param delay: ms until then; without it the endpoint's back-off, 1 s doubling with each attempt.
        :raises ConnectionLost: see `ack`.
        :raises ValueError: *delay* is negative, or beyond 63 bits.
        """
        if delay is not None and not 0 <= delay <= MAX_SEQ:
            raise ValueError("a delay is 0 ms or more, and a number of 63 bits")
        number = self._number
        if number >= 0:
            self._number = ~number
            self._lot.state.refuse(number, self._lot, {} if delay is None else {"delay": int(delay)})

    def touch(self, ms: int | None = None) -> None:
        """It takes longer: renew its lease. Does nothing if it is settled, or its Recver has no leases.

        :param ms: from now on; as long as the lease was if None.
        :raises ConnectionLost: see `ack`.
        :raises ValueError: *ms* is less than 1, or beyond 63 bits.
        """
        if ms is not None and not 1 <= ms <= MAX_SEQ:
            raise ValueError("a lease is renewed for 1 ms or more, and a number of 63 bits")
        if self._number >= 0:
            self._lot.state.touch(self._number, self._lot, None if ms is None else int(ms))

    @property
    def expired(self) -> bool:
        """Is its lease known to be over, or its connection lost? Then it is for somebody else, and what is done with
        this one is not told."""
        number = self._number if self._number >= 0 else ~self._number
        return number < self._lot.state.first or number in self._lot.expired

    def __enter__(self) -> Delivery:
        return self

    def __exit__(self, kind: type[BaseException] | None, *exc: object) -> None:
        if kind is None:
            self.ack()
        else:
            self.nack()

    def __repr__(self) -> str:
        return f"<Delivery of {self.item!r}, attempt {self.attempts}{', settled' if self.settled else ''}>"

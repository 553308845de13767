"""What a Recver with ``ack=True`` hands out: an item that has to be settled."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vanilla.protocol.frames import MAX_SEQ

if TYPE_CHECKING:
    from .pull import PullState


class Delivery:
    """One item that has to be settled: `ack`, `nack`, or a ``with`` block, which does the one or the other.

    ``item`` is what was sent, ``redelivered`` says whether somebody may have seen it before, ``attempts`` which
    try this is: 1 and how many have failed. It belongs to the Recver that it came from: when that is closed, or
    dropped, the item goes back.
    """

    __slots__ = ("_number", "_size", "_state", "attempts", "item", "redelivered")

    def __init__(self, state: PullState, number: int, size: int, item: Any, redelivered: bool, attempts: int) -> None:
        self._state: PullState | None = state
        self._number = number
        self._size = size
        self.item = item
        self.redelivered = redelivered
        self.attempts = attempts

    @property
    def settled(self) -> bool:
        """Was it acknowledged or refused?"""
        return self._state is None

    def ack(self) -> None:
        """It is done: the broker forgets it. Does nothing if it is settled.

        :raises ConnectionLost: too late: the broker gives it to somebody else.
        :raises Closed: likewise; the Recver was closed or dropped.
        """
        state, self._state = self._state, None
        if state is not None:
            state.settle(self._number, self._size)

    def nack(self, delay: int | None = None) -> None:
        """It failed: it is delivered again, or becomes a dead letter after too many attempts. Does nothing if it is
        settled.

        :param delay: ms until then; without it the endpoint's back-off, 1 s doubling with each attempt.
        :raises ConnectionLost: see `ack`.
        :raises ValueError: *delay* is negative, or beyond 63 bits.
        """
        if delay is not None and not 0 <= delay <= MAX_SEQ:
            raise ValueError("a delay is 0 ms or more, and a number of 63 bits")
        state, self._state = self._state, None
        if state is not None:
            state.refuse(self._number, self._size, {} if delay is None else {"delay": int(delay)})

    def __enter__(self) -> Delivery:
        return self

    def __exit__(self, kind: type[BaseException] | None, *exc: object) -> None:
        if kind is None:
            self.ack()
        else:
            self.nack()

    def __repr__(self) -> str:
        return f"<Delivery of {self.item!r}, attempt {self.attempts}{', settled' if self.settled else ''}>"

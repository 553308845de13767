"""When to try again: back-off, and which ends of a connection are final.

Exponential back-off with full jitter (M. Brooker, "Exponential Backoff and Jitter", AWS Architecture Blog, 2015): the
pause is anything from nothing to a bound that doubles with each round. Thousands of clients that lose their broker at
the same moment come back spread over the pause, not all at once.
"""

from __future__ import annotations

import random
from time import monotonic

from vanilla.exception import ConnectionLost
from vanilla.outbox import Buffer, Outbox
from vanilla.tlssocket import Unverified

#: The first pause and the longest, in ms.
BACKOFF = (50, 10_000)
#: How long one attempt may take, in ms.
ATTEMPT_MS = 10_000

#: Codes of ERROR that end a link for good: it would be the same again.
FINAL = frozenset(
    (
        "BAD_FRAME",
        "BAD_MESSAGE",
        "BAD_MAP",
        "BAD_STATE",
        "BAD_SEQUENCE",
        "OVER_CREDIT",
        "TOO_BIG",
        "DENIED",
        "VERSION",
        "REPLACED",
    )
)


def is_final(error: BaseException) -> bool:
    """Is there no use in another attempt after this one failed so?"""
    return isinstance(error, ConnectionLost) and isinstance(error.__cause__, Unverified)


class Backoff:
    """The pauses of one link.

    :param first: ms that the first pause takes at most...
    :param most: ...and any.
    :raises ValueError: they are none.
    """

    def __init__(self, first: float, most: float) -> None:
        if not 0 <= first <= most:
            raise ValueError(f"back-off: 0 <= first <= most, not {first!r} and {most!r} ms")
        self._first = first
        self._most = most
        self._rounds = 0
        self._since = 0.0

    def connected(self) -> None:
        """There is a connection."""
        self._since = monotonic()

    def lost(self) -> None:
        """There was. Pauses begin anew if it has lasted longer than any: a broker that lets everybody in and ends at
        once is not to be stormed."""
        if (monotonic() - self._since) * 1000 >= self._most:
            self._rounds = 0

    def pause(self) -> float:
        """How long to wait now, in ms."""
        bound = min(self._first * 2.0 ** min(self._rounds, 60), self._most)
        self._rounds += 1
        return random.uniform(0, bound)


class Stock(Outbox):
    """The output while there is no connection.

    Who has something to say then says it anew when there is one, so it is dropped. ``unsent`` counts what is kept for
    later; who keeps it counts it.
    """

    __slots__ = ()

    def put(self, *buffers: Buffer) -> None:
        """Drop it."""

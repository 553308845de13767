"""Credit: how far a sender may go, and how a receiver's window sizes itself.

Credit is absolute and cumulative, in messages and in bytes (as MAX_DATA of QUIC, RFC 9000 section 4.1): "numbers below
*n*, *b* bytes in all". Frames that repeat it, or come late, do no harm. Bytes are those of the packed messages, without
heads.

The broker gives producers credit out of an endpoint's room (`Quota`), and a consumer gives the broker credit out of its
own speed (`Window`).
"""

from __future__ import annotations


class Quota:
    """A producer's credit, kept the same way at both ends: the limits, and what has been sent.

    ``n`` is a message number, ``b`` counts bytes since the channel was opened. Neither limit may be passed: a message
    that is larger than the bytes left waits until credit for all of it is there.
    """

    __slots__ = ("b", "limit_b", "limit_n", "n")

    def __init__(self, first: int) -> None:
        self.n = first  # the number of the next message
        self.b = 0
        self.limit_n = first  # exclusive
        self.limit_b = 0

    @property
    def left_n(self) -> int:
        """Messages that may still be sent."""
        return self.limit_n - self.n

    @property
    def left_b(self) -> int:
        """Bytes that may still be sent."""
        return self.limit_b - self.b

    def spend(self, count: int, size: int) -> None:
        """*count* messages of *size* bytes are sent."""
        self.n += count
        self.b += size

    def raise_to(self, n: int, b: int) -> None:
        """Credit has come. A lower limit than the one known is an old frame."""
        self.limit_n = max(self.limit_n, n)
        self.limit_b = max(self.limit_b, b)

    def lower_to(self, n: int, b: int) -> None:
        """The producer gives back what lies above; what is spent is spent."""
        self.limit_n = max(min(self.limit_n, n), self.n)
        self.limit_b = max(min(self.limit_b, b), self.b)


#: A window that ran dry sooner than this doubles, in seconds...
FAST = 0.005
#: ...and one that lasted longer than this halves.
SLOW = 0.010

#: A consumer that gets its messages one by one holds so many seconds of its own work ahead...
EASY = 0.002
#: ...but not more messages than this.
LONE_MOST = 64


class Window:
    """How many messages a consumer asks for ahead of what it has taken.

    It starts at one. While the broker has more than it may send, the window doubles each time it is used up in under
    5 ms, and it halves when it lasts for over 10 ms, what the messages' way takes not counted; so a consumer holds a
    few milliseconds of its own work: slow jobs are not hoarded and fast consumers stream. It is renewed when half of it
    is left, so that a stream never runs dry, and the clock is read once each time.

    Invariants:
    1. Without a receiver that has parked or polled there is no credit: ``limit`` rises only in `renew`.
    2. After `renew`, ``limit`` is at most ``taken + max(size, parked)``, unless it was higher before: credit is never
       taken back.

    :param fixed: a size that never changes, or 0.
    """

    __slots__ = ("_mark", "_since", "fixed", "limit", "size")

    def __init__(self, fixed: int = 0) -> None:
        self.fixed = fixed
        self.size = fixed or 1
        #: Messages that the broker may have sent in all; number below this.
        self.limit = 0
        self._mark = 0  # what was taken when the window was last renewed...
        self._since = 0.0  # ...and when

    def due(self, taken: int) -> bool:
        """Is half of the window used, so that it is time to renew?"""
        return (self.limit - taken) * 2 <= self.size

    def renew(self, taken: int, parked: int, more: bool, now: float) -> bool:
        """Raise the limit for a consumer that has taken *taken* messages in all.

        :param parked: how many receivers wait right now.
        :param more: did the last delivery say that only credit cut it?
        :param now: the clock, in seconds.
        :return: was it raised?
        """
        if not self.fixed:
            self._resize(taken, more, now)
        limit = taken + max(self.size, parked)
        self._mark, self._since = taken, now
        if limit <= self.limit:
            return False
        self.limit = limit
        return True

    def restart(self, taken: int) -> None:
        """All credit is void, for the broker counts anew; what is taken goes on from *taken*."""
        self.limit = self._mark = taken

    def waited(self, begun: float, now: float) -> None:
        """From *begun* until *now* the consumer had nothing at hand, though the broker had more than it might send.

        That was the way's time and not the consumer's: else a window would stay at one wherever a round trip takes
        longer than 5 ms.
        """
        self._since += now - max(begun, self._since)

    def handled(self, count: int, lasted: float) -> None:
        """*count* messages that came when nothing was at hand were handled in *lasted* seconds.

        So fast a consumer may hold a few more ahead even if the broker has no more for now: each renewal is a frame,
        and one for each message costs the broker as much as the message.
        """
        if not self.fixed and lasted > 0:
            self.size = max(self.size, min(int(count * EASY / lasted), LONE_MOST))

    def _resize(self, taken: int, more: bool, now: float) -> None:
        """Work out the size anew."""
        used = taken - self._mark
        if not used:
            return
        lasted = (now - self._since) * self.size / used  # as long as the whole window would have
        if lasted < FAST and more:
            self.size *= 2
        elif lasted > SLOW and self.size > 1:
            self.size = max(self.size // 2, 1)


class Parked(Window):
    """The window of a rendezvous: for each receiver that waits one message, and nothing ahead."""

    __slots__ = ()

    def due(self, taken: int) -> bool:
        return False

    def _resize(self, taken: int, more: bool, now: float) -> None:
        """It is of one size."""

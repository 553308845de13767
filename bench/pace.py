"""When a producer that does not send as fast as it can is to send: an absolute schedule."""

from __future__ import annotations

from plan import now


class Pace:
    """So many nanoseconds from one message to the next, however long a send took or a sleep was.

    Who is late sends at once, and puts off none of those that follow.

    :ivar late: by how much each was, in ns.
    """

    def __init__(self, period: int) -> None:
        self.period = period
        self.due = now()
        self.late: list[int] = []

    def early(self) -> float:
        """Seconds until the next message is due; not above 0 if it is late."""
        return (self.due - now()) / 1e9

    def go(self) -> None:
        """It is sent now."""
        self.late.append(now() - self.due)
        self.due += self.period

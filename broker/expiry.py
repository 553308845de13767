"""Messages that are of no use after a time: they leave an endpoint when they are overdue, whether anybody pulls or not.

What has come to the front is looked at when it would be delivered, so nothing is delivered that is overdue. What waits
behind is found by a walk over all that is ready, at the time when the first of it is overdue, but not more often than
every `PAUSE`, nor so often that an endpoint of many batches does little else.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vanilla.timers import Timer

    from .endpoint import Endpoint

#: Between two walks, in seconds: at the least, and for each batch that is ready.
PAUSE = 0.05
PAUSE_EACH = 2e-6
#: No timer is set further ahead, in seconds.
FAR = 86_400.0


class Expiry:
    """When to look after what is ready at *endpoint*."""

    __slots__ = ("_due", "_free", "_timer", "endpoint")

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        #: Nothing that is ready is overdue before.
        self._due = math.inf
        #: When the next walk may be.
        self._free = 0.0
        self._timer: Timer | None = None

    def note(self, expires: float) -> None:
        """Something is ready that is overdue at *expires* (seconds, monotonic)."""
        if expires < self._due:
            self._due = expires
            if self._timer is not None:
                self._timer.cancel()
            self._wait()

    def _wait(self) -> None:
        broker = self.endpoint.broker
        left = min(max(self._due, self._free) - broker.now(), FAR)
        self._timer = broker.hub.after(max(left, 0) * 1000, self._walk)

    def cancel(self) -> None:
        """The endpoint is gone."""
        if self._timer is not None:
            self._timer.cancel()

    def _walk(self) -> None:
        endpoint = self.endpoint
        self._timer = None
        now, due, looked = endpoint.broker.now(), math.inf, 0
        overdue = []
        for batch in endpoint.in_line():
            looked += 1
            if batch.said is not None:
                if batch.said.expires <= now:
                    overdue.append(batch)
                else:
                    due = min(due, batch.said.expires)
        if overdue:
            endpoint.take_out(overdue)
            for batch in overdue:
                endpoint.expire(batch)
        self._due, self._free = due, now + max(PAUSE, looked * PAUSE_EACH)
        if due < math.inf:
            self._wait()

"""Why a message is a dead letter: what is kept of its life when it is buried."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from .batch import Batch
    from .endpoint import Endpoint


class Death(NamedTuple):
    """What `Batch.death` holds. Batches whose deaths are equal may share a frame, so times are whole ms."""

    #: Where it was accepted, and whether that is a work queue.
    endpoint: str
    queued: bool
    #: Why: MAX_ATTEMPTS, EXPIRED, or what its consumer said.
    reason: str
    #: How many of its deliveries failed.
    attempts: int
    #: When it was accepted there, and when it was buried; ms, monotonic.
    accepted: int
    died: int
    #: Who had its last delivery that failed, see `Session.who`; "" if there was none.
    consumer: str

    def describe(self, now: float) -> dict[str, Any]:
        """The map that consumers get. Times are ages in ms, for the broker's clock means nothing to them.

        :param now: seconds, monotonic.
        """
        fields: dict[str, Any] = {
            "endpoint": self.endpoint,
            "reason": self.reason,
            "attempts": self.attempts,
            "accepted": milliseconds(now) - self.accepted,
            "died": milliseconds(now) - self.died,
        }
        if self.consumer:
            fields["last_consumer"] = self.consumer
        return fields


def death_of(batch: Batch, endpoint: Endpoint, reason: str, now: float) -> Death:
    """*batch* of *endpoint* is buried *now*, for *reason*."""
    queued = endpoint.kind == "a work queue"
    accepted, died = milliseconds(batch.time), milliseconds(now)
    return Death(endpoint.name, queued, reason, batch.attempts, accepted, died, batch.failed_by)


def milliseconds(seconds: float) -> int:
    """As a whole number."""
    return int(seconds * 1000)

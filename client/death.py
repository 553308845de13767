"""Why a message is a dead letter, as the broker tells it."""

from __future__ import annotations

from typing import Any, NamedTuple


class Death(NamedTuple):
    """The history of a dead letter: `Delivery.dead`, `Letter.dead`.

    ``reason`` is MAX_ATTEMPTS, UNDECODABLE (its consumer could not decode it), or whatever else a consumer gave.
    """

    #: Where it was accepted first.
    endpoint: str
    reason: str
    #: How many of its deliveries failed.
    attempts: int
    #: How long ago it was accepted there, and how long ago it died, in ms, when the broker sent this.
    accepted: int
    died: int
    #: Who had the last delivery that failed: agent, identity and address; "" if nobody had.
    last_consumer: str = ""


def read_death(fields: dict[str, Any] | None) -> Death | None:
    """What the broker says of a message (`is_death`), None if it is no dead letter."""
    if fields is None:
        return None
    return Death(**{key: fields[key] for key in Death._fields if key in fields})

"""The terms of an endpoint: its options, each as it was asked for or as the broker's `Options` have it.

Who is the first to name an option of an endpoint settles it; whoever names it later names the same, or is refused.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

from vanilla.protocol.errors import Refused

from .options import Options


@dataclass(frozen=True)
class Terms:
    """What holds at an endpoint; `protocol.terms` says what each may be. Times are in ms, sizes in bytes."""

    capacity: int
    capacity_bytes: int
    max_attempts: int
    backoff: int
    #: What becomes of producers while it is full: "block", "reject" or "drop-oldest".
    overflow: str = "block"
    #: Where its dead letters go; "" is its own name and ``.dead``.
    dead: str = ""
    #: How long a message may wait that does not say itself; 0 is for ever.
    ttl: int = 0
    #: How long a consumer has that does not say itself; 0 is for ever.
    lease: int = 0
    #: How many ids of messages are remembered, and for how long.
    dedupe_entries: int = 100_000
    dedupe: int = 600_000

    @classmethod
    def of(cls, options: Options) -> Terms:
        """Those of an endpoint of which nobody has asked for anything."""
        return cls(options.capacity, options.capacity_bytes, options.max_attempts, options.backoff_ms)

    def with_options(self, options: dict[str, Any]) -> Terms:
        """These, but for *options*, which were checked."""
        return replace(self, **options)

    def agree(self, name: str, options: dict[str, Any]) -> None:
        """Does whoever opens endpoint *name* with *options* ask for nothing else than what holds?

        :raises Refused: CONFLICT; the text names the first option that differs.
        """
        for key, value in options.items():
            here = getattr(self, key)
            if here != value:
                text = f"{key!r} of {name!r} is {here!r} here, and {value!r} was asked for"
                raise Refused("CONFLICT", f"{text}; options are settled at first use")

    def beside(self, other: Terms) -> dict[str, Any]:
        """The options that are not the same as those of *other*."""
        theirs = asdict(other)
        return {key: value for key, value in asdict(self).items() if value != theirs[key]}

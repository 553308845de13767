"""What a producer has said of its messages: priority, headers, keys, ids, and until when they are of use."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import msgpack

from vanilla.protocol.options import LISTS, pack_pair, pack_pairs

if TYPE_CHECKING:
    from .batch import Batch

#: One entry a message, None where it has none.
Names = list[Any]
#: What a key and an id take in memory beside their bytes: two objects and their places.
NAMES_BYTES = 128


class Said:
    """What is said of the messages of one batch. Nothing of it changes, so parts of a batch may share it.

    ``priority`` is theirs, ``expires`` when they are of no use any more (seconds, monotonic; infinity: never),
    ``headers`` the map, packed, or empty, ``keys`` and ``ids`` a name for each message or None, from index ``base`` on.
    ``each`` is what all that takes a message, in bytes. What has the same ``look`` may stand in one frame.
    """

    __slots__ = ("base", "each", "expires", "headers", "ids", "keys", "look", "priority")

    def __init__(
        self,
        priority: int = 0,
        expires: float = math.inf,
        headers: bytes = b"",
        keys: Names | None = None,
        ids: Names | None = None,
        base: int = 0,
        each: int = 0,
    ) -> None:
        self.priority = priority
        self.expires = expires
        self.headers = headers
        self.keys = keys
        self.ids = ids
        self.base = base
        self.each = each
        self.look = priority, headers, keys is None, ids is None

    @classmethod
    def of(cls, options: dict[str, Any], now: float, count: int, ttl: int = 0) -> Said | None:
        """What checked *options* say that holds as long as the messages; None if they say nothing of that kind.

        :param now: when they are accepted.
        :param count: of how many messages.
        :param ttl: ms until they are of no use if they do not say; 0: never.
        """
        ttl = options.get("ttl", ttl)
        expires = now + ttl / 1000 if ttl else math.inf
        headers = msgpack.packb(options["headers"]) if options.get("headers") else b""
        keys, ids = ([*names] if any(names := options.get(which, ())) else None for which in LISTS)
        size = len(headers) + sum(len(name) for names in (keys, ids) if names for name in names if name is not None)
        said = cls(options.get("priority", 0), expires, headers, keys, ids, 0, size // count)
        return None if said.look == PLAIN and expires == math.inf else said

    def until(self, expires: float) -> Said:
        """The same, but for its end."""
        return Said(self.priority, expires, self.headers, self.keys, self.ids, self.base, self.each)

    def part(self, low: int, high: int) -> Said:
        """What is said of the messages from *low* up to, not including, *high*."""
        names = self.keys if self.keys is not None else self.ids
        if names is None:
            return self
        keys, ids, base = self.keys, self.ids, self.base + low
        if (high - low) * 4 < len(names):  # few are left: keep those, not the lists that they came in
            keys, ids, base = self.names("keys", low, high), self.names("ids", low, high), 0
        return Said(self.priority, self.expires, self.headers, keys, ids, base, self.each)

    def bytes_of(self, count: int) -> int:
        """What it takes in a delivery, at most, of *count* messages from the first on."""
        names = [name for which in LISTS for name in self.names(which, 0, count) or ()]
        heads = sum(1 if name is None else 2 + len(name if type(name) is bytes else name.encode()) for name in names)
        return len(self.headers) + heads

    def key(self, index: int) -> Any:
        """That of message *index*, None if it has none."""
        return None if self.keys is None else self.keys[self.base + index]

    def names(self, which: str, low: int, high: int) -> Names | None:
        """The ``keys`` or ``ids`` of the messages from *low* up to, not including, *high*."""
        names: Names | None = getattr(self, which)
        return None if names is None else names[self.base + low : self.base + high]


#: The look of what nothing is said of, or nothing that a consumer is told.
PLAIN = Said().look


def look_of(batch: Batch) -> tuple[Any, ...]:
    """`Said.look` of *batch*."""
    return PLAIN if batch.said is None else batch.said.look


def pack_said(options: dict[str, Any], batches: list[Batch]) -> bytes:
    """The map of a delivery.

    :param options: what else stands in it.
    :param batches: its batches, which are of one look.
    """
    pairs = [pack_pair(name, value) for name, value in options.items()]
    said = batches[0].said
    assert said is not None
    if said.priority:
        pairs.append(pack_pair("priority", said.priority))
    if said.headers:
        pairs.append(msgpack.packb("headers") + said.headers)
    for which in LISTS:
        names: Names = []
        for batch in batches:
            assert batch.said is not None
            names += batch.said.names(which, 0, batch.count) or ()
        if any(names):
            pairs.append(pack_pair(which, names))
    return pack_pairs(*pairs)

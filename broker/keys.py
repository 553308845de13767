"""Messages of one key: one at a time is with a consumer, whichever, and those behind it wait without stopping others.

A message *holds* its key from its delivery until it is settled for good or is ready again: in flight, and while it
waits for its next attempt. One that comes to the front meanwhile stands *aside*, behind its key. When the key is free,
the first of those is ready again, where it stood. So nobody looks through what waits, and the work is that of one
message only where messages have keys.

One at a time: had a consumer two of a key, the second would be done before the first that failed is tried again.

A message ranks by priority, then by accept number; so what waits for a key goes by priority, too.

Invariants:
1. ``holder`` of a key is the accept number of the message that holds it, or -1.
2. ``line`` is ascending by rank. What waits there is counted in the endpoint's ``ready_n`` and ``ready_b``, and in
   ``count``; ``pieces`` is the number of batches. A batch that stands aside is of one key.
3. Where a key is not held and messages wait for it, one of this key is in the endpoint's ``ready`` or ``back``: it
   brings the next when it is gone, or is set aside for one that ranks before it.
4. Who takes messages out that are ready, delayed or in flight, and not to put them back, says so to `gone`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from .said import Said

if TYPE_CHECKING:
    from .batch import Batch
    from .endpoint import Endpoint


class Key:
    """What there is of one key."""

    __slots__ = ("holder", "line")

    def __init__(self) -> None:
        self.holder = -1
        self.line: list[Batch] = []


class Keys:
    """The keys of *endpoint* that are held or waited for."""

    __slots__ = ("_keys", "count", "endpoint", "pieces")

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self._keys: dict[Any, Key] = {}
        #: Messages that stand aside, and the batches that they are in.
        self.count = self.pieces = 0

    def fit(self, batch: Batch, said: Said, most: int) -> int:
        """How many messages from the first of *batch* on may go to one consumer now: up to *most*."""
        found: set[Any] = set()
        names = said.names("keys", 0, min(batch.count, most)) or ()
        for index, name in enumerate(names):
            if name is None:
                continue
            if name in found:
                return index
            key = self._keys.get(name)
            if key is not None and (key.holder >= 0 or (key.line and _rank(key.line[0]) < _rank(batch, index))):
                return index
            found.add(name)
        return most

    def hold(self, batch: Batch) -> None:
        """*batch* goes to a consumer."""
        for number, name in named(batch):
            self._keys.setdefault(name, Key()).holder = number

    def set_aside(self, batch: Batch, said: Said) -> Batch | None:
        """The first message of *batch* may not go: it stands aside, with those of its key right behind it.

        :return: what is left of *batch*.
        """
        name = said.key(0)
        count = next((index for index in range(1, batch.count) if said.key(index) != name), batch.count)
        part, rest = (batch, None) if count == batch.count else (batch.part(0, count), batch.part(count, batch.count))
        key = self._keys[name]
        key.line.insert(_place(key.line, _rank(part)), part)
        self.count += count
        self.pieces += 1
        if key.holder < 0:
            self._bring(key)
        return rest

    def back(self, batch: Batch) -> None:
        """*batch* is ready again: what it held is free."""
        for number, name in named(batch):
            key = self._keys.get(name)
            if key is not None and key.holder == number:
                key.holder = -1
                if not key.line:
                    del self._keys[name]

    def gone(self, batch: Batch, low: int = 0, high: int | None = None) -> None:
        """The messages of *batch*, or those from *low* up to *high*, are settled, or dropped: the next may come."""
        for number, name in named(batch, low, high):
            key = self._keys.get(name)
            if key is None:
                continue
            if key.holder == number:
                key.holder = -1
            if key.holder < 0:
                if key.line:
                    self._bring(key)
                else:
                    del self._keys[name]

    def _bring(self, key: Key) -> None:
        """The first message that waits for *key* is ready."""
        first = key.line[0]
        if first.count > 1:
            key.line[0] = first.part(1, first.count)
            first = first.part(0, 1)
        else:
            del key.line[0]
            self.pieces -= 1
        self.count -= 1
        self.endpoint.back.append(first)
        self.endpoint.broker.touch(self.endpoint)

    def take_out(self, gone: set[Batch]) -> None:
        """Of what stands aside *gone* does not wait any more. The endpoint's sums are its own."""
        for name, key in list(self._keys.items()):
            kept = [batch for batch in key.line if batch not in gone]
            if len(kept) < len(key.line):
                self.pieces -= len(key.line) - len(kept)
                self.count -= sum(batch.count for batch in key.line) - sum(batch.count for batch in kept)
                key.line = kept
                if not kept and key.holder < 0:
                    del self._keys[name]

    def __iter__(self) -> Iterator[Batch]:
        """All that stands aside."""
        for key in self._keys.values():
            yield from key.line


def named(batch: Batch, low: int = 0, high: int | None = None) -> Iterable[tuple[int, Any]]:
    """The accept number and the key of each message of *batch*, or of those from *low* up to *high*, that has one."""
    names = None if batch.said is None else batch.said.names("keys", low, batch.count if high is None else high)
    return ((number, name) for number, name in enumerate(names or (), batch.number + low) if name is not None)


def _place(line: list[Batch], rank: tuple[int, int]) -> int:
    """Where in *line* what has *rank* belongs: most often at its end."""
    low, high = 0, len(line)
    while low < high:
        middle = high - 1 if high == len(line) else (low + high) // 2
        if _rank(line[middle]) < rank:
            low = middle + 1
        else:
            high = middle
    return low


def _rank(batch: Batch, index: int = 0) -> tuple[int, int]:
    """What is less comes first."""
    return -batch.said.priority if batch.said is not None else 0, batch.number + index

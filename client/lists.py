"""Lists of messages, packed for `send_many`: as many at once as seem good, so that little is packed in vain.

It is packed in vain what turns out to be larger than a run, and what stands before something that cannot be packed at
all. Here is only what becomes bytes; what may leave, and when, is `push`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from vanilla.protocol.frames import Buffer

from .batch import RUN_BYTES
from .packing import LARGE_BYTES, MEDIUM_BYTES, MEDIUM_HEAD_BYTES, pack_many

#: Bytes items of `MEDIUM_BYTES` or more that may go together.
MEDIUM_ITEMS = RUN_BYTES // MEDIUM_BYTES
#: Items that are packed by one call, at first and at most.
FIRST_STEP = 8
MOST_STEP = 1024


class ListPacker:
    """Packs the lists that are sent on one channel.

    ``step`` is how many items one call packs: few until they are known to be small.
    """

    __slots__ = ("step",)

    def __init__(self) -> None:
        self.step = FIRST_STEP

    def pack(self, items: Sequence[Any], start: int, end: int, most_b: int, depth: int) -> tuple[list[Buffer], int]:
        """A run of *items* from index *start* on. It ends where one that `is_medium` would be the first of a step.

        :param end: the index that is not to be reached.
        :param most_b: bytes that it may have.
        :param depth: how deep an item may nest.
        :return: its pieces, and how many items they are: none if the first can only be sent alone, or not at all.
        """
        at, size = start, 0
        packed: list[Buffer] = []
        while at < end and size < RUN_BYTES and not is_medium(items[at]):
            count = min(self.step, end - at)
            if count > FIRST_STEP and _is_large(items[at + count - 1]):
                count = FIRST_STEP
            some = _pack_some(items[at : at + count], depth)
            if some is None or size + len(some) > most_b or (count > 1 and len(some) > RUN_BYTES):
                if count == 1:
                    break
                self.step = max(count // 8, 1)
                continue
            if len(some) * 4 < RUN_BYTES:
                self.step = min(self.step * 2, MOST_STEP)
            packed.append(some)
            size += len(some)
            at += count
        return packed, at - start


def is_medium(item: Any) -> bool:
    """Is it bytes that need not be copied?"""
    return item.__class__ is bytes and len(item) >= MEDIUM_BYTES


def medium(items: Sequence[Any], start: int, end: int, most_b: int) -> list[bytes]:
    """Those of *items* from index *start* on that are not to be copied and may go together: as far as there are such,
    before index *end*, and *most_b* bytes of them."""
    chosen: list[bytes] = []
    left = min(most_b, RUN_BYTES + MEDIUM_ITEMS * MEDIUM_HEAD_BYTES)
    for item in items[start : min(end, start + MEDIUM_ITEMS)]:
        if item.__class__ is not bytes or not MEDIUM_BYTES <= (size := len(item)) < LARGE_BYTES:
            break
        left -= size + MEDIUM_HEAD_BYTES
        if left < 0:
            break
        chosen.append(item)
    return chosen


def _is_large(item: Any) -> bool:
    """Would many like it be too much to pack in vain?"""
    return isinstance(item, (bytes, str)) and len(item) >= LARGE_BYTES


def _pack_some(items: Sequence[Any], depth: int) -> Buffer | None:
    """Several messages; None if one of them cannot be packed."""
    try:
        return pack_many(items, depth)
    except (TypeError, ValueError):
        return None

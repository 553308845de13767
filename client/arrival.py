"""A data frame that has arrived: packed until its items are wanted, and then decoded a portion at a time.

To decode late saves memory twice. What goes back unread is never unpacked; and of large items one lives at a time, so
that whoever drops an item before receiving the next lets the allocator give its block out again. A frame decoded whole
would give the top of the heap back to the kernel each time and fault it in again.

The array is lent by the connection's reader (`frames.Lender`) until the next read: `own` copies what is left by then.
"""

from __future__ import annotations

import struct
from typing import Any

from vanilla.protocol.errors import BadMessage
from vanilla.protocol.frames import ARRAY_HEAD_BYTES
from vanilla.protocol.scan import MOST_DEPTH, check, scan

from .packing import UNDECODABLE, unpack

#: What is decoded at once, in bytes; the last message of it may be longer.
PORTION_BYTES = 64 << 10

_ARRAY_HEAD = struct.Struct(">BI")
_ARRAY32 = 0xDD


class Arrival:
    """The messages of one frame that are not loaded yet.

    Each portion is decoded by one call, as an array: its head is written over what stands before it and is done with.

    :param array: an array of msgpack, with its head of 5 bytes; a writable view.
    :param at: where the first message begins.
    :param count: how many there are.
    :param options: what holds for all of them.
    """

    __slots__ = ("_array", "_at", "_single", "count", "left", "options")

    def __init__(self, array: memoryview, at: int, count: int, options: dict[str, Any]) -> None:
        self._array = array
        self._at = at
        self.count = self.left = count
        self.options = options
        #: Something in it cannot be decoded: one message at a time.
        self._single = False

    @property
    def size(self) -> int:
        """Bytes of the messages that are left."""
        return len(self._array) - self._at

    def own(self) -> None:
        """Copy what is left: the reader takes back what it lent."""
        self._array = memoryview(bytearray(self._array[self._at - ARRAY_HEAD_BYTES :]))
        self._at = ARRAY_HEAD_BYTES

    def take(self, most: int) -> tuple[list[Any], int]:
        """The next items, and their size in bytes.

        :param most: how many at most, from 1.
        :return: one or more items; or `UNDECODABLE` alone, for a message that is nothing Python can hold.
        :raises BadMessage: this is not what the head says: the broker is to blame.
        """
        array, start = self._array, self._at
        count = 1 if self._single else min(most, self.left)
        end = len(array)
        if count < self.left or end - start > PORTION_BYTES:
            count, end = scan(array, start, count, PORTION_BYTES)
            if count == self.left and end < len(array):
                raise BadMessage(f"{len(array) - end} bytes stand behind the last message")
        _ARRAY_HEAD.pack_into(array, start - ARRAY_HEAD_BYTES, _ARRAY32, count)
        try:
            items = unpack(array[start - ARRAY_HEAD_BYTES : end])
        except (ValueError, TypeError, OverflowError):
            check(array[start:end], count, MOST_DEPTH)
            if count > 1:
                self._single = True
                return self.take(1)
            items = [UNDECODABLE]
        self._at = end
        self.left -= count
        return items, end - start

"""How much comes through, in order, in a stretch of time. What is sent is in blocks:

    | number, u64 | zeros |

A block that is lost, doubled or overtaken is not in its place, and the measurement fails.
"""

from __future__ import annotations

import struct

from plan import now

BLOCK_BYTES = 1000
_NUMBER = struct.Struct(">Q")
_ZEROS = bytes(BLOCK_BYTES - _NUMBER.size)


def block(number: int) -> bytes:
    """The one of this number."""
    return _NUMBER.pack(number) + _ZEROS


class Gauge:
    """Counts blocks.

    :param begin, end: what comes between them counts: CLOCK_MONOTONIC, ns, which all processes share.
    """

    def __init__(self, begin: int, end: int) -> None:
        self.begin = begin
        self.end = end
        #: Blocks that came, and those that count.
        self.came = self.counted = 0
        self._rest = b""

    @property
    def left(self) -> float:
        """Seconds until it is over; 0 once it is."""
        return max(self.end - now(), 0) / 1e9

    @property
    def bytes(self) -> int:
        """Of the blocks that count."""
        return self.counted * BLOCK_BYTES

    def block(self, data: bytes) -> None:
        """The next has come."""
        self._take(data)
        self._count(1)

    def feed(self, data: bytes) -> None:
        """Some more of a stream of blocks has come."""
        data = self._rest + data
        whole = len(data) // BLOCK_BYTES
        for place in range(whole):
            self._take(data[place * BLOCK_BYTES : (place + 1) * BLOCK_BYTES])
        self._rest = data[whole * BLOCK_BYTES :]
        self._count(whole)

    def _take(self, data: bytes) -> None:
        if data != block(self.came):
            raise AssertionError(f"something was lost, doubled or overtaken at block {self.came}")
        self.came += 1

    def _count(self, blocks: int) -> None:
        if self.begin <= now() < self.end:
            self.counted += blocks

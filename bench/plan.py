"""How many messages of what size go one way, and how it is proved that all of them came, in order.

Messages go in blocks: the first of each carries a stamp, and one more message ends the last block. The receiver looks
at these only: a message lost or doubled shifts all that follow, so the next number is not in its place.

    | number, u64 | when it was made, u64: CLOCK_MONOTONIC, ns | zeros |

All processes of a machine share that clock, so a stamp also tells how long its message was on its way.
"""

from __future__ import annotations

import struct
import time
from dataclasses import dataclass
from typing import Any

#: What the map that is sent again and again takes in msgpack; stamps are some bytes longer.
MAP_BYTES = 67
#: Messages from one stamp to the next, where they are sent as fast as they go.
BLOCK = 100
STAMP = struct.Struct(">QQ")

now = time.monotonic_ns


@dataclass(frozen=True)
class Plan:
    """One measurement.

    :ivar size: of a message, in bytes.
    :ivar warm_blocks: blocks that warm up.
    :ivar timed_blocks: blocks that count.
    :ivar block: messages from one stamp to the next.
    :ivar period: ns from one message to the next; 0 if they are sent as fast as they go.
    """

    size: int
    warm_blocks: int
    timed_blocks: int
    block: int = BLOCK
    period: int = 0

    @property
    def blocks(self) -> int:
        return self.warm_blocks + self.timed_blocks

    @property
    def messages(self) -> int:
        """What counts in the rate."""
        return self.timed_blocks * self.block

    @property
    def all_messages(self) -> int:
        """With those that warm up, and the one that ends the last block."""
        return self.blocks * self.block + 1


def plan_for(size: int, messages: int) -> Plan:
    """About so many messages, to two digits and whole blocks, and a tenth more before them to warm up."""
    digits = max(len(str(messages)) - 2, 2)
    blocks = max(round(messages, -digits) // BLOCK, 10)
    return Plan(size, blocks // 10, blocks)


def stamp(number: int, size: int) -> bytes:
    """The first message of block *number*, to be sent now."""
    return STAMP.pack(number, now()) + bytes(size - STAMP.size)


def check(message: bytes, number: int, size: int) -> int:
    """Is this the first message of block *number*? It is a failure of the measurement if not.

    :return: how long it was on its way, if it has come just now, in ns.
    """
    came = now()
    found, made = STAMP.unpack_from(message) if len(message) == size else (-1, 0)
    return _waited(came, int(made), found == number, number)


def stamp_map(number: int) -> dict[str, Any]:
    """`stamp`, of a message that is a map: such as a program has at hand, `MAP_BYTES` of msgpack."""
    return {"id": number, "made": now(), "kind": "invoice", "user": "ada", "amount": 12.5, "tags": ["a", "b"]}


def check_map(message: dict[str, Any], number: int) -> int:
    """`check`, of a message that is a map."""
    came = now()
    return _waited(came, message["made"], message["id"] == number and len(message) == 6, number)


def _waited(came: int, made: int, right: bool, number: int) -> int:
    if not right:
        raise AssertionError(f"a message was lost, doubled or overtaken before stamp {number}")
    return came - made

"""How items become messages and back: which msgpack options, and which errors.

Bytes stay bytes and text stays text; tuples become lists; a `datetime.datetime` with a time zone travels as msgpack's
timestamp. Nothing else is converted, and there are no ext types, so what comes out is data and never code.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

import msgpack

from vanilla.protocol.errors import BadMessage
from vanilla.protocol.frames import Buffer, packer
from vanilla.protocol.scan import DEPTH, check

#: Bytes items of this size and more are neither copied nor packed: their head goes before them. Of one such item...
LARGE_BYTES = 32 << 10
#: ...and of many that stand side by side: so their heads are made by one call, and one write takes them all.
MEDIUM_BYTES = 4 << 10
MEDIUM_HEAD_BYTES = 3

_BIN16 = struct.Struct(">BH")

_pack = packer(use_bin_type=True, datetime=True)

#: Stands for a message that is well-formed msgpack and yet nothing that Python can hold.
UNDECODABLE = type("UNDECODABLE", (), {"__repr__": lambda self: "UNDECODABLE"})()


def pack(item: Any, depth: int = DEPTH) -> bytes:
    """One message.

    :param depth: how deep it may nest, which the broker says.
    :raises TypeError: msgpack has no such type.
    :raises ValueError: a number beyond 64 bits, text that is not UTF-8, or nested deeper than *depth*.
    """
    try:
        packed = _pack(item)
    except OverflowError as error:
        raise ValueError(f"msgpack cannot hold this: {error}") from None
    if len(packed) > depth and packed[0] >= 0x80:  # a message of 64 bytes cannot nest deeper than that
        _check_depth(packed, depth)
    return packed


def _check_depth(packed: bytes, depth: int) -> None:
    try:
        check(packed, 1, depth)
    except BadMessage as error:
        raise ValueError(f"this cannot be sent: {error.text}") from None


def pack_run(items: Sequence[Any]) -> memoryview:
    """Many messages, each exactly of type bytes: one call packs them all, as an array whose head is left out."""
    packed = _pack(items)
    count = len(items)
    return memoryview(packed)[1 if count < 16 else 3 if count < 65536 else 5 :]


def pack_many(items: Sequence[Any], depth: int = DEPTH) -> memoryview:
    """Many messages of any kind, by one call.

    :param depth: how deep each may nest.
    :raises TypeError, ValueError: one of them cannot be packed, see `pack`; none of them is.
    """
    try:
        packed = pack_run(items)
    except OverflowError as error:
        raise ValueError(f"msgpack cannot hold this: {error}") from None
    try:
        check(packed, len(items), depth)
    except BadMessage as error:
        raise ValueError(f"this cannot be sent: {error.text}") from None
    return packed


def large_parts(item: bytes) -> tuple[bytes, bytes]:
    """A large bytes item as a message in two parts, the item itself being the second."""
    size = len(item)
    return b"\xc5" + size.to_bytes(2, "big") if size < 65536 else b"\xc6" + size.to_bytes(4, "big"), item


def medium_parts(items: Sequence[bytes]) -> list[bytes]:
    """Many bytes items of less than 64 KiB as messages in two parts each, the items themselves being the second."""
    sizes = list(map(len, items))
    parts: list[bytes] = [_BIN16.pack(0xC5, sizes[0])] * (2 * len(sizes))
    parts[1::2] = items
    if sizes.count(sizes[0]) < len(sizes):
        parts[::2] = [_BIN16.pack(0xC5, size) for size in sizes]
    return parts


def unpack(array: Buffer) -> list[Any]:
    """The messages of an array.

    :raises ValueError, TypeError, OverflowError: one of them is nothing that Python can hold, or not well-formed.
    """
    items: list[Any] = msgpack.unpackb(array, raw=False, strict_map_key=False, timestamp=3)
    return items

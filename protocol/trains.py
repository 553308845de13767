"""Trains: datagrams that carry consecutive bytes of the stream, and nothing else, written and read at once.

What UDP_SEGMENT cuts and UDP_GRO joins is one buffer, so what a train costs should be a few calls, not some for each
of its datagrams. Where the C library was built (``_train.c``, beside the scanner's), it checks or writes all heads in
the pass that moves the bytes: 53 datagrams of 1,200 bytes in 3 us to write and 5 to read, where the twin in Python
takes 21 and 16. The twin serves where it was not built, and is the oracle in the tests.
"""

from __future__ import annotations

import os
import struct
from functools import lru_cache
from itertools import chain, repeat
from typing import Any, Callable, NamedTuple

from .packets import DATA, HEAD_BYTES, MAX_NUMBER, OVERHEAD_BYTES, STREAM, Buffer
from .reassembly import Piece

_KIND_SHIFT = 56
_FIRST = struct.Struct("!QQQH")


class Consecutive(NamedTuple):
    """What `parse_train` and `parse_one` have found: packets from ``number`` on, bytes of the stream from ``offset``
    on."""

    number: int
    token: int
    packets: int
    offset: int
    body: Piece


Packer = Callable[[int, int, int, bytes, int, int, int], Buffer]
Parser = Callable[[Buffer, int], "Consecutive | None"]


def parse_one(data: Buffer) -> Consecutive | None:
    """What `packets.parse_data` says, sooner, of a datagram that carries one STREAM alone, which does not end. None:
    another."""
    size = len(data)
    if size <= OVERHEAD_BYTES or data[0] != DATA or data[HEAD_BYTES] != STREAM:
        return None
    number, token, offset, length = _FIRST.unpack_from(data)
    offset &= MAX_NUMBER
    if length != size - OVERHEAD_BYTES or offset + length > MAX_NUMBER:
        return None
    return Consecutive(number & MAX_NUMBER, token, 1, offset, bytes(data[OVERHEAD_BYTES:]))


# -- the twin in Python


@lru_cache(maxsize=128)
def _train(count: int, each: int) -> struct.Struct:
    return struct.Struct("!" + f"QQQH{each}s" * count)


def pack_python(number: int, token: int, offset: int, data: bytes, at: int, count: int, each: int) -> Buffer:
    """*count* DATA datagrams, one after the other, numbered from *number* on, each of which carries *each* bytes of
    *data* from *at* on, which are the stream's from *offset* on: all in a few calls, none of them for each datagram."""
    number |= DATA << _KIND_SHIFT
    offset |= STREAM << _KIND_SHIFT
    if count == 1:
        return b"".join((_FIRST.pack(number, token, offset, each), memoryview(data)[at : at + each]))
    size = count * each
    bodies = map(data.__getitem__, map(slice, range(at, at + size, each), range(at + each, at + size + each, each)))
    columns = range(number, number + count), repeat(token), range(offset, offset + size, each), repeat(each), bodies
    return _train(count, each).pack(*chain.from_iterable(zip(*columns)))


@lru_cache(maxsize=32)
def _segments(each: int) -> struct.Struct:
    return struct.Struct(f"!QQQH{each}s")


def parse_python(data: Buffer, segment: int) -> Consecutive | None:
    """Datagrams of *segment* bytes each, a whole number of them, read at once: as one piece of the stream.

    None unless they are DATA with consecutive numbers and one STREAM alone each, of consecutive offsets, none the last.
    Then each has to be parsed by itself.
    """
    each = segment - OVERHEAD_BYTES
    if each < 1 or data[0] != DATA or data[HEAD_BYTES] != STREAM:
        return None
    numbers, tokens, offsets, lengths, bodies = zip(*_segments(each).iter_unpack(data))
    count, number, token, offset = len(numbers), numbers[0], tokens[0], offsets[0]
    if (
        numbers != tuple(range(number, number + count))
        or offsets != tuple(range(offset, offset + count * each, each))
        or tokens.count(token) != count
        or lengths.count(each) != count
        or (number & MAX_NUMBER) + count - 1 > MAX_NUMBER
        or (offset & MAX_NUMBER) + count * each > MAX_NUMBER
    ):
        return None
    return Consecutive(number & MAX_NUMBER, token, count, offset & MAX_NUMBER, b"".join(bodies))


# -- C


def _load_c() -> tuple[Packer, Parser] | tuple[None, None]:
    """The functions in C; or None where they were not built, cannot be loaded or are not wanted."""
    if os.environ.get("VANILLA_PURE") == "1":
        return None, None
    try:
        from ._scan import ffi, lib
    except ImportError:
        return None, None
    if not hasattr(lib, "vanilla_fill"):
        raise ImportError("vanilla.protocol._scan was built from older sources; build it again: pip install -e .")
    return _wrap_fill(ffi.from_buffer, lib.vanilla_fill), _wrap_strip(ffi.from_buffer, lib.vanilla_strip)


def _wrap_fill(from_buffer: Callable[..., Any], fill: Callable[..., int]) -> Packer:
    def pack_c(number: int, token: int, offset: int, data: bytes, at: int, count: int, each: int) -> Buffer:
        """As :func:`pack_python`, in C."""
        if count == 1:  # a call into C costs more than there is to do
            return pack_python(number, token, offset, data, at, count, each)
        train = bytearray(count * (each + OVERHEAD_BYTES))
        with from_buffer(train) as out:
            if not fill(out, len(train), number, token, offset, data, len(data), at, count, each):
                raise ValueError(f"no train of {count} datagrams of {each} bytes at {at} of {len(data)}")
        return train

    return pack_c


def _wrap_strip(from_buffer: Callable[..., Any], strip: Callable[..., int]) -> Parser:
    def parse_c(data: Buffer, segment: int) -> Consecutive | None:
        """As :func:`parse_python`, in C."""
        size = len(data)
        count, rest = divmod(size, segment)
        room = size - OVERHEAD_BYTES * count
        if rest or room < 1:
            return None
        body = bytearray(room)
        with from_buffer(body) as out, from_buffer(data) as train:
            if not strip(train, size, segment, out, room):
                return None
        number, token, offset, _ = _FIRST.unpack_from(data)
        return Consecutive(number & MAX_NUMBER, token, count, offset & MAX_NUMBER, body)

    return parse_c


pack_c, parse_c = _load_c()

#: The ones in use; `pack_python` and `parse_python` have their contracts.
pack_train: Packer = pack_c or pack_python
parse_train: Parser = parse_c or parse_python

"""Frames: their layout, and a reader that finds them in a stream of bytes.

A frame is one msgpack bin 32 whose content is one msgpack array of four, all of it in fixed widths up to the messages::

    offset  0  1         5  6   7  8         12 13                21 22         26
            c6 LLLLLLLL  94 TT  ce CCCCCCCC  cf SSSSSSSSSSSSSSSS  dd NNNNNNNN   object object ...
            |  length of |  type   channel      seq               |  count      N msgpack objects
            |  the rest  array of 4             u64               array 32
            bin 32                u32

so any msgpack library reads a frame with two calls, and here one `struct` call reads a head in place. Other widths are refused.
The length comes first: a frame over the limit is refused before a byte of it is stored.

The reader hands out the *array*, from the byte ``dd`` on, for that is one msgpack object which one call decodes. It never decodes.
"""

from __future__ import annotations

import struct
from typing import Any, Callable, Dict, List, Optional, Tuple, Union

import msgpack

from .errors import ProtocolError
from .scan import check

# -- types

DATA = 0x01  #: N messages
DATA_OPTIONS = 0x02  #: one map of options, then N - 1 messages
#: Set in the type of a delivery that was cut only by credit: the broker has more.
MORE = 0x10

HELLO = 0x20
OPEN = 0x21
CREDIT = 0x22
WANT = 0x23
ACK = 0x24
NACK = 0x25
STATUS = 0x26
CLOSE = 0x27
ERROR = 0x28
PING = 0x29
PONG = 0x2A
GO_AWAY = 0x2B

NAMES = {
    DATA: "DATA",
    DATA_OPTIONS: "DATA_OPTIONS",
    DATA | MORE: "DATA+MORE",
    DATA_OPTIONS | MORE: "DATA_OPTIONS+MORE",
    HELLO: "HELLO",
    OPEN: "OPEN",
    CREDIT: "CREDIT",
    WANT: "WANT",
    ACK: "ACK",
    NACK: "NACK",
    STATUS: "STATUS",
    CLOSE: "CLOSE",
    ERROR: "ERROR",
    PING: "PING",
    PONG: "PONG",
    GO_AWAY: "GO_AWAY",
}

# -- sizes

HEAD_BYTES = 26
#: The part of a head that the frame's length counts.
COUNTED_BYTES = HEAD_BYTES - 5
#: Where the array starts, and the width of the array's own head.
ARRAY_AT = 21
ARRAY_HEAD_BYTES = 5
#: The longest frame before the hello is through.
HELLO_LIMIT = 4096
#: The longest frame unless the broker says otherwise.
FRAME_LIMIT = 1 << 20
#: A limit on frames may be set up to here; a bin 32 could carry four times as much.
MAX_FRAME_LIMIT = 1 << 30
#: The longest array of a control frame that a client may send: room for 7,000 ranges of acknowledgements.
CONTROL_LIMIT = 64 << 10
#: How deep a control frame's map nests at most: a status reply is map, list, map, list.
CONTROL_DEPTH = 8

MAX_SEQ = (1 << 64) - 1
MAX_CHANNEL = (1 << 32) - 1

_HEAD = struct.Struct(">BIBBBIBQBI")
_MARKS = (0xC6, 0x94, 0xCE, 0xCF, 0xDD)
_START = struct.Struct(">BI")

#: What is read at once at most; the buffer that a reader's caller brings should be of this size.
SCRATCH_BYTES = 256 << 10

Buffer = Union[bytes, bytearray, memoryview]
#: type, channel, seq, count, and the array as bytes.
Frame = Tuple[int, int, int, int, Buffer]


def pack_head(kind: int, channel: int, seq: int, count: int, body_bytes: int) -> bytes:
    """The 26 bytes before the messages.

    :param count: how many msgpack objects follow.
    :param body_bytes: how long they are together.
    """
    return _HEAD.pack(0xC6, COUNTED_BYTES + body_bytes, 0x94, kind, 0xCE, channel, 0xCF, seq, 0xDD, count)


def pack_control(kind: int, channel: int = 0, seq: int = 0, fields: Optional[Dict[str, Any]] = None) -> bytes:
    """A whole control frame: one map."""
    body: bytes = msgpack.packb(fields or {})
    return pack_head(kind, channel, seq, 1, len(body)) + body


def control_map(frame: Frame, limit: int = CONTROL_LIMIT) -> Dict[str, Any]:
    """The map of a control frame.

    :param limit: how long it may be.
    :raises ProtocolError: BAD_MAP or BAD_MESSAGE.
    """
    kind, _, _, count, array = frame
    if count != 1 or len(array) > limit:
        raise ProtocolError("BAD_MAP", f"{NAMES[kind]} carries one map of at most {limit} bytes")
    check(array, 1, CONTROL_DEPTH, ARRAY_HEAD_BYTES)
    try:
        (fields,) = msgpack.unpackb(array)
    except ValueError as error:  # bad UTF-8, or a key that is neither str nor bytes
        raise ProtocolError("BAD_MAP", f"the map of {NAMES[kind]} does not decode: {error}") from None
    except TypeError:
        raise ProtocolError("BAD_MAP", f"the map of {NAMES[kind]} has a list or map as a key") from None
    if not isinstance(fields, dict):
        raise ProtocolError("BAD_MAP", f"{NAMES[kind]} carries a map, not a {type(fields).__name__}")
    return fields


class Reader:
    """Finds frames in a stream, without copying large ones twice and without I/O.

    The caller owns a scratch buffer of `SCRATCH_BYTES`, which many readers may share::

        n = sock.recvmsg_into(reader.buffers(scratch))[0]
        for frame in reader.received(n, scratch): ...

    Between calls a reader keeps only what is incomplete: less than a head, or the array under way, whose memory grows with
    what has come and not with what the head announces.

    After it raised, a reader must not be used again.

    :param limit: the longest frame, counted as its length field does.
    """

    __slots__ = ("_array", "_filled", "_head", "_partial", "_total", "limit")

    #: How much is allocated before anything of an array has come. At 64 KiB messages nothing is ever re-allocated.
    FIRST = 128 << 10

    def __init__(self, limit: int = HELLO_LIMIT) -> None:
        self.limit = limit
        self._partial = b""  # less than a head
        self._array: Optional[bytearray] = None  # the array under way...
        self._filled = 0  # ...how much of it has come...
        self._total = 0  # ...how long it will be...
        self._head: Tuple[int, int, int, int] = (0, 0, 0, 0)  # ...and what its head said

    def buffers(self, scratch: bytearray) -> List[memoryview]:
        """Where the next bytes are to be put."""
        view = memoryview(scratch)
        if self._array is not None:
            return [memoryview(self._array)[self._filled :], view] if self._whole() else [self._room()]
        kept = len(self._partial)
        view[:kept] = self._partial
        return [view[kept:]]

    def _whole(self) -> bool:
        assert self._array is not None
        return len(self._array) == self._total

    def _room(self) -> memoryview:
        """The array is longer than what is allocated: make room for as much again as has come."""
        assert self._array is not None
        if self._filled == len(self._array):
            self._array.extend(bytes(min(self._filled, self._total - self._filled)))
        return memoryview(self._array)[self._filled :]

    def received(self, n: int, scratch: bytearray) -> List[Frame]:
        """*n* bytes are in the buffers: the frames that are whole now.

        :raises ProtocolError: BAD_FRAME or TOO_BIG.
        """
        frames: List[Frame] = []
        view = memoryview(scratch)
        if self._array is not None:
            here = min(n, len(self._array) - self._filled)
            self._filled += here
            if self._filled < self._total:
                return frames
            frames.append((*self._head, self._array))
            self._array = None
            self._parse(view, n - here, frames)
        else:
            end = len(self._partial) + n
            self._partial = b""
            self._parse(view, end, frames)
        return frames

    def _parse(self, view: memoryview, end: int, frames: List[Frame]) -> None:
        at = 0
        while end - at >= HEAD_BYTES:
            bin32, length, array4, kind, u32, channel, u64, seq, array32, count = _HEAD.unpack_from(view, at)
            if (bin32, array4, u32, u64, array32) != _MARKS:
                raise ProtocolError("BAD_FRAME", "a frame's head is not in the widths of this protocol")
            if not COUNTED_BYTES <= length <= self.limit:
                self._refuse(length)
            stop = at + 5 + length
            if stop > end:
                self._begin((kind, channel, seq, count), length, view[at + ARRAY_AT : end])
                return
            frames.append((kind, channel, seq, count, bytes(view[at + ARRAY_AT : stop])))
            at = stop
        self._keep(view[at:end])

    def _keep(self, rest: memoryview) -> None:
        """Less than a head is left. Whatever can be refused of it is refused now."""
        if len(rest) and rest[0] != 0xC6:
            raise ProtocolError("BAD_FRAME", f"a frame starts with byte c6, not {rest[0]:02x}")
        if len(rest) >= _START.size:
            length = _START.unpack_from(rest)[1]
            if not COUNTED_BYTES <= length <= self.limit:
                self._refuse(length)
        self._partial = bytes(rest)

    def _refuse(self, length: int) -> None:
        if length < COUNTED_BYTES:
            raise ProtocolError("BAD_FRAME", f"a frame of {length} bytes has no room for a head")
        raise ProtocolError("TOO_BIG", f"a frame of {length} bytes is over the limit of {self.limit}")

    def _begin(self, head: Tuple[int, int, int, int], length: int, have: memoryview) -> None:
        self._head = head
        self._total = length - (COUNTED_BYTES - ARRAY_HEAD_BYTES)
        self._filled = len(have)
        self._array = bytearray(min(self._total, max(self.FIRST, self._filled)))
        self._array[: self._filled] = have

    @property
    def waiting_bytes(self) -> int:
        """How much memory the incomplete frame takes."""
        return len(self._partial) if self._array is None else len(self._array)


def reading(receive: Callable[[List[memoryview]], int], reader: Reader, scratch: bytearray) -> List[Frame]:
    """One read: *receive* fills buffers and says how many bytes. An end of stream is EOFError."""
    n = receive(reader.buffers(scratch))
    if not n:
        raise EOFError
    return reader.received(n, scratch)

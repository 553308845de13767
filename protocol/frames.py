"""Frames: their layout, and a reader that finds them in a stream of bytes.

A frame is one msgpack bin 32 whose content is one msgpack array of four, all of it in fixed widths up to the messages::

    offset  0  1         5  6   7  8         12 13                21 22         26
            c6 LLLLLLLL  94 TT  ce CCCCCCCC  cf SSSSSSSSSSSSSSSS  dd NNNNNNNN   object object ...
            |  length of |  type   channel      seq               |  count      N msgpack objects
            |  the rest  array of 4             u64               array 32
            bin 32                u32

so any msgpack library reads a frame with two calls, and here one `struct` call reads a head in place. Other widths are
refused, at the first wrong byte. The length comes first: a frame over the limit is refused before a byte of it is
stored.

A reader hands out the *array*, from the byte ``dd`` on, for that is one msgpack object which one call decodes. It never
decodes.
``docs/protocol.md`` is the normative text; a test holds it against the tables in here.
"""

from __future__ import annotations

import struct
from functools import partial
from typing import Any, Callable, NamedTuple, Union

import msgpack

from .errors import BadMessage, ProtocolError
from .scan import check, scan

# -- types

DATA = 0x01  #: N messages
DATA_OPTIONS = 0x02  #: one map of options, then N - 1 messages
REPLY = 0x03  #: N replies to consecutive requests
PART = 0x04  #: one integer, the index of the first item, then N - 1 items of a streamed reply
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
FAIL = 0x2C
END = 0x2D
CANCEL = 0x2E
CLEAR = 0x2F
TOUCH = 0x30
ADMIN = 0x31
SENT = 0x32

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
    REPLY: "REPLY",
    PART: "PART",
    GO_AWAY: "GO_AWAY",
    FAIL: "FAIL",
    END: "END",
    CANCEL: "CANCEL",
    CLEAR: "CLEAR",
    TOUCH: "TOUCH",
    ADMIN: "ADMIN",
    SENT: "SENT",
}

# -- sizes

HEAD_BYTES = 26
#: The part of a head that the frame's length counts.
COUNTED_BYTES = HEAD_BYTES - 5
#: Where the array starts, and the width of the array's own head.
ARRAY_AT = 21
ARRAY_HEAD_BYTES = 5
#: The longest first frame of a connection, which is the hello.
HELLO_LIMIT = 4096
#: The longest frame unless the broker says otherwise.
FRAME_LIMIT = 1 << 20
#: A limit on frames may be set up to here; a bin 32 could carry four times as much.
MAX_FRAME_LIMIT = 1 << 30
#: A delivery may be longer than the producer's frame was by so much: a redelivered message has options before it.
EXTRA_BYTES = 4096
#: The longest control frame that a client may send: room for 7,000 ranges of acknowledgements.
CONTROL_LIMIT = 64 << 10
#: How deep a control frame's map nests at most: a status reply is map, list, map, list.
CONTROL_DEPTH = 8

#: The largest number of a message, and of anything that is counted: languages without unsigned integers can hold it.
MAX_SEQ = (1 << 63) - 1
#: The largest first number of a producer: nobody comes from here to `MAX_SEQ`, nor does credit.
MAX_FIRST = (1 << 62) - 1
MAX_CHANNEL = (1 << 32) - 1

_HEAD = struct.Struct(">BIBBBIBQBI")
#: The first byte of a TLS client (RFC 8446, 5.1), of which people are told what it is.
TLS_HANDSHAKE = 0x16
#: The bytes of a head that are always the same, and where they stand; the length stands behind the first.
_MARKS = (0xC6, 0x94, 0xCE, 0xCF, 0xDD)
_MARKS_AT = (0, 5, 7, 12, ARRAY_AT)
_LENGTH = struct.Struct(">xI")

#: First bytes of msgpack's integers: up to the first, from the second to the third, from the last on.
_FIXINT, _UINT8, _INT64, _NEGATIVE_FIXINT = 0x7F, 0xCC, 0xD3, 0xE0

#: What is read at once; the buffer that a reader's caller brings should be of this size.
SCRATCH_BYTES = 256 << 10

#: From this size on an array is read to where it stays...
LARGE_BYTES = 32 << 10
#: ...and only so much behind it.
NEXT_BYTES = 4 << 10

Buffer = Union[bytes, bytearray, memoryview]


class Frame(NamedTuple):
    """One frame. ``payload`` is the array, packed; of a control frame that was checked, its map."""

    kind: int
    channel: int
    seq: int
    count: int  # type: ignore[assignment]  # hides tuple.count, which nobody asks for
    payload: Any


_frame = Frame._make


def packer(**options: Any) -> Callable[[Any], bytes]:
    """`msgpack.packb` with these options, by one Packer where it can be shared: in C a call is atomic; in Python (PyPy)
    threads, each with a hub of its own, would mix what they pack.
    """
    made = msgpack.Packer(autoreset=True, **options)
    return made.pack if made.__class__.__module__.endswith("_cmsgpack") else partial(msgpack.packb, **options)


_pack = packer()


def pack_head(kind: int, channel: int, seq: int, count: int, body_bytes: int) -> bytes:
    """The 26 bytes before the messages.

    :param count: how many msgpack objects follow.
    :param body_bytes: how long they are together.
    """
    return _HEAD.pack(0xC6, COUNTED_BYTES + body_bytes, 0x94, kind, 0xCE, channel, 0xCF, seq, 0xDD, count)


def pack_control(kind: int, channel: int = 0, seq: int = 0, fields: dict[str, Any] | None = None) -> bytes:
    """A whole control frame: one map."""
    body = _pack(fields or {})
    return pack_head(kind, channel, seq, 1, len(body)) + body


def no_map(kind: int, limit: int = CONTROL_LIMIT) -> ProtocolError:
    """What is wrong with a control frame that is longer than *limit* or carries more than a map."""
    return ProtocolError("BAD_MAP", f"{NAMES[kind]} carries one map of at most {limit} bytes")


def control_map(frame: Frame, limit: int = CONTROL_LIMIT) -> dict[str, Any]:
    """The map of a control frame.

    :param limit: how long the frame may be, counted as its length field does.
    :raises ProtocolError: BAD_MAP or BAD_MESSAGE.
    """
    kind, _, _, count, array = frame
    if count != 1 or len(array) + COUNTED_BYTES - ARRAY_HEAD_BYTES > limit:
        raise no_map(kind, limit)
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


def whole_frame(data: bytes, limit: int) -> Frame:
    """*data*, which is one frame and nothing else, as those that come beside a stream are.

    :param limit: the longest frame, counted as its length field does.
    :raises ProtocolError: BAD_FRAME or TOO_BIG.
    """
    if len(data) - (HEAD_BYTES - COUNTED_BYTES) > limit:
        raise ProtocolError("TOO_BIG", f"a frame of {len(data)} bytes is over the limit of {limit}")
    if len(data) >= HEAD_BYTES:
        bin32, length, array4, kind, u32, channel, u64, seq, array32, count = _HEAD.unpack_from(data)
        marks = bin32, array4, u32, u64, array32
        if marks == _MARKS and length == len(data) - (HEAD_BYTES - COUNTED_BYTES):
            return _frame((kind, channel, seq, count, data[ARRAY_AT:]))
    raise ProtocolError("BAD_FRAME", "what came beside the stream is not one frame")


def part_index(array: Buffer, count: int) -> tuple[int, int]:
    """Where a PART goes on: the index of its first item, and where in *array*, from its first byte on, the items begin.

    Nothing but an integer is decoded, so nothing that a stranger may write here raises anything else.

    :param count: how many objects *array* is said to have.
    :raises BadMessage: the first of them is no integer, or there is none.
    """
    if count:
        end = scan(array, ARRAY_HEAD_BYTES, 1, 1)[1]
        first = array[ARRAY_HEAD_BYTES]
        if first <= _FIXINT or _UINT8 <= first <= _INT64 or first >= _NEGATIVE_FIXINT:
            return msgpack.unpackb(array[ARRAY_HEAD_BYTES:end]), end
    raise BadMessage("a part of a streamed reply starts with an integer, the index of its first item")


class Reader:
    """Finds frames in a stream, without I/O. Two kinds differ in what becomes of the arrays: `Keeper`, `Lender`.

    The caller fills what `buffers` offers, and says how much that was::

        n = sock.recvmsg_into(reader.buffers())[0]
        for frame in reader.received(n): ...

    What stands before the first wrong byte counts, however the stream was split: `received` raises only if it found no
    frame before, else it hands out those and leaves the error in ``error``. Then, and after it raised, a reader must
    not be used again.

    :param limit: the longest frame, counted as its length field does.
    :param scratch: where bytes are read to; 26 bytes at least, `SCRATCH_BYTES` is good.
    :param first: the limit of the first frame, if that is another.
    """

    __slots__ = ("_first", "begun", "error", "filled", "idle", "limit", "scratch")

    #: What becomes of an array that came whole: `bytes` copies it, `memoryview` shows it.
    _array_of: Callable[[memoryview], Buffer]

    def __init__(self, limit: int, scratch: bytearray, first: int = 0) -> None:
        self.limit = limit
        self._first = first  # 0 once the first frame is whole
        self.scratch = memoryview(scratch)
        self.error: ProtocolError | None = None
        #: A `Keeper`'s last read had the head of a frame that is under way since.
        self.begun = False
        #: Set by `reading`: all of the buffers was filled, so there may be more to read at once.
        self.filled = False
        #: Nothing is under way: what comes next begins with a head, and ``scratch`` alone is to be filled.
        self.idle = True

    def buffers(self) -> list[memoryview]:
        """Where the next bytes are to be put. Let go of them before the next call."""
        raise NotImplementedError

    def received(self, n: int) -> list[Frame]:
        """*n* bytes are in the buffers: the frames that are whole now.

        :raises ProtocolError: BAD_FRAME or TOO_BIG.
        """
        raise NotImplementedError

    def alone(self, n: int) -> Frame | None:
        """*n* bytes were read while nothing was under way. If they are just one frame, that: the short way of what
        comes one by one, whose cost is all in the steps. None: see what `received` finds."""
        if not HEAD_BYTES <= n < LARGE_BYTES:
            return None
        scratch = self.scratch
        bin32, length, array4, kind, u32, channel, u64, seq, array32, count = _HEAD.unpack_from(scratch)
        if length != n - 5 or length > (self._first or self.limit) or (bin32, array4, u32, u64, array32) != _MARKS:
            return None
        self._first = 0
        return _frame((kind, channel, seq, count, self._array_of(scratch[ARRAY_AT:n])))

    def _parse(self, view: memoryview, end: int, frames: list[Frame]) -> int:
        """Append the frames that are whole in the first *end* bytes of *view*: where the next one begins."""
        at = 0
        while end - at >= HEAD_BYTES:
            bin32, length, array4, kind, u32, channel, u64, seq, array32, count = _HEAD.unpack_from(view, at)
            marks = bin32, array4, u32, u64, array32
            if marks != _MARKS or not COUNTED_BYTES <= length <= (self._first or self.limit):
                break
            stop = at + 5 + length
            if stop > end:
                return at
            self._first = 0
            frames.append(_frame((kind, channel, seq, count, self._array_of(view[at + ARRAY_AT : stop]))))
            at = stop
        if at < end:
            self.error = self._fault(bytes(view[at : min(end, at + HEAD_BYTES)]))
        return at

    def _fault(self, head: bytes) -> ProtocolError | None:
        """What is wrong with a head, or with as much of it as has come: the first wrong byte decides."""
        if head[0] == TLS_HANDSHAKE:
            return ProtocolError("BAD_FRAME", "this is the beginning of TLS, which is not spoken at this address")
        if head[0] != _MARKS[0]:
            return ProtocolError("BAD_FRAME", f"a frame starts with byte c6, not {head[0]:02x}")
        if len(head) >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(head)
            limit = self._first or self.limit
            if length < COUNTED_BYTES:
                return ProtocolError("BAD_FRAME", f"a frame of {length} bytes has no room for a head")
            if length > limit:
                return ProtocolError("TOO_BIG", f"a frame of {length} bytes is over the limit of {limit}")
        for at, mark in zip(_MARKS_AT, _MARKS):
            if at < len(head) and head[at] != mark:
                return ProtocolError("BAD_FRAME", f"byte {at} of a frame's head is {mark:02x}, not {head[at]:02x}")
        return None


class Keeper(Reader):
    """A reader for who keeps the arrays: each is an object of its own, and a large one is read to where it stays.

    Many of them may share a scratch buffer. Between calls each keeps only what is incomplete: less than a head, or the
    array under way. The memory of that grows with what has come and not with what its head announces, up to the size
    of what this peer has sent whole before.
    """

    __slots__ = ("_array", "_filled", "_largest", "_partial", "_skip", "head", "total")

    _array_of = bytes

    #: How much is allocated before anything of an array has come, from a peer of which nothing is known...
    FIRST = 16 << 10
    #: ...and at most.
    MOST = 1 << 20

    def __init__(self, limit: int, scratch: bytearray, first: int = 0) -> None:
        super().__init__(limit, scratch, first)
        self._partial = b""  # less than a head
        self._array: bytearray | None = None  # the array under way...
        self._filled = 0  # ...how much of it has come...
        self.total = 0  # ...how long it will be...
        self.head: tuple[int, int, int, int] = (0, 0, 0, 0)  # ...and what its head said: type, channel, seq, count
        self._largest = self.FIRST  # the longest array that came whole
        self._skip = 0  # bytes to come of an array that nobody wants

    def buffers(self) -> list[memoryview]:
        view = self.scratch
        array = self._array
        if array is None:
            if self._partial:
                kept = len(self._partial)
                view[:kept] = self._partial
                view = view[kept:]
            return [view]
        if len(array) < self.total:
            return [self._room(array)]
        # Behind a large array only the next head is read along: what follows is large too, and is not to be copied.
        return [memoryview(array)[self._filled :], view[:NEXT_BYTES] if self.total >= LARGE_BYTES else view]

    def _room(self, array: bytearray) -> memoryview:
        """The array is longer than what is allocated: make room for as much again as has come."""
        if self._filled == len(array):
            array.extend(bytes(min(self._filled, self.total - self._filled)))
        return memoryview(array)[self._filled :]

    def received(self, n: int) -> list[Frame]:
        frames: list[Frame] = []
        self.begun = False
        view = self.scratch
        if self._array is not None:
            here = min(n, len(self._array) - self._filled)
            self._filled += here
            if self._filled < self.total:
                return frames
            frames.append(_frame((*self.head, self._array)))
            self._array = None
            self._first = 0
            self._largest = min(max(self._largest, self.total), self.MOST)
            n -= here
        elif self._skip:
            here = min(n, self._skip)
            self._skip -= here
            n -= here
            view = view[here:]
        else:
            n += len(self._partial)
        at = self._parse(view, n, frames)
        if self.error is not None:
            if not frames:
                raise self.error
        elif n - at >= HEAD_BYTES:
            self._begin(view[at:n])
        else:
            self._partial = bytes(view[at:n]) if at < n else b""
        self.idle = self._array is None and not (self._partial or self._skip)
        return frames

    def _begin(self, have: memoryview) -> None:
        """A head and what came behind it: there is more to come."""
        _, length, _, kind, _, channel, _, seq, _, count = _HEAD.unpack_from(have)
        have = have[ARRAY_AT:]
        self._partial = b""
        self.head = kind, channel, seq, count
        self.total = length - (COUNTED_BYTES - ARRAY_HEAD_BYTES)
        self._filled = len(have)
        ahead = 0 if self._first else self._largest  # nothing is allocated for what a stranger announces
        self._array = bytearray(min(self.total, max(ahead, self._filled)))
        self._array[: self._filled] = have
        self.begun = True

    def skip(self) -> None:
        """Keep nothing of the frame under way: it comes to its end, and is not handed out."""
        self._skip = self.total - self._filled
        self._array = None
        self._first = 0
        self.begun = False

    @property
    def under_way(self) -> bool:
        """Has a frame begun that is to be handed out?"""
        return self._array is not None

    @property
    def waiting_bytes(self) -> int:
        """How much memory the incomplete frame takes."""
        return len(self._partial) if self._array is None else len(self._array)


class Lender(Reader):
    """A reader for who is done with the arrays before the next read: they are writable views of the scratch buffer.

    The buffer belongs to this reader alone. Where a frame is longer it is replaced by a larger one, which grows with
    what has come; one of more than `MOST` is given up at the next read that has no need of it.
    """

    __slots__ = ("_at", "_have", "_need")

    _array_of = memoryview

    #: A buffer that is larger than this is not kept.
    MOST = (1 << 20) + (64 << 10)

    def __init__(self, limit: int, scratch: bytearray, first: int = 0) -> None:
        super().__init__(limit, scratch, first)
        # The incomplete frame: where in the buffer it stands, how much of it is there, how long it will be (or 0).
        self._at = self._have = self._need = 0

    def buffers(self) -> list[memoryview]:
        before = self.scratch
        self._make_room()
        view = self.scratch
        if self._at or view is not before:
            view[: self._have] = bytes(before[self._at : self._at + self._have])
            self._at = 0
        # Of a large frame no more than its end is read, and the next head: what follows would have to be moved.
        return [view[self._have : self._need + NEXT_BYTES if self._need >= LARGE_BYTES else None]]

    def _make_room(self) -> None:
        """See that the buffer is as long as it has to be, and no longer than it should."""
        size = len(self.scratch)
        if self._have == size:
            self.scratch = memoryview(bytearray(min(size * 2, self._need + NEXT_BYTES)))
        elif size > self.MOST and self._need < size // 2:
            self.scratch = memoryview(bytearray(self._have + SCRATCH_BYTES))

    def received(self, n: int) -> list[Frame]:
        frames: list[Frame] = []
        n += self._have
        view = self.scratch
        at = self._at = self._parse(view, n, frames)
        if self.error is not None and not frames:
            raise self.error
        self._have = n - at
        self._need = 0
        if self._have >= HEAD_BYTES:
            self._need = 5 + int(_LENGTH.unpack_from(view, at)[0])
        self.idle = not self._have and len(view) <= self.MOST
        return frames

    @property
    def waiting_bytes(self) -> int:
        """How much memory the incomplete frame takes."""
        return self._have


def reading(receive: Callable[[list[memoryview]], int], reader: Reader) -> list[Frame]:
    """One read: *receive* fills buffers and says how many bytes. An end of stream is EOFError."""
    if reader.idle:
        buffers = [reader.scratch]
        n = receive(buffers)
        frame = reader.alone(n)
        if frame is not None:
            reader.filled = False
            return [frame]
    else:
        buffers = reader.buffers()
        n = receive(buffers)
    if not n:
        raise EOFError
    reader.filled = n == sum(map(len, buffers))
    return reader.received(n)

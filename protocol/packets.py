"""Datagrams of a UDP session: the layout of each kind, packed and parsed.

A session is one reliable, ordered byte stream in each direction (the frames of `protocol.frames`, as on TCP), cut into
datagrams. Everything is in network order and of fixed width. A datagram begins with 16 bytes::

    | KK | NN NN NN NN NN NN NN | TT TT TT TT TT TT TT TT | ...
    kind  number u56              token u64 of the receiver

The *token* is the receiver's own: 64 random bits which it has told its peer alone (in INIT and RETRY); 0 while it is
not known. What carries another is dropped, so who cannot read the datagrams cannot disturb a session. What the *number*
is, and what follows, depends on the kind::

    INIT   number: VERSION | client token u64 | cookie 16 bytes, all zero if none | zeros up to 1,200 bytes in all
    RETRY  number: VERSION | server token u64 | cookie 16 bytes
    DATA   number: of this packet, each one larger than the one before | items up to the end, one at least
    CLOSE  number: a code of `CODES` | up to 200 bytes of UTF-8

The items of a DATA datagram::

    | 10 | offset u56 | length u16 | bytes      STREAM: bytes of the stream from offset on
    | 11 | offset u56 | length u16 | bytes      STREAM that ends the stream
    | 20 | largest u56 | delay u32 | rest u32 | count u8 | (gap u32, length u32) * count       ACK
    | 30 | limit u56 | datagrams u32 | size u16  WINDOW: the receiver takes the stream below limit, in datagrams of at
                                                most size bytes; its kernel's buffer holds so many datagrams of them
    | 40                                        PING: to be acknowledged, as everything but ACK and CLOSE is
    | 50 | value u64                            CHALLENGE: say so from where you got this
    | 51 | value u64                            RESPONSE
    | 60 | position u56 | length u16 | bytes    LOOSE: a frame that is sent once, and lost if this packet is
    | 61 | frame u56 | position u64 | offset u32 | total u32 | length u16 | bytes       LOOSE: a part of one, of *total*
                                                bytes, from *offset* on; the parts of one have the same *frame*

What a *position* is, is nothing to the transport: see `loose`.

An ACK says which packets have come: the *largest*, how many microseconds ago it came, the *rest* packets right below
it, and then, going down, *gap* packets (1 or more) that have not come and *length* ones (1 or more) that have.

Whatever is not exactly so raises `BadPacket` and nothing else.
"""

from __future__ import annotations

import struct
from typing import Callable, NamedTuple, Union

VERSION = 1

INIT, RETRY, DATA, CLOSE = 1, 2, 3, 4
NAMES = {INIT: "INIT", RETRY: "RETRY", DATA: "DATA", CLOSE: "CLOSE"}

STREAM, STREAM_END, ACK, WINDOW, PING, CHALLENGE, RESPONSE = 0x10, 0x11, 0x20, 0x30, 0x40, 0x50, 0x51
LOOSE, LOOSE_PART = 0x60, 0x61
ITEM_NAMES = {
    STREAM: "STREAM",
    STREAM_END: "STREAM",
    ACK: "ACK",
    WINDOW: "WINDOW",
    PING: "PING",
    CHALLENGE: "CHALLENGE",
    RESPONSE: "RESPONSE",
    LOOSE: "LOOSE",
    LOOSE_PART: "LOOSE",
}

#: Why a session ended, or what its last datagram said. ``docs/protocol.md`` lists the same.
CODES = {
    0: ("DONE", "both directions had ended, or one side has closed"),
    1: ("BAD_PACKET", "the peer broke the rules of the transport"),
    2: ("TIMEOUT", "nothing was heard of the peer for too long"),
    3: ("UNKNOWN", "the peer does not know this session any more; it was started again, most likely"),
    4: ("VERSION", "the peer speaks another version of the transport"),
    5: ("REFUSED", "the peer takes no session now"),
}
DONE, BAD_PACKET, TIMEOUT, UNKNOWN, OTHER_VERSION, REFUSED = CODES

#: What every path carries (RFC 9000, 14), so what a peer takes at least, and until it says more. The length of an
#: INIT: so much more goes to who asks than comes back.
DATAGRAM_BYTES = 1200
INIT_BYTES = 1200
#: What UDP over IPv4 carries.
MAX_DATAGRAM_BYTES = 65507
HEAD_BYTES = 16
COOKIE_BYTES = 16
NO_COOKIE = bytes(COOKIE_BYTES)
TEXT_BYTES = 200
#: Ranges of an ACK below its first one.
MAX_RANGES = 64
MAX_NUMBER = (1 << 56) - 1

_KIND_SHIFT = 56
_MOST = 0xFFFFFFFF
_HEAD = struct.Struct("!QQ")
_INIT = struct.Struct("!QQQ16s")
_RETRY = struct.Struct("!QQQ16s")
_STREAM = struct.Struct("!QH")
_ACK = struct.Struct("!QIIB")
_RANGE = struct.Struct("!II")
_WINDOW = struct.Struct("!QIH")
_VALUE = struct.Struct("!BQ")
_PART = struct.Struct("!QQIIH")

STREAM_BYTES = _STREAM.size
WINDOW_BYTES = _WINDOW.size
ACK_BYTES = _ACK.size
RANGE_BYTES = _RANGE.size
LOOSE_BYTES = _STREAM.size
PART_BYTES = _PART.size
#: Of a datagram that carries one STREAM alone: what comes before the stream's bytes.
OVERHEAD_BYTES = HEAD_BYTES + STREAM_BYTES

Buffer = Union[bytes, bytearray, memoryview]


class BadPacket(Exception):
    """A datagram is not one of this protocol. It is dropped and counted: anybody may have sent it."""


class Init(NamedTuple):
    """A client asks for a session. ``server`` is the token of the one it has, if it fears that it is lost, else 0."""

    version: int
    server: int
    client: int
    cookie: bytes


class Retry(NamedTuple):
    """A listener has no session of this client: ask again with this cookie. The session's token would be ``server``."""

    version: int
    client: int
    server: int
    cookie: bytes


class Close(NamedTuple):
    code: int
    token: int
    text: str


class Stream(NamedTuple):
    offset: int
    body: bytes
    end: bool


class Ack(NamedTuple):
    """``ranges`` are (first, last) of packets that have come, ascending. ``delay`` is in seconds."""

    delay: float
    ranges: list[tuple[int, int]]


class Window(NamedTuple):
    limit: int
    datagrams: int
    size: int


class Ping(NamedTuple):
    pass


class Challenge(NamedTuple):
    value: int


class Response(NamedTuple):
    value: int


class Loose(NamedTuple):
    position: int
    body: bytes


class LoosePart(NamedTuple):
    frame: int
    position: int
    offset: int
    total: int
    body: bytes


Item = Union[Stream, Ack, Window, Ping, Challenge, Response, Loose, LoosePart]


class Data(NamedTuple):
    number: int
    token: int
    items: list[Item]


# -- pack


def pack_init(init: Init) -> bytes:
    head = _INIT.pack(INIT << _KIND_SHIFT | init.version, init.server, init.client, init.cookie)
    return head.ljust(INIT_BYTES, b"\0")


def pack_retry(retry: Retry) -> bytes:
    return _RETRY.pack(RETRY << _KIND_SHIFT | retry.version, retry.client, retry.server, retry.cookie)


def pack_close(close: Close) -> bytes:
    text = close.text.encode("utf-8", "replace")[:TEXT_BYTES].decode("utf-8", "ignore").encode()
    return _HEAD.pack(CLOSE << _KIND_SHIFT | close.code, close.token) + text


def pack_data(number: int, token: int, items: list[bytes]) -> bytes:
    """A DATA datagram of *items*, which were packed."""
    return b"".join((_HEAD.pack(DATA << _KIND_SHIFT | number, token), *items))


def pack_stream(offset: int, body: Buffer, end: bool) -> bytes:
    kind = STREAM_END if end else STREAM
    return _STREAM.pack(kind << _KIND_SHIFT | offset, len(body)) + body


def pack_ack(ranges: list[tuple[int, int]], delay: float) -> bytes:
    """The ranges (first, last) are ascending; of many the largest `MAX_RANGES` + 1 are said. *delay* in seconds."""
    first, largest = ranges[-1]
    rest = min(largest - first, _MOST)
    parts = [b""]
    if rest == largest - first:
        for low, high in ranges[-2 : -2 - MAX_RANGES : -1]:
            gap, length = first - high - 1, high - low + 1
            if gap > _MOST or length > _MOST:  # so old that the peer has heard of it
                break
            parts.append(_RANGE.pack(gap, length))
            first = low
    parts[0] = _ACK.pack(ACK << _KIND_SHIFT | largest, min(round(delay * 1e6), _MOST), rest, len(parts) - 1)
    return b"".join(parts)


def pack_window(limit: int, datagrams: int, size: int) -> bytes:
    return _WINDOW.pack(WINDOW << _KIND_SHIFT | limit, datagrams, size)


PING_ITEM = bytes([PING])


def pack_challenge(value: int) -> bytes:
    return _VALUE.pack(CHALLENGE, value)


def pack_response(value: int) -> bytes:
    return _VALUE.pack(RESPONSE, value)


def pack_loose(position: int, body: Buffer) -> bytes:
    return _STREAM.pack(LOOSE << _KIND_SHIFT | position, len(body)) + body


def pack_loose_part(frame: int, position: int, offset: int, total: int, body: Buffer) -> bytes:
    return _PART.pack(LOOSE_PART << _KIND_SHIFT | frame, position, offset, total, len(body)) + body


# -- parse


def kind_of(data: Buffer) -> int:
    """The kind of a datagram.

    :raises BadPacket: it is too short, or of none.
    """
    if len(data) < HEAD_BYTES or data[0] not in NAMES:
        raise BadPacket("too short, or of no kind that there is")
    return data[0]


def token_of(data: Buffer) -> int:
    """The token of the receiver, which its session is found by, of a datagram that has a kind; of an INIT maybe 0."""
    return int(_HEAD.unpack_from(data)[1])


def _head(data: Buffer, kind: int) -> tuple[int, int]:
    if kind_of(data) != kind:
        raise BadPacket(f"not of the kind {NAMES[kind]}")
    head, token = _HEAD.unpack_from(data)
    return head & MAX_NUMBER, token


def parse_init(data: Buffer) -> Init:
    version, server = _head(data, INIT)
    if len(data) != INIT_BYTES:
        raise BadPacket(f"an INIT has {INIT_BYTES} bytes")
    _, _, client, cookie = _INIT.unpack_from(data)
    if not client or any(data[_INIT.size :]):
        raise BadPacket("an INIT has a token, and zeros behind its cookie")
    return Init(version, server, client, cookie)


def parse_retry(data: Buffer) -> Retry:
    version, client = _head(data, RETRY)
    if len(data) != _RETRY.size:
        raise BadPacket(f"a RETRY has {_RETRY.size} bytes")
    _, _, server, cookie = _RETRY.unpack(data)
    if not server:
        raise BadPacket("a RETRY has a token")
    return Retry(version, client, server, cookie)


def parse_close(data: Buffer) -> Close:
    code, token = _head(data, CLOSE)
    text = bytes(data[HEAD_BYTES:])
    if code not in CODES or len(text) > TEXT_BYTES:
        raise BadPacket(f"a CLOSE has a code that there is, and at most {TEXT_BYTES} bytes of text")
    try:
        return Close(code, token, text.decode())
    except UnicodeDecodeError:
        raise BadPacket("the text of a CLOSE is UTF-8") from None


def parse_data(data: Buffer) -> Data:
    """One DATA datagram. Nothing of it is kept but copies.

    :raises BadPacket: it is none, or malformed in any of its items.
    """
    number, token = _head(data, DATA)
    at, end = HEAD_BYTES, len(data)
    if at == end:
        raise BadPacket("a DATA datagram has an item")
    items: list[Item] = []
    try:
        while at < end:
            read = _READERS.get(data[at])
            if read is None:
                raise BadPacket(f"no item is of type {data[at]:#x}")
            item, at = read(data, at)
            items.append(item)
    except struct.error:
        raise BadPacket("an item is cut short") from None
    return Data(number, token, items)


def _read_stream(data: Buffer, at: int) -> tuple[Item, int]:
    head, length = _STREAM.unpack_from(data, at)
    begin = at + STREAM_BYTES
    stop = begin + length
    offset = head & MAX_NUMBER
    end = head >> _KIND_SHIFT == STREAM_END
    if stop > len(data) or offset + length > MAX_NUMBER or not (length or end):
        raise BadPacket("a STREAM is cut short, or has no bytes, or too large an offset")
    return Stream(offset, bytes(data[begin:stop]), end), stop


def _read_ack(data: Buffer, at: int) -> tuple[Item, int]:
    head, delay, rest, count = _ACK.unpack_from(data, at)
    at += _ACK.size
    last = head & MAX_NUMBER
    ranges = [(first := last - rest, last)]
    if count:
        if count > MAX_RANGES:
            raise BadPacket(f"an ACK has at most {MAX_RANGES} ranges below its first")
        numbers = struct.unpack_from(f"!{2 * count}I", data, at)
        at += _RANGE.size * count
        if not all(numbers):
            raise BadPacket("the ranges of an ACK are apart, and of one packet or more")
        for gap, length in zip(numbers[::2], numbers[1::2]):
            last = first - gap - 1
            ranges.append((first := last - length + 1, last))
        ranges.reverse()
    if first < 0:
        raise BadPacket("an ACK goes below the first packet")
    return Ack(delay / 1e6, ranges), at


def _read_window(data: Buffer, at: int) -> tuple[Item, int]:
    head, datagrams, size = _WINDOW.unpack_from(data, at)
    if not datagrams or not DATAGRAM_BYTES <= size <= MAX_DATAGRAM_BYTES:
        raise BadPacket(f"a WINDOW is for one datagram or more, of {DATAGRAM_BYTES} to {MAX_DATAGRAM_BYTES} bytes")
    return Window(head & MAX_NUMBER, datagrams, size), at + _WINDOW.size


def _read_ping(data: Buffer, at: int) -> tuple[Item, int]:
    return Ping(), at + 1


def _read_challenge(data: Buffer, at: int) -> tuple[Item, int]:
    return Challenge(_VALUE.unpack_from(data, at)[1]), at + _VALUE.size


def _read_response(data: Buffer, at: int) -> tuple[Item, int]:
    return Response(_VALUE.unpack_from(data, at)[1]), at + _VALUE.size


def _read_loose(data: Buffer, at: int) -> tuple[Item, int]:
    head, length = _STREAM.unpack_from(data, at)
    begin = at + LOOSE_BYTES
    stop = begin + length
    if stop > len(data) or not length:
        raise BadPacket("a LOOSE is cut short, or has no bytes")
    return Loose(head & MAX_NUMBER, bytes(data[begin:stop])), stop


def _read_part(data: Buffer, at: int) -> tuple[Item, int]:
    head, position, offset, total, length = _PART.unpack_from(data, at)
    begin = at + PART_BYTES
    stop = begin + length
    if stop > len(data) or not 0 < length < total or offset + length > total:
        raise BadPacket("a part of a LOOSE is cut short, or empty, or all of it, or lies beyond its end")
    return LoosePart(head & MAX_NUMBER, position, offset, total, bytes(data[begin:stop])), stop


_READERS: dict[int, Callable[[Buffer, int], tuple[Item, int]]] = {
    STREAM: _read_stream,
    STREAM_END: _read_stream,
    ACK: _read_ack,
    WINDOW: _read_window,
    PING: _read_ping,
    CHALLENGE: _read_challenge,
    RESPONSE: _read_response,
    LOOSE: _read_loose,
    LOOSE_PART: _read_part,
}

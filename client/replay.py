"""What a producer has to send before anything new: frames that a lost connection may have taken with it.

A producer keeps each frame until it is confirmed, as the parts that were written. After a loss these come first on the
next connection, as far as its credit goes; and behind them what was taken while there was none.

The broker's process that they left for tells what it has from what it has not, by number. For another process they are
marked ``redelivered``: the first one may have delivered them.

Invariants:
1. The numbers of ``frames`` go on without gaps from ``n``; behind them the producer's ``quota.n`` is next.
2. ``size`` is the sum over ``frames``.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import msgpack

from vanilla.protocol.frames import (
    COUNTED_BYTES,
    DATA,
    DATA_OPTIONS,
    HEAD_BYTES,
    Buffer,
    pack_head,
)
from vanilla.protocol.options import LISTS, pack_options
from vanilla.protocol.scan import scan

#: Where in a frame its type stands.
_TYPE_AT = 6
_FAR = 1 << 62
#: In place of the id of a process: it has left, and for this one it has not.
MARKED = b""


class Frame(NamedTuple):
    """Messages of a producer as one frame. ``end`` is the number behind the last, ``size`` the bytes of the messages
    and their options, ``broker`` the id of the process that it was sent to, None if it has not left, `MARKED` if it has
    left for another process than the one that it is to go to now, and says so."""

    end: int
    count: int  # type: ignore[assignment]  # hides tuple.count, which nobody asks for
    size: int
    parts: Sequence[Buffer]
    broker: bytes | None


class Replay:
    """The frames that wait to be sent.

    ``n`` is the number of the first, ``b`` the bytes that were sent on this connection.
    """

    def __init__(self, frames: Iterable[Frame], first: int) -> None:
        self.frames = deque(frames)
        self.size = sum(frame.size for frame in self.frames)
        self.n = first
        self.b = 0

    def add(self, frame: Frame) -> None:
        """One more, behind the others."""
        self.frames.append(frame)
        self.size += frame.size

    def begin(self) -> None:
        """There is a new connection."""
        self.b = 0

    def was_sent_to(self, broker: bytes) -> bool:
        """Has some of it left for this process before?"""
        return any(frame.broker == broker for frame in self.frames)

    def take(self, limit_n: int, limit_b: int, limit: int, channel: int, broker: bytes) -> Frame | None:
        """The next frame, or as much of it as may go.

        :param limit_n: credit: numbers below this, and *limit_b* bytes on this connection.
        :param limit: the longest frame that the broker takes.
        :param broker: the id of the broker's process.
        :return: what to send; None: not a message, for now.
        """
        frame = self.frames[0]
        if frame.broker not in (None, broker, MARKED):
            frame = _marked(frame, channel)._replace(broker=MARKED)
            self._replace_first(frame)
        room_b = min(limit_b - self.b, limit - COUNTED_BYTES)
        if frame.count > limit_n - self.n or frame.size > room_b:
            pieces = _cut(frame, limit_n - self.n, room_b, channel)
            if pieces is None:
                return None
            self._replace_first(*pieces)
            frame = pieces[0]
        self.frames.popleft()
        self._sent(frame)
        self.b += frame.size
        return frame._replace(broker=broker)

    def _replace_first(self, *pieces: Frame) -> None:
        self.size += sum(frame.size for frame in pieces) - self.frames.popleft().size
        self.frames.extendleft(reversed(pieces))

    def skip(self, first: int, channel: int) -> int:
        """The broker has what is below *first*: how many bytes that was."""
        before = self.size
        while self.frames and self.n < first:
            frame = self.frames[0]
            if frame.end > first:
                pieces = _cut(frame, first - self.n, _FAR, channel)
                assert pieces is not None
                self._replace_first(*pieces)
            self._sent(self.frames.popleft())
        return before - self.size

    def _sent(self, frame: Frame) -> None:
        self.n = frame.end
        self.size -= frame.size

    def first_size(self, channel: int) -> int:
        """The bytes of the first message."""
        frame = self.frames[0]
        if frame.count == 1:
            return frame.size
        pieces = _cut(frame, 1, _FAR, channel)
        return frame.size if pieces is None else pieces[0].size

    def never_fits(self, limit: int, channel: int) -> bool:
        """Is the first message too large for any frame that the broker takes, of up to *limit* bytes?"""
        return self.first_size(channel) + COUNTED_BYTES > limit

    def drop_sent(self) -> int:
        """Forget what has left once: how many messages that was. They are all in front."""
        count = 0
        while self.frames and self.frames[0].broker is not None:
            count += self.frames[0].count
            self._sent(self.frames.popleft())
        return count

    def readdress(self, channel: int) -> None:
        """The channel has another number."""
        self.frames = deque(_packed(frame, *_opened(frame), channel) for frame in self.frames)


def _opened(frame: Frame) -> tuple[dict[str, Any], memoryview]:
    """Its options, and its messages."""
    whole = memoryview(b"".join(frame.parts))
    at, options = HEAD_BYTES, {}
    if whole[_TYPE_AT] == DATA_OPTIONS:
        at = scan(whole, HEAD_BYTES, 1, _FAR)[1]
        options = msgpack.unpackb(whole[HEAD_BYTES:at])
    return options, whole[at:]


def _packed(frame: Frame, options: dict[str, Any], body: memoryview, channel: int) -> Frame:
    """*frame*, with *body* for its messages."""
    seq, count, size = frame.end - frame.count, frame.count, len(body)
    if options:
        packed = pack_options(options)
        size += len(packed)  # they count
        head = pack_head(DATA_OPTIONS, channel, seq, count + 1, size) + packed
    else:
        head = pack_head(DATA, channel, seq, count, size)
    return frame._replace(size=size, parts=(head, body))


def _marked(frame: Frame, channel: int) -> Frame:
    options, body = _opened(frame)
    return _packed(frame, {**options, "redelivered": True}, body, channel)


def _cut(frame: Frame, most: int, most_b: int, channel: int) -> tuple[Frame, Frame] | None:
    """*frame* in two, the first of *most* messages and *most_b* bytes at most; None if that is not one message."""
    options, body = _opened(frame)
    most = min(most, frame.count - 1)
    if most < 1 or most_b < 1:
        return None
    count, at = scan(body, 0, most, most_b)
    if at > most_b:
        count -= 1
    while count:
        pieces = _divided(frame, options, body, count, channel)
        if pieces[0].size <= most_b:
            return pieces
        count -= max(count // 8, 1)  # its options take some of the room
    return None


def _divided(frame: Frame, options: dict[str, Any], body: memoryview, count: int, channel: int) -> tuple[Frame, Frame]:
    """*frame*, whose *options* and *body* these are, in two, the first of *count* messages."""
    at = scan(body, 0, count, _FAR)[1]
    first, rest = dict(options), dict(options)
    for key in LISTS:
        if key in options:
            first[key], rest[key] = options[key][:count], options[key][count:]
    middle = frame.end - frame.count + count
    return (
        _packed(frame._replace(end=middle, count=count), first, body[:at], channel),
        _packed(frame._replace(count=frame.count - count), rest, body[at:], channel),
    )

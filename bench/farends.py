"""The other ends of what is counted: a broker as its producer or consumer sees it, and these two as their broker does.

Each is a script on a raw Unix socket in the process that is counted, and what it does is counted with the rest. So it
reads nothing but heads and control frames, and does nothing a message. It behaves as the real one does in a steady
stream: large frames, credit before it runs out, a queue that is neither empty nor full.

Nothing in here waits: `turn` does what can be done now, and whoever drives it calls it again.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator
from typing import Any, NamedTuple

import msgpack

from vanilla.broker.options import Options
from vanilla.protocol.frames import (
    ACK,
    CLOSE,
    COUNTED_BYTES,
    CREDIT,
    DATA,
    FRAME_LIMIT,
    HEAD_BYTES,
    HELLO,
    MORE,
    OPEN,
    WANT,
    pack_control,
    pack_head,
)

#: Length, type, seq and count; `frames` draws it.
_HEAD = struct.Struct(">xIxB5xxQxI")
#: The only channel of each connection.
CHANNEL = 1
#: A frame is of so many bytes, as the client's are, or of so many small messages: about what a millisecond brings.
FRAME_BYTES = 256 << 10
FRAME_MESSAGES = 4096
#: What an endpoint holds and what a producer gets of it: three quarters.
CAPACITY, CAPACITY_BYTES = Options.capacity, Options.capacity_bytes
GRANT, GRANT_BYTES = CAPACITY * 3 // 4, CAPACITY_BYTES * 3 // 4
#: What a fast consumer of small messages asks for ahead, and what any does at most.
WINDOW, WINDOW_BYTES = 16_384, 2 << 20
#: What is read at once: more than a Unix socket holds.
READ_BYTES = 1 << 20


class Heard(NamedTuple):
    """A frame that came. Of data there is only its head; ``fields`` is a control frame's map."""

    kind: int
    seq: int
    count: int
    size: int
    fields: dict[str, Any]


class Wire:
    """A connected socket that is written and read as far as it goes without waiting."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._buffer = memoryview(bytearray(READ_BYTES))
        #: How much of a frame's beginning is in the buffer, and how much of one's end has not come.
        self._kept = self._rest = 0
        self.unsent: list[memoryview] = []

    def put(self, *parts: bytes | memoryview) -> None:
        self.unsent += map(memoryview, parts)

    def write(self) -> None:
        while self.unsent:
            try:
                sent = self._sock.sendmsg(self.unsent)
            except BlockingIOError:
                return
            while self.unsent and sent >= len(self.unsent[0]):
                sent -= len(self.unsent.pop(0))
            if sent:
                self.unsent[0] = self.unsent[0][sent:]

    def heard(self) -> Iterator[Heard]:
        """All that has come."""
        while True:
            try:
                n = self._sock.recv_into(self._buffer[self._kept :])
            except BlockingIOError:
                return
            if not n:
                raise EOFError("the counted end has closed its connection")
            yield from self._parse(self._kept + n)

    def _parse(self, end: int) -> Iterator[Heard]:
        """The frames in the first *end* bytes of the buffer; control frames only once they are whole."""
        buffer, at = self._buffer, self._rest
        while end - at >= HEAD_BYTES:
            length, kind, seq, count = _HEAD.unpack_from(buffer, at)
            stop = at + length + (HEAD_BYTES - COUNTED_BYTES)
            if kind >= HELLO and stop > end:
                break
            fields = msgpack.unpackb(buffer[at + HEAD_BYTES : stop]) if kind >= HELLO else {}
            yield Heard(kind, seq, count, length - COUNTED_BYTES, fields)
            at = stop
        self._kept, self._rest = max(end - at, 0), max(at - end, 0)
        buffer[: self._kept] = buffer[at : at + self._kept]


class Batch:
    """Packed messages of one size, as many as a frame has.

    ``size`` is that of one, packed.
    """

    def __init__(self, size: int) -> None:
        message = msgpack.packb(bytes(size))
        self.size = len(message)
        self.count = min(-(-FRAME_BYTES // self.size), FRAME_MESSAGES)
        self._body = memoryview(message * self.count)

    def frame(self, count: int, seq: int, more: int = 0) -> tuple[bytes, memoryview]:
        """A frame of the first *count* messages."""
        size = count * self.size
        return pack_head(DATA | more, CHANNEL, seq, count, size), self._body[:size]


class FarEnd:
    """What both brokers have in common: they shake hands and open what is asked for."""

    def __init__(self, sock: socket.socket) -> None:
        self.wire = Wire(sock)
        #: Messages that went over this connection, and their bytes.
        self.n = self.b = 0

    def turn(self) -> None:
        for frame in self.wire.heard():
            if frame.kind == HELLO:
                self.wire.put(pack_control(HELLO, 0, 0, {"v": 1, "id": bytes(16), "frame": FRAME_LIMIT}))
            elif frame.kind in (OPEN, CLOSE):
                self.wire.put(pack_control(frame.kind, CHANNEL, frame.seq))
            self.handle(frame)
        self.answer()
        self.wire.write()

    def handle(self, frame: Heard) -> None:
        """A frame came."""

    def answer(self) -> None:
        """All that came is handled."""


class Sink(FarEnd):
    """A broker to whom a producer pushes: confirms all that came, and gives credit."""

    _confirmed = 0

    def handle(self, frame: Heard) -> None:
        if frame.kind == OPEN:
            self._grant()
        elif frame.kind == DATA:
            self.n += frame.count
            self.b += frame.size

    def answer(self) -> None:
        if self.n > self._confirmed:
            self.wire.put(pack_control(ACK, CHANNEL, 0, {"r": [self._confirmed, self.n - self._confirmed]}))
            self._confirmed = self.n
            self._grant()

    def _grant(self) -> None:
        self.wire.put(pack_control(CREDIT, CHANNEL, 0, {"n": self.n + GRANT, "b": self.b + GRANT_BYTES, "epoch": 0}))


class Source(FarEnd):
    """A broker from which a consumer pulls: sends as far as credit goes, for ever."""

    _limit_n = _limit_b = _settled = 0

    def __init__(self, sock: socket.socket, size: int) -> None:
        super().__init__(sock)
        self._batch = Batch(size)

    def handle(self, frame: Heard) -> None:
        if frame.kind == CREDIT:
            self._limit_n, self._limit_b = frame.fields["n"], frame.fields["b"]
        elif frame.kind == ACK:
            self._settled = sum(frame.fields["r"][-2:])

    def answer(self) -> None:
        while not self.wire.unsent and (count := self._next_count()):
            more = MORE if self._has_more(count) else 0
            self.wire.put(*self._batch.frame(count, self.n, more))
            self.n += count
            self.b += count * self._batch.size
            self.wire.write()

    def _next_count(self) -> int:
        """How many messages the next frame has: one may pass the limit of bytes."""
        left_b = -(-(self._limit_b - self.b) // self._batch.size)
        return max(min(self._batch.count, self._limit_n - self.n, left_b), 0)

    def _has_more(self, count: int) -> bool:
        """Is this frame the last that credit allows, and did that not allow all that an endpoint holds?"""
        n, b = self.n + count, self.b + count * self._batch.size
        return (n == self._limit_n or b >= self._limit_b) and self._limit_n - self._settled < CAPACITY


class Clients:
    """A producer and a consumer of one endpoint of a broker.

    ``received`` is how many messages went all the way.
    """

    def __init__(self, path: str, size: int) -> None:
        self._producer, self._consumer = Wire(connect(path)), Wire(connect(path))
        self._batch = Batch(size)
        self._sent = self._limit = self._limit_b = 0
        self._wants = False
        self.received = self._settled = self._received_b = 0
        for wire, kind in (self._producer, "push"), (self._consumer, "pull"):
            wire.put(pack_control(HELLO, 0, 0, {"v": 1, "id": os.urandom(16)}))
            wire.put(pack_control(OPEN, CHANNEL, 0, {"kind": kind, "name": "bench"}))
        self._ask()

    def turn(self) -> None:
        self._send()
        self._producer.write()
        for frame in self._producer.heard():
            if frame.kind == CREDIT:
                self._limit, self._limit_b = frame.fields["n"], frame.fields["b"]
                self._wants = False
        self._receive()
        self._consumer.write()

    def _send(self) -> None:
        """One frame, once the one before it has left."""
        if self._producer.unsent:
            return
        left_b = self._limit_b // self._batch.size - self._sent
        count = min(self._batch.count, self._limit - self._sent, left_b)
        if count > 0:
            self._producer.put(*self._batch.frame(count, self._sent))
            self._sent += count
        elif not self._wants:
            self._wants = True
            self._producer.put(pack_control(WANT, CHANNEL, 0, {"n": 1, "b": self._batch.size}))

    def _receive(self) -> None:
        """All that has come, acknowledged at once."""
        for frame in self._consumer.heard():
            if frame.kind & ~MORE == DATA:
                self.received += frame.count
                self._received_b += frame.size
        if self.received > self._settled:
            self._consumer.put(pack_control(ACK, CHANNEL, 0, {"r": [self._settled, self.received - self._settled]}))
            self._settled = self.received
            self._ask()

    def _ask(self) -> None:
        fields = {"n": self.received + WINDOW, "b": self._received_b + WINDOW_BYTES}
        self._consumer.put(pack_control(CREDIT, CHANNEL, 0, fields))


def connect(path: str) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(path)
    return sock

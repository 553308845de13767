"""Peers that speak the wire by hand, for tests: they say what a client never would, and see every frame."""

from __future__ import annotations

import gc
import os
import sys
from functools import lru_cache
from typing import Any

import msgpack

from vanilla import tcp, tls, unix
from vanilla.certificates import client_context
from vanilla.deadline import Deadline
from vanilla.poll import IN, OUT
from vanilla.protocol.frames import (
    ACK,
    CANCEL,
    CLOSE,
    CREDIT,
    DATA,
    DATA_OPTIONS,
    END,
    FAIL,
    HELLO,
    MORE,
    NACK,
    OPEN,
    PART,
    PING,
    PONG,
    REPLY,
    SCRATCH_BYTES,
    STATUS,
    WANT,
    Frame,
    Keeper,
    pack_control,
    pack_head,
)
from vanilla.protocol.urls import parse

#: No test waits longer than this for something that it expects, in ms.
PATIENCE = 10_000
_ALL = 1 << 60
#: Nothing stays in it between two reads, so all peers share it.
_SCRATCH = bytearray(SCRATCH_BYTES)


def replies(channel: int, seq: int, items: list[Any], kind: int = REPLY) -> bytes:
    """A REPLY frame; or a PART, whose first item is its index."""
    body = b"".join(map(msgpack.packb, items))
    return pack_head(kind, channel, seq, len(items), len(body)) + body


def data(channel: int, seq: int, items: list[Any], count: int | None = None) -> bytes:
    """A DATA frame; *count* may lie."""
    body = b"".join(map(msgpack.packb, items))
    return pack_head(DATA, channel, seq, len(items) if count is None else count, len(body)) + body


@lru_cache(None)
def _trusting() -> Any:
    return client_context(verify=False)


class Peer:
    """One raw connection to a broker, used by one task of hub *h*."""

    def __init__(self, h: Any, url: str, hello: bool = True, id: bytes = b"") -> None:
        self.h = h
        self.sock: Any
        address = parse(url)
        if address.scheme == "unix":
            self.sock = unix.dial(h, address.path, PATIENCE)
        elif address.scheme == "tls":
            self.sock = tls.dial(h, address.host, address.port, _trusting(), PATIENCE)
        else:
            self.sock = tcp.dial(h, address.host, address.port, PATIENCE)
        self.reader = Keeper(1 << 30, _SCRATCH)
        self.frames: list[Frame] = []
        if hello:
            self.send(pack_control(HELLO, 0, 0, {"v": 1, "id": id or os.urandom(16)}))
            self.expect(HELLO)

    # -- bytes

    def send(self, *parts: bytes) -> None:
        """Write all of *parts*."""
        view = memoryview(b"".join(parts))
        while view:
            try:
                view = view[self.sock.send(view) :]
            except BlockingIOError:
                tcp.wait_ready(self.h, self.sock.fileno(), OUT, PATIENCE, "a peer's send")

    def next(self, timeout: float = PATIENCE) -> Frame:
        """The next frame; EOFError at the end."""
        while not self.frames:
            try:
                n = self.sock.recvmsg_into(self.reader.buffers())[0]
            except BlockingIOError:
                tcp.wait_ready(self.h, self.sock.fileno(), IN, timeout, "a frame")
                continue
            if not n:
                raise EOFError
            self.frames += self.reader.received(n)
        return self.frames.pop(0)

    def expect(self, *kinds: int) -> Frame:
        """The next frame of one of *kinds*; others are passed over."""
        while True:
            frame = self.next()
            if frame[0] in kinds:
                return frame

    def fields(self, kind: int) -> dict[str, Any]:
        """The map of the next frame of *kind*."""
        return msgpack.unpackb(self.expect(kind)[4])[0]  # type: ignore[no-any-return]

    def gone(self) -> bool:
        """Does the broker close the connection?"""
        try:
            while True:
                self.next()
        except (EOFError, ConnectionResetError):
            return True

    def close(self) -> None:
        self.sock.close()

    # -- frames

    def open(self, channel: int, kind: str, name: str, first: int = 0, **fields: Any) -> None:
        self.send(pack_control(OPEN, channel, first, {"kind": kind, "name": name, **fields}))

    def credit(self, channel: int, n: int = _ALL, b: int = _ALL) -> None:
        self.send(pack_control(CREDIT, channel, 0, {"n": n, "b": b}))

    def want(self, channel: int, **fields: Any) -> None:
        self.send(pack_control(WANT, channel, 0, fields))

    def ack(self, channel: int, *flat: int) -> None:
        self.send(pack_control(ACK, channel, 0, {"r": list(flat)}))

    def nack(self, channel: int, *flat: int, **fields: Any) -> None:
        self.send(pack_control(NACK, channel, 0, {"r": list(flat), **fields}))

    # -- requests and replies

    def ask(self, channel: int, seq: int, items: list[Any], **options: Any) -> None:
        """Requests, without a look at credit."""
        body = b"".join(map(msgpack.packb, [options, *items] if options else items))
        kind = DATA_OPTIONS if options else DATA
        self.send(pack_head(kind, channel, seq, len(items) + bool(options), len(body)) + body)

    def reply(self, channel: int, seq: int, *items: Any) -> None:
        self.send(replies(channel, seq, list(items)))

    def part(self, channel: int, seq: int, index: Any, *items: Any) -> None:
        self.send(replies(channel, seq, [index, *items], PART))

    def end(self, channel: int, seq: int, n: int) -> None:
        self.send(pack_control(END, channel, seq, {"n": n}))

    def fail(self, channel: int, seq: int, count: int = 1, **fields: Any) -> None:
        self.send(pack_control(FAIL, channel, seq, {"count": count, "code": "NO", "text": "no", **fields}))

    def cancel(self, channel: int, *flat: int) -> None:
        self.send(pack_control(CANCEL, channel, 0, {"r": list(flat)}))

    def stream_credit(self, channel: int, seq: int, n: int = _ALL, b: int = _ALL) -> None:
        self.send(pack_control(CREDIT, channel, seq, {"n": n, "b": b, "epoch": 0}))

    def answer(self) -> list[Any]:
        """[type, channel, seq, items or map] of the next answer, or CANCEL."""
        kind, channel, seq, _, array = self.expect(REPLY, PART, END, FAIL, CANCEL)
        items = msgpack.unpackb(array)
        return [kind, channel, seq, items if kind in (REPLY, PART) else items[0]]

    def close_channel(self, channel: int, seen: int = 0) -> None:
        self.send(pack_control(CLOSE, channel, seen))

    def delivery(self) -> list[Any]:
        """[type, seq, options or {}, items] of the next delivery."""
        kind, _, seq, _, array = self.expect(DATA, DATA | MORE, DATA_OPTIONS, DATA_OPTIONS | MORE)
        items = msgpack.unpackb(array)
        options = items.pop(0) if kind & ~MORE == DATA_OPTIONS else {}
        return [kind, seq, options, items]

    def status(self) -> dict[str, Any]:
        """Endpoints by name, and "" for the broker."""
        self.send(pack_control(STATUS))
        fields = self.fields(STATUS)
        return {"": fields["broker"], **{endpoint["name"]: endpoint for endpoint in fields["endpoints"]}}


def settled(peer: Peer) -> list[Frame]:
    """All frames that come of what was sent so far. (The first PONG is answered before the tick's work is done.)"""
    found = []
    for number in (1, 2):
        peer.send(pack_control(PING, 0, number))
        while (frame := peer.next())[0] != PONG:
            found.append(frame)
    return found


def let_end(*remotes: Any) -> None:
    """From here on they are as if made with ``reconnect=False``."""
    for remote in remotes:
        remote._link.backoff = None


def until(h: Any, condition: Any, timeout: float = PATIENCE) -> None:
    """Let the hub run until ``condition()`` holds."""
    deadline, looks = Deadline(timeout), 0
    while not condition():
        if not deadline.left():
            raise AssertionError("it did not happen in time")
        looks += 1
        if looks % 100 == 0 and sys.implementation.name != "cpython":
            gc.collect()  # what was dropped counts as dropped from then on
        h.sleep(1)


def accounts(broker: Any, name: str = "sums") -> Any:
    """An endpoint, whose accounts balance."""
    endpoint = broker.endpoints[name]
    assert endpoint.balance == 0
    return endpoint

"""Frames as hexadecimal text, with what they mean: the files of ``tests/wire``, the examples of ``docs/protocol.md``.

A vector is lines of these kinds; empty ones are passed over::

    # a comment, also behind bytes
    key: value
    c6 0000001a 01*300          bytes; *300 repeats the ones before it

The keys: ``to`` is the side that receives. ``state`` is its connection's (default ready), ``channels`` its channels'
("1 push, 2 pull"), ``limit`` its limit on frames. ``event`` (any number of times) is a frame that comes out: its type's
name, channel, seq, count, and its map or list of objects as Python writes them ("[1] * 300" too). ``error`` is the code
with which it ends. ``canonical: no`` says that we would write it otherwise.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgpack

from vanilla.protocol.connection import Connection, Event
from vanilla.protocol.errors import ProtocolError
from vanilla.protocol.frames import (
    ARRAY_HEAD_BYTES,
    DATA_OPTIONS,
    FRAME_LIMIT,
    MORE,
    NAMES,
    PART,
    SCRATCH_BYTES,
    pack_control,
    pack_head,
    part_index,
)
from vanilla.protocol.options import read_options
from vanilla.protocol.scan import check, scan

TYPES = {name: kind for kind, name in NAMES.items()}
KEYS = frozenset("to state channels limit event error canonical".split())


class Vector(NamedTuple):
    """One vector. ``events`` are (type, channel, seq, count, map or list of objects)."""

    name: str
    to: str
    state: str
    channels: dict[int, str]
    limit: int
    events: list[tuple[int, int, int, int, Any]]
    error: str | None
    canonical: bool
    data: bytes


def parse(name: str, text: str) -> Vector:
    """Read one vector; an unknown key is an error."""
    keys: dict[str, list[str]] = {}
    data = b""
    for line in text.splitlines():
        said = re.match(r"([a-z]+): *(.*)", line)
        if said:
            assert said[1] in KEYS, f"{name}: {line}"
            keys.setdefault(said[1], []).append(said[2])
        else:
            data += parse_bytes(line.partition("#")[0])
    one = {key: values[0] for key, values in keys.items()}
    channels = dict(entry.split() for entry in one["channels"].split(",")) if "channels" in one else {}
    return Vector(
        name,
        one["to"],
        one.get("state", "ready"),
        {int(number): state for number, state in channels.items()},
        int(one.get("limit", FRAME_LIMIT)),
        [parse_event(event) for event in keys.get("event", [])],
        one.get("error"),
        one.get("canonical") != "no",
        data,
    )


def parse_bytes(line: str) -> bytes:
    data = b""
    for word in line.split():
        digits, _, times = word.partition("*")
        data += bytes.fromhex(digits) * int(times or 1)
    return data


def parse_event(text: str) -> tuple[int, int, int, int, Any]:
    name, channel, seq, count, payload = text.split(maxsplit=4)
    times = re.fullmatch(r"(\[.*\]) \* (\d+)", payload)
    value = ast.literal_eval(times[1]) * int(times[2]) if times else ast.literal_eval(payload)
    return TYPES[name], int(channel), int(seq), int(count), value


def files() -> list[Vector]:
    """All vectors of ``tests/wire``."""
    return [parse(path.stem, path.read_text()) for path in sorted(Path(__file__).with_name("wire").glob("*.hex"))]


def connection(vector: Vector) -> Connection:
    """The receiver, in the state that the vector starts from."""
    receiver = Connection(vector.to, bytearray(SCRATCH_BYTES), vector.limit)
    receiver.state = vector.state
    receiver.channels.update(vector.channels)
    if vector.state == "ready":
        receiver.limit = vector.limit
        receiver.reader = type(receiver.reader)(vector.limit, bytearray(SCRATCH_BYTES))
    return receiver


def feed(receiver: Connection, data: bytes) -> Iterator[Event]:
    """Give *data* to a receiver, in as many reads as its buffers ask for: the events that come out."""
    rest = memoryview(data)

    def receive(buffers: list[memoryview]) -> int:
        nonlocal rest
        before = len(rest)
        for buffer in buffers:
            part = rest[: len(buffer)]
            buffer[: len(part)] = part
            rest = rest[len(part) :]
        return before - len(rest)

    while rest:
        yield from receiver.read(receive)


def decode(event: Event, channel: str) -> tuple[int, int, int, int, Any]:
    """An event with its messages unpacked, after the checks that are made at the broker's door.

    :param channel: the kind of its channel.
    """
    if not isinstance(event.payload, dict):
        array, at, count = event.payload, ARRAY_HEAD_BYTES, event.count
        if event.kind & ~MORE == DATA_OPTIONS:
            at = scan(array, at, 1, 1 << 62)[1]
            count -= 1
            read_options(array[ARRAY_HEAD_BYTES:at], channel, count)
        elif event.kind == PART:
            part_index(array, event.count)
        check(array, count, 64, at)
        event = event._replace(payload=msgpack.unpackb(array, strict_map_key=False, timestamp=1))
    return tuple(event)  # type: ignore[return-value]


def outcome(vector: Vector, pieces: list[bytes]) -> tuple[list[Any], str | None]:
    """What comes out, and the code with which it ends, when the bytes come in these pieces."""
    receiver = connection(vector)
    events: list[Any] = []
    try:
        for piece in pieces:
            for event in feed(receiver, piece):
                events.append(decode(event, receiver.channels.get(event.channel, "")))
    except ProtocolError as error:
        return events, error.code
    return events, None


def encode(event: tuple[int, int, int, int, Any]) -> bytes:
    """The bytes of a frame, as we write them."""
    kind, channel, seq, count, payload = event
    if isinstance(payload, dict):
        return pack_control(kind, channel, seq, payload)
    body = b"".join(msgpack.packb(item) for item in payload)
    return pack_head(kind, channel, seq, count, len(body)) + body

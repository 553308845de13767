"""Fuzzing of what reads strangers' bytes, by atheris (libFuzzer, guided by the coverage of our Python code).

    python tests/fuzz/fuzz_wire.py scan                      # until interrupted, or something is found
    python tests/fuzz/fuzz_wire.py scan -max_total_time=600 DIRECTORY-OF-CASES
    python tests/fuzz/fuzz_wire.py scan crash-0123abcd       # one case again

The first argument names a target, the others are libFuzzer's. A target is a function of bytes and a row in TARGETS; it
raises when a promise is broken. A case that was found becomes a test of its own, beside those of its module.

Exit code 3: atheris is not there. 2: no such target.
"""

from __future__ import annotations

import inspect
import random
import sys
from collections.abc import Callable

import msgpack

from vanilla.protocol import (
    arrivals,
    connection,
    errors,
    frames,
    options,
    outgoing,
    packets,
    ranges,
    reassembly,
    recovery,
    scan,
    transport,
    whereabouts,
)

#: These guide the fuzzer by their coverage.
INSTRUMENTED = [scan, frames, connection, options, ranges, arrivals, outgoing, packets, reassembly, recovery, transport]
INSTRUMENTED += [whereabouts]

SCANNERS = [scanner for scanner in (scan.scan_python, scan.scan_c) if scanner is not None]


def fuzz_scan(data: bytes) -> None:
    """Three bytes of limits, then a body: the scanners agree, and what they pass msgpack can at least walk."""
    if len(data) < 3:
        return
    count, max_bytes, depth = data[0], data[1] ** 2, data[2]
    body = data[3:]
    same_outcome(body, 0, count, max_bytes, depth)
    same_outcome(body, min(len(body), count), 2**32, 2**32, depth)
    messages, end = well_formed_start(body)
    for scanner in SCANNERS:
        scan.check(body[:end], messages, scanner=scanner)
    unpack(messages, body[:end])


def same_outcome(*arguments: object) -> None:
    """Every scanner has the same result, or raises BadMessage with the same text."""
    outcomes = [outcome(scanner, *arguments) for scanner in SCANNERS]
    assert all(other == outcomes[0] for other in outcomes), outcomes


def outcome(scanner, *arguments):
    try:
        return scanner(*arguments)
    except errors.BadMessage as error:
        return str(error)


def well_formed_start(body: bytes) -> tuple[int, int]:
    """How many well-formed messages the body begins with, and where they end."""
    messages = end = 0
    try:
        while True:
            _, end = scan.scan(body, end, 1, 1)
            messages += 1
    except errors.BadMessage:
        return messages, end


def unpack(messages: int, body: bytes) -> None:
    """Unpack as a consumer does: what a message means may be wrong (its text, keys, times), never how it is built."""
    try:
        unpacked = msgpack.unpackb(b"\xdd" + messages.to_bytes(4, "big") + body, strict_map_key=False)
    except (msgpack.StackError, msgpack.FormatError, msgpack.ExtraData):
        raise
    except (UnicodeDecodeError, TypeError, OverflowError):
        return
    except ValueError as error:
        if "incomplete" in str(error) or "exceeds" in str(error):
            raise
        return
    assert len(unpacked) == messages


def fuzz_frames(data: bytes) -> None:
    """Bytes that say how the rest is cut, then a stream: cut or in one piece, it gives the same frames and error."""
    if len(data) < 4:
        return
    sizes, stream = data[1:4], data[4:]
    limit, first = 21 + 16 * data[0], 21 + 32 * (data[0] & 7)
    pieces, at = [], 0
    while at < len(stream):
        size = 1 + sizes[len(pieces) % len(sizes)]
        pieces.append(stream[at : at + size])
        at += size
    whole = read_frames(frames.Keeper, [stream], limit, first)
    for kind in frames.Keeper, frames.Lender:
        cut = read_frames(kind, pieces, limit, first)
        assert whole == cut, (kind, whole, cut)
    for frame in whole[0]:
        code = code_of(frames.control_map, (frames.PING, *frame[1:]))
        assert code in (None, "BAD_MAP", "BAD_MESSAGE"), code


def code_of(f: Callable[..., object], *arguments: object) -> str | None:
    """The code of the error that ``f(*arguments)`` raises, or None."""
    try:
        f(*arguments)
    except errors.ProtocolError as error:
        return error.code
    return None


def read_frames(
    kind: type[frames.Reader], pieces: list[bytes], limit: int, first: int
) -> tuple[list[frames.Frame], str | None]:
    """The frames of a stream in pieces, and the code of the error with which it ends."""
    reader, found = kind(limit, bytearray(512), first), []
    for piece in pieces:
        rest = memoryview(piece)
        while rest:
            try:
                found += [(*head, bytes(array)) for *head, array in frames.reading(receiving(rest), reader)]
            except errors.ProtocolError as error:
                return found, error.code
            if reader.error is not None:
                return found, reader.error.code
            rest = rest[taken[0] :]
            assert reader.waiting_bytes <= max(frames.Keeper.FIRST, len(reader.scratch))
    return found, None


taken = [0]


def receiving(rest: memoryview):
    """What a socket with *rest* in it does; ``taken`` says how much it gave."""

    def receive(buffers: list[memoryview]) -> int:
        taken[0] = 0
        for buffer in buffers:
            part = rest[taken[0] : taken[0] + len(buffer)]
            buffer[: len(part)] = part
            taken[0] += len(part)
        return taken[0]

    return receive


#: A hello that will do for either side: behind it the rest of the protocol begins.
HELLO = frames.pack_control(frames.HELLO, 0, 0, {"v": 1, "id": bytes(16), "frame": 4096})


def fuzz_connection(data: bytes) -> None:
    """One byte that says how to begin, then a stream: both sides make events of it, or a ProtocolError."""
    if not data:
        return
    stream = heads(data[1:]) if data[0] & 2 else data[1:]
    for side in "broker", "client":
        made = connection.Connection(side, bytearray(512), 4096)
        if data[0] & 1:
            list(made.read(receiving(memoryview(HELLO))))
            deaf = "ended" if side == "broker" else "closing"
            made.channels.update(enumerate([*sorted(connection.KINDS), deaf], 1))
        assert code_of(read_events, made, stream) in (None, *errors.CODES)
        assert set(made.channels.values()) <= {state for who, state in connection.ALLOWED if who == side}


def read_events(made: connection.Connection, stream: bytes) -> None:
    """All of a stream and its end, through one side of a connection."""
    rest = memoryview(stream)
    try:
        while True:
            for event in made.read(receiving(rest)):
                assert event.kind in frames.NAMES
                assert event.kind < frames.HELLO or type(event.payload) is dict
                if event.kind < frames.HELLO:
                    code = code_of(read_data, event, made.channels[event.channel])
                    assert code in (None, "BAD_MAP", "BAD_MESSAGE"), code
            rest = rest[taken[0] :]
    except EOFError:
        assert not rest


def read_data(event: connection.Event, channel: str) -> None:
    """What is made of a data frame at the door: its options or its index, and then the messages are looked at."""
    array, at, count = event.payload, frames.ARRAY_HEAD_BYTES, event.count
    kind = event.kind & ~frames.MORE
    if not count:
        raise errors.BadMessage("there is nothing in it")
    if kind == frames.DATA_OPTIONS:
        at = scan.scan(array, at, 1, 1)[1]
        count -= 1
        found = options.read_options(array[frames.ARRAY_HEAD_BYTES : at], channel, count)
        assert set(found) <= set(options.OPTIONS[channel])
    elif kind == frames.PART:
        index, at = frames.part_index(array, count)
        assert type(index) is int
        count -= 1
    scan.check(array, count, scan.DEPTH, at)


#: The types there are.
KINDS = sorted(frames.NAMES)


def heads(data: bytes) -> bytes:
    """Frames whose heads are right: a type, a channel, a count, a length, and then so much of *data*; and so on.

    Each type there is has a byte of its own, so that none is rare; bytes above are types as they stand.
    """
    stream, at = b"", 0
    while at + 4 <= len(data):
        kind, channel, count, size = data[at : at + 4]
        body = data[at + 4 : at + 4 + size]
        kind = KINDS[kind] if kind < len(KINDS) else kind
        stream += frames.pack_head(kind, channel & 15, kind, count, len(body)) + body
        at += 4 + size
    return stream


#: What a datagram of `fuzz_transport` may be: one of this kind to the session's token, or anything.
DATAGRAM_KINDS = [packets.DATA, packets.DATA, packets.DATA, packets.INIT, packets.RETRY, packets.CLOSE]


def fuzz_transport(data: bytes) -> None:
    """One byte that says whose session it is, then datagrams: three bytes say how long each is, of which kind and
    number, when and from where it comes. Nothing is raised, and nobody elsewhere gets more than three times his own."""
    if not data:
        return
    client, now, at, token = bool(data[0] & 1), 0.0, 1, 7
    address = None if client else 0
    made = transport.Transport(client, now, token, random.Random(1), 9, address)
    made.put([bytes(5000)])
    came, went = {}, {}
    while at + 3 <= len(data):
        size, kind, how = data[at : at + 3]
        body = data[at + 3 : at + 3 + size]
        at += 3 + size
        if kind < len(DATAGRAM_KINDS):
            number = kind + 8 * (how & 31)
            body = bytes([DATAGRAM_KINDS[kind]]) + number.to_bytes(7, "big") + token.to_bytes(8, "big") + body
        whence = None if client else how >> 6
        came[whence] = came.get(whence, 0) + len(body)
        made.receive(body, now, whence)
        now += (0.0, 0.001, 1.0, 30.0)[how >> 4 & 3]
        for train, _, to in made.datagrams(now):
            if to != made.address:
                went[to] = went.get(to, 0) + len(train)
        assert made.state in transport.MOVES
        assert made.next_time() is None or made.state != transport.CLOSED
        made.read(100)
    assert all(size <= whereabouts.AMPLIFICATION * came.get(to, 0) for to, size in went.items()), (went, came)


TARGETS = {
    "scan": fuzz_scan,
    "frames": fuzz_frames,
    "connection": fuzz_connection,
    "transport": fuzz_transport,
}


def main(arguments: list[str]) -> int:
    if len(arguments) < 2 or arguments[1] not in TARGETS:
        print(f"usage: {arguments[0]} {'|'.join(TARGETS)} [libFuzzer's arguments]", file=sys.stderr)
        return 2
    try:
        import atheris
    except ImportError as missing:
        print(f"atheris cannot be imported, so nothing was fuzzed: {missing}", file=sys.stderr)
        return 3
    for module in INSTRUMENTED:
        classes = [
            found for _, found in inspect.getmembers(module, inspect.isclass) if found.__module__ == module.__name__
        ]
        for owner in (module, *classes):
            for _, function in inspect.getmembers(owner, inspect.isfunction):
                if function.__module__ == module.__name__:
                    atheris.instrument_func(function)
    atheris.Setup([arguments[0], *arguments[2:]], TARGETS[arguments[1]])
    atheris.Fuzz()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))

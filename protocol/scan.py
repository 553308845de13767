"""Where does each message of a batch end? Two scanners that answer alike: one in C, and its twin in Python.

The broker moves batches and never unpacks a message, but at the door it must know that a batch holds as many
well-formed msgpack objects as its head says, and later where a batch may be cut. Both are a walk over the heads of
objects, and this is the only place that knows msgpack's layout; ``_scan.c`` draws it.

A *message* is one msgpack object with all that it contains. Well-formed means: whole; no byte 0xc1 where a head
should be; no ext but a timestamp in one of its three forms (fixext 4, fixext 8, ext 8 of 12 bytes, each with type
-1); and containers nested no deeper than ``depth`` (a scalar has depth 0, ``[]`` has 1, ``[[]]`` has 2). Text need
not be UTF-8 here, and a map's keys may be anything: who unpacks finds that out, message by message.

The C scanner's build is optional. The Python twin serves where no compiler was, and everywhere it is the tests'
oracle. The environment variable ``VANILLA_PURE=1``, read at import, leaves the C scanner aside even where it is
built; :data:`KIND` says which one is in use.

The C scanner works without the GIL. A bytearray cannot be resized meanwhile (that raises BufferError in the thread
that tries); nor may its content be changed.
"""

from __future__ import annotations

import os
from typing import Any, Callable, Protocol, Union

from . import errors

#: What is scanned: any contiguous buffer; of wider items the bytes are taken.
Buffer = Union[bytes, bytearray, memoryview]

#: How deep containers of a message may nest unless its broker says otherwise, and at most: what was checked before may
#: be walked over with the latter.
DEPTH = 64
MOST_DEPTH = 255


class Scan(Protocol):
    """What both scanners are, as a type."""

    def __call__(
        self, body: Buffer, offset: int, count: int, max_bytes: int, depth: int = MOST_DEPTH
    ) -> tuple[int, int]:
        """:func:`scan_python` has the contract."""


# Why a walk ended: the numbers are those of _scan.c.
_CUT_SHORT, _NEVER_USED, _OTHER_EXT, _TOO_DEEP, _BAD_ARGUMENT = -1, -2, -3, -4, -5

_TEXTS = {
    _CUT_SHORT: "the object at byte {at} is cut short: the body ends at byte {size}",
    _NEVER_USED: "byte {at} is 0xc1, with which no msgpack object begins",
    _OTHER_EXT: "the ext at byte {at} is not a timestamp, and no other ext is allowed",
    _TOO_DEEP: "the container at byte {at} is nested deeper than {depth}",
}


def _malformed(why: int, at: int, size: int, depth: int) -> errors.BadMessage:
    """The error for a walk that ended at offset `at`, because of `why`, in a body of `size` bytes."""
    if why == _CUT_SHORT and at == size:
        return errors.BadMessage(f"the body ends at byte {size}, where one more object should begin")
    return errors.BadMessage(_TEXTS[why].format(at=at, size=size, depth=depth))


def _bad_argument(size: int, offset: int, count: int, depth: int) -> ValueError:
    """The caller's own fault, not the peer's; the scanners have seen that one of these is out of range."""
    return ValueError(
        f"offset {offset} should be 0 to {size} (the body's size), "
        f"count {count} 0 or more, depth {depth} 0 to {MOST_DEPTH}"
    )


# The Python twin. Its tables are made from msgpack's specification, not from _scan.c, so that a slip in one shows.


def _fixed_size(head: int) -> int:
    """How many bytes an object takes whose first byte says it all; 0 where it does not."""
    if head <= 0x7F or head >= 0xE0 or head in (0xC0, 0xC2, 0xC3):
        return 1
    if 0xA0 <= head <= 0xBF:
        return 1 + (head & 0x1F)
    return {0xCA: 5, 0xCB: 9, 0xCC: 2, 0xCD: 3, 0xCE: 5, 0xCF: 9, 0xD0: 2, 0xD1: 3, 0xD2: 5, 0xD3: 9}.get(head, 0)


_FIXED = [_fixed_size(head) for head in range(256)]
#: bin and str: how many bytes their length takes.
_LENGTH = {0xC4: 1, 0xC5: 2, 0xC6: 4, 0xD9: 1, 0xDA: 2, 0xDB: 4}
#: array and map: how many bytes their count takes, and how many objects each of the counted is.
_COUNT = {0xDC: (2, 1), 0xDD: (4, 1), 0xDE: (2, 2), 0xDF: (4, 2)}
#: Timestamps: how the object begins, and how many bytes it takes.
_TIMESTAMP = {0xD6: (b"\xd6\xff", 6), 0xD7: (b"\xd7\xff", 10), 0xC7: (b"\xc7\x0c\xff", 15)}
#: In place of a number of objects: not a container.
_SCALAR = -1


class _Fault(Exception):
    """Ends a walk: `why` it ended, and `at` which offset."""

    def __init__(self, why: int, at: int) -> None:
        super().__init__(why, at)
        self.why = why
        self.at = at


def _number(body: Any, size: int, at: int, width: int) -> int:
    """The big-endian number of `width` bytes behind the head at `at`."""
    if at + 1 + width > size:
        raise _Fault(_CUT_SHORT, at)
    return int.from_bytes(body[at + 1 : at + 1 + width], "big")


def _timestamp_end(body: Any, size: int, at: int, head: int) -> int:
    """Where the timestamp at `at` ends; an ext of any other kind is a fault."""
    if head not in _TIMESTAMP:
        raise _Fault(_OTHER_EXT, at)
    start, length = _TIMESTAMP[head]
    if at + len(start) > size:
        raise _Fault(_CUT_SHORT, at)
    if body[at : at + len(start)] != start:
        raise _Fault(_OTHER_EXT, at)
    return at + length


def _read_head(body: Any, size: int, at: int) -> tuple[int, int]:
    """Where the object at `at`, or a container's head, ends, and how many objects the container holds, or _SCALAR."""
    head = body[at]
    if _FIXED[head]:
        return at + _FIXED[head], _SCALAR
    if head in _LENGTH:
        width = _LENGTH[head]
        return at + 1 + width + _number(body, size, at, width), _SCALAR
    if head <= 0x8F:
        return at + 1, 2 * (head & 0x0F)
    if head <= 0x9F:
        return at + 1, head & 0x0F
    if head in _COUNT:
        width, each = _COUNT[head]
        return at + 1 + width, each * _number(body, size, at, width)
    if head == 0xC1:
        raise _Fault(_NEVER_USED, at)
    return _timestamp_end(body, size, at, head), _SCALAR


def _walk(body: Any, size: int, at: int, depth: int) -> int:
    """Where the message at `at` ends. Raises _Fault.

    `left` counts the objects still to come in the innermost open container, `outer` those of the containers around
    it, each of which still counts the container inside it.
    """
    outer: list[int] = []
    left = 1
    while True:
        if at >= size:
            raise _Fault(_CUT_SHORT, at)
        after, objects = _read_head(body, size, at)
        if after > size:
            raise _Fault(_CUT_SHORT, at)
        if objects != _SCALAR and len(outer) == depth:
            raise _Fault(_TOO_DEEP, at)
        at = after
        if objects > 0:
            outer.append(left)
            left = objects
            continue
        left -= 1
        while left == 0:
            if not outer:
                return at
            left = outer.pop() - 1


def _pass_messages(body: Any, size: int, offset: int, count: int, max_bytes: int, depth: int) -> tuple[int, int]:
    """:func:`scan_python`, of checked arguments and of something whose items are bytes. Raises _Fault."""
    passed, at = 0, offset
    end = offset + max_bytes
    while passed < count and at < end:
        # Most messages are one small object: those that need no walk are passed here.
        head = body[at] if at < size else 0xC1
        after = at + _FIXED[head]
        if head == 0xC4 and at + 1 < size:
            after = at + 2 + body[at + 1]
        if at < after <= size:
            at = after
        else:
            at = _walk(body, size, at, depth)
        passed += 1
    return passed, at


def scan_python(body: Buffer, offset: int, count: int, max_bytes: int, depth: int = MOST_DEPTH) -> tuple[int, int]:
    """Pass over messages from `offset` on.

    It stops after `count` of them, or earlier, after the message with which the bytes passed reach or exceed
    `max_bytes`: as long as there is any byte credit, one message may overshoot it, so that a large one never waits
    for ever.

    :param body: the bytes; nothing of them is kept.
    :param offset: where the first message begins, in bytes.
    :param count: how many messages to pass at most; so many must be there.
    :param max_bytes: credit in bytes; with 0 or less no message is passed.
    :param depth: how deep containers may nest, 0 to 255.
    :returns: the number of messages passed, and the offset after them.
    :raises errors.BadMessage: a message is malformed, or the body ends before `count` or `max_bytes` is reached. What
        stands behind the last message passed is not looked at.
    :raises ValueError: `offset` is not inside of the body, or `count` or `depth` is out of range.

    >>> scan_python(b"\\x01\\xa2hi\\x93\\x01\\x02\\x03", 0, 3, 1000)
    (3, 8)
    >>> scan_python(b"\\x01\\xa2hi\\x93\\x01\\x02\\x03", 0, 3, 2)
    (2, 4)
    """
    with memoryview(body) as any_items, any_items.cast("B") as view:
        size = len(view)
        if not 0 <= offset <= size or count < 0 or not 0 <= depth <= MOST_DEPTH:
            raise _bad_argument(size, offset, count, depth)
        try:
            # bytes are read faster than a view of them.
            return _pass_messages(body if type(body) is bytes else view, size, offset, count, max_bytes, depth)
        except _Fault as fault:
            raise _malformed(fault.why, fault.at, size, depth) from None


def _load_c() -> tuple[Scan, Callable[..., int]] | tuple[None, None]:
    """The C scanner, and its short answer to `check`; or None where it was not built, cannot be loaded or is not
    wanted."""
    if os.environ.get("VANILLA_PURE") == "1":
        return None, None
    try:
        from ._scan import ffi, lib
    except ImportError:
        return None, None
    if not hasattr(lib, "vanilla_holds"):
        raise ImportError("vanilla.protocol._scan was built from older sources; build it again: pip install -e .")
    return _wrap(ffi.from_buffer, lib.vanilla_scan), lib.vanilla_holds


def _wrap(from_buffer: Callable[..., Any], c_scan: Callable[..., Any]) -> Scan:
    """A scanner around the C function."""
    most = 2**63 - 1

    def call(data: Any, size: int, offset: int, count: int, max_bytes: int, depth: int) -> tuple[int, int]:
        try:
            got = c_scan(data, size, offset, count, max_bytes, depth)
        except OverflowError:  # Credit may be any 64-bit number and more: beyond int64 it makes no difference.
            within = [max(-1, min(number, most)) for number in (offset, count, max_bytes, depth)]
            got = c_scan(data, size, *within)
        passed: int = got.passed
        if passed >= 0:
            return passed, got.at
        if passed == _BAD_ARGUMENT:
            raise _bad_argument(size, offset, count, depth)
        raise _malformed(passed, got.at, size, depth)

    def scan_c(body: Buffer, offset: int, count: int, max_bytes: int, depth: int = MOST_DEPTH) -> tuple[int, int]:
        """As :func:`scan_python`, in C."""
        if type(body) is bytes:
            return call(body, len(body), offset, count, max_bytes, depth)
        if type(body) is memoryview and not body.c_contiguous:  # PyPy's from_buffer would not notice
            raise TypeError("a view with gaps cannot be scanned")
        # The `with` gives a bytearray its freedom back even while a traceback keeps this frame alive.
        with from_buffer(body) as data:
            return call(data, len(data), offset, count, max_bytes, depth)

    return scan_c


scan_c, _holds_c = _load_c()

#: Counts from here on are for the scanner, which knows what to do with numbers beyond 64 bits.
_MANY = 1 << 32

#: Which scanner is in use: "c" or "python".
KIND = "c" if scan_c else "python"
#: The scanner in use; :func:`scan_python` has its contract.
scan: Scan = scan_c or scan_python


def check(body: Buffer, count: int, depth: int = DEPTH, offset: int = 0, scanner: Scan = scan) -> None:
    """Raise :exc:`errors.BadMessage` unless from `offset` to its end the body is exactly `count` well-formed messages.

    :param depth: how deep containers may nest, 0 to 255.
    :param scanner: which of the twins does it; the tests ask both.
    :raises ValueError: `offset` is not inside of the body, or `count` or `depth` is out of range.

    >>> check(b"\\x01\\x02", 2)
    >>> check(b"\\x01\\x02", 1)
    Traceback (most recent call last):
    ...
    vanilla.protocol.errors.BadMessage: BAD_MESSAGE: the head says 1; so many end at byte 1, the body at byte 2
    """
    if type(body) is bytes:
        size = len(body)
        if scanner is scan_c and _holds_c is not None and count < _MANY and _holds_c(body, size, offset, count, depth):
            return
    else:
        size = memoryview(body).nbytes
    _, end = scanner(body, offset, count, size + 1, depth)
    if end != size:
        raise errors.BadMessage(f"the head says {count}; so many end at byte {end}, the body at byte {size}")

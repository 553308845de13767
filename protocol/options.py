"""Message options: the map at the head of a DATA_OPTIONS frame, which holds for all its messages.

An option that is not known is refused, never passed over: who sets a delay must not find it ignored.

Most hold for all messages of the frame. ``keys`` and ``ids`` are lists, an entry a message, so that messages with other
keys need no frame of their own.
"""

from __future__ import annotations

from typing import Any, Callable

import msgpack

from .errors import ProtocolError
from .frames import MAX_SEQ, Buffer

#: The highest priority; the lowest, which messages have without one, is 0.
MAX_PRIORITY = 9
#: How long a key or id may be.
NAME_BYTES = 255
#: How long headers may be, packed.
HEADERS_BYTES = 4096


def _flag(value: Any) -> bool:
    return type(value) is bool


def _attempt(value: Any) -> bool:
    return type(value) is int and 1 <= value < 1 << 32


def _number(value: Any) -> bool:
    return type(value) is int and 0 <= value <= MAX_SEQ


def _text(value: Any) -> bool:
    return type(value) is str


#: What the map of option ``dead`` holds at least; more may be in it.
DEATH: dict[str, Callable[[Any], bool]] = {
    "endpoint": _text,  # where the message was accepted first
    "reason": _text,  # why it was buried
    "attempts": _number,  # how many of its deliveries failed
    "accepted": _number,  # how long ago it was accepted there, in ms
    "died": _number,  # how long ago it was buried, in ms
}


def is_death(value: Any) -> bool:
    """Is this the history of a dead letter? ``last_consumer`` may be in it, or not."""
    return (
        type(value) is dict
        and all(key in value and check(value[key]) for key, check in DEATH.items())
        and type(value.get("last_consumer", "")) is str
    )


def _time(value: Any) -> bool:
    return type(value) is int and 1 <= value <= MAX_SEQ


def _priority(value: Any) -> bool:
    return type(value) is int and 0 <= value <= MAX_PRIORITY


def is_name(value: Any) -> bool:
    """May *value* be a message's key or id?"""
    if type(value) is str:
        try:
            value = value.encode()
        except UnicodeEncodeError:
            return False
    return type(value) is bytes and 1 <= len(value) <= NAME_BYTES


def _names(value: Any) -> bool:
    return type(value) is list and all(name is None or is_name(name) for name in value)


def _headers(value: Any) -> bool:
    if type(value) is not dict or not all(type(key) is str for key in value):
        return False
    return len(msgpack.packb(value)) <= HEADERS_BYTES


#: What a consumer is told of what a producer has said.
_SAID: dict[str, Callable[[Any], bool]] = {
    "priority": _priority,  # those of a higher one are delivered first
    "headers": _headers,  # the application's own
    "keys": _names,  # an entry a message: of one key, one at a time is with a consumer
    "ids": _names,  # an entry a message: a second one with the same is discarded
}

#: The kind of channel that it comes on -> name -> check.
OPTIONS: dict[str, dict[str, Callable[[Any], bool]]] = {
    "push": {
        "delay": _number,  # ms until the first delivery
        "ttl": _time,  # ms until the messages are of no use any more
        "redelivered": _flag,  # another broker may have taken these messages, and delivered them
        **_SAID,
    },
    "pull": {
        "redelivered": _flag,  # a consumer may have seen these messages before
        "attempts": _attempt,  # 1 and how many deliveries have failed
        "dead": is_death,  # these are dead letters: whence they are, and why
        **_SAID,
    },
    "send": {},
    "recv": {"redelivered": _flag, "attempts": _attempt},  # likewise
    "call": {
        "wait": _flag,  # while nobody serves, wait instead of failing
        "deadline": _number,  # ms from now on; what has not been answered by then is not wanted
        "trace": _flag,  # of an exception the traceback is wanted, too
    },
    "serve": {
        "deadline": _number,  # likewise: what is left
        "trace": _flag,
        "identity": _text,  # who asks, on the broker's word
    },
    "state": {},
    "publish": {},
    "subscribe": {},
}


#: Options that are lists, an entry a message.
LISTS = ("keys", "ids")


def pack_pair(name: str, value: Any) -> bytes:
    """One option, as it stands in the map."""
    packed: bytes = msgpack.packb(name) + msgpack.packb(value, datetime=True)
    return packed


def pack_pairs(*pairs: bytes) -> bytes:
    """The map of options that are packed already, fewer than 16: what `pack_pair` gave."""
    return bytes((0x80 | len(pairs),)) + b"".join(pairs)


def pack_options(options: dict[str, Any]) -> bytes:
    """The map as it stands before the messages."""
    packed: bytes = msgpack.packb(options)
    return packed


def read_options(packed: Buffer, channel: str, count: int) -> dict[str, Any]:
    """Decode and check a map of options; the scanner has found one well-formed object in *packed*.

    :param channel: the kind of channel that they came on.
    :param count: how many messages follow.
    :raises ProtocolError: BAD_MAP: it is no map, or an option is unknown or has a wrong value.
    """
    try:
        options = msgpack.unpackb(packed)
    except (ValueError, TypeError, OverflowError) as error:
        raise ProtocolError("BAD_MAP", f"the options do not decode: {error}") from None
    if type(options) is not dict:
        raise ProtocolError("BAD_MAP", "a data frame with options starts with one map")
    for key, value in options.items():
        check = OPTIONS[channel].get(key)
        if check is None:
            raise ProtocolError("BAD_MAP", f"there is no message option {key!r}")
        if not check(value):
            raise ProtocolError("BAD_MAP", f"message option {key!r} cannot be {repr(value)[:200]}")
        if key in LISTS and len(value) != count:
            raise ProtocolError("BAD_MAP", f"message option {key!r} has {len(value)} entries for {count} messages")
    return options

"""What a message is sent with beside its item: delay, time to live, priority, key, id, headers.

What messages have in common stands once in their frame; keys and ids stand there as lists, an entry a message. So only
a change of the former ends a frame.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import msgpack

from vanilla.protocol.errors import BadMessage
from vanilla.protocol.frames import MAX_SEQ, Buffer
from vanilla.protocol.options import HEADERS_BYTES, MAX_PRIORITY, NAME_BYTES, is_name, pack_pair, pack_pairs
from vanilla.protocol.scan import check

from .batch import make_message

if TYPE_CHECKING:
    from .link import Link

#: Stands in a list of keys or ids for a message that has none.
_NIL = b"\xc0"
#: What the map of options takes at most beside what its messages share: its head, and the names and heads of two lists.
_FRAMING_BYTES = 20


class Terms(NamedTuple):
    """``shared``: the options that hold for a whole frame, packed, one after the other; ``key`` and ``id``: the
    message's own, packed."""

    shared: tuple[bytes, ...]
    key: bytes = _NIL
    id: bytes = _NIL

    @property
    def size(self) -> int:
        """Bytes that these take, at most, in a frame of their own."""
        return _FRAMING_BYTES + sum(map(len, self.shared)) + self.own

    @property
    def own(self) -> int:
        """Bytes that they take, at most, in a frame of others that share the same."""
        return len(self.key) + len(self.id)


#: Those of a message that is sent with nothing.
PLAIN = Terms(())


#: What there is.
OPTIONS = ("delay", "ttl", "priority", "key", "id", "headers")


def make_terms(
    depth: int,
    *,
    delay: float = 0,
    ttl: float = 0,
    priority: int = 0,
    key: str | bytes | None = None,
    id: str | bytes | None = None,
    headers: Mapping[str, Any] | None = None,
) -> Terms:
    """Check and pack what `PushSender.send` is given.

    :param depth: how deep headers may nest, which the broker says.
    :raises TypeError: there is no such option, or it is of another type.
    :raises ValueError: it is out of range.
    """
    shared: list[bytes] = []
    if delay:
        shared.append(pack_pair("delay", _ms("delay", delay)))
    if ttl:
        shared.append(pack_pair("ttl", _ms("ttl", ttl)))
    if priority:
        shared.append(pack_pair("priority", _priority(priority)))
    if headers:
        shared.append(pack_pair("headers", _checked(headers, depth)))
    return Terms(tuple(shared), _name("key", key), _name("id", id))


def _ms(name: str, value: float) -> int:
    if not isinstance(value, (int, float)):
        raise TypeError(f"{name} is a number of ms, not {value!r}")
    if not 0 <= value <= MAX_SEQ:
        raise ValueError(f"{name} is 0 ms or more, and a number of 63 bits, not {value!r}")
    return math.ceil(value)


def _priority(value: int) -> int:
    if type(value) is not int:
        raise TypeError(f"a priority is a whole number, not {value!r}")
    if not 0 <= value <= MAX_PRIORITY:
        raise ValueError(f"a priority is 0 to {MAX_PRIORITY}, not {value}")
    return value


def _name(what: str, value: str | bytes | None) -> bytes:
    if value is None:
        return _NIL
    if not isinstance(value, (str, bytes)):
        raise TypeError(f"{what} is text or bytes, not {value!r}")
    if not is_name(value):
        shown = repr(value) if len(value) <= NAME_BYTES else f"one of {len(value)}"
        raise ValueError(f"{what} has 1 to {NAME_BYTES} bytes, as UTF-8 if it is text, not {shown}")
    packed: bytes = msgpack.packb(value)
    return packed


def _checked(headers: Mapping[str, Any], depth: int) -> dict[str, Any]:
    """*headers* as they are sent: what this raises here would end the connection there."""
    if not isinstance(headers, Mapping):
        raise TypeError(f"headers are a dict, not {headers!r}")
    made = dict(headers)
    if not all(type(key) is str for key in made):
        raise TypeError(f"headers have text as keys: {headers!r}")
    try:
        packed = msgpack.packb(made)
        msgpack.unpackb(packed)  # raises if a map within has other keys than text and bytes
        check(packed, 1, depth - 1)  # they stand in a map
    except (OverflowError, ValueError, BadMessage) as error:
        raise ValueError(f"these headers cannot be sent: {error}") from None
    if len(packed) > HEADERS_BYTES:
        raise ValueError(f"headers of {len(packed)} bytes are too big: the limit is {HEADERS_BYTES}")
    return made


class Termed:
    """A packed item and its terms; it stands where a `batch.Message` would.

    ``body`` is the size of the item alone, ``size`` with what the terms take in a frame of their own.
    """

    __slots__ = ("body", "parts", "size", "terms")

    def __init__(self, item: Any, terms: Terms, link: Link) -> None:
        self.parts: tuple[Buffer, ...]
        self.parts, self.body = make_message(item, link, extra=terms.size)
        self.size = self.body + terms.size
        self.terms = terms


class Shared:
    """The options of the frame that is being gathered.

    ``cost`` is what they take in it, in bytes, at most.

    :param terms: those of its next message.
    :param count: how many messages without any are in it already.
    """

    __slots__ = ("_ids", "_keys", "cost", "pairs")

    def __init__(self, terms: Terms, count: int) -> None:
        self.pairs = terms.shared
        self.cost = terms._replace(key=_NIL, id=_NIL).size + count * PLAIN.own
        self._keys = [_NIL] * count
        self._ids = [_NIL] * count

    def add(self, terms: Terms) -> None:
        """One more message, which shares them."""
        self._keys.append(terms.key)
        self._ids.append(terms.id)
        self.cost += terms.own

    def pack(self) -> bytes:
        """The map."""
        pairs = self.pairs
        for name, entries in ("keys", self._keys), ("ids", self._ids):
            if entries.count(_NIL) < len(entries):
                head: bytes = msgpack.Packer().pack_array_header(len(entries))
                pairs = (*pairs, msgpack.packb(name) + head + b"".join(entries))
        return pack_pairs(*pairs)

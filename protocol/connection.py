"""One connection's protocol, seen from either side: what may be sent when, and what its maps must hold.

Two literal tables are the protocol. `FIELDS` says which fields the map of a control frame has. `ALLOWED` says which frame may
come in which state; a frame that is not in it is a `ProtocolError`, and the connection ends. ``docs/protocol.md`` has the same
tables, and a test compares them.

A channel's state as its receiver sees it (channel 0 is the connection itself)::

    broker:  none -OPEN-> push | pull -CLOSE-> none          (an ERROR that the broker sends: push | pull -> ended)
             ended: everything is passed over until CLOSE -> none
    client:  none -(sends OPEN)-> push | pull -(sends CLOSE)-> closing -CLOSE-> none
             closing: everything is passed over until CLOSE -> none; ERROR: push | pull -> ended

The clients choose channel numbers, so either side knows from its own table what a number means. There is no clock in here: the
hello's deadline is the caller's.
"""

from __future__ import annotations

from typing import Any, Callable, Dict, FrozenSet, List, NamedTuple, Optional, Tuple

from .errors import ProtocolError
from .frames import (
    ACK,
    CLOSE,
    CREDIT,
    DATA,
    DATA_OPTIONS,
    ERROR,
    FRAME_LIMIT,
    GO_AWAY,
    HELLO,
    HELLO_LIMIT,
    MAX_FRAME_LIMIT,
    MAX_SEQ,
    MORE,
    NACK,
    NAMES,
    OPEN,
    PING,
    PONG,
    STATUS,
    WANT,
    Frame,
    Reader,
    control_map,
    reading,
)
from .ranges import pairs

VERSION = 1
ID_BYTES = 16


class Event(NamedTuple):
    """A frame that was in order. ``payload`` is the checked map of a control frame, the array (as bytes) of a data frame."""

    kind: int
    channel: int
    seq: int
    count: int
    payload: Any


# -- what the maps hold


def _number(value: Any) -> bool:
    return type(value) is int and 0 <= value <= MAX_SEQ


def _text(value: Any) -> bool:
    return type(value) is str


def _id(value: Any) -> bool:
    return type(value) is bytes and len(value) == ID_BYTES


def _limit(value: Any) -> bool:
    return type(value) is int and HELLO_LIMIT <= value <= MAX_FRAME_LIMIT


def _two_numbers(value: Any) -> bool:
    return type(value) is list and len(value) == 2 and all(map(_number, value))


def _ranges(value: Any) -> bool:
    pairs(value)
    return True


def _flag(value: Any) -> bool:
    return type(value) is bool


def _map(value: Any) -> bool:
    return type(value) is dict


def _list(value: Any) -> bool:
    return type(value) is list


class Field(NamedTuple):
    """``required`` says in whose maps it must be: "broker" (the broker receives it), "client", "both", or "" for neither."""

    check: Callable[[Any], bool]
    what: str
    required: str = ""


#: The maps of control frames. Fields that are not named here are passed over, so that later versions may add some.
FIELDS: Dict[int, Dict[str, Field]] = {
    HELLO: {
        "v": Field(_number, "protocol version", "both"),
        "id": Field(_id, f"{ID_BYTES} bytes: the producer's, or the broker's", "both"),
        "agent": Field(_text, "program and version, for logs"),
        "frame": Field(_limit, "longest frame that the broker takes, in bytes", "client"),
    },
    OPEN: {
        "kind": Field(_text, "push or pull", "broker"),
        "name": Field(_text, "the endpoint", "broker"),
    },
    CREDIT: {
        "n": Field(_number, "messages may be sent whose number is below this", "both"),
        "b": Field(_number, "bytes of packed messages that may be sent in all, since the channel was opened", "both"),
        "epoch": Field(_number, "the last epoch of WANT that is known", "client"),
    },
    WANT: {
        "n": Field(_number, "messages that wait for credit"),
        "b": Field(_number, "bytes that wait for credit"),
        "limit": Field(_two_numbers, "[n, b]: credit beyond this is given back"),
        "epoch": Field(_number, "one more than in the last WANT with a limit"),
    },
    ACK: {"r": Field(_ranges, "ranges of message numbers", "both")},
    NACK: {
        "r": Field(_ranges, "ranges of message numbers", "broker"),
        "delay": Field(_number, "ms until redelivery; without it, the endpoint's back-off"),
        "back": Field(_flag, "true: was never handed to the application, counts as no attempt"),
        "dead": Field(_text, "goes to the dead letters at once, for this reason"),
    },
    STATUS: {
        "after": Field(_text, "endpoints behind this name, in the order of names"),
        "broker": Field(_map, "what holds for all of it", "client"),
        "endpoints": Field(_list, "a page of maps, one an endpoint", "client"),
        "next": Field(_text, "what to ask for next; not there on the last page"),
    },
    CLOSE: {},
    ERROR: {
        "code": Field(_text, "see the table of codes", "client"),
        "text": Field(_text, "what happened", "client"),
    },
    PING: {},
    PONG: {},
    GO_AWAY: {"drain": Field(_number, "ms until the broker ends at the latest", "client")},
}

# -- what may come when

_DATA = frozenset((DATA, DATA_OPTIONS))
_DELIVERY = _DATA | {DATA | MORE, DATA_OPTIONS | MORE}
_TO_CLIENT = _DELIVERY | {OPEN, CREDIT, ACK, CLOSE, ERROR}
_TO_BROKER = _DATA | {WANT, CREDIT, ACK, NACK, CLOSE}

#: (who receives, state) -> the frames that may come. "hello" and "ready" are states of channel 0.
ALLOWED: Dict[Tuple[str, str], FrozenSet[int]] = {
    ("broker", "hello"): frozenset((HELLO,)),
    ("broker", "ready"): frozenset((STATUS, PING, PONG)),
    ("broker", "none"): frozenset((OPEN,)),
    ("broker", "push"): _DATA | {WANT, CLOSE},
    ("broker", "pull"): frozenset((CREDIT, ACK, NACK, CLOSE)),
    ("broker", "ended"): _TO_BROKER,
    ("client", "hello"): frozenset((HELLO, ERROR)),
    ("client", "ready"): frozenset((STATUS, PING, PONG, ERROR, GO_AWAY)),
    ("client", "none"): frozenset(),
    ("client", "push"): frozenset((OPEN, CREDIT, ACK, CLOSE, ERROR)),
    ("client", "pull"): _DELIVERY | {OPEN, CLOSE, ERROR},
    ("client", "closing"): _TO_CLIENT,
    ("client", "ended"): _TO_CLIENT,
}

#: States of a channel in which what comes is passed over until CLOSE.
DEAF = frozenset(("closing", "ended"))

KINDS = frozenset(("push", "pull"))


class Connection:
    """The protocol of one connection.

    :param side: "broker" or "client": who we are.
    :param limit: the longest frame that is taken once the hello is through.
    """

    __slots__ = ("channels", "limit", "reader", "side", "state")

    def __init__(self, side: str, limit: int = FRAME_LIMIT) -> None:
        self.side = side
        self.limit = limit
        #: State of channel 0.
        self.state = "hello"
        #: The state of each channel that is not "none".
        self.channels: Dict[int, str] = {}
        self.reader = Reader(HELLO_LIMIT)

    def read(self, receive: Callable[[List[memoryview]], int], scratch: bytearray) -> List[Event]:
        """One read, as `frames.reading`: the events that are whole now.

        :raises ProtocolError: the peer broke the protocol. What came before the bad frame is lost with the connection.
        :raises EOFError: the peer has closed.
        """
        events = []
        for frame in reading(receive, self.reader, scratch):
            event = self.accept(frame)
            if event is not None:
                events.append(event)
        return events

    def accept(self, frame: Frame) -> Optional[Event]:
        """Check one frame. None: it belongs to a channel that has ended, and is passed over.

        :raises ProtocolError: it may not come now, or its map is wrong.
        """
        kind, channel, seq, count, payload = frame
        # Before the hello there are no channels.
        state = self.channels.get(channel, "none") if channel and self.state != "hello" else self.state
        if kind not in ALLOWED[self.side, state]:
            self._refuse(kind, channel, state)
        if kind & ~MORE <= DATA_OPTIONS:
            return None if state in DEAF else Event(kind, channel, seq, count, payload)
        fields = control_map(frame, self.limit) if self.side == "client" else control_map(frame)
        self._check_fields(kind, fields)
        self._follow(kind, channel, fields)
        if state in DEAF:
            return Event(kind, channel, seq, 1, fields) if kind == CLOSE else None
        return Event(kind, channel, seq, 1, fields)

    def _refuse(self, kind: int, channel: int, state: str) -> None:
        name = NAMES.get(kind)
        if name is None:
            raise ProtocolError("BAD_FRAME", f"there is no frame of type {kind:#04x}")
        where = f"on channel {channel} in state {state!r}" if channel else f"in state {state!r} of the connection"
        raise ProtocolError("BAD_STATE", f"{name} may not come {where}")

    def _check_fields(self, kind: int, fields: Dict[str, Any]) -> None:
        for key, field in FIELDS[kind].items():
            if key not in fields:
                if field.required in (self.side, "both"):
                    raise ProtocolError("BAD_MAP", f"{NAMES[kind]} lacks {key!r} ({field.what})")
            elif not field.check(fields[key]):
                raise ProtocolError("BAD_MAP", f"{key!r} of {NAMES[kind]} is not right: {field.what}")

    def _follow(self, kind: int, channel: int, fields: Dict[str, Any]) -> None:
        """The transitions that a frame which came causes."""
        if kind == HELLO:
            if fields["v"] != VERSION:
                raise ProtocolError("VERSION", f"the peer speaks version {fields['v']}, here it is {VERSION}")
            self.state = "ready"
            self.limit = max(self.limit, fields.get("frame", 0))
            self.reader.limit = self.limit
        elif kind == OPEN and self.side == "broker":
            self.channels[channel] = fields["kind"] if fields["kind"] in KINDS else "ended"
        elif kind == CLOSE:
            self.channels.pop(channel, None)
        elif kind == ERROR and channel:
            self.channels[channel] = "ended"

    # -- the transitions that our own frames cause

    def opening(self, channel: int, kind: str) -> None:
        """We (a client) send OPEN."""
        self.channels[channel] = kind

    def closing(self, channel: int) -> None:
        """We (a client) send CLOSE: what is still under way on this channel is passed over."""
        self.channels[channel] = "closing"

    def ending(self, channel: int) -> None:
        """We (a broker) end a channel with an ERROR: what is under way is passed over until the client's CLOSE."""
        if channel in self.channels:
            self.channels[channel] = "ended"



"""One connection's protocol, seen from either side: what may be sent when, and what its maps must hold.

Two literal tables are the protocol. `FIELDS` says which fields the map of a control frame has. `ALLOWED` says which
frame may come in which state; a frame that is not in it is a `ProtocolError`, and the connection ends.
``docs/protocol.md`` has the same tables, and a test compares them.

A channel's state as its receiver sees it (channel 0 is the connection itself)::

    broker:  none -OPEN-> KIND -CLOSE-> none                 (an ERROR that the broker sends: KIND -> ended)
             ended: everything is passed over until CLOSE -> none
    client:  none -(sends OPEN)-> KIND -(sends CLOSE)-> closing -CLOSE-> none
             closing: everything is passed over until CLOSE -> none
             KIND -ERROR-> ended -(sends CLOSE)-> closing

where KIND is one of `KINDS`. Before the hello only channel 0 exists. The clients choose channel numbers, so either side
knows from its own table what a number means. There is no clock in here: the hello's deadline is the caller's.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Callable, NamedTuple

from .errors import ProtocolError
from .frames import (
    ACK,
    ADMIN,
    ARRAY_HEAD_BYTES,
    CANCEL,
    CLEAR,
    CLOSE,
    CONTROL_LIMIT,
    COUNTED_BYTES,
    CREDIT,
    DATA,
    DATA_OPTIONS,
    END,
    ERROR,
    EXTRA_BYTES,
    FAIL,
    FRAME_LIMIT,
    GO_AWAY,
    HELLO,
    HELLO_LIMIT,
    MAX_CHANNEL,
    MAX_FIRST,
    MAX_FRAME_LIMIT,
    MAX_SEQ,
    MORE,
    NACK,
    NAMES,
    OPEN,
    PART,
    PING,
    PONG,
    REPLY,
    SENT,
    STATUS,
    TOUCH,
    WANT,
    Frame,
    Keeper,
    Lender,
    Reader,
    control_map,
    no_map,
    reading,
    whole_frame,
)
from .ranges import check_ranges
from .scan import MOST_DEPTH
from .urls import has_controls

VERSION = 1
ID_BYTES = 16
#: A reason stands in logs.
REASON_CHARACTERS = 100
#: So does the code of a failed request.
CODE_CHARACTERS = 64
#: How long a token is: one of fewer bytes could be guessed.
TOKEN_BYTES = range(16, 257)


#: A frame that was in order. ``payload`` is a control frame's map, checked, or a data frame's array, packed.
Event = Frame

# -- what the maps hold


def _number(value: Any) -> bool:
    return type(value) is int and 0 <= value <= MAX_SEQ


def _text(value: Any) -> bool:
    return type(value) is str


def _id(value: Any) -> bool:
    return type(value) is bytes and len(value) == ID_BYTES


def _limit(value: Any) -> bool:
    return type(value) is int and HELLO_LIMIT <= value <= MAX_FRAME_LIMIT


def _depth(value: Any) -> bool:
    return type(value) is int and 1 <= value <= MOST_DEPTH


def _two_numbers(value: Any) -> bool:
    return type(value) is list and len(value) == 2 and all(map(_number, value))


def _ranges(value: Any) -> bool:
    check_ranges(value)
    return True


def _flag(value: Any) -> bool:
    return type(value) is bool


def _map(value: Any) -> bool:
    return type(value) is dict


def _count(value: Any) -> bool:
    return type(value) is int and 1 <= value <= MAX_SEQ


def _code(value: Any) -> bool:
    return type(value) is str and 1 <= len(value) <= CODE_CHARACTERS and not has_controls(value)


def _side(value: Any) -> bool:
    return type(value) is str and value in ("broker", "server")


def _list(value: Any) -> bool:
    return type(value) is list


def _order(value: Any) -> bool:
    return type(value) is str and value in ORDERS


def _reason(value: Any) -> bool:
    return type(value) is str and 1 <= len(value) <= REASON_CHARACTERS and not has_controls(value)


def _token(value: Any) -> bool:
    if type(value) is str:
        value = value.encode()
    return type(value) is bytes and len(value) in TOKEN_BYTES


#: What an ADMIN may ask for.
ORDERS = ("count", "peek", "purge", "replay")


class Field(NamedTuple):
    """``required`` says in whose maps it must be: "broker" (the broker receives it), "client", "both", or ""."""

    check: Callable[[Any], bool]
    what: str
    required: str = ""


#: The maps of control frames. Fields that are not named here are passed over, so that later versions may add some.
FIELDS: dict[int, dict[str, Field]] = {
    HELLO: {
        "v": Field(_number, "protocol version", "both"),
        "id": Field(_id, f"{ID_BYTES} bytes: the producer's, or the broker's", "both"),
        "agent": Field(_text, "program and version, for logs"),
        "token": Field(_token, "the client's secret; text counts as its UTF-8"),
        "frame": Field(_limit, "longest frame that the broker takes, in bytes", "client"),
        "loose": Field(_flag, "true, of a client on UDP: what is pushed and published may be lost"),
        "depth": Field(_depth, "how deep a message may nest; 64 if it is not there"),
    },
    OPEN: {
        "kind": Field(_text, "push, pull, call, serve, send, recv, state, publish or subscribe", "broker"),
        "name": Field(_text, "the endpoint", "broker"),
        "as": Field(_text, "of send and recv: pipe, queue or channel"),
        "capacity": Field(_number, "of send and recv: messages that it holds; 0, a rendezvous, if it is not there"),
        "options": Field(_map, "of push and pull: options of the endpoint"),
        "lease": Field(_number, "of pull: ms for each delivery; 0 for ever; the answer has it if it is not"),
        "resume": Field(_flag, "of push and state: the client comes back, see sections 9 and 13"),
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
        "epoch": Field(_number, "with a limit, and only then: one more than the last time, 1 the first time"),
    },
    ACK: {"r": Field(_ranges, "ranges of message numbers", "both")},
    NACK: {
        "r": Field(_ranges, "ranges of message numbers", "both"),
        "delay": Field(_number, "ms until redelivery; without it, the endpoint's back-off"),
        "back": Field(_flag, "true: was never handed to the application, counts as no attempt"),
        "dead": Field(_reason, "goes to the dead letters at once, for this reason"),
        "code": Field(_code, "from the broker: why"),
    },
    STATUS: {
        "after": Field(_text, "endpoints behind this name, in the order of names"),
        "broker": Field(_map, "what holds for all of it", "client"),
        "endpoints": Field(_list, "a page of maps, one an endpoint", "client"),
        "next": Field(_text, "what to ask for next; not there on the last page"),
    },
    CLOSE: {"end": Field(_flag, "true: of a pipe or queue the other end is to be closed, too")},
    ERROR: {
        "code": Field(_text, "see the table of codes", "client"),
        "text": Field(_text, "what happened", "client"),
        "request": Field(_number, "on channel 0: the seq of what is refused; the connection goes on"),
    },
    PING: {},
    PONG: {},
    GO_AWAY: {"drain": Field(_number, "ms until the broker ends at the latest", "client")},
    FAIL: {
        "count": Field(_count, "how many requests failed, of which seq is the first", "both"),
        "code": Field(_code, "why, for programs", "both"),
        "text": Field(_text, "why, for people", "both"),
        "type": Field(_text, "the name of an exception's type"),
        "trace": Field(_text, "where it was raised, if the request asked for that"),
        "by": Field(_side, "who says so: broker or server", "client"),
    },
    END: {"n": Field(_number, "how many items the stream had", "both")},
    CANCEL: {"r": Field(_ranges, "ranges of request numbers", "both")},
    CLEAR: {},
    TOUCH: {
        "r": Field(_ranges, "ranges of message numbers", "both"),
        "lease": Field(_count, "ms from now on; without it, as long as the lease was"),
    },
    ADMIN: {
        "do": Field(_order, f"one of {', '.join(ORDERS)}", "broker"),
        "name": Field(_text, "the endpoint", "broker"),
        "dead": Field(_flag, "true: about its dead letters, wherever they lie"),
        "reason": Field(_text, "only about those that died for this reason"),
        "n": Field(_number, "of peek and replay: how many at most; of the answer: how many", "client"),
        "from": Field(_number, "of peek: how many to pass over"),
        "to": Field(_text, "of replay: a work queue, for where they came from"),
        "oldest": Field(_number, "of count: for how many ms the oldest is there"),
        "reasons": Field(_map, "of count: how many died for which reason"),
        "messages": Field(_list, "of peek: a map for each message"),
        "next": Field(_number, "of peek: what to go on from; not there on the last page"),
        "left": Field(_number, "of replay: how many were to move and did not"),
        "text": Field(_text, "of replay: why they did not"),
    },
    SENT: {"b": Field(_number, "bytes of messages that were sent on the channel in all", "both")},
}

#: Fields that stand together or not at all...
TOGETHER: dict[int, tuple[str, ...]] = {WANT: ("limit", "epoch")}
#: ...and fields of which there is one at most.
APART: dict[int, tuple[str, ...]] = {NACK: ("delay", "back", "dead")}

# -- what may come when

_DATA = frozenset((DATA, DATA_OPTIONS))
_ANSWER = frozenset((REPLY, PART, FAIL, END))
_DELIVERY = _DATA | {DATA | MORE, DATA_OPTIONS | MORE}
_TO_CLIENT = _DELIVERY | _ANSWER | {OPEN, CREDIT, ACK, NACK, CANCEL, CLEAR, CLOSE, ERROR, SENT}
_TO_BROKER = _DATA | _ANSWER | {WANT, CREDIT, ACK, NACK, TOUCH, CANCEL, CLEAR, CLOSE, SENT}

#: (who receives, state) -> the frames that may come. "hello" and "ready" are states of channel 0.
ALLOWED: dict[tuple[str, str], frozenset[int]] = {
    ("broker", "hello"): frozenset((HELLO,)),
    ("broker", "ready"): frozenset((STATUS, ADMIN, PING, PONG)),
    ("broker", "none"): frozenset((OPEN,)),
    ("broker", "push"): _DATA | {WANT, CLOSE, SENT},
    ("broker", "pull"): frozenset((CREDIT, ACK, NACK, TOUCH, CLOSE)),
    ("broker", "call"): _DATA | {WANT, CREDIT, CANCEL, CLOSE},
    ("broker", "serve"): _ANSWER | {CREDIT, NACK, CLOSE},
    ("broker", "send"): _DATA | {WANT, CANCEL, CLOSE},
    ("broker", "recv"): frozenset((CREDIT, ACK, NACK, CLOSE)),
    ("broker", "state"): frozenset((DATA, CLEAR, CLOSE)),
    ("broker", "publish"): frozenset((DATA, CLOSE, SENT)),
    ("broker", "subscribe"): frozenset((CREDIT, CLOSE)),
    ("broker", "ended"): _TO_BROKER,
    ("client", "hello"): frozenset((HELLO, ERROR)),
    ("client", "ready"): frozenset((STATUS, ADMIN, PING, PONG, ERROR, GO_AWAY)),
    ("client", "none"): frozenset(),
    ("client", "push"): frozenset((OPEN, CREDIT, ACK, NACK, ERROR)),
    ("client", "pull"): _DELIVERY | {OPEN, NACK, ERROR},
    ("client", "call"): _ANSWER | {OPEN, CREDIT, ERROR},
    ("client", "serve"): _DELIVERY | {OPEN, CREDIT, CANCEL, ERROR},
    ("client", "send"): frozenset((OPEN, CREDIT, ACK, FAIL, ERROR)),
    ("client", "recv"): _DELIVERY | {OPEN, ERROR},
    ("client", "state"): frozenset((OPEN, DATA, ACK, CLEAR, ERROR)),
    ("client", "publish"): frozenset((OPEN, ACK, NACK, ERROR)),
    ("client", "subscribe"): frozenset((OPEN, DATA, NACK, ERROR, SENT)),
    ("client", "closing"): _TO_CLIENT,
    ("client", "ended"): frozenset(),
}

#: The same by side, then by state.
_ALLOWED = {
    who: {state: kinds for (side, state), kinds in ALLOWED.items() if side == who} for who in ("broker", "client")
}

#: The channels whose messages may come beside the stream, by who receives them.
LOOSE = {"broker": frozenset(("push", "publish")), "client": frozenset(("subscribe",))}

#: The fields that must be there, by who receives them.
_REQUIRED = {
    who: {
        kind: [key for key, field in fields.items() if field.required in (who, "both")]
        for kind, fields in FIELDS.items()
    }
    for who in ("broker", "client")
}

#: Control frames that change a state.
_TURNS = frozenset((HELLO, OPEN, CLOSE, ERROR))

#: States of a channel in which what comes is passed over until CLOSE.
DEAF = frozenset(("closing", "ended"))

#: Of channels: what a client may open.
KINDS = frozenset(("push", "pull", "call", "serve", "send", "recv", "state", "publish", "subscribe"))


class Connection:
    """The protocol of one connection.

    :param side: "broker" or "client": who we are.
    :param scratch: where bytes are read to, see `frames.Reader`: many brokers' connections may share one, a client's
        is its own.
    :param limit: the longest frame that a broker takes. A client learns it from the broker's hello.
    """

    __slots__ = ("_allowed", "_required", "channels", "limit", "reader", "side", "state")

    def __init__(self, side: str, scratch: bytearray, limit: int = FRAME_LIMIT) -> None:
        self.side = side
        self._allowed = _ALLOWED[side]
        self._required = _REQUIRED[side]
        #: The longest frame that may come.
        self.limit = limit if side == "broker" else MAX_FRAME_LIMIT + EXTRA_BYTES
        #: State of channel 0.
        self.state = "hello"
        #: The state of each channel that is not "none".
        self.channels: dict[int, str] = {}
        kind = Keeper if side == "broker" else Lender  # a broker keeps what comes, a client decodes it
        self.reader: Reader = kind(self.limit, scratch, HELLO_LIMIT)

    def read(self, receive: Callable[[list[memoryview]], int]) -> Iterable[Event]:
        """One read, as `frames.reading`: the events that are whole now. A client's arrays are lent until the next read.

        Each frame is checked when its turn comes, so whoever handles an event may change the state of its channel
        before the next one is looked at, and what came before an error counts.

        :raises ProtocolError: the peer broke the protocol.
        :raises EOFError: the peer has closed.
        """
        frames, reader = reading(receive, self.reader), self.reader
        if len(frames) != 1 or reader.error is not None or reader.begun:
            return self._several(frames)
        event = self.accept(frames[0])
        return () if event is None else (event,)

    def _several(self, frames: list[Frame]) -> Iterator[Event]:
        reader, accept = self.reader, self.accept
        for frame in frames:
            event = accept(frame)
            if event is not None:
                yield event
        if reader.error is not None:
            raise reader.error
        if reader.begun:
            self._foresee()

    def _foresee(self) -> None:
        """A broker's: the head of a frame has come. What must not come, and what is passed over, is not waited for."""
        reader = self.reader
        assert isinstance(reader, Keeper)
        kind, channel, _, count = reader.head
        state = self.channels.get(channel, "none") if channel else self.state
        if kind not in self._allowed[state] or (channel and self.state == "hello"):
            self._refuse(kind, channel, state)
        if kind & ~MORE > PART:
            if count != 1 or reader.total + COUNTED_BYTES - ARRAY_HEAD_BYTES > CONTROL_LIMIT:
                raise no_map(kind)
        elif state in DEAF:
            reader.skip()

    def accept(self, frame: Frame) -> Event | None:
        """Check one frame. None: it belongs to a channel that has ended, and is passed over.

        :raises ProtocolError: it may not come now, or its map is wrong.
        """
        kind, channel, seq, _, _ = frame
        state = self.channels.get(channel, "none") if channel else self.state
        if kind not in self._allowed[state] or (channel and self.state == "hello"):
            self._refuse(kind, channel, state)
        if seq > MAX_SEQ:
            raise ProtocolError("BAD_SEQUENCE", f"the seq of {NAMES[kind]} is {seq}; numbers are below 2**63")
        if kind & ~MORE <= PART:
            return None if state in DEAF else frame
        fields = control_map(frame, self.limit) if self.side == "client" else control_map(frame)
        if kind == HELLO:
            self._check_version(fields)
        self._check_fields(kind, fields)
        if kind in _TURNS:
            self._follow(kind, channel, seq, fields)
        return None if state in DEAF and kind != CLOSE else Event(kind, channel, seq, 1, fields)

    def beside(self, data: bytes) -> Event | None:
        """A frame that came beside the stream. None: the channel that it was for has ended.

        :raises ProtocolError: it is none, or none of messages that may come so.
        """
        frame = whole_frame(data, self.limit)
        state = self.channels.get(frame.channel, "none")
        if frame.kind not in (DATA, DATA_OPTIONS) or (
            state in LOOSE[self.side] and frame.kind not in self._allowed[state]
        ):
            raise ProtocolError("BAD_STATE", f"{NAMES.get(frame.kind, 'this')} may not come beside the stream")
        if frame.seq > MAX_SEQ:
            raise ProtocolError(
                "BAD_SEQUENCE", f"the seq of {NAMES[frame.kind]} is {frame.seq}; numbers are below 2**63"
            )
        return frame if state in LOOSE[self.side] else None

    def _refuse(self, kind: int, channel: int, state: str) -> None:
        name = NAMES.get(kind)
        if name is None:
            raise ProtocolError("BAD_FRAME", f"there is no frame of type {kind:#04x}")
        where = f"on channel {channel} in state {state!r}" if channel else f"in state {state!r} of the connection"
        raise ProtocolError(
            "BAD_STATE", f"{name} may not come {'before the hello' if self.state == 'hello' else where}"
        )

    def _check_version(self, fields: dict[str, Any]) -> None:
        """Before all else: another version's hello may differ in everything but this."""
        version = fields.get("v", VERSION)
        if _number(version) and version != VERSION:
            raise ProtocolError("VERSION", f"the peer speaks version {version}, here it is {VERSION}")

    def _check_fields(self, kind: int, fields: dict[str, Any]) -> None:
        known = FIELDS[kind]
        for key in self._required[kind]:
            if key not in fields:
                raise ProtocolError("BAD_MAP", f"{NAMES[kind]} lacks {key!r} ({known[key].what})")
        for key, value in fields.items():
            field = known.get(key)
            if field is not None and not field.check(value):
                raise ProtocolError("BAD_MAP", f"{key!r} of {NAMES[kind]} is not right: {field.what}")
        together, apart = TOGETHER.get(kind), APART.get(kind)
        if together and sum(key in fields for key in together) not in (0, len(together)):
            raise ProtocolError("BAD_MAP", f"{NAMES[kind]} has all of {', '.join(together)} or none")
        if apart and sum(key in fields for key in apart) > 1:
            raise ProtocolError("BAD_MAP", f"{NAMES[kind]} has one of {', '.join(apart)} at most")

    def _follow(self, kind: int, channel: int, seq: int, fields: dict[str, Any]) -> None:
        """The transitions that a frame which came causes."""
        if kind == HELLO:
            self.state = "ready"
            if self.side == "client":
                self.limit = self.reader.limit = fields["frame"] + EXTRA_BYTES
        elif kind == OPEN and self.side == "broker":
            if seq > MAX_FIRST:
                raise ProtocolError("BAD_SEQUENCE", f"the first number is {seq}; it is to be below 2**62")
            self.channels[channel] = fields["kind"] if fields["kind"] in KINDS else "ended"
        elif kind == CLOSE:
            self.channels.pop(channel, None)
        elif kind == ERROR and channel and self.channels[channel] != "closing":
            self.channels[channel] = "ended"

    # -- the transitions that our own frames cause

    def opening(self, channel: int, kind: str) -> None:
        """We (a client) send OPEN.

        :raises ValueError: there is no such number, or it is in use until the broker's CLOSE has come.
        """
        if not 1 <= channel <= MAX_CHANNEL or channel in self.channels:
            raise ValueError(f"channel {channel} is in use" if channel in self.channels else f"no channel {channel}")
        self.channels[channel] = kind

    def closing(self, channel: int) -> None:
        """We (a client) send CLOSE: what is still under way on this channel is passed over."""
        self.channels[channel] = "closing"

    def ending(self, channel: int) -> None:
        """We (a broker) end a channel with an ERROR: what is under way is passed over until the client's CLOSE."""
        self.channels[channel] = "ended"

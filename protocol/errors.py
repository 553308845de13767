"""What can go wrong on the wire: one table of codes, two kinds of exception.

The *type* says what becomes of the peer. A :class:`ProtocolError` ends the connection: whoever sent those bytes cannot
be followed any further. A :class:`Refused` ends one channel, or one request, and leaves the connection as it is.
"""

from __future__ import annotations

#: Every code that may stand in an ERROR frame, with what it means and what to do. ``docs/protocol.md`` lists the same.
CODES = {
    "BAD_FRAME": "the bytes are not a frame of this protocol; is the peer a vanilla broker or client?",
    "BAD_MESSAGE": "what a frame carries is not the stated number of well-formed msgpack objects",
    "BAD_MAP": "a map is too long or lacks a field, or a field has the wrong type or range, or an option is unknown",
    "BAD_STATE": "this frame may not be sent in this state of the connection or channel",
    "BAD_SEQUENCE": "a number does not follow on what was sent before, or was never sent, or is too large",
    "OVER_CREDIT": "more was sent than credit was given for",
    "TOO_BIG": "a frame is longer than the limit that the broker's hello names, or a first frame than 4,096 bytes",
    "DENIED": "a right token is missing, or no permission covers what was asked for; the broker's files decide",
    "VERSION": "the peer speaks no version of the protocol that is spoken here",
    "HELLO_TIMEOUT": "no complete hello came before the deadline",
    "TOO_MANY": "a limit on connections, channels, endpoints, values or frames under way is reached",
    "REPLACED": "another connection has come with the id of this one, which it replaces",
    "BAD_NAME": "an endpoint's name is UTF-8, 1 to 255 bytes, without control characters",
    "BAD_KIND": "this broker has no endpoint of the kind asked for",
    "MISMATCH": "the endpoint is there, and is of another kind, or holds another number of messages",
    "BAD_OPTION": "an endpoint has no such option, or it cannot have this value, or this kind of channel has none",
    "CONFLICT": "the endpoint is there, and has another value of an option that was asked for",
    "TAKEN": "a pipe or queue has one sender and one receiver, and this end has its own",
    "CLOSED": "the other end of this pipe or queue was closed",
    "UNKNOWN_PRODUCER": "the broker does not know any more what this producer has sent before; open the channel anew",
    "GOING_AWAY": "the broker is shutting down",
    "INTERNAL": "the broker failed; its log says how",
}

#: Why a send fails for good: what a NACK to a producer may say, and what a client says itself.
REJECTIONS = {
    "FULL": "the endpoint is full, and its option overflow is reject",
    "TOO_BIG": "the message is larger than the broker takes",
    "NO_SPACE": "the broker's disk is full; of durable endpoints alone",
    "STORE_FAILED": "the broker could not write it to its disk; of durable endpoints alone",
    "DENIED": "the sender has no permission for this endpoint",
    "UNKNOWN_PRODUCER": "the broker has forgotten what it had of this producer, and so cannot tell what is new",
}

#: Why a request fails, or an item that waits for its receiver: every code that a broker may send in a FAIL frame. A
#: server's are its own; those that the client library uses stand in `vanilla.client`.
FAILURES = {
    "NO_SERVICE": "nobody serves this endpoint, and the request did not ask to wait",
    "PEER_LOST": "the server is gone; whether it has done anything is not known",
    "DEADLINE": "the request's deadline was over before a server had it",
    "WITHDRAWN": "nobody had taken this item when it was cancelled: it was not delivered, and will not be",
    "UNREAD": "the requester does not read what it was sent, so the answer was dropped",
    "GOING_AWAY": "the broker is shutting down",
}


class WireError(Exception):
    """An error with a stable code and prose.

    :param code: a key of :data:`CODES`.
    :param text: what happened, for a person to read.
    """

    def __init__(self, code: str, text: str) -> None:
        super().__init__(f"{code}: {text}")
        self.code = code
        self.text = text


class ProtocolError(WireError):
    """The peer broke the protocol: its connection is closed with this code."""


class Refused(WireError):
    """One channel or request is refused: the connection goes on."""


class BadMessage(ProtocolError):
    """The messages of a frame are malformed, too deep, or not as many as the frame's head says."""

    def __init__(self, text: str) -> None:
        super().__init__("BAD_MESSAGE", text)

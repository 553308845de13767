"""A streamed reply on its way through the broker: what its server may send, and what its requester lets it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vanilla.protocol.errors import ProtocolError
from vanilla.protocol.frames import CREDIT, PART, Buffer, pack_control, pack_head

if TYPE_CHECKING:
    from .caller import Caller
    from .server import Server

#: How far a server may be ahead of what it has sent, in bytes: its requester may stop reading, and the broker keeps it.
AHEAD_BYTES = 256 << 10
#: So much it may be in any case, whatever the requester's other streams may still bring.
LEAST_BYTES = 4 << 10


class Stream:
    """One streamed reply.

    The requester's credit is passed on to the server up to `AHEAD_BYTES` beyond what has been sent, less if the
    requester's streams together may bring as much as the broker keeps for a connection, and not at all while the
    requester does not read what it was sent, or the server what it was told.

    :param first: the requester's number of the request.
    :param seq: the server's.
    """

    __slots__ = ("asked_b", "asked_n", "b", "begun", "caller", "first", "limit_b", "limit_n", "n", "seq", "server")

    def __init__(self, caller: Caller, first: int, server: Server, seq: int) -> None:
        self.caller = caller
        self.first = first
        self.server = server
        self.seq = seq
        #: The requester has been told that it is a stream.
        self.begun = False
        #: Items and bytes that were sent, ...
        self.n = self.b = 0
        #: ...that the server may send in all, ...
        self.limit_n = self.limit_b = 0
        #: ...and that the requester would take.
        self.asked_n = self.asked_b = 0
        caller.streams[first] = self
        server.streams[seq] = self

    def part(self, index: int, count: int, size: int, body: Buffer) -> None:
        """*count* items of *size* bytes, of which *index* is the first; with their index they are *body*.

        :raises ProtocolError: BAD_SEQUENCE or OVER_CREDIT.
        """
        if index != self.n:
            raise ProtocolError("BAD_SEQUENCE", f"item {index} came where {self.n} was next")
        if not count and self.begun:
            return  # it has asked for credit already, and whoever asks for nothing else is not to fill the output
        self.begun = True
        if count and (self.n + count > self.limit_n or self.b >= self.limit_b):
            raise ProtocolError(
                "OVER_CREDIT",
                f"items up to {self.n + count}, bytes from {self.b} on; "
                f"the stream's credit is {self.limit_n}, {self.limit_b}",
            )
        if self.caller.deaf:
            self.caller.fail_unread(self.first, 1)
            self.server.endpoint.dropped += self.server.cancel([(self.seq, 1)])
            return
        self.n += count
        self._spend(size)
        self.caller.session.put(pack_head(PART, self.caller.id, self.first, count + 1, len(body)), body)
        if self.asked_b > self.limit_b and (self.limit_b - self.b) * 2 < AHEAD_BYTES:
            self.line_up()

    def _spend(self, size: int) -> None:
        before = max(self.limit_b - self.b, 0)
        self.b += size
        self.caller.session.promised += max(self.limit_b - self.b, 0) - before

    def raise_to(self, n: int, b: int) -> None:
        """The requester takes more."""
        self.asked_n = max(self.asked_n, n)
        self.asked_b = max(self.asked_b, b)
        self.line_up()

    def line_up(self) -> None:
        """Pass on what may be passed on; wait while one of the two connections has too much to read."""
        session = self.caller.session
        for end in session, self.server.session:
            if end.full:
                end.crowded.add(self)
                return
        ahead = max(self.limit_b - self.b, 0)
        room = max(session.broker.options.unsettled_bytes - session.promised, 0)
        ahead_most = min(max(ahead + room, LEAST_BYTES), AHEAD_BYTES)
        limit_b = max(min(self.asked_b, self.b + ahead_most), self.limit_b)
        if limit_b > self.limit_b or self.asked_n > self.limit_n:
            session.promised += max(limit_b - self.b, 0) - ahead
            self.limit_n, self.limit_b = self.asked_n, limit_b
            fields = {"n": self.limit_n, "b": self.limit_b, "epoch": 0}
            self.server.session.put(pack_control(CREDIT, self.server.id, self.seq, fields))

    def close(self) -> None:
        """It is over, however it ended."""
        session = self.caller.session
        session.promised -= max(self.limit_b - self.b, 0)
        for end in session, self.server.session:
            end.crowded.discard(self)
        self.caller.streams.pop(self.first, None)
        self.server.streams.pop(self.seq, None)

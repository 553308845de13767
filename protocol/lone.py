"""The short way of a datagram that comes, or leaves, alone: one STREAM, an ACK of one range, or both.

In request and reply each datagram wakes a process that has nothing else to do, and what that costs is the number of its
steps. The long ways (`Transport.receive`, `Outgoing.send`) are made for trains, for what is lost, repeated, out of
order, beside the stream or from elsewhere. Where there is nothing of that, the same is done here in a few steps.

Invariants:
1. Nothing is changed before all is checked. What is checked is all that the long way looks at: a peer that is hostile
   gets no further here than there.
2. What the short way leaves behind is what the long way would: bytes, numbers, times, counters, and what leaves next.
"""

from __future__ import annotations

import struct

from .dialling import Dialling
from .notices import Note, Notices
from .outgoing import Outgoing, Train
from .packets import (
    ACK,
    DATA,
    HEAD_BYTES,
    MAX_NUMBER,
    OVERHEAD_BYTES,
    STREAM,
    WINDOW_BYTES,
    Buffer,
    pack_data,
    pack_stream,
)
from .reassembly import Reassembly

#: A head and a STREAM, a head and an ACK of one range, or that and a STREAM, each without the stream's bytes.
_STREAM = struct.Struct("!QQ QH")
_ACK = struct.Struct("!QQ QIIB")
_BOTH = struct.Struct("!QQ QIIB QH")
_STREAM_KIND = STREAM << 56


class Lone:
    """The short way of one session.

    :param token: ours.
    :param dialling: of a client.
    """

    __slots__ = ("_dialling", "_incoming", "_notices", "_outgoing", "_token", "_whereabouts")

    def __init__(
        self, token: int, incoming: Reassembly, notices: Notices, outgoing: Outgoing, dialling: Dialling | None
    ) -> None:
        self._token = token
        self._incoming = incoming
        self._notices = notices
        self._outgoing = outgoing
        self._whereabouts = outgoing.whereabouts
        self._dialling = dialling

    def came(self, data: Buffer, size: int, now: float, address: object) -> bool:
        """Take a datagram of *size* bytes of a session that is open; False: it is the long way's."""
        if size <= OVERHEAD_BYTES or data[0] != DATA:
            return False
        kind = data[HEAD_BYTES]
        acked = -1
        if kind == STREAM:
            at = OVERHEAD_BYTES
            number, token, offset, length = _STREAM.unpack_from(data)
        elif kind == ACK and size > _BOTH.size:
            at = _BOTH.size
            number, token, acked, delay, rest, count, offset, length = _BOTH.unpack_from(data)
        elif kind == ACK and size == _ACK.size:
            at = size
            number, token, acked, delay, rest, count = _ACK.unpack_from(data)
            offset = length = 0
        else:
            return False
        incoming, notices = self._incoming, self._notices
        arrivals, whereabouts = notices.arrivals, self._whereabouts
        number &= MAX_NUMBER
        offset -= _STREAM_KIND
        if (
            token != self._token
            or number != arrivals.largest + 1
            or length != size - at
            or incoming.final is not None
            or (address is not None and address != whereabouts.address)
            or whereabouts.there is not None
            or (self._dialling is not None and self._dialling.asked)
            or (length and (offset != incoming.next or offset + length > notices.granted))
            or (acked >= 0 and (count or not self._acknowledged(acked & MAX_NUMBER, rest, delay / 1e6, now)))
        ):
            return False
        arrivals.add(number, 1, now)
        if length:
            incoming.add(offset, bytes(data[at:]), False)
            arrivals.expect(1, now, False, size < self._outgoing.datagram)
        return True

    def _acknowledged(self, largest: int, rest: int, delay: float, now: float) -> bool:
        """The peer has the packet *largest*, and the *rest* below it; False: this is the long way's."""
        outgoing = self._outgoing
        backlog = outgoing.backlog
        if outgoing.loose is not None or not outgoing.controller.free or backlog.ended or rest > largest:
            return False
        if backlog.unsent:  # it may leave now
            return False
        runs = outgoing.recovery.acknowledged_first(largest - rest, largest, delay, now)
        if runs is None:
            return False
        outgoing.landed(runs)
        return True

    def leaves(self, now: float) -> Train | None:
        """The one datagram that is all there is to send; None: there is none, or it is the long way's."""
        outgoing, notices, whereabouts = self._outgoing, self._notices, self._whereabouts
        backlog, recovery, arrivals = outgoing.backlog, outgoing.recovery, notices.arrivals
        if (
            notices.window
            or notices.ping
            or notices.granted - self._incoming.read < notices.least
            or outgoing.probes
            or outgoing.loose is not None
            or not outgoing.controller.free
            or outgoing.peer_datagrams <= recovery.flying
            or whereabouts.there is not None
            or whereabouts.responses
            or (self._dialling is not None and self._dialling.at is not None)
            or not recovery.rests(now)
        ):
            return None
        most = outgoing.datagram - OVERHEAD_BYTES - 1  # a full one is the long way's
        if says := arrivals.ripe(now):
            most -= arrivals.size + WINDOW_BYTES - 1
        offset = backlog.sent
        body = backlog.lone(most)
        if body is None:
            return None
        items: list[bytes] = []
        note: Note | None = None
        if says and (ack := arrivals.item(now)) is not None:
            items.append(ack)
            note = Note(arrivals.largest, False)
        number = recovery.sent(now, 1, offset, len(body), backlog.sent, note)
        recovery.limit()
        items.append(pack_stream(offset, body, False))
        data = pack_data(number, outgoing.peer, items)
        outgoing.paced = False
        counters = outgoing.counters
        counters.sent += 1
        counters.sent_bytes += len(data)
        return Train(data, outgoing.datagram, whereabouts.address)

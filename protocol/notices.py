"""What a session says of itself, beside the stream or in datagrams of its own: ACK, WINDOW, PING."""

from __future__ import annotations

from typing import NamedTuple

from .arrivals import Arrivals
from .limits import Limits
from .packets import WINDOW_BYTES, pack_window
from .reassembly import Reassembly

#: What a peer takes before its first WINDOW has come: bytes, and datagrams.
FIRST_WINDOW = 64 << 10
FIRST_DATAGRAMS = 32
#: Datagrams that are acknowledged at once, if the kernel holds enough of them: about two trains.
ACK_EVERY = 64


class Note(NamedTuple):
    """What a packet carried of it: an ACK up to ``acked`` (-1: none), a WINDOW."""

    acked: int
    window: bool


class Notices:
    """What there is to be said, and whether it is due.

    :param incoming: the direction that WINDOW speaks of.
    :ivar granted: the peer may send the stream up to here.
    :ivar window: a WINDOW is due.
    :ivar least: with less than that left of it, a WINDOW is due.
    :ivar ping: a PING is due.
    :ivar size: the longest datagram that we take, in bytes.
    """

    __slots__ = ("_incoming", "_limits", "arrivals", "granted", "least", "ping", "size", "window")

    def __init__(self, limits: Limits, incoming: Reassembly) -> None:
        self._limits = limits
        self._incoming = incoming
        self.arrivals = Arrivals(max(2, min(ACK_EVERY, limits.datagrams // 4)))
        self.granted = FIRST_WINDOW
        self.least = limits.window // 2
        self.window = True
        self.ping = False
        self.size = limits.datagram

    def renew(self) -> None:
        """Say how much was read, if it is worth a datagram."""
        incoming = self._incoming
        if self.granted - incoming.read < self.least and incoming.final is None:
            self.window = True

    def due(self, now: float) -> bool:
        """Something has to be said by now."""
        at = self.arrivals.at
        return self.window or self.ping or (at is not None and now >= at)

    def fit(self, room: int, now: float) -> bool:
        """There is something to say, due or not, and it fits into *room* bytes."""
        return (self.window or self.arrivals.ripe(now)) and room >= self.arrivals.size + WINDOW_BYTES

    def items(self, now: float) -> tuple[list[bytes], Note | None]:
        """An ACK and a WINDOW, as far as there are; they count as said."""
        items: list[bytes] = []
        acked = -1
        if (ack := self.arrivals.item(now)) is not None:
            items.append(ack)
            acked = self.arrivals.largest
        if not self.window:
            return items, Note(acked, False) if items else None
        self.window = False
        self.granted = max(self.granted, self._incoming.read + self._limits.window)
        items.append(pack_window(self.granted, self._limits.datagrams, self.size))
        return items, Note(acked, True)

    def heard(self, note: object) -> None:
        """The peer has the packet that carried *note*; None: there was nothing."""
        if note is not None:
            assert isinstance(note, Note)
            self.arrivals.forget(note.acked)

    def lost(self, note: object) -> None:
        """The packet that carried *note* is lost. An ACK is said anew anyway."""
        if note is not None:
            assert isinstance(note, Note)
            self.window = self.window or note.window

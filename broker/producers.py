"""Producers that come back: which connection each has, and how far each had come when it lost one.

A client keeps its id over all its connections. A second connection with the id of a living one takes its place: the
first is most likely half open, and would keep deliveries in flight that nobody will ever settle.

Of a push channel that was lost, not closed, a record stays: the number that was to come next. With it the broker tells
what a producer sends again from what is new. A record is here only while its producer is away, in the order in which
they left; so whoever is longest gone comes first, and is first to go.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, NamedTuple

from vanilla.protocol.errors import ProtocolError, Refused

if TYPE_CHECKING:
    from .broker import Broker
    from .session import Session


class Record(NamedTuple):
    """``next`` is the number that the broker expects next, ``left`` when the channel was lost, in seconds."""

    next: int
    left: float


class Producers:
    """The producers of one broker."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._living: dict[bytes, Session] = {}
        self._records: OrderedDict[tuple[str, bytes, str], Record] = OrderedDict()

    def __len__(self) -> int:
        """How many records there are."""
        return len(self._records)

    # -- connections

    def enter(self, session: Session, id: bytes) -> None:
        """*session* has said its hello, in which it has *id*: it replaces who had it.

        :raises ProtocolError: DENIED: that was somebody else.
        """
        other = self._living.get(id)
        if other is not None:
            if other.identity != session.identity:
                raise ProtocolError("DENIED", "the id of this hello is that of a connection of somebody else")
            other.fail(ProtocolError("REPLACED", "its client has connected again"))
        self._living[id] = session
        session.producer = id

    def leave(self, session: Session) -> None:
        """*session* ends. Twice does nothing."""
        if self._living.get(session.producer) is session:
            del self._living[session.producer]

    # -- records

    def expect(self, session: Session, name: str, first: int, resume: bool) -> int:
        """The number that is new, of a producer which opens *name*.

        :param first: the number that it would begin with.
        :param resume: has it sent some before, to this process?
        :raises Refused: UNKNOWN_PRODUCER: which ones have come is not known.
        """
        if not resume:
            return first
        self._expire()
        record = self._records.get((session.identity, session.producer, name))
        if record is None:
            raise Refused("UNKNOWN_PRODUCER", f"nothing is known of what this producer has sent to {name!r} before")
        return max(record.next, first)

    def opened(self, session: Session, name: str) -> None:
        """It has its channel, which knows from here on."""
        self._records.pop((session.identity, session.producer, name), None)

    def keep(self, session: Session, name: str, next: int) -> None:
        """It is gone without closing its channel to *name*: keep what it would have sent next."""
        key = (session.identity, session.producer, name)
        self._records[key] = Record(next, self._broker.now())
        self._records.move_to_end(key)
        self._expire()

    def _expire(self) -> None:
        options, records = self._broker.options, self._records
        dead = self._broker.now() - options.producer_ttl_ms / 1000
        while records and (len(records) > options.producers or next(iter(records.values())).left <= dead):
            records.popitem(last=False)

"""A state: one value, which all who are attached to it read and write. The last writer wins.

Each change is told to everybody but its writer, at the tick's edge, and only the last one: who does not read costs a
flag, and the value itself is kept once, whoever has still to be sent it.

It is not stored: when nobody is attached it is gone. Of its accounts, a write is acknowledged when it is accepted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Callable

from vanilla.protocol.errors import ProtocolError, Refused
from vanilla.protocol.frames import CLEAR, DATA, Buffer, pack_control, pack_head
from vanilla.protocol.scan import scan

from .endpoint import Endpoint
from .unmetered import Unmetered

if TYPE_CHECKING:
    from vanilla.protocol.connection import Event

    from .broker import Broker
    from .session import Session

_FAR = 1 << 62


class Value(Endpoint):
    """One state. Its ``pushers`` are all who are attached.

    ``value`` is the last message, packed, None if there is none; ``version`` counts changes; ``by`` is whose the last
    one was. ``stirred``: all who are attached have been told that there is one.
    """

    kind = "a state"

    __slots__ = ("by", "stirred", "value", "version")

    def __init__(self, broker: Broker, name: str) -> None:
        super().__init__(broker, name)
        self.value: bytes | None = None
        self.version = 0
        self.by: Holder | None = None
        self.stirred = False

    def write(self, holder: Holder, count: int, value: bytes | None) -> None:
        """*holder* has sent *count* changes, of which *value* is the last."""
        self._check_room(len(value or b"") - self.ready_b)
        self.accepted += count
        self.acknowledged += count
        self.value = value
        self.ready_b = len(value or b"")
        self.version += count
        self.by = holder
        self.broker.touch(self)
        if not self.stirred:
            self.stirred = True
            for each in self.pushers:
                each.stir()

    def _check_room(self, growth: int) -> None:
        """No credit covers a value: what the broker has no memory for is refused."""
        memory = self.broker.memory
        if growth > 0:
            memory.weigh()
            if memory.used + growth > memory.limit:
                raise Refused(
                    "TOO_MANY", f"{self.name!r}: the broker has no memory for a value that is {growth} bytes longer"
                )

    def forget(self) -> None:
        super().forget()
        self.value, self.ready_b = None, 0  # who let go of it in this tick has it weighed once more


class Holder(Unmetered):
    """Somebody who is attached to a state. ``told`` is the version that it knows."""

    __slots__ = ("gone", "told")

    endpoint: Value

    def __init__(self, session: Session, id: int, endpoint: Value, first: int) -> None:
        super().__init__(session, id, endpoint, first)
        self.gone = False
        self.told = endpoint.version if endpoint.value is None else -1
        self.stir()

    def resume(self, first: int) -> None:
        """It comes back with a value of before: that there is none any more is news."""
        self.told = -1

    def data(self, event: Event) -> None:
        self._check_permission()
        super().data(event)

    def _take(self, seq: int, count: int, body: Buffer, options: dict[str, Any]) -> None:
        at = scan(body, 0, count - 1, _FAR)[1] if count > 1 else 0
        self.endpoint.write(self, count, bytes(memoryview(body)[at:]))

    def clear(self, event: Event) -> None:
        """There is to be no value."""
        self._check_permission()
        if event.seq != self.quota.n:
            raise ProtocolError("BAD_SEQUENCE", f"change {event.seq} came where {self.quota.n} was next")
        self.quota.spend(1, 0)
        self.ask()
        self.endpoint.write(self, 1, None)

    def _check_permission(self) -> None:
        """One channel reads and writes; to open it is to read. Asked first of all: what is refused does not count as
        sent, and is not confirmed."""
        session = self.session
        session.broker.access.check(session.identity, DATA, "state", self.endpoint.name)

    frames: dict[int, Callable[[Any, Event], None]] = {DATA: data, CLEAR: clear}

    def emit(self) -> None:
        """Confirm its changes; then tell it the value, if that is another's: what comes behind the confirm is newer."""
        super().emit()
        endpoint, session = self.endpoint, self.session
        endpoint.stirred = False
        if self.gone or self.told == endpoint.version:
            return
        if endpoint.by is not self and session.full:
            session.starved.add(self)
            return
        self.told = endpoint.version
        if endpoint.by is self:
            return
        if endpoint.value is None:
            session.put(pack_control(CLEAR, self.id, endpoint.version))
        else:
            session.put(pack_head(DATA, self.id, endpoint.version, 1, len(endpoint.value)), endpoint.value)

    def line_up(self) -> None:
        """The connection takes output again."""
        self.stir()

    def detach(self, seen: int | None) -> None:
        self.gone = True
        self.session.starved.discard(self)
        if self.endpoint.by is self:
            self.endpoint.by = None
        super().detach(seen)

"""Both ends of a state that a broker hosts: a local copy of its value, which the broker keeps up to date.

To read is to look at the copy. To write changes it at once, and sends the last value that was written since the tick's
edge; until the broker has confirmed that, what it says of others' writes is older, for it says things in order, and is
passed over.
"""

from __future__ import annotations

import logging
import time
import weakref
from collections import deque
from typing import TYPE_CHECKING, Any, Callable

from vanilla.channel import Channel, State
from vanilla.exception import Closed, Halt, Refused, Timeout
from vanilla.message import Pair, Recver, Sender
from vanilla.protocol.connection import Event
from vanilla.protocol.errors import ProtocolError
from vanilla.protocol.frames import ACK, CLEAR, COUNTED_BYTES, DATA, pack_control, pack_head
from vanilla.selection import EMPTY

from .batch import make_message
from .packing import unpack

if TYPE_CHECKING:
    from .link import Link

log = logging.getLogger("vanilla.client")

#: Who reads or writes and never waits looks at the socket so often, in seconds.
LOOK = 0.001

monotonic = time.monotonic


class ValueState(State):
    """What is behind both ends.

    ``unsent`` is the frame of the last write, without its number, that has not left. ``syncs`` holds who waits for
    confirms: (number, task).
    """

    __slots__ = (
        "_confirmed",
        "_end_error",
        "_followers",
        "_last",
        "_looked",
        "_next",
        "_unsent",
        "id",
        "link",
        "name",
        "syncs",
        "users",
    )

    def __init__(self, link: Link, name: str) -> None:
        super().__init__(link.hub)
        self.kind = f"state {name!r}"
        self.link = link
        self.name = name
        #: Ends that are there, and followers.
        self.users = 2
        self.syncs: deque[Any] = deque()
        #: A packed value, or b"" to clear it; None if there is nothing to send.
        self._unsent: bytes | None = None
        #: The last that was sent.
        self._last = b""
        self._next = self._confirmed = 0
        self._looked = 0.0
        self._followers: weakref.WeakSet[Channel] = weakref.WeakSet()
        self._end_error: Callable[[], Exception] | None = None
        self.id = link.open("state", name, self)

    # -- reading

    def take_nowait(self) -> Any:
        self._look()
        return self.value

    def wait_item(self, timeout: float) -> Any:
        if self.link.down:
            self.link.poll_now()
        item = self.take_nowait()
        if item is EMPTY and timeout == 0:
            self.link.poll_now()
            item = self.take_nowait()
        return self.runner.line_up(self.readers, self, timeout) if item is EMPTY else item

    def follow(self) -> Recver:
        """A Recver of each value from this one on, of which only the last waits. It keeps this state attached."""
        self.check()
        self.users += 1
        follower = Channel(self.hub, 1, f"changes of {self.kind}")
        if self.value is not EMPTY:
            follower.give_nowait(self.value)
        self._followers.add(follower)
        follower.onclose(self.hub.at_edge, self._drop)
        return Recver(follower)

    def _look(self) -> None:
        """Look at the socket, now and then: whoever asks again and again may never give the loop a turn."""
        self.check()
        now = monotonic()
        if now - self._looked > LOOK:
            self._looked = now
            self.link.poll()
            self.check()

    def _set(self, value: Any) -> None:
        self.value = value
        if value is EMPTY:
            for follower in list(self._followers):
                follower.buffer.clear()
            return
        while self.readers:
            self.hand(self.readers.popleft(), value)
        for follower in list(self._followers):
            if follower.halt is None:
                follower.buffer.clear()
                follower.give_nowait(value)

    # -- writing

    def give_nowait(self, item: Any) -> bool:
        packed = b"".join(make_message(item, self.link, "value").parts)
        self._write(packed, unpack(b"\x91" + packed)[0])
        return True

    def clear(self) -> None:
        self.hub.check_thread()
        self._write(b"", EMPTY)

    def _write(self, packed: bytes, value: Any) -> None:
        self.check()
        self._unsent = packed
        self._set(value)
        self.link.dirty[self] = None
        if self.link.fresh or monotonic() - self._looked > LOOK:
            self._looked = monotonic()
            self.emit()
            self.link.flush()

    def has_room(self) -> bool:
        self.check()
        return True

    def emit(self) -> bool:
        packed = self._unsent
        if packed is None or self.link.full or self.link.down:
            return packed is not None
        if packed:
            self.link.put(pack_head(DATA, self.id, self._next, 1, len(packed)) + packed)
        else:
            self.link.put(pack_control(CLEAR, self.id, self._next))
        self._unsent, self._last = None, packed
        self._next += 1
        return False

    # -- frames

    def _data(self, event: Event) -> None:
        if self.unconfirmed:
            return
        try:
            self._set(unpack(event.payload)[-1])
        except (ValueError, TypeError, OverflowError, IndexError) as error:
            log.warning("%s: its value cannot be decoded (%s); here it stays what it was", self.kind, error)

    def _cleared(self, event: Event) -> None:
        if not self.unconfirmed:
            self._set(EMPTY)

    def _ack(self, event: Event) -> None:
        ranges = event.payload["r"]
        confirmed = ranges[-2] + ranges[-1]
        if confirmed > self._next:
            raise ProtocolError("BAD_SEQUENCE", f"change {confirmed - 1} is confirmed and was never sent")
        self._confirmed = max(self._confirmed, confirmed)
        while self.syncs and self.syncs[0].value <= self._confirmed:
            self.hub.ready.append(self.syncs.popleft())
        self._leave()

    frames: dict[int, Callable[[ValueState, Event], None]] = {DATA: _data, CLEAR: _cleared, ACK: _ack}

    # -- confirms

    @property
    def unconfirmed(self) -> int:
        """Changes that the broker has not confirmed; those that were overtaken before they left do not count."""
        return self._next - self._confirmed + (self._unsent is not None)

    def sync(self, timeout: float) -> None:
        """Wait until the broker has the last write."""
        self.check()
        self.emit()
        if timeout == 0:
            self.link.poll_now()
        self.link.flush()
        self.check()
        if not self.unconfirmed:
            return
        if timeout == 0:
            raise Timeout(f"the broker has not confirmed the last write: sync of a {self.kind}")
        me = self.hub.me()
        me.value = self._next + (self._unsent is not None)
        self.syncs.append(me)
        self.hub.park(me, self, timeout)

    # -- a lost connection, and the next

    def suspend(self) -> None:
        """What is not confirmed is set again."""
        if self._next > self._confirmed:
            if self._unsent is None:
                self._unsent = self._last
            self._confirmed = self._next
        for waiter in self.syncs:
            waiter.value = self._next + 1

    def reopen(self) -> None:
        self.link.reopen(self, self._next, resume=True)
        size = len(self._unsent or b"")
        if size > self.link.frame_limit - COUNTED_BYTES:
            self.refused("TOO_BIG", f"a value of {size} bytes, which another broker took, is too big for this one")
            return
        self.emit()
        self.link.dirty[self] = None

    def opened(self, first: int) -> None:
        """It has the number that it was asked to have."""

    # -- the end

    def check(self) -> None:
        """Is it usable?"""
        if self._end_error is not None:
            raise self._end_error()
        self.link.check()

    def lose(self) -> None:
        self._end(self.link.error)

    def refused(self, code: str, text: str) -> None:
        self._end(lambda: Refused(code, text))
        self.link.close_channel(self)

    def close(self, halt: type[Halt] = Closed) -> None:
        """Detach. Twice does nothing."""
        if self.halt is None:
            self.emit()
            self.link.close_channel(self)
            self._end(lambda: halt(f"this {self.kind} was closed"))

    def _end(self, error: Callable[[], Exception]) -> None:
        self.halt = Closed
        self._end_error = error
        for queue in self.readers, self.syncs:
            while queue:
                self.fail(queue.popleft(), error())
        for follower in list(self._followers):
            if follower.halt is None and not isinstance(error(), Halt):
                follower.capacity = 2
                follower.give_nowait(error())
            follower.close()
        self.link.call_closers(self)

    def abandon_by_sender(self) -> None:
        """Called by the garbage collector, anywhere: the rest waits for the loop."""
        self.hub.at_edge(self._drop)

    abandon_by_recver = abandon_by_sender

    def _drop(self) -> None:
        self.users -= 1
        self._leave()

    def _leave(self) -> None:
        """Nobody uses it: close, as soon as the last write is confirmed."""
        if self.users <= 0 and not self.unconfirmed:
            self.close()

    def drained(self) -> None:
        """What is unsent stays in the link's ``dirty``."""

    def forget(self, waiter: Any) -> bool:
        if super().forget(waiter):
            return True
        try:
            self.syncs.remove(waiter)
        except ValueError:
            return False
        return True


class RemoteState(Pair):
    """A state that a broker hosts; made by `Remote.state`. It is used as ``h.state()``: send, recv, clear, select.

    The last writer wins. One's own writes are read at once; of others' one reads the last that has come.
    """

    __slots__ = ("_linger",)

    def __init__(self, state: ValueState, linger: float) -> None:
        super().__init__(Sender(state), Recver(state))
        self._linger = linger

    def changes(self) -> Recver:
        """A Recver of the value and of each change of it from now on. Who is slow misses what was overtaken.

        It raises `ConnectionLost` when the broker is gone.
        """
        state: ValueState = self.recver._state
        return state.follow()

    def sync(self, timeout: float = -1) -> None:
        """Wait until the broker has what was written last.

        :param timeout: ms to wait, -1 for ever.
        :raises Timeout: it has not yet.
        :raises ConnectionLost: the broker is gone; what was not confirmed may be lost.
        """
        self.sender._state.sync(timeout)

    def close(self) -> None:
        """Detach, once the broker has the last write, for which this waits as long as the connection lingers."""
        state: ValueState = self.sender._state
        try:
            if state.halt is None and state.unconfirmed:
                state.sync(self._linger)
        except Exception as error:
            log.warning("%s: closed, and the last write is not confirmed: %s", state.kind, error)
        super().close()

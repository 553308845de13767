"""The handle of a pushing end: what `Remote.push` gives to its caller."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Sequence
from typing import Any, Callable

from vanilla.exception import Closed
from vanilla.message import Sender
from vanilla.selection import EMPTY

from .push import WEIGHT, PushState

log = logging.getLogger("vanilla.client")


class Detached:
    """The state of a handle that was closed while others on the same endpoint go on."""

    slack = 0
    halt = Closed
    capacity = -1
    buffer: deque[Any] = deque(maxlen=0)
    recvers: deque[Any] = deque(maxlen=0)

    def __init__(self, state: PushState) -> None:
        self.hub = state.hub
        self.kind = state.kind

    def check(self, *_: Any) -> None:
        raise Closed(f"cannot send: this {self.kind} was closed")

    push = take_run = has_room = room_by_poll = watch_send = sync = flush = check

    def close(self) -> None:
        """It is."""

    def onclose(self, closer: Callable[[], object]) -> None:
        closer()


class PushSender(Sender):
    """A Sender to a named endpoint; made by `Remote.push`.

    Items are what msgpack can hold: None, booleans, integers of 64 bits, floats, str, bytes, lists, dicts, and
    datetimes with a time zone. Tuples arrive as lists. ``send`` returns when the item is taken; the broker's confirm
    comes later (`sync`).
    """

    __slots__ = ("_linger",)

    def __init__(self, state: PushState, linger: float) -> None:
        super().__init__(state)
        self._linger = linger
        state.users += 1

    def send(self, item: Any, timeout: float = -1) -> None:
        """Send *item*; wait while the queue is full.

        :param timeout: ms to wait, -1 for ever, 0 not at all.
        :raises Timeout: the queue was full all the time; the item was not sent.
        :raises TypeError: msgpack has no such type. Nothing else is lost by it.
        :raises ValueError: msgpack cannot hold this value.
        :raises Rejected: FULL: the queue is full, and its option overflow is "reject"; TOO_BIG: it is larger than the
            broker takes (which is a ValueError, too); DENIED: we may not.
        :raises ConnectionLost: the broker is gone; what was not confirmed may be lost.
        :raises Refused: the broker refuses this endpoint.
        """
        state = self._state
        if item.__class__ is bytes:
            slack = state.slack - len(item) - WEIGHT
            if slack > 0:
                state.slack = slack
                state.pending.append(item)
                return
        state.push(item, timeout)

    def _send_run(self, items: Sequence[Any], start: int) -> int:
        return self._state.take_run(items, start)  # type: ignore[no-any-return]

    def _try(self) -> Any:
        return None if self._state.room_by_poll() else EMPTY

    def flush(self) -> None:
        """Send what still waits for its batch to fill, now."""
        self._state.flush()

    def sync(self, timeout: float = -1) -> None:
        """Wait until the broker has confirmed all that was sent so far on this endpoint.

        :param timeout: ms to wait, -1 for ever.
        :raises Timeout: some of it is not confirmed yet; it may be tried again.
        :raises ConnectionLost: the broker is gone; what was not confirmed may be lost.
        """
        self._state.sync(timeout)

    @property
    def unconfirmed(self) -> int:
        """How many items were sent and are not confirmed yet."""
        count: int = getattr(self._state, "unconfirmed", 0)
        return count

    def close(self) -> None:
        """Detach: send what is left and wait for its confirm, as long as the connection lingers. Twice does nothing.

        What is not confirmed then is logged and counted, and may still arrive.
        """
        state = self._state
        if isinstance(state, Detached):
            return
        self._state = Detached(state)
        try:
            if state.halt is None and state.unconfirmed:
                state.sync(self._linger)
        except Exception as error:
            log.warning("%s: closed with %d messages unconfirmed: %s", state.kind, state.unconfirmed, error)
        finally:
            state.users -= 1
            if not state.users:
                state.close()

    def __del__(self) -> None:
        try:
            state = self._state
        except AttributeError:
            return  # __init__ did not get as far
        if not isinstance(state, Detached) and not state.link.ended:
            # May be called anywhere, by the garbage collector: the rest waits for the loop.
            state.users -= 1
            if not state.users:
                state.hub.at_edge(lambda: None if state.users else state.leave())

"""The handle of a pushing end: what `Remote.push` gives to its caller."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any, Callable

from vanilla.deadline import Deadline
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
        self._state = state

    @property
    def lost(self) -> int:
        """It may not be known before the end is."""
        return self._state.lost

    def check(self, *_: Any) -> None:
        raise Closed(f"cannot send: this {self.kind} was closed")

    push = push_with = take_run = has_room = room_by_poll = watch_send = sync = flush = check

    def close(self) -> None:
        """It is."""

    def onclose(self, f: Callable[..., object], *args: Any) -> None:
        f(*args)


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

    def send(self, item: Any, timeout: float = -1, **options: Any) -> None:
        """Send *item*; wait while the queue is full.

        :param timeout: ms to wait, -1 for ever, 0 not at all.
        :param delay: ms until it is delivered for the first time, counted by the broker.
        :param ttl: ms after which it is of no use: it is delivered no more, once the broker has had it for so long. 0:
            as long as the endpoint's.
        :param priority: 0 to 9; those of a higher one are delivered before others that wait.
        :param key: text or bytes, 1 to 255. Of one key one message at a time is with a consumer, whichever, until it is
            settled; they keep their order, as far as their priority is the same; one that is to be tried again later
            lets those behind it wait.
        :param id: text or bytes, 1 to 255. The broker takes a message once: those that come with the same id, from
            whomever, in the ten minutes behind it (unless the endpoint says otherwise) are discarded and counted.
        :param headers: a dict with text as keys, packed at most 4,096 bytes, which the consumer has as ``headers``.
        :raises Timeout: the queue was full all the time; the item was not sent.
        :raises TypeError: msgpack has no such type, or there is no such option. Nothing else is lost by it.
        :raises ValueError: msgpack cannot hold this value, or an option is out of range.
        :raises Rejected: FULL: the queue is full, and its option overflow is "reject"; TOO_BIG: it is larger than the
            broker takes (which is a ValueError, too); DENIED: we may not.
        :raises ConnectionLost: the broker is gone; what was not confirmed may be lost.
        :raises Refused: the broker refuses this endpoint.
        """
        # The options are no parameters of their own: to fill in six that are not given takes longer than the rest.
        state = self._state
        if item.__class__ is bytes and not options:
            slack = state.slack - len(item) - WEIGHT
            if slack > 0:
                state.slack = slack
                state.pending.append(item)
                return
        if options:
            state.push_with(item, timeout, options)
        else:
            state.push(item, timeout)

    def send_many(self, items: Iterable[Any], timeout: float = -1, **options: Any) -> None:
        """`Sender.send_many`, with options that hold for each of *items*: those of `send`, but for ``id``."""
        if not options:
            super().send_many(items, timeout)
            return
        if "id" in options:
            raise TypeError("an id is one message's: give it to send")
        deadline, sent = Deadline(timeout), 0
        try:
            for item in items:
                self._state.push_with(item, deadline.left(), options)
                sent += 1
        except BaseException as error:
            error.sent = sent  # type: ignore[attr-defined]
            raise

    def _send_run(self, items: Sequence[Any], start: int) -> int:
        return self._state.take_run(items, start)  # type: ignore[no-any-return]

    def _try(self) -> Any:
        return None if self._state.room_by_poll() else EMPTY

    def flush(self) -> None:
        """Send what still waits for its batch to fill, now."""
        self._state.flush()

    def sync(self, timeout: float = -1) -> None:
        """Wait until the broker has confirmed all that was sent so far on this endpoint; with ``?reliable=0``, until it
        is known of all of it whether it has come or is lost.

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

    @property
    def lost(self) -> int:
        """How many items were lost on the way, as far as the broker has said: always 0, unless the connection was made
        with ``?reliable=0``. After `sync` it is so of all that was sent.

        All Senders of one connection on one endpoint count together. What was on its way when the connection was lost
        counts as lost, though it may have arrived.
        """
        count: int = getattr(self._state, "lost", 0)
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

"""The asking end: a Dealer, whose calls are answered in any order by whoever serves the name.

Requests leave as pushed messages do, in batches, within credit (`push`). All Dealers of one connection on one endpoint
share one `CallState`: one channel, its numbers, its credit. A reply finds its call by number.
"""

from __future__ import annotations

import logging
import math
import time
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Callable
from weakref import ref

from vanilla.exception import Closed
from vanilla.protocol.connection import Event
from vanilla.protocol.errors import ProtocolError
from vanilla.protocol.frames import (
    ARRAY_HEAD_BYTES,
    CANCEL,
    COUNTED_BYTES,
    CREDIT,
    DATA,
    DATA_OPTIONS,
    END,
    FAIL,
    PART,
    REPLY,
    Buffer,
    pack_control,
    pack_head,
    part_index,
)
from vanilla.protocol.options import pack_options
from vanilla.protocol.ranges import Ranges
from vanilla.selection import EMPTY

from .arrival import Arrival
from .batch import make_message, pack_item, packed_message
from .packing import UNDECODABLE, unpack
from .push import WEIGHT, PushState
from .rejected import TooBig
from .reply import Reply, ReplyState, remote_error

if TYPE_CHECKING:
    from .link import Link

log = logging.getLogger("vanilla.client")

monotonic = time.monotonic


class Call:
    """A packed request and where its answer goes; it stands where a `batch.Message` would."""

    __slots__ = ("options", "parts", "reply", "size")

    def __init__(self, parts: tuple[Buffer, ...], size: int, options: bytes, reply: ReplyState) -> None:
        self.parts = parts
        self.size = size
        self.options = options
        self.reply = reply


class CallState(PushState):
    """What the Dealers of one endpoint share."""

    __slots__ = ("_again", "_cancels", "_last", "_options", "_together", "asked", "calls")

    role = "call"
    keeps = stocks = False

    def __init__(self, link: Link, name: str) -> None:
        #: What has been asked and not answered, by number.
        self.calls: dict[int, ReplyState] = {}
        #: Those of what is in ``pending``, which has no numbers yet.
        self.asked: list[ReplyState] = []
        #: What is to be asked again.
        self._again: deque[Call] = deque()
        #: The options of what is in ``batch``, packed.
        self._options = b""
        self._cancels = Ranges()
        #: The last of the answers that came together, and when they did.
        self._last: ref[ReplyState] | None = None
        self._together = 0.0
        super().__init__(link, name)

    # -- asking

    def call(self, item: Any, options: bytes, timeout: float, idempotent: bool = False) -> ReplyState:
        """All of `Dealer.call` that is not its fast path."""
        packed = item.__class__ is not bytes
        if packed:
            item = pack_item(item, self.link)
        if not options and not idempotent and self._takes(len(item), packed):
            reply = ReplyState(self)
            self.pending.append(item)
            self.asked.append(reply)
            return reply
        self.seal()
        parts, size = packed_message(item, self.link) if packed else make_message(item, self.link)
        if options and size + len(options) + COUNTED_BYTES > self.link.frame_limit:
            raise TooBig(f"a request of {size} bytes with its options is larger than the broker takes")
        reply = ReplyState(self)
        if idempotent:
            reply.again = Call(parts, size, options, reply)
        self.check()
        if self.senders or not self._fits(size):
            self._ask_late(Call(parts, size, options, reply), timeout)
        elif self.link.fresh and not self.batch.count and not self._gathering:
            self._ask_one(parts, size, options, reply)
        else:
            self._add(Call(parts, size, options, reply))
            self._decide()
        return reply

    def _ask_late(self, call: Call, timeout: float) -> None:
        """Others wait, or there is no credit or output for it that we know of."""
        if self.senders or not self._fits_now(call.size):
            self._wait(call, timeout)  # type: ignore[arg-type]
        else:
            self._add(call)
            self._decide()

    def _ask_one(self, parts: Sequence[Buffer], size: int, options: bytes, reply: ReplyState) -> None:
        """A call that comes alone leaves at once."""
        number = reply.number = self.quota.n
        self.calls[number] = reply
        self._options = options
        self._since = monotonic()
        self._put_frame(1, size, parts)
        self.link.flush()

    def _add(self, call: Any) -> None:
        batch, options = self.batch, call.options
        if options != self._options or batch.size + call.size + len(options) + COUNTED_BYTES > self.link.frame_limit:
            self._frame()
            self._options = options
        reply = call.reply
        number = reply.number = self.quota.n + batch.count
        self.calls[number] = reply
        batch.add(call)

    @property
    def _gathering(self) -> bool:
        """Have answers come together, and is the last not received yet, or somebody else's turn to come? Then the calls
        that are made meanwhile go together, too: one that went ahead would cost as much as they do, and spare them
        nothing."""
        last = None if self._last is None else self._last()
        return last is not None and (last.answer is not EMPTY or bool(self.hub.ready))

    def _decide(self, alone: bool = True) -> None:
        gathering = self._gathering
        if gathering and self.batch.count == 1:
            self._since = self._together  # so they wait for a millisecond at most, as far as anybody looks
        super()._decide(alone and not gathering)

    def _slack(self) -> int:
        return 0 if self._options else super()._slack()

    def _close_run(self) -> None:
        """What the fast path has taken gets its numbers."""
        number = self.quota.n + self.batch.count
        super()._close_run()
        for reply in self.asked:
            reply.number = number
            self.calls[number] = reply
            number += 1
        self.asked.clear()

    def _head(self, count: int, size: int) -> bytes:
        options = self._options
        if not options:
            return pack_head(DATA, self.id, self.quota.n, count, size)
        return pack_head(DATA_OPTIONS, self.id, self.quota.n, count + 1, size + len(options)) + options

    # -- answers

    def _reply(self, event: Event) -> None:
        _, _, number, count, array = event
        self._check_asked(number + count)
        calls = self.calls
        for item in _decode(array, ARRAY_HEAD_BYTES, count):
            reply = calls.pop(number, None)
            number += 1
            if reply is None:
                continue
            if reply.plain:
                reply.halt = Closed
                reply.answer = item
            else:
                reply.reply(item)
        self._last = None
        if count > 1 and reply is not None:
            self._last, self._together = ref(reply), monotonic()
        if not self.users:
            self._answered()

    def _part(self, event: Event) -> None:
        self._check_asked(event.seq + 1)
        reply = self.calls.get(event.seq)
        if reply is None:
            return
        array = event.payload
        index, at = part_index(array, event.count)
        if index != (0 if reply.window is None else reply.arrived):
            raise ProtocolError("BAD_SEQUENCE", f"a part of a streamed reply has index {index!r}")
        items = _decode(array, ARRAY_HEAD_BYTES, event.count)[1:]
        if not reply.part(items, len(array) - at):
            self.cancel(reply)

    def _finished(self, event: Event) -> None:
        self._check_asked(event.seq + 1)
        reply = self.calls.pop(event.seq, None)
        if reply is not None:
            reply.end()
        self._answered()

    def _failed(self, event: Event) -> None:
        self._check_asked(event.seq + event.payload["count"])
        for number in range(event.seq, event.seq + event.payload["count"]):
            reply = self.calls.pop(number, None)
            if reply is not None:
                reply.fail_with(remote_error(event.payload))
        self._answered()

    def _check_asked(self, end: int) -> None:
        if end > self.quota.n:
            raise ProtocolError("BAD_SEQUENCE", f"request {end - 1} is answered and was never sent")

    frames: dict[int, Callable[[Any, Event], None]] = {
        CREDIT: PushState._credit,
        REPLY: _reply,
        PART: _part,
        END: _finished,
        FAIL: _failed,
    }

    # -- what is not wanted any more

    def cancel(self, reply: ReplyState) -> None:
        """Tell the broker, at the tick's edge: once for all of them."""
        if reply.number < 0:
            self.seal()
        if self.calls.pop(reply.number, None) is not None and self.halt is None:
            self._cancels.add(reply.number)
            self.link.dirty[self] = None
            self.hub.at_edge(self.link.edge)
            self._answered()

    def emit(self) -> bool:
        super().emit()
        while self._cancels:
            self.link.put(pack_control(CANCEL, self.id, 0, {"r": self._cancels.take()}))
        return False

    # -- the end

    def _answered(self) -> None:
        """Calls have ended: were they what an endpoint without handles was kept for?"""
        if not self.users and not self.calls:
            self.hub.at_edge(self.leave)

    def leave(self) -> None:
        """The last handle was dropped: close as soon as all is answered."""
        if self.halt is None and not self.users:
            self.seal()
            if not self.calls and not self.senders and not self._again:
                self.close()

    # -- a lost connection, and the next

    def suspend(self) -> None:
        """What was asked fails; what may be done twice is kept, unless its answer has begun."""
        self.seal()
        calls, self.calls = self.calls, {}
        self.batch.clear()
        self._cancels = Ranges()
        for reply in calls.values():
            again = getattr(reply, "again", None)
            if again is None or reply.window is not None:
                reply.fail_with(self.link.loss())
            else:
                reply.number = -1
                self._again.append(again)
        super().suspend()
        self._answered()

    def _lose_sent(self, n: int) -> None:
        self._confirmed = n  # each call was told

    def _serve(self) -> None:
        if self.replay is not None and not self._resend():
            return
        while self._again:
            call = self._again[0]
            if call.reply.halt is None and self._is_too_big(call.size + len(call.options)):
                call.reply.fail_with(self._too_big(call.size))
            elif call.reply.halt is None:
                if not self._fits(call.size):
                    self._frame()
                    self._ask(call.size)
                    return
                self._add(call)
            self._again.popleft()
        super()._serve()

    @property
    def unconfirmed(self) -> int:
        """Calls are answered, not confirmed: closing does not wait for them."""
        return 0

    def _end(self, error: Callable[[], Exception]) -> None:
        super()._end(error)
        outstanding = [*self.calls.values(), *self.asked]
        self.calls.clear()
        self.asked.clear()
        for reply in outstanding:
            reply.fail_with(error())
        again, self._again = self._again, deque()
        for call in again:
            if call.reply.halt is None:
                call.reply.fail_with(error())


def _decode(array: Any, at: int, count: int) -> list[Any]:
    """The objects of an array; in the place of one that is nothing Python can hold, an error to be raised."""
    try:
        return unpack(array)
    except (ValueError, TypeError, OverflowError):
        arrival = Arrival(array, at, count, {})
        items: list[Any] = []
        while arrival.left:
            items += arrival.take(1)[0]
        undecodable = {"code": "UNDECODABLE", "text": "Python cannot hold this reply", "by": "server"}
        return [remote_error(undecodable) if item is UNDECODABLE else item for item in items]


class Dealer:
    """The asking end of a service; made by `Remote.dealer`.

    Any number of calls may be outstanding. They are answered in any order, by whichever server is free.
    """

    __slots__ = ("__weakref__", "_state")

    def __init__(self, state: CallState) -> None:
        self._state: Any = state
        state.users += 1

    def call(
        self,
        item: Any,
        timeout: float = -1,
        deadline: float | None = None,
        wait: bool = False,
        trace: bool = False,
        idempotent: bool = False,
    ) -> Reply:
        """Ask for *item*; it waits only while too much is asked already.

        :param item: what `PushSender.send` takes.
        :param timeout: ms to wait until it can be asked, -1 for ever (but for the deadline), 0 not at all.
        :param deadline: ms from now on until which the answer is wanted; then the call fails with Timeout and the
            server is told to stop. None: there is no end.
        :param wait: while nobody serves, wait. Else the call fails at once, with code NO_SERVICE.
        :param trace: if an exception is raised at the server, its traceback is wanted.
        :param idempotent: it may be done twice: if the connection is lost, it is asked again on the next one, unless
            a part of its answer has come. While there is no connection every call waits until it can be asked.
        :return: where the answer comes. Unless it is *idempotent*, a call is never repeated: one that fails with
            `ConnectionLost` or PEER_LOST may have been done or not.
        :raises Timeout: it was not asked, in *timeout* ms or before its deadline.
        :raises TypeError, ValueError: *item* cannot be sent, see `PushSender.send`.
        :raises ConnectionLost: the broker is gone.
        :raises Refused: the broker refuses this endpoint.
        """
        calls = self._state
        if deadline is None and not wait and not trace and not idempotent:
            if item.__class__ is bytes:
                slack = calls.slack - len(item) - WEIGHT
                if slack > 0:
                    calls.slack = slack
                    calls.pending.append(item)
                    state = ReplyState(calls)
                    calls.asked.append(state)
                    return Reply(state)
            return Reply(calls.call(item, b"", timeout))
        options = _options(deadline, wait, trace) if deadline is not None or wait or trace else b""
        if deadline is None:
            return Reply(calls.call(item, options, timeout, idempotent))
        began = monotonic()
        state = calls.call(item, options, timeout if 0 <= timeout < deadline else deadline, idempotent)
        reply = Reply(state)
        if state.halt is None:
            waited = (monotonic() - began) * 1000
            # Timers of one length are cheap: one that has hardly waited gets what it asked for.
            state.expire_in(deadline if waited < 1 else max(deadline - waited, 0))
        return reply

    def close(self) -> None:
        """Detach this handle; the last one of its connection ends what is outstanding. Twice does nothing."""
        state, self._state = self._state, _CLOSED
        if state is not _CLOSED:
            state.users -= 1
            if not state.users:
                state.close()

    def __enter__(self) -> Dealer:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __del__(self) -> None:
        state = getattr(self, "_state", _CLOSED)
        if state is not _CLOSED and not state.link.ended:
            state.users -= 1
            if not state.users:
                state.hub.at_edge(state.leave)


class _Closed:
    """The state of a Dealer that was closed."""

    slack = 0

    def call(self, *_: Any) -> Any:
        raise Closed("cannot call: this dealer was closed")


_CLOSED: Any = _Closed()


def _options(deadline: float | None, wait: bool, trace: bool) -> bytes:
    options: dict[str, Any] = {}
    if deadline is not None:
        if not 0 <= deadline < 1 << 53:
            raise ValueError("a deadline is 0 ms or more")
        options["deadline"] = math.ceil(deadline)
    if wait:
        options["wait"] = True
    if trace:
        options["trace"] = True
    return pack_options(options)

"""The answer to one call: a Recver of one reply, of the items of a streamed reply, or of an error that is raised.

A streamed reply has credit, as what is pulled has: nothing comes before somebody receives, and a reader that stops
halts its server. Items are decoded as they arrive; how far they may be ahead of the reader `Window` works out.

Invariants:
1. A call is in its `CallState`'s ``calls`` until its end has come or it was cancelled.
2. Of a stream ``taken == arrived - len(buffer)``, so nothing is counted when an item is received.
3. While a stream goes on and items lie in ``buffer``, the state is in the link's ``dirty``: credit is looked at at the
   edge.
4. A single reply that nobody waited for is in ``answer``; ``buffer`` is a stream's alone, and `_NOBODY` before.
"""

from __future__ import annotations

import time
from collections import deque
from typing import TYPE_CHECKING, Any, Callable

from vanilla.channel import Channel
from vanilla.exception import Closed, Halt, RemoteError, Timeout
from vanilla.message import Recver
from vanilla.protocol.credit import Window
from vanilla.protocol.frames import CREDIT, MAX_SEQ, pack_control
from vanilla.selection import EMPTY

if TYPE_CHECKING:
    from vanilla.timers import Timer

    from .dealer import Call, CallState

#: Bytes of a streamed reply that may be ahead of its reader.
STREAM_BYTES = 1 << 20

monotonic = time.monotonic

#: Those who wait, or what waits, where there is none: most calls need no deque of their own, which takes 0.7 KB.
_NOBODY: deque[Any] = deque(maxlen=0)
#: Likewise, what is to be called at the end.
_NOTHING: list[Any] = []


class ReplyState(Channel):
    """What is behind one `Reply`."""

    __slots__ = (
        "_limit_b",
        "_sizes",
        "again",
        "answer",
        "arrived",
        "arrived_b",
        "calls",
        "done_b",
        "dropped",
        "number",
        "plain",
        "timer",
        "window",
    )

    # What they all have, in place of attributes: there are as many of these as calls.
    capacity = -1
    one_sender = one_recver = False
    senders = _NOBODY

    def __init__(self, calls: CallState) -> None:
        # In place of Channel.__init__, for the same reason.
        self.hub = calls.hub
        self.runner = calls.runner
        self.kind = calls.kind
        self.answer: Any = EMPTY
        self.buffer = self.recvers = _NOBODY
        self.halt: type[Halt] | None = None
        self.closers = _NOTHING
        self.calls = calls
        #: What `dealer.Call` asks it again, if that may be.
        self.again: Call
        self.number = -1
        #: Nobody waits, nothing is to be called or cancelled: when the one reply comes, it becomes the ``answer``, and
        #: that is all.
        self.plain = True
        #: Set by the first part of a streamed reply.
        self.window: Window | None = None
        self.dropped = False
        #: Ends it at its deadline.
        self.timer: Timer | None = None

    # -- what comes

    def reply(self, item: Any) -> None:
        """The one reply, or an exception to be raised in its place."""
        if self.timer is not None:
            self.timer.cancel()
        self.halt = Closed
        if self.dropped:
            pass
        elif self.recvers:
            self.hand(self.recvers.popleft(), item)
        elif self.window is None:
            self.answer = item
        else:
            self.buffer.append(item)
        if self.recvers or self.closers or self.window is not None:
            self._end()

    def part(self, items: list[Any], size: int) -> bool:
        """Items of a streamed reply. False: nobody wants them."""
        if self.dropped:
            return False
        if self.window is None:
            self.plain = False
            self.window = Window()
            self.buffer = deque()
            self.arrived = self.arrived_b = self.done_b = self._limit_b = 0
            #: Up to which number, and how many bytes that was, of what has arrived and is not all taken.
            self._sizes: deque[tuple[int, int]] = deque()
        self.arrived += len(items)
        self.arrived_b += size
        self._sizes.append((self.arrived, size))
        self.buffer.extend(items)
        while self.recvers and self.buffer:
            self.hand(self.recvers.popleft(), self.buffer.popleft())
        if self.recvers:
            self._request(len(self.recvers))
        if self.buffer:
            self.calls.link.dirty[self] = None
        return True

    def end(self) -> None:
        """The stream has ended: what is there can still be received."""
        self._finish()
        self._end()

    def _finish(self) -> None:
        if self.timer is not None:
            self.timer.cancel()

    def _end(self) -> None:
        self.halt = Closed
        if self.window is not None:
            self.calls.link.dirty.pop(self, None)
        if self.recvers:
            self._fail_all()
        if self.closers:
            self.calls.link.call_closers(self)

    # -- receiving

    def wait_item(self, timeout: float) -> Any:
        item = self.take_nowait()
        if item is not EMPTY:
            return item
        if timeout == 0:
            return self._poll()
        return self.runner.line_up(self._line(), self, timeout)

    def _line(self) -> deque[Any]:
        """Where one waits."""
        if self.recvers is _NOBODY:
            self.recvers = deque()
            self.plain = False
        return self.recvers

    def wait_many(self, most: int, timeout: float) -> list[Any]:
        item = self.wait_item(timeout)
        if self.window is None or isinstance(item, BaseException):
            return [item]
        self.buffer.appendleft(item)
        return self.take_many(most)

    def take_nowait(self) -> Any:
        item = self.answer
        if item is not EMPTY:
            self.answer = EMPTY
            return item
        if self.buffer:
            return self.buffer.popleft()
        if self.halt is not None:
            raise self.halt("this call has been answered, and the answer received")
        if self.window is not None:
            self._request(len(self.recvers) + 1)
        return EMPTY

    def _poll(self) -> Any:
        """Look at the socket, without a turn of the loop: whoever polls may never give it one."""
        self.calls.link.poll_now()
        item = self.take_nowait()
        if item is EMPTY:
            raise Timeout(f"no answer has arrived: {self.describe(None)}")
        return item

    def watch_recv(self, case: Any) -> None:
        item = self.take_nowait()
        if item is not EMPTY:
            case.selection.fire(case, item)
        else:
            self._line().append(case)

    def describe(self, waiter: Any) -> str:
        return f"recv of a reply: {self.kind}"

    # -- credit of a stream

    def _request(self, parked: int) -> None:
        window = self.window
        assert window is not None
        taken = self.arrived - len(self.buffer)
        while self._sizes and self._sizes[0][0] <= taken:
            self.done_b += self._sizes.popleft()[1]
        limit_b = self.done_b + STREAM_BYTES
        raised = False
        if window.limit - taken < parked or window.due(taken):
            raised = window.renew(taken, parked, self.arrived >= window.limit > 0, monotonic())
        if raised or (limit_b - self._limit_b) * 2 >= STREAM_BYTES or self.arrived_b >= self._limit_b < limit_b:
            self._limit_b = limit_b
            fields = {"n": min(window.limit, MAX_SEQ), "b": min(limit_b, MAX_SEQ), "epoch": 0}
            self.calls.link.put(pack_control(CREDIT, self.calls.id, self.number, fields))

    def emit(self) -> bool:
        """At the tick's edge, while items lie here: is there more to ask for?"""
        if self.halt is None and self.window is not None:
            self._request(len(self.recvers))
        return bool(self.buffer) and self.halt is None

    # -- the end

    def fail_with(self, error: Exception) -> None:
        """Nothing will come any more, but *error*."""
        self.reply(error)

    def expire_in(self, ms: float) -> None:
        """Its deadline is in *ms*."""
        self.timer = self.hub.after(ms, self.expire)
        self.plain = False

    def expire(self) -> None:
        """The deadline is over."""
        self.calls.cancel(self)
        self.reply(Timeout(f"the deadline of this call is over: {self.kind}"))

    def close(self, halt: type[Halt] = Closed) -> None:
        """Its caller does not want it any more: the server is told."""
        if self.halt is None:
            self._finish()
            self.calls.cancel(self)
            self.halt = halt
            self._fail_all()
            self.calls.link.call_closers(self)

    def onclose(self, f: Callable[..., object], *args: Any) -> None:
        if self.closers is _NOTHING:
            self.closers = []
            self.plain = False
        super().onclose(f, *args)

    def abandon_by_recver(self) -> None:
        """Called by the garbage collector, anywhere. What was asked for is done; only a stream is told to stop."""
        self.dropped = True
        self.plain = False
        if self.window is not None:
            self.hub.at_edge(self.close)


class Reply(Recver):
    """What `Dealer.call` returns: a Recver of the answer.

    Of one reply, the first ``recv`` returns it; a streamed reply is iterated. To drop it is to be not interested: what
    was asked for is done nevertheless, and a stream is told to stop. ``close`` cancels the call.
    """

    __slots__ = ()

    def __init__(self, state: ReplyState) -> None:
        self._state = state  # the rest of a Recver is for its `recv`, and this has one of its own

    def recv(self, timeout: float = -1) -> Any:
        """The reply, or the next item of a streamed one; wait until it has come.

        :param timeout: ms to wait, -1 for ever, 0 not at all.
        :raises Timeout: nothing came, and may still come; or the call's own deadline is over.
        :raises RemoteError: the call failed at the server, or nobody could answer it.
        :raises ConnectionLost: the broker is gone; whether anything was done is not known.
        :raises Closed: all of the answer has been received.
        """
        state = self._state
        item = state.answer
        if item is not EMPTY:
            state.answer = EMPTY
        elif state.buffer:
            item = state.buffer.popleft()
        else:
            item = state.wait_item(timeout)
        if isinstance(item, BaseException):
            try:
                raise item
            finally:
                del item  # or error, traceback and this frame are a cycle
        return item


def remote_error(fields: dict[str, Any]) -> RemoteError:
    """What a FAIL frame raises."""
    return RemoteError(
        fields["code"], fields["text"], fields.get("type", ""), fields.get("trace", ""), fields["by"] == "broker"
    )

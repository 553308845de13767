"""What a Router hands out: something that was asked, and has to be answered."""

from __future__ import annotations

import time
import traceback
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any, Callable

from vanilla.exception import Closed, ConnectionLost, Halt, is_failure
from vanilla.message import Sender
from vanilla.protocol.connection import CODE_CHARACTERS

from .push import BIN_HEAD_BYTES
from .stream import StreamSender, StreamState

if TYPE_CHECKING:
    from .router import RouterState


#: Of answers of exactly type bytes: what is shorter is packed with others.
FEW_BYTES = 1 << 10

monotonic = time.monotonic


class Request:
    """One request; answer it by `reply`, `fail` or `stream`. Only the first answer counts.

    ``item`` is what was asked. A request that is dropped without an answer fails at its caller with code NO_REPLY.
    """

    __slots__ = ("_number", "_options", "_state", "item")

    def __init__(self, state: RouterState, number: int, item: Any, options: dict[str, Any]) -> None:
        self._state = state
        self._number = number
        #: As they came, but for the deadline, which is a time here.
        self._options = options
        self.item = item

    @property
    def identity(self) -> str:
        """Who asks, on the broker's word; "" if it does not know."""
        identity: str = self._options.get("identity", "")
        return identity

    @property
    def trace(self) -> bool:
        """Does the caller want the traceback of what is raised?"""
        trace: bool = self._options.get("trace", False)
        return trace

    @property
    def deadline(self) -> float | None:
        """The ms that are left until nobody wants the answer any more, 0 if none are: of one that is answered or
        cancelled, too. None if it was sent without."""
        due = self._options.get("deadline")
        if due is None:
            return None
        return 0 if self.settled else max(due - monotonic(), 0) * 1000

    @property
    def settled(self) -> bool:
        """Is no answer wanted any more: was it answered or cancelled, or is the connection gone?"""
        return self._number not in self._state.open

    @property
    def cancelled(self) -> bool:
        """Does nobody want the answer any more? Its caller has cancelled it or is gone, or its deadline is over."""
        return self.settled or self.deadline == 0

    def oncancel(self, f: Callable[[], object]) -> None:
        """Call *f*, in the hub's loop, when it is cancelled before it is answered; at once if it is. It must not
        wait."""
        if self.settled:
            f()
        else:
            self._state.seal()
            self._state.oncancel[self._number] = f

    def reply(self, item: Any) -> None:
        """Answer with *item*; wait while too much is unsent. Does nothing if no answer is wanted any more.

        :raises TypeError, ValueError: *item* cannot be sent, see `PushSender.send`. The request can still be answered.
        :raises ConnectionLost: the broker is gone, and so is the request.
        :raises Closed: the router was closed, and so is the request.
        """
        state = self._state
        if item.__class__ is bytes and len(item) < FEW_BYTES and state.buffer:
            left = state.slack - len(item) - BIN_HEAD_BYTES
            if left > 0 and monotonic() < state.due:
                size = state.open.pop(self._number, None)
                if size is not None:
                    state.done_b += size
                    state.slack = left
                    state.replies.append((self._number, item))
                    return
        state.reply(self._number, item)

    def fail(self, code: str, text: str = "", type: str = "", trace: str = "") -> None:
        """Answer with an error: the caller's ``recv`` raises a `RemoteError`. Ends a stream that was begun.

        :param code: what programs go by: 1 to 64 characters, no control characters.
        :param text: what people read; 2,000 characters of it are sent.
        :param type: the name of an exception's type, if it is one's.
        :param trace: a traceback, of which the last 10,000 characters are sent.
        :raises ValueError: *code* is none.
        """
        if not 1 <= len(code) <= CODE_CHARACTERS or not code.isprintable():
            raise ValueError(f"a code has 1 to {CODE_CHARACTERS} printable characters, not {code!r}")
        self._state.refuse_request(self._number, code, text, type, trace)

    def stream(self) -> Sender:
        """Answer with a stream of items: a Sender of them, to be closed at the end. It is the request's answer then.

        ``send`` waits while the reader does. When the request is cancelled it raises `Closed`. In a ``with`` block it
        is closed at the end; if the block raises, that is raised at the caller, too, with code RAISED.
        """
        state = self._state
        if self.settled:
            raise Closed("nobody wants an answer to this request any more")
        stream = state.streams.get(self._number)
        if stream is None:
            stream = state.streams[self._number] = StreamState(state, self._number)
        return StreamSender(stream)

    def __repr__(self) -> str:
        return f"<Request of {self.item!r}{', settled' if self.settled else ''}>"

    def __del__(self) -> None:
        try:
            state, number = self._state, self._number
        except AttributeError:
            return  # __init__ did not get as far
        if number in state.open and number not in state.streams:
            # May be called anywhere, by the garbage collector: the rest waits for the loop.
            state.hub.at_edge(lambda: state.forsake(number, "the server has dropped this request"))


def answer(request: Request, call: partial[Any]) -> None:
    """Answer *request* with what *call* returns: a stream of items if that is an iterator.

    What it raises is logged, and raised at the caller as a `RemoteError` with code RAISED.
    """
    try:
        result = call()
        if isinstance(result, Iterator):
            _stream(request, result)
        else:
            request.reply(result)
    except BaseException as error:
        if not is_failure(error):  # the task was cancelled, by whomever, or the program ends
            _refuse(request, error)
            raise
        if not (request.settled and isinstance(error, (ConnectionLost, Halt))):  # else nobody wants it any more
            request._state.hub.failed(call.func, error, f"; its caller at {request._state.kind} is told")
        _refuse(request, error)


def _refuse(request: Request, error: BaseException) -> None:
    if not request.settled:
        trace = traceback.format_exc() if request.trace else ""
        request.fail("RAISED", _text(error), type(error).__qualname__, trace)


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except Exception as worse:  # it is somebody's own
        return f"(its text cannot be had: {type(worse).__qualname__})"


def _stream(request: Request, items: Iterator[Any]) -> None:
    """All of *items*, and the end; if it raises, the stream has no end yet."""
    try:
        sender = request.stream()
        for item in items:
            sender.send(item)
        sender.close()
    finally:
        close = getattr(items, "close", None)
        if close is not None:
            close()

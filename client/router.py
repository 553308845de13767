"""The answering end: a Recver of requests, each of which is answered where it came from.

Requests come as pulled messages do (`pull`), and as many ahead as are taken in some milliseconds; so who is busy is not
given more. Answers leave in batches: at once if nothing else is at hand, else at the tick's edge.

Invariants:
1. ``open`` has the bytes of each request that was decoded and is neither answered nor cancelled, by number. What is not
   in there needs no answer: whatever is said to it is dropped here.
2. ``early`` has the numbers that were cancelled before they were decoded.
3. While there is something in ``replies``, the state is in the link's ``dirty``.
4. ``slack`` is positive only while 3 holds and there are no ``streams`` and nobody in ``oncancel``: what the fast path
   of `Request.reply` takes then needs nothing more. `seal` counts what it has taken, and stops it; so does whoever
   begins one of these (a stream, by `put_replies`).
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Callable

from vanilla.exception import Halt
from vanilla.protocol.connection import Event
from vanilla.protocol.frames import (
    CANCEL,
    CONTROL_LIMIT,
    COUNTED_BYTES,
    CREDIT,
    FAIL,
    REPLY,
    Buffer,
    pack_control,
    pack_head,
)
from vanilla.protocol.ranges import pairs

from .batch import BATCH_BYTES, Batch, Message, make_message
from .packing import LARGE_BYTES, pack_run
from .pull import PullState
from .push import BIN_HEAD_BYTES
from .recver import PullRecver
from .request import FEW_BYTES, Request, answer

if TYPE_CHECKING:
    from .arrival import Arrival
    from .link import Link
    from .stream import StreamState

log = logging.getLogger("vanilla.client")

monotonic = time.monotonic

#: How long the text of an error may be, and the traceback that goes with it: it travels in a control frame.
TEXT_CHARACTERS = 2_000
TRACE_CHARACTERS = 10_000
TYPE_CHARACTERS = 100
#: What such a frame takes beside the two at most, in bytes: its head, a code, a type's name, keys.
FAIL_BYTES = 1 << 10


class RouterState(PullState):
    """What is behind one `Router`."""

    __slots__ = (
        "_begun",
        "_came",
        "_given",
        "_replied_b",
        "early",
        "oncancel",
        "open",
        "replies",
        "slack",
        "streams",
        "writers",
    )

    role = "serve"
    #: Each answer looks at the clock, so a load may last longer.
    loads = 2

    def __init__(self, link: Link, name: str, prefetch: int, window_bytes: int) -> None:
        self.open: dict[int, int] = {}
        self.early: set[int] = set()
        #: Who wants to know that a request was cancelled.
        self.oncancel: dict[int, Callable[[], object]] = {}
        #: Streamed replies that are under way.
        self.streams: dict[int, StreamState] = {}
        #: Answers that are to leave: number, and the reply, packed unless it is a few bytes.
        self.replies: list[tuple[int, Message | bytes]] = []
        self._replied_b = 0
        #: The bytes that the fast path may still take, and what that was when it was last worked out.
        self.slack = self._given = 0
        #: When the first of what is at hand came, and how many had come before.
        self._came = 0.0
        self._begun = 0
        #: Who waits until the output takes more.
        self.writers: deque[Any] = deque()
        super().__init__(link, name, True, prefetch, window_bytes)

    # -- requests

    def _data(self, event: Event) -> None:
        if not self.open and not self.arrivals:
            self._came, self._begun = monotonic(), self.arrived
        super()._data(event)

    def _read_options(self, packed: memoryview, count: int) -> dict[str, Any]:
        """With the ms that are left made a time, now: it may be a while until somebody receives."""
        options = super()._read_options(packed, count)
        if "deadline" in options:
            options["deadline"] = monotonic() + options["deadline"] / 1000
        return options

    def _deliveries(self, arrival: Arrival, items: list[Any], size: int) -> list[Any]:
        count, first, options = len(items), self.loaded, arrival.options
        share = size // count
        self.open.update(dict.fromkeys(range(first, first + count), share))
        made = [Request(self, number, item, options) for number, item in enumerate(items, first)]
        if self.early:
            gone = self.early.intersection(range(first, first + count))
            self.early -= gone
            for number in gone:
                self.done_b += self.open.pop(number)
        rest = size - share * count
        if self.loaded in self.open:
            self.open[self.loaded] += rest
        else:
            self.done_b += rest
        return made

    def _delivery(self, number: int, size: int, item: Any) -> Request:
        self.open[number] = size
        return Request(self, number, item, {})

    def _bury(self, number: int, size: int) -> None:
        if number in self.early:
            self.early.discard(number)
            self.done_b += size
            return
        log.warning("%s: request %d cannot be decoded; it fails", self.kind, number)
        self.open[number] = size
        self.refuse_request(number, "UNDECODABLE", "Python cannot hold this request", "", "")

    def _buffered_b(self) -> int:
        return sum(self.open.pop(request._number, 0) for request in self.buffer)

    def _forget_items(self) -> int:
        self.early.clear()
        return super()._forget_items()

    def _cancel(self, event: Event) -> None:
        for first, count in pairs(event.payload["r"]):
            for number in range(first, min(first + count, self.arrived)):
                if number >= self.loaded:
                    self.early.add(number)
                else:
                    self.close_request(number)

    def close_request(self, number: int) -> None:
        """It needs no answer any more: whoever works at it is told."""
        size = self.open.pop(number, None)
        if size is None:
            return
        self.done_b += size
        self.link.dirty[self] = None
        stream = self.streams.pop(number, None)
        if stream is not None:
            stream.stop()
        told = self.oncancel.pop(number, None)
        if told is not None:
            self.hub.guard(told)

    def _stream_credit(self, event: Event) -> None:
        stream = self.streams.get(event.seq)
        if stream is not None:
            stream.credit(event.payload["n"], event.payload["b"])

    frames: dict[int, Callable[[Any, Event], None]] = {
        **dict.fromkeys(PullState.frames, _data),
        CREDIT: _stream_credit,
        CANCEL: _cancel,
    }

    # -- answers

    def take_over(self, number: int) -> bool:
        """Is *number* still to be answered? Then it is so now."""
        size = self.open.pop(number, None)
        if size is None:
            self._check()
            return False
        self.done_b += size
        if self.oncancel:
            self.oncancel.pop(number, None)
        return True

    def reply(self, number: int, item: Any) -> None:
        """All of `Request.reply` that is not its fast path."""
        if self.streams and number in self.streams:
            return  # this was its answer
        reply = item if item.__class__ is bytes and len(item) < FEW_BYTES else self.pack(item)
        if not self.replies and self.link.full:  # what goes along with others is `BATCH_BYTES` more at most
            self._wait_room(number)
        if self.take_over(number):
            self._answer(number, reply)

    def refuse_request(self, number: int, code: str, text: str, type: str, trace: str) -> None:
        """Answer request *number* with an error."""
        room = min(self.link.frame_limit, CONTROL_LIMIT) - FAIL_BYTES
        fields = {"count": 1, "code": code, "text": _clipped(text[:TEXT_CHARACTERS], room // 2)}
        if type:
            fields["type"] = _clipped(type[:TYPE_CHARACTERS], FAIL_BYTES)
        if trace:
            fields["trace"] = _clipped(trace[-TRACE_CHARACTERS:], room // 2, last=True)
        frame = pack_control(FAIL, self.id, number, fields)
        stream = self.streams.pop(number, None)
        if stream is not None:
            stream.flush()
            stream.stop()
        if self.take_over(number):
            self.put_replies()
            self.link.put(frame)
            self._leave()

    def forsake(self, number: int, text: str) -> None:
        """Whoever had it to answer has dropped it."""
        if number in self.open:
            self.refuse_request(number, "NO_REPLY", text, "", "")

    def pack(self, item: Any, extra: int = 0) -> Message:
        """*item* as a reply, beside which *extra* bytes are to fit into a frame.

        :raises TypeError, ValueError: it cannot be sent.
        """
        if isinstance(item, BaseException):
            raise TypeError("an exception is no reply; see Request.fail")
        return make_message(item, self.link, "reply", extra)

    def _wait_room(self, number: int) -> None:
        """Wait until there is room for the answer to *number*, or none is wanted any more."""
        while self.link.full and number in self.open:
            self._check()
            self.link.crowded = True
            self.hub.wait(self.writers, f"room for a reply: {self.kind}")

    def drained(self) -> None:
        self.hub.ready.extend(self.writers)
        self.writers.clear()
        for stream in list(self.streams.values()):
            stream.serve()

    def _answer(self, number: int, reply: Message | bytes) -> None:
        self.seal()  # who waited for room may come behind others
        replies = self.replies
        if not (replies or self.buffer or self.arrivals) and self.link.fresh:
            parts, size = self._packed(reply)
            self._put(number, 1, size, parts)
            self._leave()
            return
        if not replies:
            self.link.dirty[self] = None
        replies.append((number, reply))
        self._replied_b += len(reply) + BIN_HEAD_BYTES if isinstance(reply, bytes) else reply.size
        if not self.buffer or self._replied_b >= BATCH_BYTES:
            self._leave()
            return
        self._mind_age()
        if self.replies and not self.streams and not self.oncancel:
            self.slack = self._given = BATCH_BYTES - self._replied_b

    def seal(self) -> None:
        """Count what the fast path has taken; it takes no more."""
        self._replied_b += self._given - self.slack
        self.slack = self._given = 0

    def _forget_replies(self) -> None:
        self.replies.clear()
        self.slack = self._given = self._replied_b = 0

    def _packed(self, reply: Message | bytes) -> Message:
        return reply if isinstance(reply, Message) else make_message(reply, self.link, "reply")

    def _leave(self) -> None:
        """Shall the answers leave now? Not while there are requests at hand whose answers could go with them."""
        now = monotonic()
        if not self.open and not self.arrivals:
            window, arrived = self.window, self.arrived
            window.handled(arrived - self._begun, now - self._came)
            if window.due(arrived):  # the credit for the next ones leaves with this answer
                window.renew(arrived, len(self.recvers), self._more, now)
        if (self.link.fresh and not self.buffer and not self.arrivals) or self._replied_b >= BATCH_BYTES:
            self.leave(now)
        else:
            self.link.dirty[self] = None
            self._mind_age(now)

    def put_replies(self) -> None:
        """Frames of consecutive answers."""
        self.seal()
        replies, size = self.replies, self._replied_b
        if not replies:
            return
        self.replies, self._replied_b = [], 0
        replies.sort()  # no two have one number
        first, count = replies[0][0], len(replies)
        if replies[-1][0] - first == count - 1 and size < LARGE_BYTES and size <= self._most:
            plain = [reply for _, reply in replies if type(reply) is bytes]
            if len(plain) == count:
                parts: list[Buffer] = [pack_run(plain)]
            else:
                parts = [part for _, reply in replies for part in self._packed(reply).parts]
            self._put(first, count, sum(map(len, parts)), parts)
            return
        batch, first = Batch(), 0
        for number, reply in replies:
            message = self._packed(reply)
            if batch.count and (number != first + batch.count or batch.size + message.size > self._most):
                self._put(first, batch.count, batch.size, batch.take())
            if not batch.count:
                first = number
            batch.add(message)
        if batch.count:
            self._put(first, batch.count, batch.size, batch.take())

    @property
    def _most(self) -> int:
        return min(BATCH_BYTES, self.link.frame_limit - COUNTED_BYTES)

    def _put(self, first: int, count: int, size: int, parts: Sequence[Any]) -> None:
        head = pack_head(REPLY, self.id, first, count, size)
        if size < LARGE_BYTES:
            self.link.put(b"".join((head, *parts)))
        else:
            self.link.put(head, *parts)

    def emit(self) -> bool:
        if self.replies:
            self.put_replies()
        return super().emit()

    # -- a lost connection

    def suspend(self) -> None:
        """No answer to what came on it is wanted any more: its callers were told."""
        for number in list(self.open):
            self.close_request(number)
        self._forget_replies()  # those, too, that were given by who heard of that
        super().suspend()
        self.drained()  # who waits with an answer has nothing to wait for

    # -- the end

    def _end(self, error: Callable[[], Exception]) -> None:
        super()._end(error)
        for number in list(self.open):
            self.close_request(number)
        self._forget_replies()
        while self.writers:
            self.fail(self.writers.popleft(), error())


class Router(PullRecver):
    """A Recver of requests; made by `Remote.router`. Iterate over it, and answer each `Request`.

    It asks the broker for nothing until somebody receives. A request that arrives and is not received within 100 ms
    goes to another server. When this end is closed, what was not received goes to others, and what was received and
    not answered fails at its caller with code PEER_LOST.

    A request that is cancelled before it is received is received nevertheless, and says so (`Request.cancelled`).
    """

    __slots__ = ()

    def consume(self, f: Callable[[Any], object]) -> Any:
        """Reply with ``f(item)`` to each request, one at a time, in a task of its own; see `Remote.serve` for many.

        What *f* raises is logged, and raised at the caller as a `RemoteError` with code RAISED.

        :return: the task.
        """
        return self.hub.spawn(_answer_all, self, f)


def _answer_all(router: Router, f: Callable[[Any], object]) -> None:
    try:
        while True:
            _answer_one(router.recv(), f)  # no name for the request here: it would live until the next one comes
    except Halt:
        pass


def _answer_one(request: Request, f: Callable[[Any], object]) -> None:
    if not request.cancelled:
        answer(request, partial(f, request.item))


def _clipped(text: str, most: int, last: bool = False) -> str:
    """As much of *text* as is *most* bytes of UTF-8: its beginning, or its *last* part."""
    encoded = text.encode(errors="backslashreplace")
    return (encoded[-most:] if last else encoded[:most]).decode(errors="ignore")

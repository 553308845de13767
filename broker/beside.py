"""What a session sends and gets beside its stream: of a client that has said that it dials with ``?reliable=0``.

Its producers' and publishers' messages come so, once or not at all, and those to its subscribers leave so. A producer's
numbers go on over what is lost: a gap tells how many messages that is, the position of a frame how many bytes, and both
count as sent, so that credit, which is absolute, stays true at both ends. What has been overtaken was counted as lost,
and is dropped: nothing comes twice or out of order. SENT closes the gap behind all that has come.

This is the one place where losses of a producer are counted: the client is told by ACK and NACK of all its numbers.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from vanilla.protocol.errors import Refused
from vanilla.protocol.frames import DATA, HEAD_BYTES, MAX_SEQ, NACK, SENT, Buffer, pack_control, pack_head
from vanilla.protocol.loose import LOOSE_FRAME_BYTES, ONE_DATAGRAM
from vanilla.protocol.scan import scan

if TYPE_CHECKING:
    from vanilla.udpsocket import UDPSocket

    from .broadcast import Subscriber
    from .pusher import Pusher
    from .session import Session

#: Bytes of the messages in a frame of several.
BODY_BYTES = ONE_DATAGRAM - HEAD_BYTES
_FAR = 1 << 62


class Beside:
    """Of *session*, over *sock*."""

    __slots__ = ("_missing", "_session", "_sock", "_subscribers", "frames", "lost")

    def __init__(self, session: Session, sock: UDPSocket) -> None:
        self._session = session
        self._sock = sock
        self.frames = sock.transport.loosen()
        #: Messages of its producers that did not come.
        self.lost = 0
        #: Those of which their client was not told, as (first, count), ascending.
        self._missing: dict[Pusher, list[tuple[int, int]]] = {}
        #: Those that something was sent to.
        self._subscribers: dict[Subscriber, None] = {}
        sock.onloose = self._heard

    # -- what comes

    def take(self) -> None:
        """Give the channels what has come."""
        session = self._session
        for position, data in self.frames.take():
            event = session.connection.beside(data)
            channel: Any = None if event is None else session.channels.get(event.channel)
            if event is not None and channel is not None:
                try:
                    channel.come(event, position)
                except Refused as error:
                    session.expel(event.channel, error.code, error.text)

    def miss(self, pusher: Pusher, first: int, count: int) -> None:
        """*count* messages of *pusher* did not come, the first of which is number *first*."""
        # A producer without credit may say what it likes, and more than msgpack holds would end who asks for a status.
        self.lost = min(self.lost + count, MAX_SEQ)
        pusher.endpoint.lost = min(pusher.endpoint.lost + count, MAX_SEQ)
        self._missing.setdefault(pusher, []).append((first, count))

    def report(self, pusher: Pusher, first: int, stop: int) -> list[int]:
        """Tell the client what did not come of the numbers from *first* up to *stop*: the ranges of what did."""
        missing = self._missing.pop(pusher, None)
        if missing is None:
            return [first, stop - first]
        numbers = [number for gap in missing for number in gap]
        self._session.put(pack_control(NACK, pusher.id, 0, {"r": numbers, "code": "LOST"}))
        came: list[int] = []
        for begin, count in [*missing, (stop, 0)]:
            if begin > first:
                came += [first, begin - first]
            first = begin + count
        return came

    def describe(self) -> dict[str, int]:
        """For status, in messages: those of its producers that did not come, and what became of those that were sent to
        its subscribers, as far as is known."""
        tally = self.frames.tally
        return {
            "missing": self.lost,
            "sent": tally.sent_messages,
            "acknowledged": tally.acknowledged_messages,
            "lost": tally.lost_messages,
        }

    def forget(self, channel: Any) -> None:
        """The *channel* is gone."""
        self._missing.pop(channel, None)
        self._subscribers.pop(channel, None)

    # -- what leaves

    def leave(self) -> None:
        """Send what waits."""
        if self.frames.waits:
            self._sock.leave()

    def offer(self, subscriber: Subscriber, count: int, body: Buffer) -> int:
        """`Subscriber.offer`: its numbers are those of all messages, and ``sent_n`` is the next of them."""
        session, frames, endpoint = self._session, self.frames, subscriber.endpoint
        self._subscribers[subscriber] = None
        seq = subscriber.next
        subscriber.next += count
        left_n, left_b = subscriber.limit_n - seq, subscriber.limit_b - subscriber.sent_b
        subscriber.sent_n = subscriber.next
        if left_n <= 0 or left_b <= 0 or session.full or frames.full:
            endpoint.missed += count
            frames.due = True
            if session.full:
                session.starved.add(subscriber)
            return 0
        sent, size = count, len(body)
        if count > left_n or size > left_b:
            sent, size = scan(body, 0, min(count, left_n), left_b)
        taken = 0
        for n, piece in _cuts(memoryview(body)[:size], sent):
            if len(piece) + HEAD_BYTES <= LOOSE_FRAME_BYTES:
                head = pack_head(DATA, subscriber.id, seq, n, len(piece))
                frames.put((head, piece), subscriber.sent_b, n)
                subscriber.sent_b += len(piece)
                subscriber.told = seq + n
                taken += n
            seq += n
        if taken < count:
            endpoint.missed += count - taken
            frames.due = True
        session.put()
        return taken

    def account(self, subscriber: Subscriber) -> None:
        """Tell up to where it was sent everything, or missed it, unless that may still overtake what was sent."""
        if self.frames.pending:
            self.frames.due = True
            return
        subscriber.told = subscriber.next
        fields = {"b": subscriber.sent_b}
        self._session.put(pack_control(SENT, subscriber.id, subscriber.next, fields))

    def _heard(self) -> None:
        """There is room again, or nothing is on its way any more and some of it is lost."""
        session = self._session
        if session.sock is self._sock and session.sock.fileno() >= 0 and not session.closing:
            if self.frames.pending:  # it is news no more
                self.frames.due = True
            else:
                for subscriber in self._subscribers:
                    self.account(subscriber)
            session.flush()


def _cuts(body: memoryview, count: int) -> Iterator[tuple[int, memoryview]]:
    """The *count* messages of *body*, as many at a time as a datagram takes, one at least: how many, and packed."""
    at = 0
    while count:
        n, end = scan(body, at, count, BODY_BYTES)
        if end - at > BODY_BYTES and n > 1:
            n -= 1
            end = scan(body, at, n, _FAR)[1]
        yield n, body[at:end]
        at = end
        count -= n

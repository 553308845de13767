"""Frames beside the stream of a session, each of which is sent once: RFC 9221's datagrams, for a whole frame at a time.

Small frames share datagrams, whole; one that is larger than a datagram goes in parts, and is lost if one of them is.
What is lost is not sent again, but both sides hear of it: the sender by the acknowledgements of the packets, as
`recovery` judges them, the receiver from its owner.

Each frame has a *position*, which is carried along and nothing to the transport. (What `vanilla.broker` and
`vanilla.client` say by it: how many bytes of messages went before on its channel.)

The sender's knowledge is not quite the receiver's: what was overtaken the receiver drops, and what was declared lost
may still come. So who needs one truth has the receiver count, and tells it, when `news` says so, up to where all is
known. Then nothing is on its way any more, and what has come lies in ``ready``, in front of what the stream brings.

Invariants:
1. ``pending`` are the frames of which some part waits or is in flight; ``sent`` == ``acknowledged`` + ``lost`` + those
   pending that have left whole, in frames and in messages.
2. Only the first of ``_waiting`` may have left in part.
3. A packet that carries a part of a frame that was dropped here is not acknowledged: so its sender learns of it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

from .frames import EXTRA_BYTES, FRAME_LIMIT
from .packets import (
    DATAGRAM_BYTES,
    HEAD_BYTES,
    LOOSE_BYTES,
    PART_BYTES,
    Buffer,
    Loose,
    LoosePart,
    pack_loose,
    pack_loose_part,
)
from .reassembly import Contradiction

#: Bytes that wait to leave; who has more to send waits.
QUEUE_BYTES = 256 << 10
#: Bytes that have come and were not taken, and, counted apart, of frames of which parts are missing.
MOST_BYTES = 4 << 20
#: What a part, or a frame, costs beside its bytes, and how many frames may be incomplete.
PART_COST = 200
MOST_INCOMPLETE = 64
#: The longest frame.
LOOSE_FRAME_BYTES = FRAME_LIMIT + EXTRA_BYTES
#: The longest frame that goes into one datagram.
ONE_DATAGRAM = DATAGRAM_BYTES - HEAD_BYTES - LOOSE_BYTES


class Sent:
    """A frame on its way: ``at`` bytes of its ``size`` have left, in parts of which ``flying`` are in flight and
    ``lost`` are lost. It has *count* messages."""

    __slots__ = ("at", "body", "count", "flying", "id", "lost", "position", "size")

    def __init__(self, id: int, body: bytes, position: int, count: int) -> None:
        self.id = id
        self.body = body
        self.size = len(body)
        self.position = position
        self.count = count
        self.at = self.flying = self.lost = 0

    @property
    def known(self) -> bool:
        """Has all of it left, and is it known what became of it?"""
        return not self.flying and self.at == self.size


class Came(NamedTuple):
    """A frame that has come."""

    position: int
    body: bytes


class _Incomplete:
    """A frame of which ``size`` bytes have come, in ``parts`` by their offsets."""

    __slots__ = ("parts", "position", "size", "total")

    def __init__(self, position: int, total: int) -> None:
        self.position = position
        self.total = total
        self.size = 0
        self.parts: dict[int, bytes] = {}

    @property
    def cost(self) -> int:
        return self.size + len(self.parts) * PART_COST

    def add(self, item: LoosePart) -> None:
        if (item.position, item.total) != (self.position, self.total) or item.offset in self.parts:
            raise Contradiction("the parts of a LOOSE do not agree")
        self.parts[item.offset] = item.body
        self.size += len(item.body)

    def whole(self) -> bytes:
        """All of it, once it has as many bytes as it should."""
        at = 0
        for offset in sorted(self.parts):
            if offset != at:
                raise Contradiction("the parts of a LOOSE overlap")
            at += len(self.parts[offset])
        return b"".join(self.parts[offset] for offset in sorted(self.parts))


class Tally:
    """Frames, and the messages in them: how many have left, and what is known of them."""

    __slots__ = ("acknowledged", "acknowledged_messages", "lost", "lost_messages", "sent", "sent_messages")

    def __init__(self) -> None:
        self.sent = self.lost = self.acknowledged = 0
        self.sent_messages = self.lost_messages = self.acknowledged_messages = 0


class LooseFrames:
    """What one side of a session sends and gets beside the stream.

    :param each: bytes of items that a datagram has room for.
    """

    __slots__ = ("_awaited", "_dropped", "_each", "_held", "_incomplete", "_next", "_waiting", "due", "pending",
                 "ready", "ready_b", "tally", "unsent")  # fmt: skip

    def __init__(self, each: int) -> None:
        self._each = each
        self.tally = Tally()
        self._waiting: deque[Sent] = deque()
        self._next = 0
        #: Bytes that wait to leave.
        self.unsent = 0
        self.pending = 0
        #: Somebody waits for room in the queue.
        self._awaited = False
        #: When nothing is pending, the peer is to be told up to where all is known.
        self.due = False
        #: Frames that have come, and what they cost in bytes.
        self.ready: deque[Came] = deque()
        self.ready_b = 0
        self._incomplete: dict[int, _Incomplete] = {}
        self._held = 0
        #: The latest frame that was dropped incomplete: no older one is begun any more.
        self._dropped = -1

    # -- sending

    def resize(self, each: int) -> None:
        """A datagram has room for *each* bytes of items from now on."""
        self._each = each

    def fits(self, size: int) -> bool:
        """Does a frame of *size* bytes go into one datagram?"""
        return size + LOOSE_BYTES <= self._each

    @property
    def full(self) -> bool:
        """Does so much wait that no more is to be put? If so, `news` tells when that is over."""
        if self.unsent < QUEUE_BYTES:
            return False
        self._awaited = True
        return True

    @property
    def waits(self) -> bool:
        """Is there something to send?"""
        return bool(self._waiting)

    def put(self, parts: Sequence[Buffer], position: int, count: int) -> None:
        """Take a frame of *count* messages, made of *parts*. Who puts looks at `full` before."""
        body = parts[0] if len(parts) == 1 and type(parts[0]) is bytes else b"".join(parts)
        assert len(body) <= LOOSE_FRAME_BYTES
        self._waiting.append(Sent(self._next, body, position, count))  # type: ignore[arg-type]
        self._next += 1
        self.unsent += len(body)
        self.pending += 1

    def datagram(self) -> tuple[list[bytes], tuple[Sent, ...]]:
        """The items of the next datagram, and the frames that they are of, one an item."""
        items: list[bytes] = []
        frames: list[Sent] = []
        room, waiting = self._each, self._waiting
        while waiting:
            frame = waiting[0]
            if not frame.at and self.fits(frame.size):
                room -= frame.size + LOOSE_BYTES
                if room < 0:
                    break
                items.append(pack_loose(frame.position, frame.body))
                self._left(frame, frame.size)
            elif items:
                break  # parts begin a datagram, or they would be many and short
            else:
                at = frame.at
                size = min(frame.size - at, room - PART_BYTES)
                room -= size + PART_BYTES
                items.append(pack_loose_part(frame.id, frame.position, at, frame.size, frame.body[at : at + size]))
                self._left(frame, size)
            frames.append(frame)
        return items, tuple(frames)

    def _left(self, frame: Sent, size: int) -> None:
        """*size* more bytes of the first frame that waits are on their way."""
        frame.at += size
        frame.flying += 1
        self.unsent -= size
        if frame.at == frame.size:
            self._waiting.popleft()
            self._gone(frame)

    def _gone(self, frame: Sent) -> None:
        frame.body = b""
        self.tally.sent += 1
        self.tally.sent_messages += frame.count

    # -- what became of it

    def acknowledge(self, frames: Sequence[Sent]) -> None:
        """The peer has a packet that carried something of *frames*."""
        for frame in frames:
            frame.flying -= 1
            if frame.known:
                self._settle(frame)

    def lose(self, frames: Sequence[Sent]) -> None:
        """A packet is lost that carried something of *frames*."""
        for frame in frames:
            frame.flying -= 1
            frame.lost += 1
            if frame.at < frame.size:  # what has not left of it is of no use, and is lost for good
                frame.lost += 1
                self._waiting.popleft()
                self.unsent -= frame.size - frame.at
                frame.at = frame.size
                self._gone(frame)
            if frame.known:
                self._settle(frame)

    def _settle(self, frame: Sent) -> None:
        self.pending -= 1
        tally = self.tally
        if frame.lost:
            tally.lost += 1
            tally.lost_messages += frame.count
            self.due = True
        else:
            tally.acknowledged += 1
            tally.acknowledged_messages += frame.count

    def regain(self, frames: Sequence[Sent]) -> None:
        """A packet has come that was declared lost."""
        tally = self.tally
        for frame in frames:
            frame.lost -= 1
            if frame.known and not frame.lost:
                tally.lost -= 1
                tally.lost_messages -= frame.count
                tally.acknowledged += 1
                tally.acknowledged_messages += frame.count

    def news(self) -> bool:
        """Is there room again for who has found this `full`, or is all known, some of it being lost? Says so once."""
        told = False
        if self._awaited and self.unsent * 2 < QUEUE_BYTES:
            self._awaited = False
            told = True
        if self.due and not self.pending:
            self.due = False
            told = True
        return told

    # -- what comes

    def accepts(self, item: Loose | LoosePart) -> bool:
        """Is there room for it? If not, its packet counts as lost."""
        if isinstance(item, Loose):
            return self.ready_b < MOST_BYTES
        if item.total > LOOSE_FRAME_BYTES or self.ready_b >= MOST_BYTES:
            return False
        return item.frame in self._incomplete or item.frame > self._dropped

    def came(self, item: Loose | LoosePart) -> None:
        """Take what has come, and was accepted.

        :raises Contradiction: its parts do not agree.
        """
        if isinstance(item, Loose):
            self._finish(item.position, item.body)
            return
        frame = self._incomplete.get(item.frame)
        if frame is None:
            frame = self._incomplete[item.frame] = _Incomplete(item.position, item.total)
        before = frame.cost
        frame.add(item)
        self._held += frame.cost - before
        if frame.size >= frame.total:
            self._held -= frame.cost
            del self._incomplete[item.frame]
            self._finish(frame.position, frame.whole())
        while self._held > MOST_BYTES or len(self._incomplete) > MOST_INCOMPLETE:
            oldest = min(self._incomplete)
            self._held -= self._incomplete.pop(oldest).cost
            self._dropped = max(self._dropped, oldest)

    def _finish(self, position: int, body: bytes) -> None:
        self.ready.append(Came(position, body))
        self.ready_b += len(body) + PART_COST

    def take(self) -> deque[Came]:
        """All frames that have come, in the order in which they came."""
        ready, self.ready = self.ready, deque()
        self.ready_b = 0
        return ready

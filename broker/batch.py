"""Batches: the messages of one data frame, packed, never unpacked, cut only where somebody asks for fewer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vanilla.protocol.frames import Buffer
from vanilla.protocol.scan import scan

if TYPE_CHECKING:
    from .death import Death
    from .said import Said

#: How many messages `Batch.part` passes over from one noted offset to the next.
STEP = 256
_FAR = 1 << 62
_NO_MARKS = (0,)


class Batch:
    """Consecutive messages of one endpoint that share their history.

    ``number`` is the endpoint's accept number of the first message, ``time`` when it was accepted (seconds, monotonic),
    ``attempts`` how many deliveries have failed and ``failed_by`` who had the last of them (`Session.who`),
    ``redelivered`` whether a consumer may have seen it. ``origin`` tells who is told of the outcome, if anybody is.
    ``death`` is that of dead letters, ``said`` what their producer said of the messages, of most nothing. ``size`` is
    that of the body, and what the latter takes.
    """

    __slots__ = (
        "_marks",
        "attempts",
        "body",
        "count",
        "death",
        "failed_by",
        "number",
        "origin",
        "redelivered",
        "said",
        "size",
        "time",
    )

    def __init__(self, number: int, count: int, body: Buffer, time: float) -> None:
        self.number = number
        self.count = count
        self.body = body
        self.size = len(body)
        self.time = time
        self.attempts = 0
        self.failed_by = ""
        self.redelivered = False
        self.origin: Any = None
        self.death: Death | None = None
        self.said: Said | None = None
        #: The offsets of messages 0, STEP, 2 * STEP, ..., as far as they were asked for.
        self._marks: tuple[int, ...] = _NO_MARKS

    def say(self, said: Said) -> None:
        """*said* is said of these messages, once."""
        self.said = said
        self.size += self.count * said.each

    @property
    def pinned(self) -> int:
        """Bytes of memory that the body keeps: if it is a view, those of what it is a view of."""
        return len(self.body.obj) if isinstance(self.body, memoryview) else len(self.body)  # type: ignore[arg-type]

    @property
    def history(self) -> tuple[bool, int, Death | None]:
        """Batches of one history may share a frame."""
        return self.redelivered, self.attempts, self.death

    def cut(self, count: int, at: int) -> tuple[Batch, Batch]:
        """Two batches: the first *count* messages, which end at byte *at* of the body, and the rest. A small part is
        copied, so as not to keep the whole."""
        view = memoryview(self.body)
        return self._part(0, count, self.kept(view[:at])), self._part(count, self.count - count, self.kept(view[at:]))

    def part(self, low: int, high: int) -> Batch:
        """The messages from *low* up to, not including, *high*. A small part is copied, so as not to keep the whole."""
        if low == 0 and high == self.count:
            return self
        start, end = self._offset(low), self._offset(high)
        return self._part(low, high - low, self.kept(memoryview(self.body)[start:end]))

    def _offset(self, index: int) -> int:
        """Where message *index* begins. Each `STEP`-th place is noted, or to take a batch apart would be quadratic."""
        if index == self.count:
            return len(self.body)
        marks = self._marks
        while len(marks) <= index // STEP:
            marks = self._marks = (*marks, scan(self.body, marks[-1], STEP, _FAR)[1])
        return scan(self.body, marks[index // STEP], index % STEP, _FAR)[1]

    @staticmethod
    def kept(view: memoryview) -> Buffer:
        """A part of a body: as a view, unless that would keep alive more than four times what it shows."""
        return bytes(view) if len(view) * 4 < len(view.obj) else view  # type: ignore[arg-type]

    def _part(self, skip: int, count: int, body: Buffer) -> Batch:
        part = Batch(self.number + skip, count, body, self.time)
        part.attempts = self.attempts
        part.failed_by = self.failed_by
        part.redelivered = self.redelivered
        part.origin = self.origin
        part.death = self.death
        if self.said is not None:
            part.say(self.said.part(skip, skip + count))
        return part


def split_first(batch: Batch) -> list[Batch]:
    """The first message on its own, then the rest, if there is one."""
    if batch.count == 1:
        return [batch]
    return [batch.part(0, 1), batch.part(1, batch.count)]

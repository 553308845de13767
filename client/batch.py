"""What a producer has taken and not yet framed: messages, packed, in order.

Small ones are joined, up to `RUN_BYTES` at a time: a copy costs less than one more buffer in a vectored write. Large
ones stay the objects that they are. So a batch of `BATCH_BYTES` is a few buffers, none of which is larger than its
message or a run: blocks over glibc's mmap threshold would be mapped and faulted in anew each time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from vanilla.protocol.frames import COUNTED_BYTES, Buffer

from .packing import LARGE_BYTES, large_parts, pack
from .rejected import TooBig

if TYPE_CHECKING:
    from .link import Link

#: A batch leaves when it is this large.
BATCH_BYTES = 256 << 10
#: Small messages are joined up to this size.
RUN_BYTES = 64 << 10
#: What is smaller is joined with others.
SMALL_BYTES = 4 << 10


class Message(NamedTuple):
    """A packed item, and its size in bytes."""

    parts: tuple[Buffer, ...]
    size: int


_message = Message._make


def make_message(item: Any, link: Link, what: str = "message", extra: int = 0) -> Message:
    """*item* as *link*'s broker takes it.

    :param what: what the error calls it.
    :param extra: bytes beside it that have to fit into the same frame.
    :raises TypeError: msgpack has no such type.
    :raises ValueError: msgpack cannot hold this value.
    :raises TooBig: it is larger than the broker takes.
    """
    if type(item) is bytes and len(item) >= LARGE_BYTES:
        parts: tuple[Buffer, ...] = large_parts(item)
        message = Message(parts, len(parts[0]) + len(item))
        _check_size(message.size, link, what, extra)
        return message
    return packed_message(pack_item(item, link), link, what, extra)


def pack_item(item: Any, link: Link) -> bytes:
    """*item* packed, for *link*'s broker; see `make_message`, but that it may be too big."""
    try:
        return pack(item, link.depth)
    except TypeError:
        if isinstance(item, BaseException):
            raise TypeError("an exception cannot be sent to another process") from None
        raise


def packed_message(packed: bytes, link: Link, what: str = "message", extra: int = 0) -> Message:
    """`make_message`, of an item that is *packed*."""
    size = len(packed)
    _check_size(size, link, what, extra)
    return _message(((packed,), size))


def _check_size(size: int, link: Link, what: str, extra: int) -> None:
    limit = link.frame_limit - COUNTED_BYTES - extra
    if size > limit:
        raise TooBig(f"a {what} of {size} bytes is too big: the broker's limit is {limit}")


class Batch:
    """Messages that will leave as one frame.

    ``count`` is their number, ``size`` their bytes.
    """

    __slots__ = ("_chunks", "_run", "_run_b", "count", "size")

    def __init__(self) -> None:
        self._chunks: list[Buffer] = []
        #: Small messages that are still to be joined, and their bytes.
        self._run: list[Buffer] = []
        self._run_b = 0
        self.count = self.size = 0

    def add(self, message: Message) -> None:
        """One more message."""
        size = message.size
        self.count += 1
        if size < SMALL_BYTES and self._run_b + size < RUN_BYTES:
            self.size += size
            self._run += message.parts
            self._run_b += size
        else:
            self._append(message.parts, size)

    def add_run(self, packed: Buffer, count: int) -> None:
        """*count* more messages, packed together: not many more than `RUN_BYTES`."""
        self._append((packed,), len(packed))
        self.count += count

    def add_parts(self, parts: Sequence[Buffer], size: int, count: int) -> None:
        """*count* more messages, of *size* bytes, that are not to be copied."""
        self.size += size
        self.count += count
        self._join()
        self._chunks += parts

    def _append(self, parts: Sequence[Buffer], size: int) -> None:
        self.size += size
        if size < SMALL_BYTES:
            self._run += parts
            self._run_b += size
            if self._run_b >= RUN_BYTES:
                self._join()
        else:
            self._join()
            self._chunks += parts

    def _join(self) -> None:
        if self._run:
            self._chunks.append(b"".join(self._run))
            self._run.clear()
            self._run_b = 0

    def take(self) -> list[Buffer]:
        """All of it; the batch is empty then."""
        self._join()
        chunks, self._chunks = self._chunks, []
        self.count = self.size = 0
        return chunks

    def clear(self) -> None:
        """Forget all of it."""
        self._run.clear()
        self._run_b = 0
        self.take()

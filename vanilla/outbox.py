"""What waits to be written to a non-blocking socket: buffers, in order, in vectored writes.

For who gathers output during a tick and writes it at its edge. It never waits and knows no loop.
"""

from __future__ import annotations

import os
from typing import Any, Protocol, Union

Buffer = Union[bytes, bytearray, memoryview]

#: What one vectored write takes, in buffers.
IOV_MAX = os.sysconf("SC_IOV_MAX")
#: Less than this is joined: to copy it costs less than to describe it.
LITTLE_BYTES = 4 << 10


class Sink(Protocol):
    """A non-blocking socket, or what is written to as one is."""

    def send(self, data: Buffer, /) -> int:
        """`sendmsg` of one buffer."""

    def sendmsg(self, buffers: list[Any], /) -> int:
        """How many bytes were taken. The rest is sent again, first, with whatever follows it.

        :raises BlockingIOError: none, for now.
        """


class Outbox:
    """The unsent output of one connection.

    ``unsent`` is how many bytes it is. ``blocked``: the socket takes no more for now; whoever hears that it does again
    (EPOLLOUT) sets it to False.
    """

    __slots__ = ("_buffers", "blocked", "unsent")

    def __init__(self) -> None:
        #: A list, not a deque: an empty one takes a tenth of the memory, and there are as many as connections.
        self._buffers: list[Buffer] = []
        self.unsent = 0
        self.blocked = False

    def put(self, *buffers: Buffer) -> None:
        """Add *buffers*. They belong to this object from now on and must not be changed."""
        self._buffers.extend(buffers)
        self.unsent += len(buffers[0]) if len(buffers) == 1 else sum(map(len, buffers))

    def write(self, sock: Sink) -> None:
        """Write as far as the socket takes it.

        :raises OSError: the connection is broken.
        """
        buffers = self._buffers
        while buffers and not self.blocked:
            # Out of it first: what a ctrl-C interrupts was sent, most likely, and is not to be sent twice.
            if len(buffers) <= IOV_MAX:
                size = self.unsent
                parts: list[Buffer] = [b"".join(buffers)] if size < LITTLE_BYTES else buffers[:]
                buffers.clear()
                self.unsent = 0
            else:
                parts = buffers[:IOV_MAX]
                size = sum(map(len, parts))
                del buffers[:IOV_MAX]
                self.unsent -= size
            try:
                sent = sock.send(parts[0]) if len(parts) == 1 else sock.sendmsg(parts)
            except BlockingIOError:
                sent = 0
            if sent < size:
                self.unsent += size - sent
                self._keep(parts, sent)

    def _keep(self, parts: list[Buffer], sent: int) -> None:
        """Put what was not sent of *parts* back to the front."""
        self.blocked = True
        for index, part in enumerate(parts):
            if sent < len(part):
                parts[index] = memoryview(part)[sent:]
                self._buffers[:0] = parts[index:]
                return
            sent -= len(part)

    def clear(self) -> None:
        """Forget what is unsent."""
        self._buffers.clear()
        self.unsent = 0

    def __bool__(self) -> bool:
        return bool(self._buffers)

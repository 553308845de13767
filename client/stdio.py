"""Standard input and output as a hub's tasks use them: neither a silent writer nor a slow reader stops the hub.

The descriptors are shared with other programs, so they are never made non-blocking. Input is read in a thread, a chunk
at a time, because epoll takes no regular files. Output is written when poll(2) says that there is room, at most
`PIPE_ROOM` bytes at a time: so much a pipe that has room takes at once.
"""

from __future__ import annotations

import os
import select
from collections import deque
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, Callable

from vanilla.poll import GONE, OUT

if TYPE_CHECKING:
    from vanilla.core import Hub

#: What one read asks for, in bytes: as much as a pipe holds.
CHUNK_BYTES = 64 << 10
#: A pipe is writable when a page is free (pipe(7)).
PIPE_ROOM = 4096


def chunks(hub: Hub, fd: int, events: Any, check: Callable[[], object]) -> Iterator[bytes]:
    """What comes from *fd*, as it comes, until its end.

    :param events: a Recver; when something comes there while this waits, *check* is called, which may raise.
    :raises OSError: of read(2).
    """
    while True:
        reading = hub.thread.call(os.read, fd, CHUNK_BYTES)
        end: Any = None
        while end is not reading:
            end, chunk = hub.select([reading, events])
            check()
        if not chunk:
            return
        yield chunk


def lines(parts: Iterable[bytes], longest: int) -> Iterator[bytes]:
    """The lines of a stream that comes in *parts*, without their ends; the last may lack one.

    A line that gets longer than *longest* bytes ends it: what has come of that line is the last.

    >>> list(lines([b"on", b"e", b"\\ntwo\\nthr", b"ee"], 100))
    [b'one', b'two', b'three']
    >>> list(lines([b"one\\ntw", b"oo", b"ooo"], 3))
    [b'one', b'twoo']
    """
    rest: list[bytes] = []
    size = 0
    for part in parts:
        whole, newline, tail = part.rpartition(b"\n")
        if newline:
            yield from b"".join((*rest, whole)).split(b"\n")
            rest.clear()
            size = 0
        rest.append(tail)
        size += len(tail)
        if size > longest:
            break
    last = b"".join(rest)
    if last:
        yield last


class Output:
    """A descriptor to write to.

    :param gone: called in the hub's loop, without arguments, when nobody reads it any more. Pipes and sockets tell.
    """

    def __init__(self, hub: Hub, fd: int, gone: Callable[[], object]) -> None:
        self.hub = hub
        self.fd = fd
        self._tell = gone
        self._waiting: deque[Any] = deque()
        self._room = select.poll()
        self._room.register(fd, select.POLLOUT)
        try:
            hub.poll.register(fd, self._ready, 0, background=True)
        except PermissionError:
            pass  # a regular file: there is always room

    def write(self, data: bytes) -> None:
        """Write all of *data*; wait while there is no room.

        :raises BrokenPipeError: nobody reads it any more.
        :raises OSError: of write(2).
        """
        view = memoryview(data)
        while view:
            if not self._room.poll(0):
                self.hub.poll.modify(self.fd, OUT)
                self.hub.wait(self._waiting, "room in the output")
            view = view[os.write(self.fd, view[:PIPE_ROOM]) :]

    def _ready(self, events: int) -> None:
        if events & GONE:
            self.hub.poll.unregister(self.fd)  # it would be reported in each tick
            self.hub.guard(self._tell)
        else:
            self.hub.poll.modify(self.fd, 0)
        while self._waiting:
            self.hub.ready.append(self._waiting.popleft())

"""Byte streams over a non-blocking socket or descriptor: the ends that users have. How they work is in `line`."""

from __future__ import annotations

import os
from functools import partial
from typing import TYPE_CHECKING, Any

from .line import LIMIT, Input, Line, Output, TooLong, Transport
from .message import Pair, Recver, Sender

if TYPE_CHECKING:
    from .core import Hub

__all__ = ["Connection", "Descriptor", "Stream", "TooLong", "open_connection", "reader", "writer"]


class Descriptor:
    """A pipe or terminal as a stream wants it: with the methods of a socket.

    Whatever else is to carry a stream has these methods too, and raises BlockingIOError where it would have to wait.
    """

    __slots__ = ("_fd",)

    def __init__(self, fd: int) -> None:
        """
        :param fd: becomes this object's, and non-blocking (for everybody who shares it).
        """
        os.set_blocking(fd, False)
        self._fd = fd

    def fileno(self) -> int:
        return self._fd

    def recv(self, size: int) -> bytes:
        return os.read(self._fd, size)

    def send(self, data: Any) -> int:
        return os.write(self._fd, data)

    def sendmsg(self, views: list[Any]) -> int:
        # PyPy 3.9 has no writev: there the first goes alone.
        return os.writev(self._fd, views) if hasattr(os, "writev") else os.write(self._fd, views[0])

    def shutdown(self, how: int) -> None:
        """A pipe has one direction: to close it says the same."""

    def close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


class Stream(Recver):
    """The Recver of a byte stream: receives pieces as they come, or cuts them out by length or separator.

    Reads on demand: while nobody receives, what the peer sends waits in the kernel, and then at the peer. One task at a
    time may receive (`Busy`). At its end `Closed` is raised once all was received; bytes that are too few for `recv_n`
    or an unfinished line are left for `recv`. A connection that broke raises `ConnectionLost`, which does not end an
    iteration in silence.
    """

    __slots__ = ("limit", "sep")

    _state: Input

    def __init__(self, state: Input) -> None:
        super().__init__(state)
        #: What ends a line for `recv_line`.
        self.sep: bytes | str = b"\n"
        #: Bytes of a line at most, without its separator.
        self.limit = LIMIT

    def recv_n(self, n: int, timeout: float = -1) -> bytes:
        """Exactly *n* bytes.

        :param timeout: ms, -1 for ever, 0: only if they are there.
        :raises Timeout: there are fewer yet. They are kept for the next call, whichever that is.
        :raises Closed: the stream has ended with fewer.
        :raises ConnectionLost: the connection broke.
        """
        if n < 0:
            raise ValueError(f"cannot receive {n} bytes")
        return self._state.receive(partial(self._state.exactly, n), timeout) if n else b""

    def recv_partition(self, sep: bytes | str, timeout: float = -1) -> bytes:
        """What comes before the next *sep*, which is taken and left out.

        :param sep: bytes, or str in UTF-8; not empty.
        :param timeout: ms, -1 for ever, 0: only if it is there.
        :raises Timeout: no *sep* yet. What came is kept for the next call, whichever that is.
        :raises TooLong: no *sep* within ``limit`` bytes. Nothing is lost.
        :raises Closed: the stream has ended without.
        :raises ConnectionLost: the connection broke.
        """
        sep = sep.encode() if isinstance(sep, str) else bytes(sep)
        if not sep:
            raise ValueError("the separator is empty")
        return self._state.receive(partial(self._state.line_by, sep, self.limit), timeout)

    def recv_line(self, timeout: float = -1) -> bytes:
        """`recv_partition` by ``sep``, which is a newline unless set."""
        return self.recv_partition(self.sep, timeout)

    def _try(self) -> Any:
        self._state.line.breathe()  # a select is a wait, though this end may be ready each time
        return super()._try()


class Connection(Pair):
    """Both ends of a connection, with the addresses of both sides (None where that side has none).

    Closing it, or dropping it, sends what is pending, tells the peer and frees the descriptor; ``sender.close()`` alone
    ends one direction. The loop does the sending: before ``h.stop()``, wait for it with ``h.select([conn.sender])``,
    then close.
    """

    __slots__ = ("local", "peer")

    recver: Stream

    def __init__(self, sender: Sender, recver: Stream, peer: Any, local: Any) -> None:
        super().__init__(sender, recver)
        self.peer = peer
        self.local = local

    def recv_n(self, n: int, timeout: float = -1) -> bytes:
        """`Stream.recv_n`."""
        return self.recver.recv_n(n, timeout)

    def recv_partition(self, sep: bytes | str, timeout: float = -1) -> bytes:
        """`Stream.recv_partition`."""
        return self.recver.recv_partition(sep, timeout)

    def recv_line(self, timeout: float = -1) -> bytes:
        """`Stream.recv_line`."""
        return self.recver.recv_line(timeout)


def reader(hub: Hub, transport: Transport, name: str) -> Stream:
    """The Stream of a descriptor that is only read, and closed with it.

    :param transport: a non-blocking socket, a `Descriptor`, or what has its methods.
    :param name: for people.
    """
    return Stream(Input(Line(hub, transport, name)))


def writer(hub: Hub, transport: Transport, name: str) -> Sender:
    """The Sender of a descriptor that is only written, and closed with it.

    ``send(data, timeout)`` takes bytes, str (as UTF-8) or a list of those. It waits until the item before is written
    out, which is what *timeout* is for; then it takes this one and returns, and the loop writes what did not fit. So at
    most one item is buffered.
    """
    return Sender(Output(Line(hub, transport, name)))


def open_connection(hub: Hub, transport: Transport, name: str, peer: Any = None) -> Connection:
    """The two ends of a connected, non-blocking socket, which is closed when both are."""
    line = Line(hub, transport, name)
    return Connection(Sender(Output(line)), Stream(Input(line)), peer or None, transport.getsockname() or None)

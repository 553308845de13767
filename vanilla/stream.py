"""Byte streams over a non-blocking socket or descriptor: the ends that users have. How they work is in `line`."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from .cutter import TooLong
from .input import Input
from .line import Line, Transport
from .message import Pair, Sender, Stream
from .output import Output

if TYPE_CHECKING:
    from .core import Hub

__all__ = ["Connection", "Descriptor", "Stream", "TooLong", "open_connection", "reader", "writer"]

#: How a socket of IPv6 that serves both families writes an address of IPv4 (RFC 4291, 2.5.5.2).
MAPPED = "::ffff:"


class Descriptor:
    """A pipe or terminal as a stream wants it: with the methods of a socket.

    Whatever else is to carry a stream has these methods too, and raises BlockingIOError where it would have to wait.
    """

    __slots__ = ("__weakref__", "_fd", "_pid")

    def __init__(self, fd: int) -> None:
        """
        :param fd: becomes this object's, and non-blocking (for everybody who shares it).
        """
        os.set_blocking(fd, False)
        self._fd = fd
        self._pid = os.getpid()

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

    def __del__(self) -> None:
        """As a socket does: a ctrl-C may have hit who was about to close it. In a fork the number may be another's."""
        try:
            if self._pid == os.getpid():
                self.close()
        except (AttributeError, OSError):
            pass  # __init__ did not get as far, or somebody else has closed it


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
    return Connection(Sender(Output(line)), Stream(Input(line)), _shown(peer), _shown(transport.getsockname()))


def _shown(address: Any) -> Any:
    """On a socket for both families an IPv4 address is written as one of IPv6: as everybody else knows it."""
    if isinstance(address, tuple) and address[0].startswith(MAPPED):
        return address[0][len(MAPPED) :], address[1]
    return address or None

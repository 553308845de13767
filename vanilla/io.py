"""Byte streams of descriptors and sockets that are there already, and ``h.io``."""

from __future__ import annotations

import errno
import fcntl
import os
import socket as sockets
import ssl
import stat
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

from .message import Pair, Sender, Stream
from .stream import Connection, Descriptor, open_connection, reader, writer
from .tcp import url

if TYPE_CHECKING:
    from .core import Hub

#: What fcntl.h has as O_ACCMODE, and PyPy's os module has not.
_ACCESS = os.O_RDONLY | os.O_WRONLY | os.O_RDWR


class Service:
    """``h.io``.

    >>> import vanilla
    >>> with vanilla.Hub() as h:
    ...     sender, recver = h.io.pipe()
    ...     sender.send("12")
    ...     sender.send(b"3\\n")
    ...     recver.recv_line()
    b'123'
    """

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        #: Those that were given to `fd_in` and `fd_out`, by number.
        self._owned: WeakValueDictionary[int, Descriptor] = WeakValueDictionary()

    def _own(self, fd: int, wrong: int, use: str) -> Descriptor:
        self._hub._check()
        _check(fd, wrong, use)
        owned = self._owned.get(fd)
        if owned is not None and owned.fileno() == fd:  # else it was closed
            raise FileExistsError(
                errno.EEXIST, f"descriptor {fd} is a stream of this hub already; give it a copy, of os.dup"
            )
        self._owned[fd] = owned = Descriptor(fd)
        return owned

    def fd_in(self, fd: int) -> Stream:
        """The Stream of a descriptor, which becomes its own: it is closed with it.

        :param fd: of a pipe, terminal, device or socket, which becomes non-blocking for everybody who shares it; or of
            a regular file, which is read as it is, 64 KiB at a time.
        :raises OSError: it is not open, or not for reading, or it is a directory. It is left as it was.
        :raises FileExistsError: it is a stream of this hub already.
        """
        return reader(self._hub, self._own(fd, os.O_WRONLY, "reading"), f"descriptor {fd}")

    def fd_out(self, fd: int) -> Sender:
        """The Sender of a descriptor, which becomes its own: it is closed with it.

        :param fd: as for `fd_in`. One that is open for both directions (a terminal) is for one of the two: give the
            other a copy, of `os.dup`.
        :raises OSError: it is not open, or not for writing. It is left as it was.
        """
        return writer(self._hub, self._own(fd, os.O_RDONLY, "writing"), f"descriptor {fd}")

    def pipe(self) -> Pair:
        """The two ends of a kernel pipe: a Sender, and the Stream of what it sends.

        :raises OSError: there are no more descriptors.
        """
        self._hub._check()
        read, write = os.pipe()
        return Pair(writer(self._hub, Descriptor(write), "pipe"), reader(self._hub, Descriptor(read), "pipe"))

    def socket(self, sock: sockets.socket) -> Connection:
        """A `Connection` of a connected stream socket, which becomes its own: *sock* itself is as if closed.

        :raises OSError: it is not connected, or closed. It is left as it was.
        :raises ValueError: it is no stream socket.
        :raises TypeError: it is a socket of TLS; for those there is ``h.tls``.
        """
        if isinstance(sock, ssl.SSLSocket):
            raise TypeError("h.io.socket would pass TLS by; use h.tls")
        if sock.type != sockets.SOCK_STREAM:
            raise ValueError(f"h.io.socket takes stream sockets, not one of {sock.type!r}; of datagrams, see h.udp")
        self._hub._check()
        peer = sock.getpeername()
        own = sockets.socket(sock.family, sock.type, sock.proto, sock.detach())
        own.setblocking(False)
        return open_connection(self._hub, own, _name(own.family, peer), peer)


def _check(fd: int, wrong: int, use: str) -> None:
    """
    :param wrong: the access mode that is not for *use*.
    """
    mode = os.fstat(fd).st_mode
    if fcntl.fcntl(fd, fcntl.F_GETFL) & _ACCESS == wrong:
        raise OSError(errno.EBADF, f"descriptor {fd} is not open for {use}")
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, f"descriptor {fd} is a directory")


def _name(family: int, peer: Any) -> str:
    if family in (sockets.AF_INET, sockets.AF_INET6):
        return url(*peer[:2])
    return f"unix://{os.fsdecode(peer)}" if peer and family == sockets.AF_UNIX else "socket"

"""Unix sockets: paths that are safe to bind and to give up, and ``h.unix``."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import stat
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from .deadline import Deadline
from .exception import ConnectionLost, Timeout
from .listener import Server
from .stream import Connection, open_connection
from .tcp import reason

if TYPE_CHECKING:
    from .core import Hub

#: The longest path in bytes: ``sun_path`` of unix(7), less its final NUL.
LONGEST = 107
#: As asm-generic/socket.h has it: PyPy's socket module does not.
SO_PEERCRED = getattr(socket, "SO_PEERCRED", 17)
#: ``struct ucred`` of unix(7): process, user, group.
_UCRED = struct.Struct("iII")
#: ms between two attempts to connect while the listener's backlog is full: the kernel does not tell when that is over.
AGAIN = 5


def _check(path: str) -> None:
    size = len(os.fsencode(path))
    if size > LONGEST:
        raise OSError(
            errno.ENAMETOOLONG, f"unix://{path}: the path of a Unix socket has at most {LONGEST} bytes, not {size}"
        )
    if not path or "\0" in path:
        raise OSError(errno.EINVAL, f"{path!r} is no path of a Unix socket")


def dial(hub: Hub, path: str, timeout: float = -1) -> socket.socket:
    """Connect to the Unix socket *path*.

    :param timeout: ms, -1 for ever. There is something to wait for only while the listener's backlog is full.
    :return: a non-blocking socket.
    :raises ConnectionLost: nobody listens there, or we may not connect.
    :raises OSError: the path is too long.
    :raises Timeout: the time is over.
    """
    _check(path)
    deadline = Deadline(timeout)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        while True:
            code = sock.connect_ex(path)
            if code == 0:
                return sock
            if code not in (errno.EAGAIN, errno.EINTR):
                error = OSError(code, os.strerror(code))
                raise ConnectionLost(f"unix://{path}: {reason(error)}") from error
            if deadline.left() == 0:
                raise Timeout(f"{timeout:g} ms are over: connect to unix://{path}, whose backlog is full")
            hub.sleep(AGAIN)
    except BaseException:
        sock.close()
        raise


class Bound(socket.socket):
    """A listening Unix socket that remembers which file it made; see `unlink`."""

    __slots__ = ("identity", "path")

    #: Absolute, so that a change of the working directory does not matter.
    path: str
    #: Process id, device and inode.
    identity: tuple[int, int, int]


def bind(path: str, mode: int = 0o600, backlog: int = 1024) -> Bound:
    """A non-blocking listening socket at *path*. Give it to `unlink` when it is closed.

    The file that a dead process left there is replaced. Nothing else is: not a socket that somebody listens on, and no
    other file.

    :param mode: permissions of the file. Nobody can connect before they are set.
    :param backlog: connections that the kernel keeps until they are accepted.
    :raises OSError: with *path* in its text; EADDRINUSE if somebody listens there, or something else is there.
    """
    _check(path)
    sock = Bound(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        with _locked(os.path.dirname(path) or ".") as locked:
            _bind(sock, path, locked)
            found = os.lstat(path)
            sock.path, sock.identity = os.path.abspath(path), (os.getpid(), found.st_dev, found.st_ino)
            try:
                # Between bind and listen the kernel refuses connections: the file's first permissions let nobody in.
                os.chmod(path, mode)
                sock.listen(backlog)
            except OSError:
                os.unlink(path)
                raise
    except BaseException as error:
        sock.close()
        if isinstance(error, OSError):
            raise OSError(error.errno, f"cannot listen on unix://{path}: {reason(error)}") from error
        raise
    return sock


def _bind(sock: socket.socket, path: str, locked: bool) -> None:
    try:
        sock.bind(path)
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise OSError(errno.EADDRINUSE, "there is a file that is no socket") from None
        if not _is_stale(path):
            raise
        if not locked:
            raise OSError(
                errno.EADDRINUSE, "a stale socket is there, and its directory is locked by another process"
            ) from None
        os.unlink(path)
        sock.bind(path)


def _is_stale(path: str) -> bool:
    """Is nobody left who listens there? Only a refused connection says so: a full backlog, or a forbidden one, does
    not."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        return probe.connect_ex(path) == errno.ECONNREFUSED


@contextmanager
def _locked(directory: str) -> Iterator[bool]:
    """Keep other processes that use this module from binding or unlinking in *directory*; gives whether that worked.

    Of two who find a stale socket, the second would otherwise remove what the first has just made. The lock is on the
    directory itself (flock), so no lock file is left. It is held for less than a millisecond, so to try for a few will
    do.
    """
    try:
        fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        yield False
        return
    try:
        yield _try_lock(fd)
    finally:
        os.close(fd)


def _try_lock(fd: int) -> bool:
    for _ in range(20):
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            time.sleep(0.001)
        except OSError:  # a file system without locks
            break
    return False


def user_of(sock: socket.socket) -> int:
    """The user at the other end of a connected socket, as it was when it connected or listened; unix(7).

    One that has no number in our user namespace is 65534, as all of its kind.
    """
    return int(_UCRED.unpack(sock.getsockopt(socket.SOL_SOCKET, SO_PEERCRED, _UCRED.size))[1])


def unlink(sock: Bound) -> None:
    """Remove the file of a socket from `bind`, if it is still the one that it made, and in the process that made it.

    Call it before or after the socket is closed; twice does nothing.
    """
    with _locked(os.path.dirname(sock.path)):
        try:
            found = os.lstat(sock.path)
            if sock.identity == (os.getpid(), found.st_dev, found.st_ino):
                os.unlink(sock.path)
        except OSError:
            pass  # somebody else removed it, or it is not ours to remove any more


class Service:
    """``h.unix``."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub

    def listen(self, path: str, mode: int = 0o600) -> Server:
        """Listen for connections at *path*.

        :param mode: permissions of the socket's file, which goes away when the Server is closed.
        :return: a Recver of `Connection`, with the ``path`` that it listens on.
        :raises OSError: see `bind`.
        """
        self._hub._check()
        sock = bind(path, mode)
        server = Server(self._hub, sock, partial(_accepted, self._hub, path))
        server.path = path
        server.onclose(unlink, sock)
        return server

    def connect(self, path: str, timeout: float = -1) -> Connection:
        """Connect to *path*.

        :param timeout: ms, -1 for ever.
        :raises ConnectionLost: nobody listens there, or we may not connect.
        :raises Timeout: the time is over.
        """
        return open_connection(self._hub, dial(self._hub, path, timeout), f"unix://{path}", path)


def _accepted(hub: Hub, path: str, sock: socket.socket, peer: Any) -> Connection:
    return open_connection(hub, sock, f"unix://{path}", peer)

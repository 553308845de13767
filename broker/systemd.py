"""A service manager such as systemd: sockets that it passes, and what it is told.

Two protocols of the environment, both without a library: sockets are descriptors from 3 on (sd_listen_fds(3)), and
a state is a datagram to a Unix socket (sd_notify(3), sd_watchdog_enabled(3)). Whoever speaks them the same way is
served as well, `systemd-socket-activate` for one. All variables are taken out of the environment as they are read, so
that no child takes them for its own.
"""

from __future__ import annotations

import logging
import os
import socket
import stat
import time
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

from vanilla import tcp
from vanilla.protocol.urls import Address

if TYPE_CHECKING:
    from vanilla.core import Hub

log = logging.getLogger("vanilla.broker")

#: SD_LISTEN_FDS_START: the first descriptor that is passed.
FIRST = 3
#: The name (FileDescriptorName=) of a passed TCP socket on which TLS is spoken.
TLS = "tls"
#: How long the manager may take to take in what must not be lost, in seconds. Its queue is full when many services
#: start at once.
PATIENCE = 5.0


class Passed(NamedTuple):
    """A socket that was passed: listening, non-blocking, tuned as our own."""

    sock: socket.socket
    address: Address


def take_sockets(environ: MutableMapping[str, str] = os.environ) -> list[Passed]:
    """The sockets that this process was started with: none if no service manager has passed any to it.

    Their files, if they have any, are the manager's: nobody here removes them.

    :raises ValueError: what was passed is nothing that a broker can listen on, or the variables contradict each
        other.
    """
    pid = environ.pop("LISTEN_PID", "")
    count = environ.pop("LISTEN_FDS", "")
    names = environ.pop("LISTEN_FDNAMES", "")
    environ.pop("LISTEN_PIDFDID", None)
    if not count or pid != str(os.getpid()):  # meant for a parent that has not taken them out of our environment
        return []
    if not count.isdecimal():
        raise ValueError(f"LISTEN_FDS is {count!r}, not a number")
    labels = names.split(":") if names else ["unknown"] * int(count)
    if len(labels) != int(count):
        raise ValueError(f"LISTEN_FDNAMES has {len(labels)} names for {count} sockets")
    return [_take(fd, label) for fd, label in enumerate(labels, FIRST)]


def _take(fd: int, label: str) -> Passed:
    what = f"descriptor {fd} ({label}) from the service manager"
    try:
        mode = os.fstat(fd).st_mode
    except OSError as error:
        raise ValueError(f"{what}: {error.strerror}") from None
    if not stat.S_ISSOCK(mode):
        raise ValueError(f"{what} is no socket")
    os.set_inheritable(fd, False)
    sock = socket.socket(fileno=fd)
    try:
        address = _address(sock, label)
    except ValueError as error:
        sock.close()
        raise ValueError(f"{what} {error}") from None
    sock.setblocking(False)
    if address.scheme != "unix":
        tcp.tune(sock)
    return Passed(sock, address)


def _address(sock: socket.socket, label: str) -> Address:
    """Where a passed socket listens; ValueError, to be put behind its name, if a broker cannot use it."""
    if sock.family not in (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX) or sock.type != socket.SOCK_STREAM:
        raise ValueError(f"is of a wrong kind ({_kind(sock)}): ListenStream= gives TCP and Unix sockets")
    if not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        raise ValueError("does not listen: a broker serves all connections in one process, with Accept=no")
    name = sock.getsockname()
    if sock.family != socket.AF_UNIX:
        return Address("tls" if label == TLS else "tcp", name[0], name[1])
    if not isinstance(name, str) or not name:
        raise ValueError("has no path: ListenStream= of a Unix socket is an absolute path, no abstract name")
    return Address("unix", path=name)


def _kind(sock: socket.socket) -> str:
    return ", ".join(getattr(kind, "name", str(kind)) for kind in (sock.family, sock.type))


class Manager:
    """The service manager, as the program sees it. Without one, everything here does nothing.

    A state that cannot be told is logged and forgotten: the manager's trouble must not become the broker's.
    """

    def __init__(self, environ: MutableMapping[str, str] = os.environ) -> None:
        self._address = _notify_address(environ.pop("NOTIFY_SOCKET", ""))
        #: What holds while it is ready.
        self._status = ""
        #: How long the manager waits for a sign of life, in ms; 0 if it does not wait for any.
        self._watchdog_ms = 0.0
        usec, pid = environ.pop("WATCHDOG_USEC", ""), environ.pop("WATCHDOG_PID", "")
        if self._address and usec.isdecimal() and pid in ("", str(os.getpid())):
            self._watchdog_ms = int(usec) / 1000

    def ready(self, status: str) -> None:
        """All listeners listen."""
        self._status = status
        self._tell(PATIENCE, "READY=1", f"STATUS={status}")

    def stopping(self, ms: float, status: str) -> None:
        """The end has begun, and takes up to *ms*: so long, whatever ``TimeoutStopSec=`` of the unit says."""
        self._tell(0, "STOPPING=1", f"EXTEND_TIMEOUT_USEC={int(ms * 1000)}", f"STATUS={status}")

    @contextmanager
    def reloading(self, status: str) -> Iterator[None]:
        """Around the work of a reload, for units of ``Type=notify-reload``. However it ends, the broker goes on."""
        now = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        self._tell(PATIENCE, "RELOADING=1", f"MONOTONIC_USEC={now}", f"STATUS={status}")
        try:
            yield
        finally:
            self.ready(self._status)

    def watch(self, hub: Hub) -> None:
        """From now on give the manager the signs of life that it asked for, from the loop: they show that it turns.

        Two in each interval, as sd_watchdog_enabled(3) recommends.
        """
        if self._watchdog_ms:
            self._tell(0, "WATCHDOG=1")
            hub.after(self._watchdog_ms / 2, lambda: self.watch(hub))

    def _tell(self, timeout: float, *lines: str) -> None:
        if not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
                sock.settimeout(timeout)
                sock.connect(self._address)
                sock.send("\n".join(lines).encode())
        except OSError as error:
            log.warning("cannot tell the service manager %s: %s", lines[0], error)


def _notify_address(name: str) -> str:
    """What to connect to: a path, or an abstract name, which the variable writes with ``@`` for its NUL."""
    if name.startswith("@"):
        return "\0" + name[1:]
    if name and not name.startswith("/"):
        log.warning("NOTIFY_SOCKET is %r: only paths and abstract names are supported; nobody is told anything", name)
        return ""
    return name

"""TCP: look-ups, connections made without blocking the hub, and ``h.tcp``."""

from __future__ import annotations

import errno
import os
import socket
from functools import partial
from typing import TYPE_CHECKING, Any

from .deadline import Deadline
from .exception import ConnectionLost
from .listener import Server
from .poll import OUT
from .stream import Connection, open_connection

if TYPE_CHECKING:
    from .core import Hub

#: Probe a silent peer after KEEP_IDLE seconds, then every KEEP_INTERVAL seconds, it is gone after KEEP_PROBES: two
#: minutes.
KEEP_IDLE = 60
KEEP_INTERVAL = 15
KEEP_PROBES = 4

#: A family and an address of that family, as `socket.connect` takes it.
Target = tuple[int, Any]


def url(host: str, port: int, scheme: str = "tcp") -> str:
    """``tcp://host:port``, with an IPv6 address in brackets."""
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


def tune(sock: socket.socket) -> None:
    """No Nagle delay, and keep-alive probes. What a listening socket has, those that it accepts inherit (Linux)."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEP_IDLE)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, KEEP_INTERVAL)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, KEEP_PROBES)


def resolve(hub: Hub, host: str, port: int, timeout: float = -1, scheme: str = "tcp") -> list[Target]:
    """The addresses of *host*, in the system's order of preference, without repetition.

    A numeric address is answered at once; a name is looked up in a thread.

    :param timeout: ms, -1 for ever.
    :param scheme: of the URL that errors name.
    :raises ConnectionLost: there is no such host.
    :raises ValueError: there is no such port.
    :raises Timeout: the look-up takes longer. It goes on in its thread, and nobody hears of its end.
    """
    _check_port(port)
    if not isinstance(host, str):
        raise TypeError(f"a host is text, not {host!r}; it comes behind the port")
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
    except (socket.gaierror, UnicodeError):
        found = _look_up(hub, host, port, timeout, scheme)
    return list(dict.fromkeys((int(family), address) for family, _, _, _, address in found))


def _check_port(port: int) -> None:
    if not isinstance(port, int):
        raise TypeError(f"a port is a number between 0 and 65535, not {port!r}; it comes before the host")
    if not 0 <= port <= 65535:  # getaddrinfo takes it modulo 65536
        raise ValueError(f"a port is between 0 and 65535, not {port}")


def _look_up(hub: Hub, host: str, port: int, timeout: float, scheme: str) -> list[Any]:
    try:
        found: list[Any] = hub.thread.call(socket.getaddrinfo, host, port, 0, socket.SOCK_STREAM).recv(timeout)
        return found
    except (OSError, UnicodeError) as error:
        raise ConnectionLost(f"{url(host, port, scheme)}: cannot look up {host!r}: {reason(error)}") from error


def reason(error: BaseException) -> str:
    """What the system says, as part of a sentence."""
    return str(getattr(error, "strerror", None) or error).lower()


def dial(hub: Hub, host: str, port: int, timeout: float = -1, scheme: str = "tcp") -> socket.socket:
    """Connect to *host*, trying its addresses one after the other.

    :param timeout: ms for the look-up and all attempts together, -1 for ever.
    :param scheme: of the URL that errors name.
    :return: a non-blocking socket, tuned (`tune`).
    :raises ConnectionLost: no address accepts; the text has the reason that the last one gave.
    :raises Timeout: the time is over.
    """
    _check_port(port)
    deadline = Deadline(timeout)
    lost: OSError | None = None
    name = url(host, port, scheme)
    for family, address in resolve(hub, host, port, timeout, scheme):
        try:
            return _dial(hub, family, address, deadline, name)
        except OSError as error:
            lost = error
    raise ConnectionLost(f"{name}: {reason(lost) if lost else 'no address'}") from lost


def _dial(hub: Hub, family: int, address: Any, deadline: Deadline, name: str) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        tune(sock)
        while True:
            code = sock.connect_ex(address)
            if code in (0, errno.EISCONN):
                return _not_itself(sock)
            if code not in (errno.EINPROGRESS, errno.EALREADY, errno.EINTR):
                raise OSError(code, os.strerror(code))
            wait_ready(hub, sock.fileno(), OUT, deadline.left(), f"connect to {name}")
    except BaseException:
        sock.close()
        raise


def _not_itself(sock: socket.socket) -> socket.socket:
    """Who dials a dead port of this machine again and again is one day given that port as its own, and gets itself.

    That is TCP's simultaneous open (RFC 9293, 3.5).
    """
    if sock.getsockname() == sock.getpeername():
        raise OSError(errno.ECONNREFUSED, os.strerror(errno.ECONNREFUSED))
    return sock


class _Readiness:
    """What a task is parked on that waits for a descriptor."""

    __slots__ = ("fd", "hub", "task", "what")

    def __init__(self, hub: Hub, fd: int, events: int, what: str) -> None:
        self.hub = hub
        self.fd = fd
        self.what = what
        #: None when it no longer waits.
        self.task: Any = hub.me()
        hub.poll.register(fd, self.fire, events)

    def fire(self, events: int) -> None:
        task = self.task
        if self.forget(task):
            task.value = events
            self.hub.ready.append(task)

    def forget(self, waiter: Any) -> bool:
        task, self.task = self.task, None
        if task is None:
            return False
        self.hub.poll.unregister(self.fd)
        return True

    def describe(self, waiter: Any) -> str:
        return self.what


def wait_ready(hub: Hub, fd: int, events: int, timeout: float, what: str) -> int:
    """Park until *fd* is ready for *events*. For handshakes; streams have ways of their own.

    :param fd: not registered with the hub's poll.
    :param timeout: ms, -1 for ever.
    :param what: what is waited for, for people.
    :return: the events. Look again all the same: they may be stale.
    :raises Timeout: the time is over.
    """
    on = _Readiness(hub, fd, events, what)
    got: int = hub.park(on.task, on, timeout)
    return got


def bind(host: str, port: int, backlog: int = 1024) -> socket.socket:
    """A non-blocking listening socket.

    :param host: an IPv4 or IPv6 address; "" is every address of both. A name is looked up, which may block: `resolve`
        it before.
    :param port: 0 lets the system choose.
    :param backlog: connections that the kernel keeps until they are accepted.
    :raises OSError: with the address in its text.
    :raises ValueError: there is no such port.
    """
    _check_port(port)
    try:
        wanted = 0 if host else socket.AF_INET6 if socket.has_dualstack_ipv6() else socket.AF_INET
        family, kind, proto, _, address = socket.getaddrinfo(
            host or None, port, wanted, socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        sock = socket.socket(family, kind, proto)
    except OSError as error:
        raise _cannot_listen(error, host, port) from error
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if wanted == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        tune(sock)
        sock.bind(address)
        sock.listen(backlog)
    except BaseException as error:
        sock.close()
        if isinstance(error, OSError):
            raise _cannot_listen(error, host, port) from error
        raise
    return sock


def _cannot_listen(error: OSError, host: str, port: int) -> OSError:
    return OSError(error.errno, f"cannot listen on {url(host, port)}: {reason(error)}")


def _accepted(hub: Hub, sock: socket.socket, peer: Any) -> Connection:
    return open_connection(hub, sock, url(*peer[:2]), peer)


class Service:
    """``h.tcp``.

    >>> import vanilla
    >>> with vanilla.Hub() as h:
    ...     server = h.tcp.listen()
    ...
    ...     @server.consume
    ...     def echo(conn):
    ...         for data in conn.recver:
    ...             conn.send(b"Echo: " + data)
    ...
    ...     with h.tcp.connect(server.port) as conn:
    ...         conn.send("hello")
    ...         conn.recv()
    b'Echo: hello'
    """

    def __init__(self, hub: Hub) -> None:
        self._hub = hub

    def listen(self, port: int = 0, host: str = "127.0.0.1") -> Server:
        """Listen for connections.

        :param port: 0 lets the system choose.
        :return: a Recver of `Connection`, with the ``host`` and ``port`` that it listens on.
        :raises OSError: the address cannot be had.
        :raises ConnectionLost: there is no such host.
        """
        self._hub._check()
        if host:
            host = resolve(self._hub, host, port)[0][1][0]
        sock = bind(host, port)
        server = Server(self._hub, sock, partial(_accepted, self._hub))
        server.host, server.port = sock.getsockname()[:2]
        return server

    def connect(self, port: int, host: str = "127.0.0.1", timeout: float = -1) -> Connection:
        """Connect to *host* and *port*.

        :param timeout: ms, -1 for ever.
        :raises ConnectionLost: nobody accepts there.
        :raises Timeout: the time is over.
        """
        sock = dial(self._hub, host, port, timeout)
        return open_connection(self._hub, sock, url(host, port), (host, port))

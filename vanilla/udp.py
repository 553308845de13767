"""UDP: addresses of both families, and ``h.udp``. How its sockets work is in `datagram`."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any

from .datagram import Datagrams, Target, open_datagrams
from .exception import ConnectionLost
from .stream import MAPPED
from .tcp import reason, resolve, url

if TYPE_CHECKING:
    from .core import Hub

#: A family, a numeric host, and what an address has behind its port.
Place = tuple[int, str, tuple[Any, ...]]


class Addresses:
    """What addresses of users are to one socket. A name is looked up once."""

    __slots__ = ("_both", "_hub", "_names")

    def __init__(self, hub: Hub, family: int) -> None:
        self._hub = hub
        #: Does it serve IPv6, and with it IPv4, or IPv4 alone?
        self._both = family == socket.AF_INET6
        self._names: dict[str, Place] = {}

    def place(self, address: Any) -> Target:
        host, port, rest = _split(address)
        found = self._names.get(host) or _numeric(host, rest)
        return None if found is None else self._fit(found, port)

    def look_up(self, address: Any, timeout: float) -> Target:
        """
        :raises ConnectionLost: there is no such host.
        :raises Timeout: it takes longer.
        """
        host, port, _ = _split(address)
        found = preferred(resolve(self._hub, host, port, timeout, "udp"))
        for family, (numeric, _, *rest) in found:
            if self._both or family == socket.AF_INET:
                self._names[host] = family, numeric, tuple(rest)
                return self.place(address)
        raise ConnectionLost(f"{url(host, port, 'udp')}: it has no address of IPv4, and this socket has no other")

    def _fit(self, place: Place, port: int) -> Target:
        family, host, rest = place
        if family == socket.AF_INET:
            return (MAPPED + host, port, 0, 0) if self._both else (host, port)
        if not self._both:
            raise ValueError(f"{host!r} is an address of IPv6, and this socket serves IPv4")
        return (host, port, *rest)

    def show(self, address: Any) -> Any:
        """
        >>> Addresses(None, socket.AF_INET6).show(("::ffff:127.0.0.1", 53, 0, 0))
        ('127.0.0.1', 53)
        """
        host: str = address[0]
        return (host[len(MAPPED) :], address[1]) if self._both and host.startswith(MAPPED) else address


def _split(address: Any) -> tuple[str, int, tuple[Any, ...]]:
    try:
        host, port, *rest = address
    except (TypeError, ValueError):
        host = None
    if not isinstance(host, str) or not isinstance(port, int) or len(rest) > 2:
        raise TypeError(f"an address is (host, port), not {address!r}")
    if not 1 <= port <= 65535:
        raise ValueError(f"a port to send to is between 1 and 65535, not {port}")
    return host, port, tuple(rest)


def _numeric(host: str, rest: tuple[Any, ...]) -> Place | None:
    """None: it is a name."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        socket.inet_pton(family, host.partition("%")[0])
    except (OSError, ValueError):
        return None
    return family, host, rest


def preferred(found: list[tuple[int, Any]]) -> list[tuple[int, Any]]:
    """IPv4 first. Nobody says that a datagram went nowhere, so the other address is never tried; and servers listen on
    IPv4 unless told."""
    return sorted(found, key=lambda target: target[0] != socket.AF_INET)


class Service:
    """``h.udp``.

    >>> import vanilla
    >>> with vanilla.Hub() as h:
    ...     serve = h.udp.listen()
    ...     client = h.udp.create()
    ...     client.send(("foo", ("127.0.0.1", serve.port)))
    ...     data, address = serve.recv()
    ...     serve.send((b"Echo: " + data, address))
    ...     client.recv() == (b"Echo: foo", ("127.0.0.1", serve.port))
    True
    """

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        #: What all sessions over UDP of this hub read to, one after the other: as much as UDP_GRO joins.
        self.scratch = memoryview(bytearray(2 * 65536))

    def listen(self, port: int = 0, host: str = "127.0.0.1") -> Datagrams:
        """A socket that is bound to *host* and *port*: a Pair with these as attributes.

        Its Recver gives ``(data, address)``, its Sender takes that.

        :param port: 0 lets the system choose.
        :param host: an address, or a name; "" is every address of both families.
        :raises OSError: the address cannot be had.
        :raises ConnectionLost: there is no such host.
        """
        every = "::" if socket.has_dualstack_ipv6() else "0.0.0.0"
        self._hub._check()
        family, address = preferred(resolve(self._hub, host or every, port, scheme="udp"))[0]
        sock = bind(family, address, url(host, port, "udp"))
        return self._open(sock, Addresses(self._hub, family))

    def create(self, host: str | None = None, port: int | None = None) -> Datagrams:
        """A socket of its own port, for both families. With *host* and *port* it is connected.

        Its Sender takes ``(data, address)``, of a connected one *data*; its Recver gives ``(data, address)``.

        :param host: an address, or a name, for whose look-up this waits.
        :raises ConnectionLost: there is no such host, or no way there.
        """
        self._hub._check()
        if (host is None) != (port is None):
            raise TypeError("create takes both, host and port, or none")
        if host is None or port is None:
            sock = _socket_of_both()
            return open_datagrams(self._hub, sock, "udp://*", Addresses(self._hub, sock.family))
        return self._open(self._connect(host, port), None, url(host, port, "udp"))

    def _connect(self, host: str, port: int) -> socket.socket:
        host, port, _ = _split((host, port))
        lost: OSError | None = None
        for family, address in preferred(resolve(self._hub, host, port, scheme="udp")):
            sock = _socket(family)
            try:
                sock.connect(address)
            except OSError as error:
                sock.close()
                lost = error
            else:
                return sock
        raise ConnectionLost(f"{url(host, port, 'udp')}: {reason(lost) if lost else 'no address'}") from lost

    def _open(self, sock: socket.socket, addresses: Addresses | None, name: str = "") -> Datagrams:
        host, port = sock.getsockname()[:2]
        made = open_datagrams(self._hub, sock, name or url(host, port, "udp"), addresses)
        made.host, made.port = host, port
        return made


def bind(family: int, address: Any, name: str) -> socket.socket:
    """A non-blocking socket bound to *address*, which errors call *name*.

    :raises OSError: the address cannot be had.
    """
    sock = _socket(family)
    try:
        sock.bind(address)
    except OSError as error:
        sock.close()
        raise OSError(error.errno, f"cannot listen on {name}: {reason(error)}") from error
    return sock


def _socket(family: int) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_DGRAM)
    sock.setblocking(False)
    return sock


def _socket_of_both() -> socket.socket:
    try:
        sock = _socket(socket.AF_INET6)
    except OSError:  # a kernel without
        return _socket(socket.AF_INET)
    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    return sock

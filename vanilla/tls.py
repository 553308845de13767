"""TLS: connections made and accepted without blocking the hub, and ``h.tls``. How they work is in `tlssocket`."""

from __future__ import annotations

import socket
import ssl
from functools import partial
from typing import TYPE_CHECKING, Any

from . import tcp
from .certificates import client_context, server_context
from .deadline import Deadline
from .exception import ConnectionLost
from .listener import Server
from .poll import IN
from .stream import Connection, open_connection
from .tlssocket import Exchange, NotTLS, TLSSocket

if TYPE_CHECKING:
    from .core import Hub

#: ms that a client of `Service.listen` may take for its handshake.
ACCEPT_MS = 10_000


def dial(hub: Hub, host: str, port: int, context: ssl.SSLContext, timeout: float = -1) -> TLSSocket:
    """Connect to *host* and shake hands.

    :param context: of `client_context`, or your own.
    :param timeout: ms for all of it, -1 for ever.
    :raises ConnectionLost: as `tcp.dial`, or the handshake failed; the text says why.
    :raises Timeout: the time is over.
    """
    deadline = Deadline(timeout)
    name = tcp.url(host, port, "tls")
    sock = TLSSocket(hub, tcp.dial(hub, host, port, timeout, "tls"), context, host.partition("%")[0])
    _shake(hub, sock, deadline, name)
    return sock


def _shake(hub: Hub, sock: TLSSocket, deadline: Deadline, name: str) -> None:
    """Wait for the end of a handshake; the socket is closed if it fails."""
    try:
        while not sock.ready:
            try:
                sock.handshake()
            except BlockingIOError:
                tcp.wait_ready(hub, sock.fileno(), IN, deadline.left(), f"the TLS handshake with {name}")
    except OSError as error:
        sock.close()
        raise ConnectionLost(f"{name}: {_why(error)}") from error
    except BaseException:
        sock.close()
        raise


def _why(error: OSError) -> str:
    if isinstance(error, NotTLS):
        return "it does not speak TLS; is it a plain tcp:// on the other side?"
    if isinstance(error, ConnectionResetError):
        return "it closed the connection in the middle of the TLS handshake"
    return error.strerror or str(error)


class Service:
    """``h.tls``: as ``h.tcp``, encrypted.

    >>> import vanilla
    >>> with vanilla.Hub() as h:
    ...     server = h.tls.listen(cert="server.pem", client_ca="ca.pem")  # doctest: +SKIP
    ...     conn = h.tls.connect(server.port, ca="ca.pem", cert="me.pem")  # doctest: +SKIP
    """

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self.exchange = Exchange()

    def listen(
        self,
        port: int = 0,
        host: str = "127.0.0.1",
        cert: str = "",
        key: str = "",
        client_ca: str = "",
        context: ssl.SSLContext | None = None,
    ) -> Server:
        """Listen for connections. Those are received that have shaken hands; others are logged and forgotten.

        :param port: 0 lets the system choose.
        :param cert: see `server_context`, as for *key* and *client_ca*.
        :param context: in place of files.
        :return: a Recver of `Connection`, with the ``host`` and ``port`` that it listens on.
        :raises ValueError: a file is missing or is not right.
        :raises OSError: the address cannot be had.
        :raises ConnectionLost: there is no such host.
        """
        self._hub._check()
        if context is None and not cert:
            raise ValueError("h.tls.listen needs a certificate: cert=FILE, or context=")
        context = context or server_context(cert, key, client_ca)
        if host:
            host = tcp.resolve(self._hub, host, port)[0][1][0]
        sock = tcp.bind(host, port)
        server = Server(self._hub, sock, partial(_accepted, self._hub), partial(_meet, self._hub, context))
        server.host, server.port = sock.getsockname()[:2]
        return server

    def connect(
        self,
        port: int,
        host: str = "127.0.0.1",
        timeout: float = -1,
        ca: str = "",
        cert: str = "",
        key: str = "",
        verify: bool = True,
        context: ssl.SSLContext | None = None,
    ) -> Connection:
        """Connect to *host* and *port*, whose certificate has to name *host*.

        :param timeout: ms for all of it, -1 for ever.
        :param ca: see `client_context`, as for *cert*, *key* and *verify*.
        :param context: in place of files.
        :raises ValueError: a file is missing or is not right.
        :raises ConnectionLost: nobody accepts there, or the handshake failed.
        :raises Timeout: the time is over.
        """
        sock = dial(self._hub, host, port, context or client_context(ca, cert, key, verify), timeout)
        return open_connection(self._hub, sock, tcp.url(host, port, "tls"), (host, port))


def _meet(hub: Hub, context: ssl.SSLContext, sock: socket.socket) -> TLSSocket:
    tls = TLSSocket(hub, sock, context)
    _shake(hub, tls, Deadline(ACCEPT_MS), "a client")
    return tls


def _accepted(hub: Hub, sock: TLSSocket, peer: Any) -> Connection:
    return open_connection(hub, sock, tcp.url(peer[0], peer[1], "tls"), peer)

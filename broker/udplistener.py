"""Where sessions over UDP come in: one socket that answers strangers without keeping anything of them.

A session gets a socket of its own, bound to the same address and connected to its peer, so that the kernel tells the
sessions apart and each has a descriptor as a TCP connection has. (One socket for all was weighed: then each datagram
would be looked up and handed on here, and no session could be polled, paused or closed by what it has.) What the kernel
cannot tell apart comes here: first datagrams, and those of a peer whose address has changed, which are known by their
token.
"""

from __future__ import annotations

import logging
import random
import socket
from functools import partial
from typing import TYPE_CHECKING, Any, Callable

from vanilla import udp
from vanilla.poll import IN
from vanilla.protocol.cookies import Cookies
from vanilla.protocol.limits import Limits
from vanilla.protocol.packets import INIT, BadPacket, kind_of, parse_init, token_of
from vanilla.protocol.transport import Transport
from vanilla.task import monotonic
from vanilla.tcp import reason, resolve, url
from vanilla.udpsocket import UDPSocket, make_room, prepare

if TYPE_CHECKING:
    from vanilla import Hub

log = logging.getLogger("vanilla.broker")

#: Datagrams read at one wake-up, before other descriptors have their turn.
BATCH = 64
#: Of sessions, beside how much the kernel holds for them; see `Limits`.
LIMITS: dict[str, Any] = {}
#: No datagram of ours is longer, and one that is says nothing to us.
DATAGRAM_BYTES = 65535


class UDPListener:
    """Calls ``on_accept(UDPSocket, address)`` for each session; it has the methods of a `vanilla.listener.Listener`.

    :param sock: bound and non-blocking.
    """

    def __init__(self, hub: Hub, sock: socket.socket, on_accept: Callable[[UDPSocket, Any], object]) -> None:
        self.hub = hub
        self.sock = sock
        self.on_accept = on_accept
        self._random = random.SystemRandom()
        self._cookies = Cookies(monotonic(), self._random)
        self._scratch = bytearray(DATAGRAM_BYTES)
        #: By token; those that linger after their end are among them.
        self.sessions: dict[int, UDPSocket] = {}
        #: Datagrams that were malformed, or of no session.
        self.bad = 0
        hub.poll.register(sock.fileno(), self._readable, IN)
        hub.onstop(self.close)

    def close(self) -> None:
        """Take no more sessions. Twice does nothing."""
        fd = self.sock.fileno()
        if fd < 0:
            return
        self.hub.offstop(self.close)
        if not self.hub.forked:
            self.hub.poll.unregister(fd)
        self.sock.close()

    def retry(self) -> None:
        """A descriptor has become free. Whoever found none asks again by itself."""

    def _readable(self, events: int) -> None:
        scratch = self._scratch
        for _ in range(BATCH):
            try:
                size, address = self.sock.recvfrom_into(scratch)
            except (BlockingIOError, InterruptedError):
                return
            except OSError:  # an ICMP answer to a RETRY
                continue
            try:
                self._one(memoryview(scratch)[:size], address)
            except BadPacket:
                self.bad += 1
            if self.sock.fileno() < 0:
                return

    def _one(self, data: memoryview, address: Any) -> None:
        now = monotonic()
        if kind_of(data) != INIT:
            session = self.sessions.get(token_of(data))
            if session is None:
                self.bad += 1
            else:
                session.came(data, address)
            return
        init = parse_init(data)
        session = self.sessions.get(init.server)
        if session is not None:
            session.came(data, address)
            return
        token = self._cookies.check(address, init, now)
        if token:
            self._accept(token, init.client, address, now)
        else:
            self._answer(self._cookies.retry(address, init, now), address)

    def _answer(self, data: bytes, address: Any) -> None:
        try:
            self.sock.sendto(data, address)
        except OSError:
            pass  # the client asks again

    def _accept(self, token: int, peer: int, address: Any, now: float) -> None:
        try:
            sock = self._connected(address)
        except OSError as error:
            log.warning("cannot take a session on %s: %s", self.sock.getsockname(), reason(error))
            return
        limits = Limits(datagrams=prepare(sock), **LIMITS)
        transport = Transport(False, now, token, self._random, peer, address, limits)
        session = UDPSocket(self.hub, sock, transport, self._answer, partial(self.sessions.pop, token, None))
        self.sessions[token] = session
        self.on_accept(session, address)

    def _connected(self, address: Any) -> socket.socket:
        """A socket at our own address for datagrams of *address* alone.

        What comes for others between its bind and its connect is lost on it, and sent again.

        Addresses are shared for just this moment: while all sockets at one have SO_REUSEADDR, any program of this
        machine may have it as well, and would get what comes.
        """
        ours = self.sock
        sock = socket.socket(ours.family, socket.SOCK_DGRAM)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            ours.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                sock.bind(ours.getsockname())
                sock.connect(address)
            finally:
                ours.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
        except BaseException:
            sock.close()
            raise
        return sock


def bind(hub: Hub, host: str, port: int) -> socket.socket:
    """A non-blocking socket to listen at *host* and *port*.

    :raises OSError: with the address in its text.
    """
    family, address = resolve(hub, host, port, scheme="udp")[0]
    sock = udp.bind(family, address, url(host, port, "udp"))
    make_room(sock)
    return sock

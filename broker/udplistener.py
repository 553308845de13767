"""Where sessions over UDP come in: one socket that answers strangers without keeping anything of them.

A session gets a socket of its own, bound to the same address and connected to its peer, so that the kernel tells the
sessions apart and each has a descriptor as a TCP connection has. (One socket for all was weighed: then each datagram
would be looked up and handed on here, and no session could be polled, paused or closed by what it has.) What the kernel
cannot tell apart comes here: first datagrams, and those of a peer whose address has changed, which are known by their
token.
"""

from __future__ import annotations

import errno
import random
import socket
from functools import partial
from typing import TYPE_CHECKING, Any, Callable

from vanilla import udp
from vanilla.offload import make_room, prepare
from vanilla.poll import IN
from vanilla.protocol.cookies import Cookies
from vanilla.protocol.limits import Limits
from vanilla.protocol.packets import (
    INIT,
    NO_COOKIE,
    REFUSED,
    VERSION,
    BadPacket,
    Close,
    Init,
    kind_of,
    pack_close,
    parse_init,
    token_of,
)
from vanilla.protocol.transport import Transport
from vanilla.task import monotonic
from vanilla.tcp import reason, resolve, url
from vanilla.udpsocket import UDPSocket

from .drops import Drops

if TYPE_CHECKING:
    from vanilla import Hub

    from .door import Door

#: Datagrams read at one wake-up, before other descriptors have their turn.
BATCH = 64
#: Sessions that wait for a descriptor, of clients that have returned their cookie...
MOST_WAITING = 256
#: ...and how long one does, in seconds: its client asks again in this time, or has given up.
PATIENCE = 2.5
#: A session is asked whether it is there when so much of its idle time has passed in silence.
ASKED_AFTER = 1 / 4
#: No descriptor, or no memory, is free now; that may change.
LACKS = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM))
#: Why datagrams were dropped: they are none of the transport; no session has their token; an INIT has a cookie that is
#: not ours, or too old; or it is of another version.
REASONS = ("malformed", "unknown", "cookie", "version")
#: No datagram of ours is longer, and one that is says nothing to us.
DATAGRAM_BYTES = 65535


class UDPListener:
    """Calls ``on_accept(UDPSocket, address)`` for each session; it has the methods of a `vanilla.listener.Listener`.

    :param sock: bound and non-blocking.
    :param door: says who may come in.
    """

    def __init__(
        self, hub: Hub, sock: socket.socket, on_accept: Callable[[UDPSocket, Any], object], door: Door
    ) -> None:
        self.hub = hub
        self.sock = sock
        self.on_accept = on_accept
        self._door = door
        host, port = sock.getsockname()[:2]
        self._name = url(host, port, "udp")
        self._random = random.SystemRandom()
        self._cookies = Cookies(monotonic(), self._random)
        self._scratch = bytearray(DATAGRAM_BYTES)
        #: By token; those that linger after their end are among them.
        self.sessions: dict[int, UDPSocket] = {}
        #: Datagrams that were dropped, by reason; and first ones that were answered by a RETRY.
        self.bad = dict.fromkeys(REASONS, 0)
        self.retries = 0
        self.drops = Drops(hub, sock, self.sessions, self._warn)
        #: Without descriptors: by token, who would have a session, and until when it is of use.
        self._waiting: dict[int, tuple[int, Any, float]] = {}
        self._admitting = False
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
        self._waiting.clear()
        self.drops.close()
        self.sock.close()

    def describe(self) -> dict[str, Any]:
        """For a status."""
        return {"sessions": len(self.sessions), "retries": self.retries, "bad": self.bad, **self.drops.describe()}

    def _warn(self, text: str) -> None:
        self._door.refusals.say("udp drops", f"{self._name}: {text}", monotonic())

    def retry(self) -> None:
        """A descriptor has become free: let those in who found none. Cheap when there were none."""
        if self._admitting:
            return  # to let one in has put another out
        self._admitting = True
        try:
            while self._waiting and self.sock.fileno() >= 0:
                token = next(iter(self._waiting))
                peer, address, until = self._waiting[token]
                now = monotonic()
                if now < until and not self._accept(token, peer, address, now):
                    return
                self._waiting.pop(token, None)
        finally:
            self._admitting = False

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
                self.bad["malformed"] += 1
            if self.sock.fileno() < 0:
                return

    def _one(self, data: memoryview, address: Any) -> None:
        now = monotonic()
        if kind_of(data) != INIT:
            session = self.sessions.get(token_of(data))
            if session is None:
                self.bad["unknown"] += 1
            else:
                session.came(data, address)
            return
        init = parse_init(data)
        token = self._token(init, address, now)
        # An INIT may come twice, and not name the session that the first one has made.
        session = self.sessions.get(init.server) or self.sessions.get(token)
        if session is not None:
            session.came(data, address)
        elif token:
            self._admit(token, init.client, address, now)
        else:
            self.retries += 1
            self._answer(self._cookies.retry(address, init, now), address)

    def _token(self, init: Init, address: Any, now: float) -> int:
        """Of the session that *init* is let have, 0 for none."""
        if init.version != VERSION:  # the RETRY tells of ours
            self.bad["version"] += 1
            return 0
        token = self._cookies.check(address, init, now)
        if not token and init.cookie != NO_COOKIE:
            self.bad["cookie"] += 1
        return token

    def _admit(self, token: int, peer: int, address: Any, now: float) -> None:
        """Let who has returned its cookie have a session, or tell it why not, with less than it has sent."""
        count = max(len(self._door.broker.sessions), len(self.sessions) - self._door.options.handshakes)
        text = self._door.refusal(address, count)
        if text:
            self._answer(pack_close(Close(REFUSED, peer, f"refused: {text}")), address)
        elif not self._accept(token, peer, address, now) and len(self._waiting) < MOST_WAITING:
            self._waiting[token] = peer, address, now + PATIENCE

    def _answer(self, data: bytes, address: Any) -> None:
        try:
            self.sock.sendto(data, address)
        except OSError:
            pass  # the client asks again

    def _accept(self, token: int, peer: int, address: Any, now: float) -> bool:
        """Make a session, if that can be. False: for want of a descriptor, say, it cannot be now."""
        try:
            sock = self._connected(address)
        except OSError as error:
            text = f"cannot take sessions on {self._name}: {reason(error)}"
            self._door.refusals.say(f"udp {error.errno}", text, now)
            return error.errno not in LACKS
        idle = self._door.options.udp_idle_ms / 1000
        limits = Limits(**prepare(sock, self._door.options.udp_datagram)._asdict(), idle=idle, ping=idle * ASKED_AFTER)
        transport = Transport(False, now, token, self._random, peer, address, limits)
        session = UDPSocket(self.hub, sock, transport, self._answer, partial(self._ended, token))
        self.sessions[token] = session
        self.on_accept(session, address)
        return True

    def _ended(self, token: int) -> None:
        """A session's descriptor is free."""
        self.drops.leave(self.sessions.pop(token))
        self.retry()

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

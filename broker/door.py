"""The door: how many connections there may be, in all, of one address, and without a hello; and who was refused.

A stranger, who has not said hello, is known by nothing but its address. So there is a limit of their own for strangers,
and where it is reached the one that has been silent for longest goes, not the one that comes: a good client says hello
within a round trip and is never the oldest, however many others come and say nothing (as a SYN cache does it, RFC 4987
section 3.4). What a stranger takes is told in few bytes of log as well: each reason is logged once a minute.
"""

from __future__ import annotations

import logging
import socket
from typing import TYPE_CHECKING, Any

from vanilla import unix
from vanilla.protocol.errors import ProtocolError
from vanilla.protocol.packets import REFUSED
from vanilla.udpsocket import UDPSocket

from .session import describe_peer

if TYPE_CHECKING:
    from vanilla.tlssocket import TLSSocket

    from .broker import Broker
    from .session import Session

log = logging.getLogger("vanilla.broker")

#: How often the same reason is logged, in seconds.
PAUSE = 60.0
_MAPPED = bytes(10) + b"\xff\xff"


class Door:
    """Who comes in.

    Invariants:
    1. ``strangers`` are the sessions that are there and whose hello has not come, oldest first; those that were refused
       and read their last words are among them. They are at most ``handshakes``.
    2. ``_origins`` counts the sessions by ``origin``, and has no entry of 0.
    """

    def __init__(self, broker: Broker) -> None:
        self.broker = broker
        self.options = broker.options
        self.strangers: dict[Session, None] = {}
        self.refusals = Refusals()
        self._origins: dict[str, int] = {}
        #: To tell a Unix peer's user takes a system call, which is left out where nothing hangs on it.
        self._counts = self.options.connections_per_address < self.options.connections

    def enter(self, session: Session, address: Any) -> None:
        """*session* was accepted from *address*: let it say hello, or refuse it."""
        if self._counts:
            session.origin = origin(session.sock, address)
            self._origins[session.origin] = self._origins.get(session.origin, 0) + 1
        self.strangers[session] = None
        limit, text = self._over(len(self.broker.sessions), session.origin, self._origins.get(session.origin, 0))
        if limit:
            session.fail(ProtocolError("TOO_MANY", text), limit)
        else:
            session.begin()
        if len(self.strangers) > self.options.handshakes:
            self._put_out(next(iter(self.strangers)))

    def refusal(self, address: Any, count: int) -> str:
        """Why nobody may come in from *address* who is not in yet, for what would be kept of that alone; "" if somebody
        may. It is counted, and logged.

        :param count: connections, in all.
        """
        whose = origin(None, address) if self._counts else ""
        limit, text = self._over(count + 1, whose, self._origins.get(whose, 0) + 1)
        if limit:
            self.refusals.count(limit)
            self.refusals.say(limit, f"session {describe_peer(address)}: refused: {text}", self.broker.now())
        return text

    def _over(self, count: int, whose: str, from_there: int) -> tuple[str, str]:
        """The limit that so many connections are over, in all and of one origin, and what is said of it."""
        most, from_one = self.options.connections, self.options.connections_per_address
        if count > most:
            return "connections", f"there are {most} connections already"
        if self._counts and from_there > from_one:
            return "connections_per_address", f"there are {from_one} connections from {whose} already"
        return "", ""

    def _put_out(self, stranger: Session) -> None:
        """What it has said was read, so mostly its last words arrive though it is closed at once. A session over UDP
        would wait for them to be acknowledged, with a descriptor."""
        if not stranger.closing:
            text = f"{self.options.handshakes} connections came after this one and have not said hello either"
            stranger.fail(ProtocolError("TOO_MANY", text), "handshakes")
        if isinstance(stranger.sock, UDPSocket):
            stranger.sock.transport.close(REFUSED)
        stranger.drop("")

    def greeted(self, session: Session) -> None:
        """*session* has said hello."""
        self.strangers.pop(session, None)

    def leave(self, session: Session) -> None:
        """*session* is closed."""
        self.strangers.pop(session, None)
        if session.origin:
            left = self._origins.pop(session.origin) - 1
            if left:
                self._origins[session.origin] = left


class Refusals:
    """How often each limit refused somebody, and when that was last logged.

    ``counts`` is by the limit's name, which is that of its option.
    """

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}
        #: By reason: when it was last logged, and how often it was not since then.
        self._said: dict[str, tuple[float, int]] = {}

    def count(self, limit: str) -> None:
        """*limit* has refused somebody."""
        self.counts[limit] = self.counts.get(limit, 0) + 1

    def say(self, reason: str, text: str, now: float) -> None:
        """Log *text*, unless something was logged for the same *reason* in the last minute.

        :param reason: one of a few: an error's code, or a limit.
        :param now: the clock, in seconds.
        """
        since, passed_over = self._said.get(reason, (now - PAUSE, 0))
        if now - since < PAUSE:
            self._said[reason] = since, passed_over + 1
            log.debug(text)
            return
        self._said[reason] = now, 0
        log.warning("%s%s", text, f" (and {passed_over} more like it before)" if passed_over else "")


def origin(sock: socket.socket | TLSSocket | UDPSocket | None, address: Any) -> str:
    """Whose connection it is: an IPv4 address; the first half of an IPv6 address, for one subscriber has all of the
    other half (RFC 6177); or the user at the other end of a Unix socket."""
    if not isinstance(address, tuple):
        assert isinstance(sock, socket.socket)
        return f"uid {unix.user_of(sock)}"
    host = str(address[0]).partition("%")[0]
    if ":" not in host:
        return host
    packed = socket.inet_pton(socket.AF_INET6, host)
    if packed.startswith(_MAPPED):
        return socket.inet_ntop(socket.AF_INET, packed[12:])
    return f"{socket.inet_ntop(socket.AF_INET6, packed[:8] + bytes(8))}/64"

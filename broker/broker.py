"""The broker: listeners, sessions and endpoints of one hub, and the work at each tick's edge.

Input marks endpoints as touched and sessions as having output; `_edge` then does all of it once: line up consumers that
waited for settlements, match and grant for each endpoint that was touched, one confirm for each producer that sent, one
write for each session. A delivery waits for nothing but the matching: a connection that is owed neither credit nor a
confirm is written to before these are worked out.
"""

from __future__ import annotations

import logging
import os
import time
from typing import TYPE_CHECKING, Any, Callable

from vanilla import __version__, tcp, unix
from vanilla.certificates import ServerFiles
from vanilla.listener import Listener, OnAccept
from vanilla.protocol.connection import VERSION
from vanilla.protocol.errors import Refused
from vanilla.protocol.frames import GO_AWAY, HELLO, SCRATCH_BYTES, pack_control
from vanilla.protocol.scan import DEPTH
from vanilla.protocol.urls import Address, parse
from vanilla.tlssocket import TLSSocket
from vanilla.udpsocket import UDPSocket

from . import udplistener
from .access import Access, identity_of_user
from .admin import Totals, log_rest, status_page
from .dedupe import Windows
from .door import Door
from .endpoint import DEAD, Endpoint
from .exposure import check_exposure
from .memory import Memory
from .options import Options
from .producers import Producers
from .session import Session, describe_peer
from .terms import Terms

if TYPE_CHECKING:
    import socket

    from vanilla.core import Hub

    from .pusher import Pusher

log = logging.getLogger("vanilla.broker")

#: How long peers may take to close when the broker ends, in ms.
LEAVE_MS = 500


class Broker:
    """Named endpoints for whoever connects.

    :param hub: runs it. Everything happens in the hub's loop; the broker has no tasks.
    :param options: see `Options`.
    :raises OSError: a file that they name cannot be read.
    :raises ValueError: a file that they name is wrong.
    """

    now = staticmethod(time.monotonic)

    def __init__(self, hub: Hub, options: Options | None = None) -> None:
        self.hub = hub
        self.options = options or Options()
        #: Of an endpoint of which nobody has asked for anything.
        self.terms = Terms.of(self.options)
        self.access = Access(self.options.token_file, self.options.permissions)
        #: What `reload` reads anew: its name, and what reads it, which returns what it has found. If that raises,
        #: all must be as it was.
        self.reloads: list[tuple[str, Callable[[], str]]] = self.access.reloads()
        self.id = os.urandom(16)
        self.agent = f"vanilla-broker/{__version__}"
        #: The files of tls:// listeners, and what was read from them.
        self.tls = self._read_certificates()
        #: The HELLO frame, the same for everybody.
        self.hello = self._pack_hello()
        self.started = self.now()
        self.endpoints: dict[str, Endpoint] = {}
        #: Those that are kept (`Endpoint.kept`) and have nobody and nothing, by when they were last used.
        self.unused: dict[Endpoint, None] = {}
        self._names: list[str] | None = None
        self.sessions: set[Session] = set()
        self.listeners: list[tuple[Listener | udplistener.UDPListener, Address]] = []
        self.totals = Totals()
        self.door = Door(self)
        self.memory = Memory(self, self.options.memory)
        self.producers = Producers(self)
        self.windows = Windows(self)
        self.scratch = bytearray(SCRATCH_BYTES)
        #: Set by `drain`: no new producers, no new credit.
        self.draining = False
        self._deadline = 0.0
        self._drained = hub.state()
        self._left = hub.state()
        self._touched: dict[Endpoint, None] = {}
        self.emitters: list[Pusher] = []
        self.writers: list[Session] = []
        #: Sessions of which consumers wait for settlements, some of which have come.
        self.relieved: dict[Session, None] = {}
        self._closed = False
        self._unhook = hub.at_every_edge(self._edge)
        hub.onstop(self.close)

    def _pack_hello(self) -> bytes:
        fields = {"v": VERSION, "id": self.id, "agent": self.agent, "frame": self.options.frame_bytes}
        if self.options.depth != DEPTH:
            fields["depth"] = self.options.depth
        return pack_control(HELLO, 0, 0, fields)

    def _read_certificates(self) -> ServerFiles | None:
        options = self.options
        if not options.tls_cert:
            return None
        files = ServerFiles(options.tls_cert, options.tls_key, options.tls_client_ca, not options.token_file)
        self.reloads.append(("certificates", files.reload))
        return files

    # -- listening

    def listen(self, url: str) -> str:
        """Take connections at *url*; port 0 asks the system for one.

        :return: the URL with the port that it got.
        :raises ValueError: *url* is none, or `check_exposure` says no, or it is tls:// and ``tls_cert`` is not set.
        :raises OSError: the address cannot be had.
        """
        address = parse(url)
        self._check(address)
        if address.scheme == "udp":
            sock = udplistener.bind(self.hub, address.host, address.port)
            address = address._replace(port=sock.getsockname()[1])
            self.listeners.append((udplistener.UDPListener(self.hub, sock, self._accepted, self.door), address))
            return str(address)
        return self.adopt(*_bind(address))

    def _check(self, address: Address) -> None:
        check_exposure(address, self.options.authenticates, self.options.insecure)
        if address.scheme == "tls" and self.tls is None:
            raise ValueError(f"{address}: tls:// needs a certificate: --tls-cert FILE (tls_cert=FILE)")

    def adopt(self, sock: socket.socket, address: Address) -> str:
        """Take connections at *sock*, which is bound, listening and non-blocking; the broker closes it.

        :param address: what *sock* is bound to.
        :return: the URL of it.
        :raises ValueError: as `listen` does.
        """
        self._check(address)
        accepted: OnAccept = self._accepted_tls if address.scheme == "tls" else self._accepted
        self.listeners.append((Listener(self.hub, sock, accepted), address))
        return str(address)

    @property
    def urls(self) -> list[str]:
        """Where it listens."""
        return [str(address) for _, address in self.listeners]

    def _accepted_tls(self, sock: socket.socket, address: Any) -> None:
        assert self.tls is not None
        self._accepted(TLSSocket(self.hub, sock, self.tls.context), address)

    def _accepted(self, sock: socket.socket | TLSSocket | UDPSocket, address: Any) -> None:
        session = Session(self, sock, describe_peer(address))
        if not isinstance(address, tuple) and not isinstance(sock, (TLSSocket, UDPSocket)):
            session.identity = identity_of_user(unix.user_of(sock))
        self.sessions.add(session)
        self.door.enter(session, address)

    def gone(self, session: Session) -> None:
        """*session* has closed: its descriptor is free for one who waits to be accepted."""
        self.sessions.discard(session)
        self.door.leave(session)
        if not self.sessions:
            self._left.send(True)
        for listener, _ in self.listeners:
            listener.retry()

    # -- endpoints

    def endpoint(self, name: str, kind: type[Endpoint] = Endpoint) -> Endpoint:
        """The endpoint *name*, made if it is not there.

        :raises Refused: TOO_MANY, or MISMATCH: it is there, and is no *kind*.
        """
        endpoint = self.endpoints.get(name)
        if endpoint is None:
            if len(self.endpoints) >= self.options.endpoints and not self._make_place():
                self.door.refusals.count("endpoints")
                raise Refused("TOO_MANY", f"there are {self.options.endpoints} endpoints already")
            endpoint = self.endpoints[name] = kind(self, name)
            self._names = None
        elif type(endpoint) is not kind:
            raise Refused("MISMATCH", f"{name!r} is {endpoint.kind}, not {kind.kind}")
        return endpoint

    def _make_place(self) -> bool:
        """The limit is reached: of the endpoints that only their options, or ids, keep, the one longest unused goes."""
        while self.unused:
            endpoint = next(iter(self.unused))
            if endpoint.idle:
                log.warning("endpoint %r: gone with its options, for want of a place for another", endpoint.name)
                self._forget(endpoint)
                return True
            del self.unused[endpoint]  # somebody has opened it since; it comes again when nobody needs it
        return False

    @property
    def names(self) -> list[str]:
        """The names of all endpoints, in order."""
        if self._names is None:
            self._names = sorted(self.endpoints)
        return self._names

    def grave(self, endpoint: Endpoint) -> Endpoint | None:
        """Where the dead letters of *endpoint* go; None if there is no such place. Dead letters have none of their
        own, unless that endpoint names one."""
        name = endpoint.terms.dead
        if not name:
            name = endpoint.name + DEAD
            if endpoint.grave or endpoint.name.endswith(DEAD) or len(name.encode()) > 255:
                return None
        try:
            found = self.endpoint(name)
        except Refused:
            return None
        found.grave = True
        return found

    def touch(self, endpoint: Endpoint) -> None:
        """Something happened at *endpoint*: look after it at the tick's edge."""
        self._touched[endpoint] = None

    def _edge(self) -> None:
        """The edge of each tick: do what has gathered."""
        guard = self.hub.guard  # a fault at one endpoint or session is logged, and is no other's
        if self.relieved:
            relieved, self.relieved = self.relieved, {}
            for session in relieved:
                guard(session.relieve)
        touched: dict[Endpoint, None] = {}
        if self._touched or self.emitters:
            touched, self._touched = self._touched, touched
            self._serve(touched)
        elif self.memory.used > self.memory.ease:
            self.memory.weigh()
        if self.writers:
            writers, self.writers = self.writers, []
            for session in writers:
                guard(session.flush)
        if touched:
            self._look_after(touched)
        if self.draining:
            self._look_whether_drained()
        if self._touched or self.emitters or self.writers or self.relieved:  # the work itself has made more
            self.hub.at_edge(_nothing)

    def _serve(self, touched: dict[Endpoint, None]) -> None:
        """Hand out what is ready at the endpoints *touched*, and give credit and confirms."""
        guard = self.hub.guard
        for endpoint in touched:
            guard(endpoint.match)
        self._write_early()
        self.memory.tend(touched)
        for endpoint in touched:
            if endpoint.asking:
                guard(endpoint.grant)
        if self.emitters:
            emitters, self.emitters = self.emitters, []
            for emitter in emitters:
                guard(emitter.emit)

    def _look_after(self, touched: dict[Endpoint, None]) -> None:
        """Rates, and endpoints that nobody needs any more."""
        now = self.now()
        for endpoint in touched:
            if now - endpoint.mark[0] >= 1:
                endpoint.work_out_rates(now)
            if self.unused:
                self.unused.pop(endpoint, None)
            if endpoint.idle and self.endpoints.get(endpoint.name) is endpoint:
                if endpoint.kept:
                    self.unused[endpoint] = None
                else:
                    self._forget(endpoint)

    def _forget(self, endpoint: Endpoint) -> None:
        """*endpoint* goes; its counters stay."""
        self.unused.pop(endpoint, None)
        self.totals.add(endpoint)
        self.memory.forget(endpoint)
        endpoint.forget()
        del self.endpoints[endpoint.name]
        self._names = None

    def _write_early(self) -> None:
        """Write to the sessions that have output and are owed nothing more in this tick."""
        writers, self.writers = self.writers, []
        for session in writers:
            if session.owed:
                self.writers.append(session)
            else:
                self.hub.guard(session.flush)

    # -- status

    def status(self, request: int, after: str) -> bytes:
        """A STATUS frame: what holds for all, and the endpoints whose names come behind *after*."""
        return status_page(self, request, after)

    # -- files

    def reload(self) -> bool:
        """Read tokens, permissions and whatever else is in ``reloads`` anew: new connections, and new channels, are
        judged by them. What cannot be read stays as it was. Each is one line of the log.

        :return: could all be read?
        """
        if not self.reloads:
            log.info("reload: there is nothing to read anew")
        failed = 0
        for what, read in self.reloads:
            try:
                log.info("reload: %s: %s", what, read())
            except Exception as error:
                failed += 1
                log.error("reload: %s stay as they were: %s", what, error)
        return not failed

    # -- the end

    def farewell(self) -> bytes:
        """The GO_AWAY frame."""
        left = max(int((self._deadline - self.now()) * 1000), 0)
        return pack_control(GO_AWAY, 0, 0, {"drain": left})

    def drain(self, ms: int | None = None) -> bool:
        """Stop in good order: accept nobody, grant nothing, let the consumers take and settle what is there.

        What producers still send within the credit that they have is taken and confirmed.

        :param ms: how long at most; ``drain_ms`` of the options if None.
        :return: is everything settled? What is left is logged, an endpoint a line.
        """
        ms = self.options.drain_ms if ms is None else ms
        self.draining = True
        self._deadline = self.now() + ms / 1000
        self._stop_listening()
        for session in self.sessions:
            if session.connection.state == "ready":
                session.put(self.farewell())
        timer = self.hub.after(ms, lambda: self._drained.send(False))
        self._drained.recv()
        timer.cancel()
        done = log_rest(self)
        self._take_leave()
        return done

    def _take_leave(self) -> None:
        """Send the last confirms, and let each peer close first: to close on unread input would take them back."""
        self._left.clear()
        for session in list(self.sessions):
            session.finish()
        timer = self.hub.after(LEAVE_MS, lambda: self._left.send(False))
        if self.sessions:
            self._left.recv()
        timer.cancel()

    def _look_whether_drained(self) -> None:
        if all(endpoint.settled for endpoint in self.endpoints.values()):
            self._drained.send(True)

    def hurry(self) -> None:
        """End `drain` now."""
        self._drained.send(False)
        self._left.send(False)

    def _stop_listening(self) -> None:
        listeners, self.listeners = self.listeners, []
        for listener, _ in listeners:
            listener.close()
            if isinstance(listener.sock, unix.Bound):
                unix.unlink(listener.sock)

    def close(self) -> None:
        """End at once: what is unsettled is lost with the broker. Twice does nothing."""
        if self._closed:
            return
        self._closed = True
        self._stop_listening()
        for session in list(self.sessions):
            session.finish()
        for session in list(self.sessions):
            session.drop("")
        self._unhook()

    def __enter__(self) -> Broker:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class Service:
    """``h.broker``: a broker inside this hub, for tests and embedding."""

    def __init__(self, hub: Hub) -> None:
        self.hub = hub

    def listen(self, *urls: str, **options: Any) -> Broker:
        """Start a broker that listens at *urls*.

        :param options: fields of `Options`.
        :raises ValueError: a URL or option is wrong, or a file that an option names.
        :raises OSError: an address cannot be had, or a file not be read.
        """
        self.hub._check()
        broker = Broker(self.hub, Options(**options))
        try:
            for url in urls:
                broker.listen(url)
        except BaseException:
            broker.close()
            raise
        return broker


def _nothing() -> None:
    """Keeps the loop from sleeping at this edge."""


def _bind(address: Address) -> tuple[socket.socket, Address]:
    if address.scheme == "unix":
        return unix.bind(address.path), address
    sock = tcp.bind(address.host, address.port)
    return sock, address._replace(port=sock.getsockname()[1])

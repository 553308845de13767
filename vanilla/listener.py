"""A listening socket of a hub: calls back for each connection, and survives running out of descriptors.

`Listener` is what a server with thousands of connections uses: a callback for each, nothing else. `Server` is the
Recver that `h.tcp.listen` and `h.unix.listen` give to users, a bounded queue on top of it.
"""

from __future__ import annotations

import errno
import logging
import socket
from typing import TYPE_CHECKING, Any, Callable

from .channel import Channel
from .exception import ConnectionLost, Halt, Timeout
from .message import Recver
from .poll import IN

if TYPE_CHECKING:
    from .core import Hub, Task
    from .timers import Timer

log = logging.getLogger("vanilla")

#: Connections accepted at one wake-up, before other descriptors have their turn. More save nothing, and a broker works
#: half a millisecond for these.
BATCH = 16
#: Pause after running out of something, in ms.
PAUSE = 100
#: Connections that a `Server` accepts before anybody receives them. The next wait in the kernel's backlog.
AHEAD = 64

#: One connection came to nothing before it was accepted; the next may be fine (see accept(2), "Error handling").
SKIP = frozenset(
    (
        errno.ECONNABORTED,
        errno.ECONNRESET,
        errno.EPROTO,
        errno.EPERM,
        errno.ENETDOWN,
        errno.ENETUNREACH,
        errno.EHOSTDOWN,
        errno.EHOSTUNREACH,
        errno.ENONET,
        errno.ENOPROTOOPT,
        errno.EOPNOTSUPP,
        errno.ETIMEDOUT,
    )
)

OnAccept = Callable[[socket.socket, Any], object]


class Listener:
    """Calls ``on_accept(conn_socket, peer_address)`` in the loop for each connection; the socket is non-blocking.

    What *on_accept* raises is logged and closes that socket. Out of descriptors or memory, nothing is polled for
    `PAUSE` ms (the connections wait in the backlog), with one warning an episode.

    :param sock: bound, listening, non-blocking (`tcp.bind`, `unix.bind`). `close` closes it, and the end of the hub.
    """

    __slots__ = ("__weakref__", "_exhausted", "_fd", "_kind", "_paused", "_take", "_timer", "hub", "on_accept", "sock")

    def __init__(self, hub: Hub, sock: socket.socket, on_accept: OnAccept) -> None:
        self.hub = hub
        self.sock = sock
        self.on_accept = on_accept
        #: -1 once closed.
        self._fd = sock.fileno()
        # `socket.accept` does the same, and makes enums of family and type, for each connection anew.
        self._take: Callable[[], tuple[int, Any]] = sock._accept  # type: ignore[attr-defined]
        self._kind = int(sock.family), int(sock.type), sock.proto
        self._paused = False
        #: Without descriptors or memory: from the first failure until the backlog is empty again.
        self._exhausted = False
        self._timer: Timer | None = None
        hub.poll.register(self._fd, self._accept)
        hub.onstop(self.close)

    @property
    def closed(self) -> bool:
        return self._fd < 0

    @property
    def paused(self) -> bool:
        return self._paused

    def pause(self) -> None:
        """Accept nothing until `resume`. May be called from *on_accept*; twice does nothing."""
        if not self._paused and self._fd >= 0:
            self._paused = True
            self.hub.poll.modify(self._fd, 0)
            timer, self._timer = self._timer, None  # that of `_accept`, which is not to end a pause of others
            if timer is not None:
                timer.cancel()

    def resume(self) -> None:
        """Accept again, after `pause`."""
        if self._paused and self._timer is None and self._fd >= 0:
            self._paused = False
            self.hub.poll.modify(self._fd, IN)

    def retry(self) -> None:
        """A descriptor has become free: if the lack of one made a pause, it is over. Cheap when there was none."""
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()
            self.resume()
            self._accept(IN)

    def close(self) -> None:
        """Stop listening: from here on the address refuses connections. Twice does nothing."""
        fd, self._fd = self._fd, -1
        if fd < 0:
            return
        if self._timer is not None:
            self._timer.cancel()
        self.hub.offstop(self.close)
        if not self.hub.forked:  # there, the epoll is the parent's
            self.hub.poll.unregister(fd)
        self.sock.close()

    def _accept(self, events: int) -> None:
        take, kind = self._take, self._kind
        for _ in range(BATCH):
            if self._paused or self._fd < 0:
                return
            try:
                fd, peer = take()
            except BlockingIOError:
                self._recovered()
                return
            except OSError as error:
                if error.errno in SKIP:
                    continue
                self._out_of(error)
                return
            conn = socket.socket(*kind, fd)
            try:
                conn.setblocking(False)
                self.on_accept(conn, peer)
            except Exception as error:
                self.hub.failed(self.on_accept, error, f"; the connection from {peer} is closed")
                conn.close()
        # There may be no more, and nothing tells: look.
        if self._exhausted and not self._paused and self._timer is None and self._fd >= 0:
            self._timer = self.hub.after(PAUSE, self.retry)

    def _out_of(self, error: OSError) -> None:
        if not self._exhausted:
            log.warning("cannot accept connections on %s: %s; trying again", self.sock.getsockname(), error.strerror)
        self._exhausted = True
        self.pause()
        self._timer = self.hub.after(PAUSE, self.retry)

    def _recovered(self) -> None:
        if self._exhausted:
            self._exhausted = False
            log.info("accepting connections again on %s", self.sock.getsockname())


class Server(Recver):
    """Dispenses the connections that come in at an address. Closed or dropped, it stops listening.

    ``host`` and ``port`` are those of a TCP socket, ``path`` that of a Unix socket.
    """

    __slots__ = ("host", "path", "port")

    def __init__(
        self, hub: Hub, sock: socket.socket, wrap: OnAccept, meet: Callable[[socket.socket], Any] | None = None
    ) -> None:
        """
        :param sock: as for `Listener`.
        :param wrap: makes of a socket and the peer's address what is received.
        :param meet: shakes hands, in a task of its own, and gives what is to be wrapped in place of the socket, which
            it closes if it fails.
        """
        channel = Channel(hub, AHEAD, "server")
        super().__init__(channel)
        self.host: str | None = None
        self.port: int | None = None
        self.path: str | None = None
        listener = _Queue(channel, sock, wrap, meet).listener
        channel.onclose(listener.close)
        hub.onstop(channel.close)
        channel.onclose(hub.offstop, channel.close)

    def consume(self, f: Callable[[Any], object]) -> Task:
        """Call ``f(connection)`` for each connection, each in a task of its own.

        What *f* raises is logged, and ends that task only; that the peer closed or is lost is no error.

        :return: the task that accepts; it is done when this Server is closed.
        """
        return self.hub.spawn(_serve, self, f)


class _Queue:
    """Moves accepted connections into a channel, and pauses the listener while it is full.

    While it is full, this object stands in the channel's ``senders`` as a select on a Sender would, to be told of room.
    """

    __slots__ = ("channel", "listener", "meet", "wrap")

    def __init__(
        self, channel: Channel, sock: socket.socket, wrap: OnAccept, meet: Callable[[socket.socket], Any] | None
    ) -> None:
        self.channel = channel
        self.wrap = wrap
        self.meet = meet
        self.listener = Listener(channel.hub, sock, self.put if meet is None else self._receive)

    def _receive(self, conn: socket.socket, peer: Any) -> None:
        self.channel.hub.spawn(self._meet, conn, peer)

    def _meet(self, conn: socket.socket, peer: Any) -> None:
        assert self.meet is not None
        try:
            met = self.meet(conn)
        except (ConnectionLost, Timeout) as error:
            log.info("no connection from %s: %s", peer, error)
            return
        item = self.wrap(met, peer)
        try:
            if not self.channel.give_nowait(item):  # others were faster with their handshakes
                self.channel.wait_room(item, -1)
        except Halt:
            met.close()
        else:
            self._mind()

    def put(self, conn: socket.socket, peer: Any) -> None:
        self.channel.give_nowait(self.wrap(conn, peer))
        self._mind()

    def _mind(self) -> None:
        if len(self.channel.buffer) >= self.channel.capacity and not self.listener.paused:
            self.listener.pause()
            self.channel.senders.append(self)

    @property
    def selection(self) -> _Queue:
        return self

    def fire(self, case: Any, item: Any) -> None:
        self.listener.resume()

    def fail(self, case: Any, error: Halt) -> None:
        """The channel was closed, and with it the listener."""


def _serve(server: Server, f: Callable[[Any], object]) -> None:
    hub = server.hub
    while True:
        try:
            conn = server.recv()
        except Halt:
            return
        hub.spawn(_serve_one, f, conn)
        del conn  # or this task would hold it open until the next one comes


def _serve_one(f: Callable[[Any], object], conn: Any) -> None:
    try:
        f(conn)
    except Halt:
        pass
    except ConnectionLost as error:
        log.info("%s", error)

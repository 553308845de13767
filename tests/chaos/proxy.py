"""A proxy between clients and a broker that does what networks do: it delays, cuts, tears apart, and loses confirms.

It runs in a thread of its own with sockets of its own, so that it is none of the hub's business. What becomes of a
connection is its `Plan`; each that is accepted takes the next of ``plans``, and the last one stays for all that follow.

TCP loses nothing, so what a proxy may leave out is only what the end of the connection would have taken with it: a plan
that drops frames cuts, too, or leaves out only what later frames of their kind make good.
"""

from __future__ import annotations

import selectors
import socket
import struct
import threading
import time
from collections import deque
from dataclasses import dataclass

#: Bytes before the end of a frame's length, and where its type stands.
LENGTH_BYTES, TYPE_AT = 5, 6
PIECE_BYTES = 1 << 16
_RESET = struct.pack("ii", 1, 0)


@dataclass(frozen=True)
class Plan:
    """What becomes of one connection.

    :ivar cut_up, cut_down: after so many bytes to the broker, to the client, both sides are cut; -1: never.
    :ivar reset: it is cut by a reset, which takes with it what is under way; else by an end in good order.
    :ivar drop: types of frames from the broker that are left out.
    :ivar delay: ms by which each direction is late.
    :ivar piece: bytes that are passed on at once, at most.
    """

    cut_up: int = -1
    cut_down: int = -1
    reset: bool = False
    drop: frozenset[int] = frozenset()
    delay: float = 0
    piece: int = PIECE_BYTES


class Sieve:
    """Leaves out the frames of some types, whatever pieces they come in."""

    def __init__(self, drop: frozenset[int]) -> None:
        self._drop = drop
        self._held = b""
        #: Bytes of the frame under way that are still to come, and whether they are left out.
        self._left = 0
        self._out = False

    def sift(self, data: bytes) -> bytes:
        """What of *data* is to be passed on; a head stays here until its type has come."""
        if not self._drop:
            return data
        data = self._held + data
        passed, at = [], 0
        while at < len(data):
            if not self._left:
                if len(data) - at <= TYPE_AT:
                    break
                self._left = LENGTH_BYTES + int.from_bytes(data[at + 1 : at + LENGTH_BYTES], "big")
                self._out = data[at + TYPE_AT] in self._drop
            end = min(at + self._left, len(data))
            if not self._out:
                passed.append(data[at:end])
            self._left -= end - at
            at = end
        self._held = data[at:]
        return b"".join(passed)


class Way:
    """One direction of one connection."""

    def __init__(self, source: socket.socket, target: socket.socket, plan: Plan, cut: int, sieve: Sieve) -> None:
        self.source, self.target = source, target
        self.plan = plan
        self.sieve = sieve
        #: Bytes that may still pass; -1: all.
        self.left = cut
        #: (when it is due, what), in order.
        self.line: deque[tuple[float, bytes]] = deque()
        #: The source has ended, and will be heard to have done so once all before it has passed.
        self.ended = False
        self.passed = 0


class Connection:
    """A client's connection and ours to the broker."""

    def __init__(self, client: socket.socket, broker: socket.socket, plan: Plan) -> None:
        self.plan = plan
        self.ways = (
            Way(client, broker, plan, plan.cut_up, Sieve(frozenset())),
            Way(broker, client, plan, plan.cut_down, Sieve(plan.drop)),
        )

    @property
    def passed(self) -> tuple[int, int]:
        """Bytes that went to the broker, and to the client."""
        return self.ways[0].passed, self.ways[1].passed

    def cut(self) -> None:
        for way in self.ways:
            if self.plan.reset:
                way.source.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            way.source.close()


class Proxy:
    """Listens on loopback and passes connections on to *target*, a ``tcp://`` URL.

    :ivar url: where.
    :ivar plans: for the connections to come; the last is used for all that follow.
    :ivar history: of connections that are gone: bytes to the broker, bytes to the client.
    """

    def __init__(self, target: str, *plans: Plan) -> None:
        self.plans = deque(plans or [Plan()])
        self.history: list[tuple[int, int]] = []
        self.target = target
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self._listener.setblocking(False)
        self.url = f"tcp://127.0.0.1:{self._listener.getsockname()[1]}"
        self._wakeup, self._woken = socket.socketpair()
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._selector.register(self._woken, selectors.EVENT_READ)
        self._connections: dict[Connection, None] = {}
        self._orders = b""
        self._fault: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def cut(self) -> None:
        """Cut all connections that there are, now."""
        self._wakeup.send(b"c")

    def close(self) -> None:
        """End, and cut everything. What went wrong in the thread is raised here."""
        if self._thread.is_alive():
            self._wakeup.send(b"q")
        self._thread.join()
        for sock in (self._wakeup, self._woken, self._listener):
            sock.close()
        self._selector.close()
        if self._fault is not None:
            raise self._fault

    def __enter__(self) -> Proxy:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    # -- the thread

    def _run(self) -> None:
        try:
            while self._turn():
                pass
        except BaseException as fault:
            self._fault = fault
        finally:
            self._cut_all()

    def _turn(self) -> bool:
        due = min((way.line[0][0] for each in self._connections for way in each.ways if way.line), default=None)
        timeout = None if due is None else max(due - time.monotonic(), 0)
        for key, _ in self._selector.select(timeout):
            if key.fileobj is self._listener:
                self._accept()
            elif key.fileobj is self._woken:
                if b"q" in (orders := self._woken.recv(100)):
                    return False
                if b"c" in orders:
                    self._cut_all()
            else:
                connection, way = key.data
                if connection in self._connections:
                    self._read(connection, way)
        now = time.monotonic()
        for connection in list(self._connections):
            for way in connection.ways:
                while connection in self._connections and way.line and way.line[0][0] <= now:
                    self._write(connection, way)
        return True

    def _accept(self) -> None:
        client, _ = self._listener.accept()
        plan = self.plans.popleft() if len(self.plans) > 1 else self.plans[0]
        host, _, port = self.target.rpartition("//")[2].rpartition(":")
        try:
            broker = socket.create_connection((host, int(port)), timeout=10)
        except OSError:  # nobody is there: the client learns it by the end of its connection
            client.close()
            return
        connection = Connection(client, broker, plan)
        self._connections[connection] = None
        for way in connection.ways:
            way.source.settimeout(10)
            way.source.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._selector.register(way.source, selectors.EVENT_READ, (connection, way))
            if way.left == 0:
                self._cut(connection)
                return

    def _read(self, connection: Connection, way: Way) -> None:
        try:
            data = way.source.recv(PIECE_BYTES)
        except OSError:
            self._cut(connection)
            return
        due = time.monotonic() + way.plan.delay / 1000
        if not data:
            self._selector.unregister(way.source)
            way.line.append((due, b""))
            return
        data = way.sieve.sift(data)
        size = max(way.plan.piece, 1)
        way.line.extend((due, data[at : at + size]) for at in range(0, len(data), size))

    def _write(self, connection: Connection, way: Way) -> None:
        data = way.line.popleft()[1]
        if way.left >= 0:
            data = data[: way.left]
        try:
            if data:
                way.target.sendall(data)
            else:  # its source has ended in good order
                way.ended = True
                way.target.shutdown(socket.SHUT_WR)
        except OSError:
            self._cut(connection)
            return
        way.passed += len(data)
        if way.left >= 0:
            way.left -= len(data)
        if way.left == 0 or all(each.ended for each in connection.ways):
            self._cut(connection)

    def _cut(self, connection: Connection) -> None:
        del self._connections[connection]
        for way in connection.ways:
            try:
                self._selector.unregister(way.source)
            except KeyError:
                pass
        connection.cut()
        self.history.append(connection.passed)

    def _cut_all(self) -> None:
        for connection in list(self._connections):
            self._cut(connection)

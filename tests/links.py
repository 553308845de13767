"""Paths in simulated time: what stands between two transports, and flows that share a bottleneck.

Nothing here knows a real clock. A `World` is an event queue; a `Link` carries datagrams one way and loses, delays,
reorders and duplicates them as it is told, all from one seed.
"""

from __future__ import annotations

import heapq
from random import Random
from typing import Any, Callable

from vanilla.protocol.cookies import Cookies
from vanilla.protocol.limits import Limits
from vanilla.protocol.packets import INIT, parse_init
from vanilla.protocol.transport import Transport

#: IPv4 and UDP, of each datagram on a link.
HEADERS = 28


MANY = Limits(datagrams=4096)


class World:
    """Time, and what happens in it."""

    def __init__(self, seed: int = 1) -> None:
        self.now = 0.0
        self.random = Random(seed)
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0

    def at(self, time: float, call: Callable[[], None]) -> None:
        self._count += 1
        heapq.heappush(self._events, (max(time, self.now), self._count, call))

    def run(self, until: float, done: Callable[[], bool] = lambda: False) -> bool:
        """Until *done*, or the time *until*: whether it was done."""
        while self._events and not done():
            if self._events[0][0] > until:
                break
            self.now, _, call = heapq.heappop(self._events)
            call()
        else:
            return done()
        self.now = until
        return done()


class Link:
    """One way of a path.

    :param rate: bytes a second, None for any.
    :param delay: seconds.
    :param queue: bytes that wait at the bottleneck; what does not fit is dropped.
    :param loss: probabilities, of each datagram, as are *duplicate* and *reorder*; a reordered one comes *late* seconds
       later.
    :param jitter: up to so many seconds more, without changing the order.
    """

    def __init__(self, world: World, rate: float | None = None, delay: float = 0.0, queue: float = float("inf"),
                 loss: float = 0.0, duplicate: float = 0.0, reorder: float = 0.0, late: float = 0.005,
                 jitter: float = 0.0) -> None:  # fmt: skip
        self.world = world
        self.rate, self.delay, self.queue = rate, delay, queue
        self.loss, self.duplicate, self.reorder, self.late, self.jitter = loss, duplicate, reorder, late, jitter
        self.dark = False  # a blackout: nothing gets through
        self.overflows = self.carried = 0
        self._free = 0.0
        self._last = 0.0

    def send(self, data: bytes, deliver: Callable[[bytes], None]) -> None:
        world, random = self.world, self.world.random
        if self.dark or random.random() < self.loss:
            return
        leaves = world.now
        if self.rate is not None:
            size = len(data) + HEADERS
            waits = max(self._free - world.now, 0.0)
            if waits * self.rate + size > self.queue:
                self.overflows += 1
                return
            leaves = self._free = max(self._free, world.now) + size / self.rate
        self.carried += 1
        arrives = leaves + self.delay
        if self.jitter:
            arrives = self._last = max(self._last, arrives + random.random() * self.jitter)
        if random.random() < self.reorder:
            arrives += random.random() * self.late
        world.at(arrives, lambda: deliver(data))
        if random.random() < self.duplicate:
            world.at(arrives + random.random() * self.late, lambda: deliver(data))


class End:
    """A transport and its timer, whose owner puts bytes as far as there is room, and reads all that comes."""

    def __init__(self, world: World, transport: Transport) -> None:
        self.world = world
        self.transport = transport
        self.outgoing: Link
        self.arrive: Callable[[bytes, Any], None]
        self.address: Any = None
        self.source: Callable[[int], bytes] | None = None
        self.got = bytearray()
        self.count = 0
        self.keep = True
        self.reads = True
        self.groups = 1  # datagrams of a train that arrive at once
        self._wake: float | None = None

    def pump(self) -> None:
        """Put, read, send, and set the timer."""
        transport, world = self.transport, self.world
        while self.source is not None and transport.room:
            data = self.source(transport.room)
            if data is None:
                transport.finish()
                self.source = None
            else:
                assert transport.put([data]) == len(data)
        while self.reads and transport.ready:
            data = transport.read(1 << 20)
            self.count += len(data)
            if self.keep:
                self.got += data
        for train, segment, address in transport.datagrams(world.now):
            for at in range(0, len(train), segment):
                self.outgoing.send(bytes(train[at : at + segment]), self._to(address))
        self._set()

    def _to(self, address: Any) -> Callable[[bytes], None]:
        arrive, own = self.arrive, self.address
        return lambda data: arrive(data, own)

    def _set(self) -> None:
        time = self.transport.next_time()
        if time is not None and (self._wake is None or time < self._wake):
            self._wake = time
            self.world.at(time, self._woken)

    def _woken(self) -> None:
        if self._wake is not None and self.world.now >= self._wake:
            self._wake = None
            self.pump()

    def receive(self, data: bytes, address: Any = None) -> None:
        self.transport.receive(data, self.world.now, address)
        self.pump()


class Flow:
    """A client, a server that comes to be when a good cookie comes, and the links between them."""

    def __init__(self, world: World, there: Link, back: Link, limits: Limits = MANY,
                 server_limits: Limits | None = None) -> None:  # fmt: skip
        self.world = world
        self.cookies = Cookies(world.now, world.random)
        self.limits = server_limits or limits
        random = world.random
        self.client = End(world, Transport(True, world.now, random.getrandbits(64) or 1, random, limits=limits))
        self.client.address = "client"
        self.client.outgoing, self.client.arrive = there, self._listen
        self.back = back
        self.server: End | None = None
        self.answered = 0
        self.on_server: Callable[[End], None] = lambda end: None

    def start(self) -> None:
        self.world.at(self.world.now, self.client.pump)

    def _listen(self, data: bytes, address: Any) -> None:
        """What the listener and the server's socket get."""
        if self.server is not None:
            self.server.receive(data, address)
        elif data[0] == INIT:
            init = parse_init(data)
            token = self.cookies.check(address, init, self.world.now)
            if token:
                self._make(token, init.client, address)
            else:
                self.answered += 1
                answer = self.cookies.retry(address, init, self.world.now)
                self.back.send(answer, lambda data: self.client.receive(data))

    def _make(self, token: int, peer: int, address: Any) -> None:
        transport = Transport(False, self.world.now, token, self.world.random, peer, address, self.limits)
        self.server = End(self.world, transport)
        self.server.outgoing = self.back
        self.server.arrive = lambda data, _: self.client.receive(data)
        self.on_server(self.server)
        self.server.pump()


def bytes_of(total: int, random: Random) -> tuple[bytes, Callable[[int], Any]]:
    """Bytes to send, and a source that gives them in random pieces and then ends the stream."""
    data = (
        random.randbytes(total)
        if hasattr(random, "randbytes")
        else random.getrandbits(8 * total or 1).to_bytes(total or 1, "big")[:total]
    )
    at = 0

    def source(room: int) -> Any:
        nonlocal at
        if at == total:
            return None
        piece = data[at : at + min(room, random.choice((40, 100, 5000, 100_000)))]
        at += len(piece)
        return piece

    return data, source

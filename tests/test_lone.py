"""The short way of what comes and leaves alone does what the long way does, whatever comes."""

from __future__ import annotations

import struct
from collections import deque
from random import Random
from typing import Any

import links
import pytest
from links import End, Flow, Link, World

from vanilla.protocol import outgoing, packets
from vanilla.protocol.limits import Limits
from vanilla.protocol.nearby import Nearby
from vanilla.protocol.transport import CLOSED, OPEN, Transport
from vanilla.udppath import LOOPBACK_BYTES

NEAR = Limits(datagram=LOOPBACK_BYTES, datagrams=504)
FAR = Limits(datagrams=64)
NARROW = Limits(datagram=LOOPBACK_BYTES, datagrams=504, window=40_000)
FEW = Limits(datagram=2000, datagrams=5, window=30_000, buffer=50_000)
PATHS = {
    "lossless": {},
    "lossy": {"loss": 0.05},
    "reordering": {"reorder": 0.2, "late": 0.002, "duplicate": 0.05},
}


def snapshot(thing: Any) -> Any:
    """All that *thing* is made of, but for who takes the short way and what is to be looked at."""
    if isinstance(thing, (list, deque, tuple)):
        return [snapshot(each) for each in thing]
    if hasattr(type(thing), "__slots__"):
        names = [name for kind in type(thing).__mro__ for name in getattr(kind, "__slots__", ())]
        return {name: snapshot(getattr(thing, name)) for name in names if name not in ("_lone", "stirred")}
    return thing if not isinstance(thing, Random) else None


class Closed:
    """A short way that is closed."""

    def came(self, data, size, now, address):
        return False

    def leaves(self, now):
        return None


class Counted:
    """A short way that counts who takes it."""

    def __init__(self, lone):
        self.lone = lone
        self.came_count = self.left_count = 0

    def came(self, *args):
        took = self.lone.came(*args)
        self.came_count += took
        return took

    def leaves(self, now):
        train = self.lone.leaves(now)
        self.left_count += train is not None
        return train


class Unmoved(Nearby):
    """A controller to which no path is long, and no loss means anything: the short way stays open."""

    __slots__ = ()

    def __init__(self, datagram):
        super().__init__(datagram)
        self.free = True

    def on_ack(self, sample):
        pass

    def on_loss(self, now, lost, sent, persistent):
        pass


class Twins:
    """Two transports to which the same happens, one of which takes the long way only."""

    def __init__(self, client, now, token, random, *more, **named):
        self.short, self.long = (Transport(client, now, token, Random(token), *more, **named) for _ in range(2))
        self.short._lone = Counted(self.short._lone)
        self.long._lone = Closed()

        #: What a timer would be set for that is never put off before it is time.
        self.until = 0.0
        self.rested = 0

    def _same(self, name: str, *args: Any) -> Any:
        short, long = (getattr(twin, name)(*args) for twin in (self.short, self.long))
        assert short == long, name
        return short

    def put(self, buffers):
        return self._same("put", buffers)

    def read(self, most):
        return self._same("read", most)

    def finish(self):
        return self._same("finish")

    def receive(self, data, now, address=None):
        return self._same("receive", data, now, address)

    def datagrams(self, now):
        rests = self.short.rests(now, self.until)
        trains = self._same("datagrams", now)
        assert snapshot(self.short) == snapshot(self.long)
        time = self.next_time()
        if rests:
            self.rested += 1
            assert not trains and time >= self.until
        if time is None or time < self.until or now >= self.until:
            self.until = time or 0.0
        return trains

    def next_time(self):
        return self._same("next_time")

    def __getattr__(self, name):
        return getattr(self.short, name)


@pytest.fixture
def flow(monkeypatch):
    monkeypatch.setattr(links, "Transport", Twins)

    def flow(seed: int, limits: Limits, **path: Any) -> Flow:
        world = World(seed)
        made = Flow(world, Link(world, delay=0.0002, **path), Link(world, delay=0.0002, **path), limits)
        made.start()
        assert world.run(5.0, lambda: made.server is not None and made.client.transport.state == OPEN)
        return made

    return flow


def live(made: Flow, random: Random, steps: int, step: Any = lambda end: None) -> None:
    """Both ends send now and then, mostly little, and are late to read now and then."""
    for _ in range(steps):
        made.world.run(made.world.now + random.choice((0.0, 0.0001, 0.0005, 0.001, 0.004, 0.03)))
        end = random.choice((made.client, made.server))
        end.reads = random.random() < 0.9
        if random.random() < 0.9:
            size = random.choice((1, 16, 60, 60, 400, 1130, 1174, 1175, 15_840, 15_874, 20_000))
            end.transport.put([bytes(size)] * random.choice((1, 1, 1, 2)))
        if random.random() < 0.8:
            end.pump()
        step(end)


def taken(made: Flow) -> tuple[int, int, int]:
    """How many took the short way, coming and leaving, and how often there was nothing to do."""
    ends = made.client.transport, made.server.transport
    ways = [end.short._lone for end in ends]
    return sum(way.came_count for way in ways), sum(way.left_count for way in ways), sum(end.rested for end in ends)


@pytest.mark.parametrize("limits", [NEAR, FAR, FEW], ids=["near", "far", "few"])
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("seed", range(4))
def test_both_ways_lead_to_the_same(flow, seed, path, limits):
    made = flow(seed, limits, **PATHS[path])
    live(made, Random(seed), 200)
    for end in made.client, made.server:
        end.reads = True
        end.transport.finish()
        end.pump()
    ends = made.client.transport, made.server.transport
    assert made.world.run(made.world.now + 100, lambda: {end.state for end in ends} == {CLOSED})
    assert made.client.transport.error is made.server.transport.error is None
    came, left, rested = taken(made)
    assert came > 20 and rested > 10
    if limits is NEAR and path == "lossless":  # what seems lost on loopback shows a path, which is controlled
        assert left > 20


@pytest.mark.parametrize("seed", range(30))
def test_both_ways_lead_to_the_same_whatever_a_peer_says(flow, seed, monkeypatch):
    monkeypatch.setattr(outgoing, "Nearby", Unmoved)
    made = flow(seed, NARROW)
    random = Random(seed)
    live(made, random, 60)
    heard: dict[End, list[bytes]] = {made.client: [], made.server: []}
    for end in heard:
        receive, kept = end.receive, heard[end]
        end.receive = lambda data, address=None, receive=receive, kept=kept: (kept.append(data), receive(data, address))

    def disturb(end: End) -> None:
        if end.transport.state != OPEN or random.random() < 0.3:
            return
        data = invent(random, end.transport.short) if random.random() < 0.6 or not heard[end] else heard[end][-1]
        if random.random() < 0.3:
            data = spoil(random, data)
        End.receive(end, data, random.choice((None, None, end.transport.address, "elsewhere")))

    live(made, random, 100, disturb)
    assert all(taken(made))


def spoil(random: Random, data: bytes) -> bytes:
    how = random.randrange(4)
    if how == 0:
        return data[: random.randrange(len(data))]
    if how == 1:
        return data + b"\0"
    at = random.randrange(min(len(data), 50))
    return data[:at] + bytes([data[at] ^ 1 << random.randrange(8)]) + data[at + 1 :]


def invent(random: Random, transport: Transport) -> bytes:
    """A datagram of items that are right, or nearly so."""
    arrivals, incoming, sent = transport._notices.arrivals, transport._incoming, transport._outgoing.recovery.next

    def now_and_then(chance: float) -> bool:
        return random.random() < chance

    items = []
    if now_and_then(0.5):
        largest = max(sent - random.choice((1, 1, 2, 5)), 0) + now_and_then(0.02)
        rest = random.choice((largest, largest, largest, 0, 3)) + now_and_then(0.05)
        items.append(ack_of(largest, min(rest, largest + 1), random.choice((0, 1000, 100_000)), now_and_then(0.1)))
    if now_and_then(0.7) or not items:
        offset = max(incoming.next + (random.choice((1, -1, 500)) if now_and_then(0.2) else 0), 0)
        room = max(transport._notices.granted - offset, 1)
        size = min(room, random.choice((1, 50, 1000, 30_000))) if now_and_then(0.95) else min(room + 1, 65_000)
        items.append(packets.pack_stream(offset, bytes(size), now_and_then(0.02)))
    if now_and_then(0.05):
        items.append(random.choice((packets.PING_ITEM, packets.pack_challenge(7), packets.pack_response(8))))
    if now_and_then(0.05):
        random.shuffle(items)
    number = arrivals.largest + (random.choice((0, 2, 3, -1)) if now_and_then(0.2) else 1)
    return packets.pack_data(max(number, 0), transport.token ^ now_and_then(0.05), items)


def ack_of(largest: int, rest: int, delay: int, more: bool) -> bytes:
    """An ACK, which may say of more packets than there are."""
    head = packets.ACK << 56 | largest
    ranges = struct.pack("!II", 1, 1) if more else b""
    return struct.pack("!QIIB", head, delay, rest, more) + ranges


def test_the_short_way_checks_what_a_hostile_peer_may_try(flow, monkeypatch):
    monkeypatch.setattr(outgoing, "Nearby", Unmoved)
    made = flow(1, NARROW)
    live(made, Random(1), 60)
    made.world.run(made.world.now + 1.0)
    for end in made.client, made.server:
        transport, now = end.transport, made.world.now
        number, offset = transport.short._notices.arrivals.largest + 1, transport.short._incoming.next
        largest = transport.short._outgoing.recovery.next - 1
        bad = transport.counters.bad
        below = packets.pack_data(number, transport.token, [ack_of(largest, largest + 1, 0, False)])
        transport.receive(below, now)
        transport.datagrams(now)
        assert transport.counters.bad == bad + 1 and transport.state == OPEN
        room = transport.short._notices.granted - offset
        transport.receive(
            packets.pack_data(number, transport.token, [packets.pack_stream(offset, bytes(room + 1), False)]), now
        )
        transport.datagrams(now)
        assert transport.error[0] == packets.BAD_PACKET

"""The accounts of an endpoint under any sequence of what can happen to it."""

from __future__ import annotations

from types import SimpleNamespace

import msgpack
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from vanilla.broker.broker import Broker
from vanilla.broker.channels import Puller, Pusher
from vanilla.broker.memory import MESSAGE_BYTES, Memory
from vanilla.broker.options import Options
from vanilla.protocol.connection import Event
from vanilla.protocol.frames import ACK, DATA, DATA_OPTIONS, MORE, NACK, Keeper, pack_head
from vanilla.timers import Timers


class Clock:
    """What a broker needs of a hub: timers, in time that the test makes."""

    def __init__(self):
        self.time = 0.0
        self.timers = Timers()
        self.edges = []
        self.hook = None

    def after(self, ms, f):
        return self.timers.after(ms / 1000, self.time, f)

    def at_edge(self, f):
        self.edges.append(f)

    def at_every_edge(self, f):
        self.hook = f

    def onstop(self, f):
        pass

    def guard(self, f):
        f()

    def state(self):
        return SimpleNamespace(send=lambda value: None)

    def pass_time(self, seconds):
        self.time += seconds
        for timer in self.timers.expire(self.time):
            timer.action()

    def settle(self):
        """Go through the edges of ticks until none of them leaves anything to do."""
        self.hook()
        while self.edges:
            self.edges.clear()
            self.hook()


class Connection:
    """What a channel needs of a session; it reads what it is sent, at once."""

    full = dirty = False
    who = "a consumer"

    def __init__(self, broker):
        self.broker = broker
        self.producer = b""
        self.starved = set()
        self.held = 0
        self.frames = []

    def settled(self):
        pass

    def put(self, *parts):
        data = bytearray(b"".join(parts))
        self.frames += Keeper(1 << 30, data).received(len(data))


# When a rule may run. Not lambdas: hypothesis 6.100 would parse the file at each look to quote them.


def has_producers(machine):
    return machine.pushers


def has_consumers(machine):
    return machine.pullers


def has_deliveries(machine):
    return any(puller.sent_n for puller in machine.pullers)


class Endpoints(RuleBasedStateMachine):
    """Producers and consumers come, work, fail and go; at each step every message is in just one place."""

    @initialize(capacity=st.integers(1, 30), memory=st.sampled_from([1 << 30, 20_000, 6_000]))
    def start(self, capacity, memory):
        self.clock = Clock()
        self.broker = Broker(
            self.clock, Options(capacity=capacity, capacity_bytes=capacity * 3, max_attempts=3, backoff_ms=100)
        )
        self.broker.now = lambda: self.clock.time
        self.broker.memory = Memory(self.broker, memory)
        self.endpoint = self.broker.endpoint("jobs")
        self.pushers, self.pullers = [], []
        self.number = 0
        self.sent = 0
        #: What each consumer holds: channel number -> message.
        self.held = {}
        self.acked = set()
        self.delivered = {}

    def turn(self):
        self.clock.settle()
        for puller in self.pullers:
            frames, puller.session.frames = puller.session.frames, []
            for kind, _, seq, _, array in frames:
                if kind & ~MORE not in (DATA, DATA_OPTIONS):
                    continue
                items = msgpack.unpackb(array)
                options = items.pop(0) if kind & ~MORE == DATA_OPTIONS else {}
                for offset, item in enumerate(items):
                    assert seq + offset not in self.held[puller]
                    self.held[puller][seq + offset] = item
                    if self.delivered.get(item):
                        assert options["redelivered"]
                    self.delivered[item] = self.delivered.get(item, 0)
                    assert options.get("attempts", 1) <= 3

    @rule()
    def a_producer_comes(self):
        if len(self.pushers) < 5:
            self.number += 1
            self.pushers.append(Pusher(Connection(self.broker), self.number, self.endpoint, 0))
        self.turn()

    @rule(n=st.integers(0, 50), b=st.integers(0, 200), data=st.data())
    def a_producer_wants_credit(self, n, b, data):
        if self.pushers:
            data.draw(st.sampled_from(self.pushers)).want(Event(0, 0, 0, 1, {"n": n, "b": b}))
        self.turn()

    @rule(data=st.data())
    def a_producer_gives_credit_back(self, data):
        if self.pushers:
            pusher = data.draw(st.sampled_from(self.pushers))
            quota = pusher.quota
            pusher.want(Event(0, 0, 0, 1, {"limit": [quota.n, quota.b], "epoch": pusher.epoch + 1}))
        self.turn()

    @rule(most=st.integers(1, 10), data=st.data())
    def a_producer_sends(self, most, data):
        ready = [pusher for pusher in self.pushers if not pusher.spent]
        if not ready:
            return
        pusher = data.draw(st.sampled_from(ready))
        items, size = [], 0
        while len(items) < min(most, pusher.quota.left_n):
            packed = msgpack.packb(self.sent)
            if size + len(packed) > pusher.quota.left_b:
                break
            items.append(packed)
            size += len(packed)
            self.sent += 1
        if items:
            body = b"".join(items)
            array = pack_head(DATA, 1, 0, len(items), len(body))[21:] + body
            pusher.data(Event(DATA, 1, pusher.quota.n, len(items), array))
        self.turn()

    @precondition(has_producers)
    @rule(data=st.data())
    def a_producer_goes(self, data):
        pusher = data.draw(st.sampled_from(self.pushers))
        self.pushers.remove(pusher)
        pusher.detach(None)
        self.turn()

    @rule()
    def a_consumer_comes(self):
        if len(self.pullers) < 5:
            self.number += 1
            puller = Puller(Connection(self.broker), self.number, self.endpoint)
            self.pullers.append(puller)
            self.held[puller] = {}
        self.turn()

    @precondition(has_consumers)
    @rule(n=st.integers(1, 10), b=st.integers(1, 30), data=st.data())
    def a_consumer_gives_credit(self, n, b, data):
        puller = data.draw(st.sampled_from(self.pullers))
        puller.credit(Event(0, 0, 0, 1, {"n": puller.sent_n + n, "b": puller.sent_b + b}))
        self.turn()

    def ranges(self, data):
        """Some numbers that a consumer has been sent, settled ones among them, as ranges."""
        puller = data.draw(st.sampled_from([puller for puller in self.pullers if puller.sent_n]))
        first = data.draw(st.integers(0, puller.sent_n - 1))
        return puller, first, data.draw(st.integers(1, puller.sent_n - first))

    @precondition(has_deliveries)
    @rule(data=st.data())
    def a_consumer_acknowledges(self, data):
        puller, first, count = self.ranges(data)
        puller.ack(Event(ACK, 0, 0, 1, {"r": [first, count]}))
        for seq in range(first, first + count):
            item = self.held[puller].pop(seq, None)
            if item is not None:
                assert item not in self.acked
                self.acked.add(item)
        self.turn()

    @precondition(has_deliveries)
    @rule(
        fields=st.sampled_from([{}, {"delay": 0}, {"delay": 500}, {"back": True}, {"dead": "UNDECODABLE"}]),
        data=st.data(),
    )
    def a_consumer_refuses(self, fields, data):
        puller, first, count = self.ranges(data)
        for seq in range(first, first + count):
            item = self.held[puller].pop(seq, None)
            if item is not None and "back" not in fields:
                self.delivered[item] += 1
        puller.nack(Event(NACK, 0, 0, 1, {"r": [first, count], **fields}))
        self.turn()

    @precondition(has_consumers)
    @rule(data=st.data(), crash=st.booleans())
    def a_consumer_goes(self, data, crash):
        puller = data.draw(st.sampled_from(self.pullers))
        self.pullers.remove(puller)
        seen = None if crash else data.draw(st.integers(0, puller.sent_n))
        for seq, item in self.held.pop(puller).items():
            if seen is None or seq < seen:
                self.delivered[item] += 1
        puller.detach(seen)
        self.turn()

    @rule(seconds=st.sampled_from([0.05, 0.2, 1, 10]))
    def time_passes(self, seconds):
        self.clock.pass_time(seconds)
        self.turn()

    @invariant()
    def every_message_is_in_one_place(self):
        if not hasattr(self, "endpoint"):
            return
        endpoint = self.endpoint
        assert endpoint.balance == 0
        assert endpoint.accepted == self.sent
        places = [msgpack.unpackb(body) for body in self.bodies()]
        held = [item for held in self.held.values() for item in held.values()]
        assert sorted([*places, *held, *self.acked]) == list(range(self.sent))
        assert len(held) == endpoint.flight_n
        assert len(self.acked) == endpoint.acknowledged

    def bodies(self):
        """The packed messages that lie in the broker: ready, delayed, dead."""
        batches = [*self.endpoint.ready, *self.endpoint.delayed]
        if "jobs.dead" in self.broker.endpoints:
            batches += self.broker.endpoints["jobs.dead"].ready
        for batch in batches:
            unpacker = msgpack.Unpacker()
            unpacker.feed(batch.body)
            yield from map(msgpack.packb, unpacker)

    @invariant()
    def the_sums_are_the_sums(self):
        if not hasattr(self, "endpoint"):
            return
        endpoint = self.endpoint
        assert endpoint.ready_n == sum(batch.count for batch in endpoint.ready)
        assert endpoint.ready_b == sum(len(batch.body) for batch in endpoint.ready)
        assert endpoint.delayed_n == sum(batch.count for batch in endpoint.delayed)
        assert all(puller.session.held == puller.flight.cost for puller in self.pullers)
        assert endpoint.flight_n == sum(puller.flight.count for puller in endpoint.pullers)
        assert endpoint.granted_n == sum(0 if pusher.spent else pusher.quota.left_n for pusher in endpoint.pushers)
        assert endpoint.granted_b == sum(0 if pusher.spent else pusher.quota.left_b for pusher in endpoint.pushers)
        numbers = [batch.number for batch in endpoint.ready]
        assert numbers == sorted(numbers)

    @invariant()
    def the_memory_is_what_all_endpoints_hold(self):
        """As a bound first, and exactly once it is weighed; whoever waits for it is woken when there is some."""
        if not hasattr(self, "endpoint"):
            return
        memory = self.broker.memory
        endpoints = {self.endpoint, *self.broker.endpoints.values()}  # the one may be idle, and yet come back here
        assert memory.used == sum(endpoint.counted for endpoint in endpoints)
        assert all(endpoint.counted == endpoint.load for endpoint in endpoints if endpoint not in memory.unweighed)
        assert endpoints >= {*memory.unweighed, *memory.line}
        assert memory._armed or not any(map(self.may_have_its_turn, memory.line))
        memory.weigh()
        assert memory.used == sum(self.recount(endpoint) for endpoint in endpoints)

    def may_have_its_turn(self, endpoint):
        """Is there memory for the producer of *endpoint* that is first?"""
        pusher = next(iter(endpoint.asking), None)
        if pusher is None or endpoint.pause:
            return False
        left_n, left_b = pusher.quota.left_n, pusher.quota.left_b
        price = pusher._price(max(left_n, 1), max(left_b, pusher.want_b, 1))
        return price <= self.broker.memory.limit - self.broker.memory.used

    def recount(self, endpoint):
        """What an endpoint holds, piece by piece."""
        batches = [*endpoint.ready, *endpoint.back, *endpoint.delayed]
        flown = [entry for puller in endpoint.pullers for entry in puller.flight._entries]
        quotas = [pusher.quota for pusher in endpoint.pushers if not pusher.spent]
        granted = sum(quota.left_b + MESSAGE_BYTES * quota.left_n for quota in quotas)
        return sum(MESSAGE_BYTES + piece.size for piece in [*batches, *flown]) + granted

    @invariant()
    def credit_is_not_given_beyond_the_memory(self):
        """Only what comes back in more pieces than it came may pass the limit, by what the pieces cost."""
        if not hasattr(self, "endpoint"):
            return
        memory = self.broker.memory
        memory.weigh()
        pieces = sum(map(len, (self.endpoint.ready, self.endpoint.delayed)))
        pieces += sum(len(puller.flight) for puller in self.pullers)
        assert memory.used <= memory.limit + pieces * MESSAGE_BYTES

    @invariant()
    def nobody_waits_for_what_is_there(self):
        """With the edge's work done, messages and a consumer that can take them are not both there."""
        if not hasattr(self, "endpoint") or not self.endpoint.ready:
            return
        assert not any(puller.can_take for puller in self.pullers)


Endpoints.TestCase.settings = settings(max_examples=60, stateful_step_count=60, deadline=None)
TestEndpoints = Endpoints.TestCase

"""The accounts of an endpoint under any sequence of what can happen to it."""

from __future__ import annotations

import math
from types import SimpleNamespace

import msgpack
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from vanilla.broker.broker import Broker
from vanilla.broker.dedupe import ENTRY_BYTES
from vanilla.broker.keys import named
from vanilla.broker.memory import MESSAGE_BYTES, Memory
from vanilla.broker.options import Options
from vanilla.broker.priorities import priority_of
from vanilla.broker.puller import Puller
from vanilla.broker.pusher import Pusher
from vanilla.broker.said import NAMES_BYTES
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
            timer.fire()

    def settle(self):
        """Go through the edges of ticks until none of them leaves anything to do."""
        self.hook()
        while self.edges:
            self.edges.clear()
            self.hook()


class Connection:
    """What a channel needs of a session; it reads what it is sent, at once."""

    full = dirty = False
    beside = None
    identity = ""
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


#: What a frame of messages may be sent with, and keys and ids of single ones.
SHARED = st.fixed_dictionaries(
    {},
    optional={
        "priority": st.sampled_from([0, 5, 9]),
        "delay": st.sampled_from([1, 300]),
        "ttl": st.sampled_from([40, 900, 5000]),
        "headers": st.just({"trace": "x"}),
    },
)
NAMES = st.sampled_from([None, "a", "b", b"b"])


# When a rule may run. Not lambdas: hypothesis 6.100 would parse the file at each look to quote them.


def has_producers(machine):
    return machine.pushers


def has_consumers(machine):
    return machine.pullers


def has_deliveries(machine):
    return any(puller.sent_n for puller in machine.pullers)


class Endpoints(RuleBasedStateMachine):
    """Producers and consumers come, work, fail and go; at each step every message is in just one place."""

    @initialize(
        capacity=st.integers(1, 30), each=st.sampled_from([3, 60]), memory=st.sampled_from([1 << 30, 20_000, 6_000])
    )
    def start(self, capacity, each, memory):
        self.clock = Clock()
        self.broker = Broker(
            self.clock, Options(capacity=capacity, capacity_bytes=capacity * each, max_attempts=3, backoff_ms=100)
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
        #: What each message was sent with, of those that were accepted, and when it is overdue.
        self.options = {}
        #: When an id that was seen is forgotten.
        self.ids = {}
        self.duplicates = 0

    def turn(self):
        self.clock.settle()
        came = []
        for puller in self.pullers:
            frames, puller.session.frames = puller.session.frames, []
            for kind, _, seq, _, array in frames:
                if kind & ~MORE not in (DATA, DATA_OPTIONS):
                    continue
                items = msgpack.unpackb(array)
                options = items.pop(0) if kind & ~MORE == DATA_OPTIONS else {}
                for offset, item in enumerate(items):
                    assert seq + offset not in self.held[puller]
                    self.it_was_sent_so(item, options, offset)
                    came.append(item)
                    self.held[puller][seq + offset] = item
                    if self.delivered.get(item):
                        assert options["redelivered"]
                    self.delivered[item] = self.delivered.get(item, 0)
                    assert options.get("attempts", 1) <= 3
        if came:
            self.priorities_come_first(came)

    def it_was_sent_so(self, item, options, offset):
        sent = self.options[item]
        assert options.get("priority", 0) == sent.get("priority", 0)
        assert options.get("headers") == sent.get("headers")
        for name, names in ("key", options.get("keys")), ("id", options.get("ids")):
            assert (names[offset] if names else None) == sent[name]
        assert self.clock.time < sent["overdue"]
        if sent["key"] is not None:
            self.its_key_was_free(item, sent)

    def its_key_was_free(self, item, sent):
        """No other of the key is with a consumer or is to be tried again, and none that came before is left."""

        def rival(other):
            return other != item and self.options[other]["key"] == sent["key"]

        assert not any(rival(other) for held in self.held.values() for other in held.values())
        again = [other for batch in self.endpoint.delayed if batch.redelivered for other in unpacked(batch)]
        assert not any(map(rival, again))
        held = {other for held in self.held.values() for other in held.values()}
        for other in held | {other for batch in self.waiting() for other in unpacked(batch)}:
            before = self.options[other]
            if other < item and rival(other) and self.clock.time < before["overdue"]:
                assert before.get("delay") or before.get("priority", 0) != sent.get("priority", 0)

    def priorities_come_first(self, came):
        left = [self.options[item] for batch in self.endpoint.ready for item in unpacked(batch)]
        rest = [sent.get("priority", 0) for sent in left if sent["key"] is None and self.clock.time < sent["overdue"]]
        assert max(rest, default=0) <= min(self.options[item].get("priority", 0) for item in came)

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

    @rule(most=st.integers(1, 10), shared=st.one_of(st.just({}), SHARED), data=st.data())
    def a_producer_sends(self, most, shared, data):
        ready = [pusher for pusher in self.pushers if not pusher.spent]
        if not ready:
            return
        pusher = data.draw(st.sampled_from(ready))
        count = min(most, pusher.quota.left_n)
        named = data.draw(st.booleans())
        keys, ids = (data.draw(st.lists(NAMES, min_size=most, max_size=most)) if named else [] for _ in range(2))
        options, size = {}, 1 << 60
        while count and size > pusher.quota.left_b:
            lists = {"keys": keys[:count], "ids": ids[:count]} if named else {}
            options = {**shared, **lists}
            objects = [*([options] if options else []), *range(self.sent, self.sent + count)]
            body = b"".join(map(msgpack.packb, objects))
            size = len(body)
            count -= size > pusher.quota.left_b
        if count:
            for key, id, item in zip([*keys, *[None] * 10], [*ids, *[None] * 10], range(self.sent, self.sent + count)):
                self.it_is_sent(item, shared, key, id)
            self.sent += count
            kind = DATA_OPTIONS if options else DATA
            array = pack_head(kind, 1, 0, len(objects), size)[21:] + body
            pusher.data(Event(kind, 1, pusher.quota.n, len(objects), array))
        self.turn()

    def it_is_sent(self, item, shared, key, id):
        now = self.clock.time
        if id is not None:
            if now < self.ids.get(id, 0):
                self.duplicates += 1
                return
            self.ids[id] = now + self.endpoint.terms.dedupe / 1000
        overdue = now + shared["ttl"] / 1000 if "ttl" in shared else math.inf
        self.options[item] = {**shared, "key": key, "id": id, "overdue": overdue}

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

    @rule(seconds=st.sampled_from([0.05, 0.2, 1, 10, 700]))
    def time_passes(self, seconds):
        self.clock.pass_time(seconds)
        self.turn()

    @invariant()
    def every_message_is_in_one_place(self):
        if not hasattr(self, "endpoint"):
            return
        endpoint = self.endpoint
        assert endpoint.balance == 0
        assert endpoint.accepted == len(self.options) == self.sent - self.duplicates
        assert endpoint.duplicates == self.duplicates
        places = [item for batch in [*self.waiting(), *self.buried()] for item in unpacked(batch)]
        held = [item for held in self.held.values() for item in held.values()]
        found = sorted([*places, *held, *self.acked])
        assert found == sorted(set(found))
        lost = self.options.keys() - set(found)
        assert len(lost) == endpoint.dropped == endpoint.drops.get("expired", 0)
        assert all(self.options[item]["overdue"] <= self.clock.time for item in lost)
        assert len(held) == endpoint.flight_n
        assert len(self.acked) == endpoint.acknowledged

    def waiting(self):
        """The batches that are ready or delayed."""
        endpoint = self.endpoint
        return [*(endpoint.priorities or endpoint.ready), *(endpoint.keys or ()), *endpoint.delayed]

    def buried(self):
        dead = self.broker.endpoints.get("jobs.dead")
        return [] if dead is None else [*(dead.priorities or dead.ready), *(dead.keys or ())]

    @invariant()
    def the_sums_are_the_sums(self):
        if not hasattr(self, "endpoint"):
            return
        endpoint = self.endpoint
        ready = [batch for batch in self.waiting() if batch not in endpoint.delayed]
        assert endpoint.ready_n == sum(batch.count for batch in ready)
        assert endpoint.ready_b == sum(batch.size for batch in ready)
        assert all(batch.size >= len(batch.body) for batch in ready)
        assert endpoint.delayed_n == sum(batch.count for batch in endpoint.delayed)
        assert all(puller.session.held == puller.flight.cost for puller in self.pullers)
        assert endpoint.flight_n == sum(puller.flight.count for puller in endpoint.pullers)
        assert endpoint.granted_n == sum(0 if pusher.spent else pusher.quota.left_n for pusher in endpoint.pushers)
        assert endpoint.granted_b == sum(0 if pusher.spent else pusher.quota.left_b for pusher in endpoint.pushers)
        ranks = [(-priority_of(batch), batch.number) for batch in endpoint.priorities or endpoint.ready]
        assert ranks == sorted(ranks)
        if endpoint.priorities is not None:
            assert endpoint.ready and endpoint.ready is endpoint.priorities.lines[max(endpoint.priorities.lines)]
        if endpoint.keys is not None:
            assert endpoint.keys.count == sum(batch.count for batch in endpoint.keys)
            assert endpoint.keys.pieces == len([*endpoint.keys])
            self.who_stands_aside_has_somebody_before_it()

    def who_stands_aside_has_somebody_before_it(self):
        """Its key is held by a message that is somewhere, or one that is ready brings it."""
        endpoint = self.endpoint
        delayed = {number for batch in endpoint.delayed for number, _ in named(batch)}
        flown = {
            number
            for puller in self.pullers
            for sent in puller.flight
            for number, _ in named(sent.batch, sent.low, sent.high)
        }
        ready = {name for batch in endpoint.priorities or endpoint.ready for _, name in named(batch)}
        for name, key in endpoint.keys._keys.items():
            assert key.holder in delayed | flown if key.holder >= 0 else name in ready

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
        ready = endpoint.priorities or endpoint.ready
        batches = [*ready, *endpoint.back, *endpoint.delayed, *(endpoint.keys or ())]
        flown = [entry for puller in endpoint.pullers for entry in puller.flight._entries]
        quotas = [pusher.quota for pusher in endpoint.pushers if not pusher.spent]
        granted = sum(quota.left_b + MESSAGE_BYTES * quota.left_n for quota in quotas)
        ids = sum(len(id) + ENTRY_BYTES for id in endpoint.seen._ids) if endpoint.seen else 0
        here = endpoint.ready_n + endpoint.delayed_n + endpoint.flight_n
        names = NAMES_BYTES * here if endpoint.named else 0
        return sum(MESSAGE_BYTES + piece.size for piece in [*batches, *flown]) + granted + ids + names

    @invariant()
    def credit_is_not_given_beyond_the_memory(self):
        """Only what comes back in more pieces than it came may pass the limit, by what the pieces cost; and ids, and
        names, which are reckoned with for all messages once some have them."""
        if not hasattr(self, "endpoint"):
            return
        memory = self.broker.memory
        memory.weigh()
        pieces = len(self.waiting()) + sum(len(puller.flight) for puller in self.pullers)
        ids = self.endpoint.seen.load if self.endpoint.seen else 0
        endpoint = self.endpoint
        names = NAMES_BYTES * (endpoint.ready_n + endpoint.delayed_n + endpoint.flight_n)
        assert memory.used <= memory.limit + pieces * MESSAGE_BYTES + ids + names

    @invariant()
    def nobody_waits_for_what_is_there(self):
        """With the edge's work done, messages and a consumer that can take them are not both there."""
        if not hasattr(self, "endpoint") or not self.endpoint.ready:
            return
        assert not any(puller.can_take for puller in self.pullers)


def unpacked(batch):
    unpacker = msgpack.Unpacker()
    unpacker.feed(batch.body)
    return list(unpacker)


Endpoints.TestCase.settings = settings(max_examples=60, stateful_step_count=60, deadline=None)
TestEndpoints = Endpoints.TestCase

"""The accounts of endpoints whose messages are peeked at, purged and replayed between all else that happens to them."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace

import msgpack
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from test_endpoint import Clock, Connection

from vanilla.broker.broker import Broker
from vanilla.broker.options import Options
from vanilla.broker.orders import obey
from vanilla.broker.puller import Puller
from vanilla.protocol.connection import Event
from vanilla.protocol.errors import Refused
from vanilla.protocol.frames import ACK, ADMIN, DATA, DATA_OPTIONS, MORE, NACK

NAMES = ["jobs", "jobs.dead", "mail", "mail.dead"]
#: Most of what is drawn is about a few, so that something is there.
SOME = st.sampled_from(["jobs", "jobs", "jobs", "jobs.dead", "jobs.dead", "mail", "mail.dead"])


def has_deliveries(machine):
    return any(machine.held.values())


class Orders(RuleBasedStateMachine):
    """Two work queues and their dead letters: a message is in just one place, or it was acknowledged or purged."""

    @initialize(capacity=st.integers(2, 20))
    def start(self, capacity):
        self.clock = Clock()
        options = Options(capacity=capacity, capacity_bytes=capacity * 4, max_attempts=2, backoff_ms=100)
        self.broker = Broker(self.clock, options)
        self.broker.now = lambda: self.clock.time
        self.sent = 0
        self.gone = Counter()
        #: Per consumer: channel number -> message.
        self.held = {}
        self.pullers = {}
        #: Of each message how it died last.
        self.died = {}

    def turn(self):
        self.clock.settle()
        for name, puller in self.pullers.items():
            frames, puller.session.frames = puller.session.frames, []
            for kind, _, seq, _, array in frames:
                if kind & ~MORE in (DATA, DATA_OPTIONS):
                    items = msgpack.unpackb(array)
                    options = items.pop(0) if kind & ~MORE == DATA_OPTIONS else {}
                    for number, item in enumerate(items, seq):
                        self.held[name][number] = item
                        dead = options.get("dead")
                        assert (dead and (dead["endpoint"], dead["reason"])) == self.died.get((name, item))

    @rule(
        name=st.sampled_from(["jobs", "jobs", "mail"]), count=st.integers(1, 4), reason=st.sampled_from(["BAD", "ODD"])
    )
    def messages_die(self, name, count, reason):
        endpoint = self.broker.endpoint(name)
        count = min(count, self.room(name), self.room(f"{name}.dead"))
        if count > 0:
            items = self.new(count)
            endpoint.accept(count, b"".join(map(msgpack.packb, items)))
            batch = endpoint.backlog()[-1 - len(endpoint.delayed)]
            endpoint.take_out([batch])
            endpoint.bury(batch, reason)
            self.died.update(((f"{name}.dead", item), (name, reason)) for item in items)
        self.broker.touch(endpoint)
        self.turn()

    def new(self, count):
        self.sent += count
        return range(self.sent - count, self.sent)

    @rule(name=SOME, count=st.integers(1, 6))
    def somebody_pushes(self, name, count):
        endpoint = self.broker.endpoint(name)
        count = min(count, endpoint.room_n)
        if count > 0:
            endpoint.accept(count, b"".join(map(msgpack.packb, self.new(count))))
        self.broker.touch(endpoint)
        self.turn()

    @rule(name=SOME, n=st.integers(1, 8))
    def a_consumer_takes(self, name, n):
        if name not in self.pullers:
            puller = Puller(Connection(self.broker), len(self.pullers), self.broker.endpoint(name))
            self.pullers[name], self.held[name] = puller, {}
        puller = self.pullers[name]
        puller.credit(Event(0, 0, 0, 1, {"n": puller.sent_n + n, "b": 1 << 40}))
        self.turn()

    @precondition(has_deliveries)
    @rule(data=st.data(), how=st.sampled_from(["ack", "fail", "later", "BAD", "ODD"]))
    def a_consumer_settles(self, data, how):
        name = data.draw(st.sampled_from(sorted(name for name, held in self.held.items() if held)))
        number = data.draw(st.sampled_from(sorted(self.held[name])))
        item, puller = self.held[name].pop(number), self.pullers[name]
        if how == "ack":
            self.gone["acknowledged"] += 1
            puller.ack(Event(ACK, 0, 0, 1, {"r": [number, 1]}))
        else:
            fields = {"fail": {"delay": 0}, "later": {"delay": 500}}.get(how, {"dead": how})
            dead = self.where(f"{name}.dead", item)
            puller.nack(Event(NACK, 0, 0, 1, {"r": [number, 1], **fields}))
            if not dead and self.where(f"{name}.dead", item):
                self.died[f"{name}.dead", item] = name, how if "dead" in fields else "MAX_ATTEMPTS"
        self.turn()

    @rule()
    def consumers_are_lost(self):
        pullers, self.pullers, self.held = self.pullers, {}, {}
        for name, puller in pullers.items():
            before = set(self.messages(f"{name}.dead"))
            puller.detach(None)
            for item in set(self.messages(f"{name}.dead")) - before:
                self.died[f"{name}.dead", item] = name, "MAX_ATTEMPTS"
        self.turn()

    @rule(
        do=st.sampled_from(["count", "peek", "purge", "replay", "replay"]),
        name=SOME,
        dead=st.booleans(),
        reason=st.sampled_from([None, None, None, None, "BAD", "MAX_ATTEMPTS"]),
        n=st.sampled_from([None, None, 1, 3]),
        to=st.sampled_from([None, None, None, "jobs", "mail", "mail.dead"]),
        first=st.sampled_from([0, 0, 1, 3]),
    )
    def somebody_orders(self, do, name, dead, reason, n, to, first):
        place = f"{name}.dead" if dead and not name.endswith(".dead") else name
        fields = {"do": do, "name": name, "dead": dead, "from": first, "reason": reason, "n": n, "to": to}
        given = {key: value for key, value in fields.items() if value is not None}
        there = [item for item in self.messages(place) if self.meant(place, item, reason)]
        before = {each: self.messages(each) for each in NAMES}
        room = {each: self.room(each) for each in NAMES}
        session = SimpleNamespace(broker=self.broker, who="somebody")
        try:
            packed = obey(session, Event(ADMIN, 0, 1, 1, given))
        except Refused:
            assert do == "replay" and to == place
            return
        answer = msgpack.unpackb(packed[26:])
        after = {each: self.messages(each) for each in NAMES}
        if do == "count":
            assert answer["n"] == len(there)
        elif do == "peek":
            shown = [msgpack.unpackb(each["body"]) for each in answer["messages"]]
            assert shown == there[first:][:n] and answer["n"] == len(shown)
        elif do == "purge":
            assert answer["n"] == len(there) and not set(there) & set(after[place])
            self.gone["purged"] += len(there)
        else:
            self.gone["replayed"] += answer["n"]
            self.look_at_a_replay(place, there, n, to, answer, before, after)
            assert all(len(after[each]) - len(before[each]) <= max(room[each], 0) for each in NAMES if each != place)
        if do in ("count", "peek"):
            assert after == before
        self.turn()

    def look_at_a_replay(self, place, there, n, to, answer, before, after):
        moved = [item for item in there if item not in after[place]]
        wanted = len(there) if n is None else min(n, len(there))
        assert (answer["n"], answer["n"] + answer["left"]) == (len(moved), wanted)
        assert ("text" in answer) == (answer["left"] > 0)
        for item in moved:
            target = to or self.died[place, item][0]
            self.died.pop((place, item), None)
            assert item in after[target] and item not in before[target]
        if answer["left"] and to:
            endpoint = self.broker.endpoints[to]
            assert endpoint.room_n <= 0 or endpoint.room_b <= 0
        if moved and to and not self.broker.endpoints[to].delayed:
            assert after[to] == before[to] + moved

    def room(self, name):
        endpoint = self.broker.endpoints.get(name)
        return self.broker.options.capacity if endpoint is None else endpoint.room_n

    def meant(self, place, item, reason):
        return reason is None or self.died.get((place, item), (None, None))[1] == reason

    @rule(seconds=st.sampled_from([0.2, 1, 10]))
    def time_passes(self, seconds):
        self.clock.pass_time(seconds)
        self.turn()

    def messages(self, name):
        """What lies in an endpoint, in the order of `Endpoint.backlog`."""
        endpoint = self.broker.endpoints.get(name)
        found = []
        for batch in endpoint.backlog() if endpoint is not None else ():
            unpacker = msgpack.Unpacker()
            unpacker.feed(batch.body)
            found += unpacker
        return found

    def where(self, name, item):
        return item in self.messages(name)

    @invariant()
    def every_message_is_in_one_place(self):
        if not hasattr(self, "broker"):
            return
        lying = [item for name in NAMES for item in self.messages(name)]
        flying = [item for held in self.held.values() for item in held.values()]
        assert len(lying + flying) == len({*lying, *flying})
        assert len(lying + flying) == self.sent - self.gone["acknowledged"] - self.gone["purged"]
        everything = [self.broker.totals, *self.broker.endpoints.values()]
        assert sum(each.dropped for each in everything) == self.gone["purged"]
        assert sum(each.acknowledged for each in everything) == self.gone["acknowledged"] + self.gone["replayed"]
        assert sum(each.accepted - each.dead for each in everything) == self.sent + self.gone["replayed"]

    @invariant()
    def every_account_is_balanced(self):
        if not hasattr(self, "broker"):
            return
        for endpoint in self.broker.endpoints.values():
            assert endpoint.balance == 0
            assert endpoint.ready_n == sum(batch.count for batch in [*endpoint.ready, *endpoint.back])
            assert endpoint.ready_b == sum(batch.size for batch in [*endpoint.ready, *endpoint.back])
            assert endpoint.delayed_n == sum(batch.count for batch in endpoint.delayed)
            assert endpoint.delayed_b == sum(batch.size for batch in endpoint.delayed)
            numbers = [batch.number for batch in endpoint.ready]
            assert numbers == sorted(numbers)
        self.broker.memory.weigh()
        assert self.broker.memory.used == sum(each.counted for each in self.broker.endpoints.values())


Orders.TestCase.settings = settings(max_examples=100, stateful_step_count=50, deadline=None)
TestOrders = Orders.TestCase

"""Keys, priorities and times to live under any sequence of sends, settlements, retries, crashes and pauses.

`test_endpoint` looks at the accounts of an endpoint whatever happens; here every message has a key and every consumer
takes what there is, so that keys are always held and waited for.
"""

from __future__ import annotations

import math

import msgpack
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, precondition, rule
from test_endpoint import Connection, Endpoints, has_deliveries

from vanilla.broker.puller import Puller
from vanilla.broker.pusher import Pusher
from vanilla.protocol.connection import Event


class Keyed(Endpoints):
    """Some consumers, and messages of few keys."""

    @initialize(consumers=st.integers(1, 3))
    def start(self, consumers):
        super().start(1000, 60, 1 << 30)
        self.pushers.append(Pusher(Connection(self.broker), 1, self.endpoint, 0))
        for number in range(consumers):
            puller = Puller(Connection(self.broker), 2 + number, self.endpoint)
            self.pullers.append(puller)
            self.held[puller] = {}
        self.number = 10
        self.takes_all()

    def takes_all(self):
        for puller in self.pullers:
            puller.credit(Event(0, 0, 0, 1, {"n": 1 << 40, "b": 1 << 40}))
        self.turn()

    @rule(
        keys=st.lists(st.sampled_from(["a", "b", "c", None]), min_size=1, max_size=8),
        priority=st.sampled_from([0, 0, 0, 5]),
        ttl=st.sampled_from([0, 0, 0, 40, 300]),
        delay=st.sampled_from([0, 0, 0, 30]),
    )
    def keyed_messages_come(self, keys, priority, ttl, delay):
        shared = {"priority": priority, "ttl": ttl, "delay": delay}
        shared = {name: value for name, value in shared.items() if value}
        overdue = self.clock.time + ttl / 1000 if ttl else math.inf
        for item, key in enumerate(keys, self.sent):
            self.options[item] = {**shared, "key": key, "id": None, "overdue": overdue}
        items = range(self.sent, self.sent + len(keys))
        self.sent += len(keys)
        self.endpoint.admit(len(keys), b"".join(map(msgpack.packb, items)), {**shared, "keys": keys})
        self.turn()

    def one(self, data):
        """A delivery that is not settled."""
        some = [(puller, seq) for puller in self.pullers for seq in self.held[puller]]
        return data.draw(st.sampled_from(some)) if some else None

    @precondition(has_deliveries)
    @rule(data=st.data())
    def one_is_done(self, data):
        found = self.one(data)
        if found is not None:
            puller, seq = found
            self.acked.add(self.held[puller].pop(seq))
            puller.ack(Event(0, 0, 0, 1, {"r": [seq, 1]}))
        self.turn()

    @precondition(has_deliveries)
    @rule(data=st.data(), delay=st.sampled_from([None, 0, 50]))
    def one_has_failed(self, data, delay):
        found = self.one(data)
        if found is not None:
            puller, seq = found
            self.delivered[self.held[puller].pop(seq)] += 1
            puller.nack(Event(0, 0, 0, 1, {"r": [seq, 1], **({} if delay is None else {"delay": delay})}))
        self.turn()

    @rule(data=st.data())
    def a_consumer_is_lost_and_another_comes(self, data):
        puller = data.draw(st.sampled_from(self.pullers))
        self.pullers.remove(puller)
        for item in self.held.pop(puller).values():
            self.delivered[item] += 1
        puller.detach(None)
        self.number += 1
        another = Puller(Connection(self.broker), self.number, self.endpoint)
        self.pullers.append(another)
        self.held[another] = {}
        self.takes_all()

    @rule(milliseconds=st.sampled_from([10, 60, 250]))
    def a_moment_passes(self, milliseconds):
        self.clock.pass_time(milliseconds / 1000)
        self.turn()


#: Rules of the other machine that are like these, and less to the point.
LEFT_OUT = (
    "a_producer_comes",
    "a_producer_wants_credit",
    "a_producer_gives_credit_back",
    "a_producer_sends",
    "a_producer_goes",
    "a_consumer_comes",
    "a_consumer_gives_credit",
    "a_consumer_acknowledges",
    "a_consumer_refuses",
    "a_consumer_goes",
    "time_passes",
)
for name in LEFT_OUT:
    setattr(Keyed, name, None)

Keyed.TestCase.settings = settings(max_examples=60, stateful_step_count=50, deadline=None)
TestKeyed = Keyed.TestCase

"""Leases: what a consumer does not settle or touch in time goes to another, once, and is no matter of its late word."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, precondition, rule
from peers import Peer, data, until
from test_endpoint import Clock, Endpoints, has_consumers, has_deliveries, unpacked

from vanilla.broker.lease import LATE, PARTS, SWEEP, Leases
from vanilla.protocol.connection import Event
from vanilla.protocol.frames import (
    ACK,
    CLOSE,
    CREDIT,
    DATA,
    DATA_OPTIONS,
    ERROR,
    NACK,
    OPEN,
    PING,
    PONG,
    TOUCH,
    control_map,
    pack_control,
)
from vanilla.protocol.ranges import pairs
from vanilla.protocol.terms import OVERFLOW

# -- one channel's, in time that the test makes


class Puller:
    """What leases need of their channel: it says which numbers are over, and which are out."""

    def __init__(self):
        self.clock = Clock()
        broker = SimpleNamespace(now=lambda: self.clock.time, hub=self.clock)
        self.endpoint = SimpleNamespace(broker=broker)
        self.flight = self
        self.over = []
        self.out = set()

    def lapse(self, ranges):
        for first, count in ranges:
            self.over += range(first, first + count)
        self.out.difference_update(self.over)

    def holds(self, first, end):
        return not self.out.isdisjoint(range(first, end))

    def wait(self, seconds):
        """So much time passes, in steps that no broker would call standing still."""
        end = self.clock.time + seconds
        while self.clock.time < end - 1e-9:
            self.clock.pass_time(min(0.01, end - self.clock.time))


@pytest.fixture
def puller():
    return Puller()


def test_a_lease_lasts_as_long_as_was_said_and_a_bit_longer_at_most(puller):
    leases = Leases(puller, 3200)
    leases.sent(0, 5)
    puller.wait(3.2)
    assert puller.over == []
    puller.wait(0.12)
    assert puller.over == [0, 1, 2, 3, 4]


def test_none_of_those_that_share_a_deadline_ends_early(puller):
    leases = Leases(puller, 3200)
    for number in range(10):
        leases.sent(number, number + 1)
        puller.wait(0.1)
    puller.wait(2.2)
    sent_at = [number / 10 for number in range(10)]
    assert all(puller.clock.time - sent_at[number] >= 3.2 for number in puller.over)
    puller.wait(1.2)
    assert puller.over == list(range(10))


def test_many_deliveries_are_few_pieces(puller):
    leases = Leases(puller, 1000)
    for number in range(1000):
        leases.sent(number, number + 1)
        puller.clock.pass_time(0.0005)
    assert len(leases._firsts) <= PARTS + 1


def test_what_is_touched_has_its_time_anew_and_nothing_else_has(puller):
    leases = Leases(puller, 1000)
    leases.sent(0, 10)
    puller.wait(0.5)
    leases.touch([(3, 2), (8, 5)], 1000)
    puller.wait(0.55)
    assert puller.over == [0, 1, 2, 5, 6, 7]
    puller.wait(0.5)
    assert sorted(puller.over) == list(range(10))


def test_a_touch_may_shorten_a_lease(puller):
    leases = Leases(puller, 60_000)
    leases.sent(0, 2)
    leases.touch([(1, 1)], 100)
    puller.wait(0.12)
    assert puller.over == [1]


def test_what_is_touched_for_long_does_not_lengthen_the_leases_of_what_comes_later(puller):
    leases = Leases(puller, 1000)
    leases.sent(0, 1)
    leases.touch([(0, 1)], 3_600_000)
    puller.wait(1.5)  # now the timer is set for the one that was touched
    leases.sent(1, 2)
    puller.wait(1.1)
    assert puller.over == [1]


def test_what_is_over_stays_over_whoever_touches_it(puller):
    leases = Leases(puller, 100)
    leases.sent(0, 2)
    puller.wait(0.2)
    leases.touch([(0, 2)], 100)
    leases.sent(2, 3)
    puller.wait(0.3)
    assert puller.over == [0, 1, 2]


def test_a_broker_that_stood_still_reads_first_what_consumers_have_said(puller):
    leases = Leases(puller, 1000)
    leases.sent(0, 2)
    puller.clock.pass_time(60)
    assert puller.over == []
    puller.wait(LATE / 2)
    leases.touch([(1, 1)], 1000)
    assert puller.over == []
    puller.wait(LATE)
    assert puller.over == [0]
    puller.wait(1)
    assert puller.over == [0, 1]


def test_a_wait_that_is_short_is_no_standing_still(puller):
    leases = Leases(puller, 1000)
    leases.sent(0, 2)
    puller.clock.pass_time(1 + 1 / PARTS + LATE / 2)
    assert puller.over == [0, 1]


def test_a_consumer_that_touches_and_settles_at_once_leaves_nothing_behind(puller):
    leases = Leases(puller, 60_000)
    for number in range(10 * SWEEP):
        leases.sent(number, number + 1)
        puller.out.add(number)
        leases.touch([(number, 1)], 60_000 + number)
        puller.out.discard(number)
    assert len(leases._firsts) <= 2 * SWEEP


def test_a_channel_that_is_gone_has_no_timer(puller):
    leases = Leases(puller, 1000)
    leases.sent(0, 1)
    leases.cancel()
    puller.wait(2)
    assert puller.over == []
    assert not len(puller.clock.timers)


steps = st.lists(
    st.one_of(
        st.tuples(st.just("send"), st.integers(1, 5), st.just(0), st.just(1)),
        st.tuples(st.just("touch"), st.integers(0, 30), st.integers(1, 8), st.sampled_from([1, 0.5, 4])),
        st.tuples(st.just("wait"), st.integers(1, 60), st.just(0), st.just(1)),
    ),
    max_size=40,
)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(steps=steps, ms=st.sampled_from([50, 320, 1000]))
def test_each_number_is_over_once_and_when_its_time_has_come(steps, ms):
    puller = Puller()
    leases = Leases(puller, ms)
    due, sent = {}, 0
    for what, number, count, times in steps:
        now = puller.clock.time
        if what == "send":
            leases.sent(sent, sent + number)
            due.update(dict.fromkeys(range(sent, sent + number), (now + ms / 1000, now + ms / 1000 * (1 + 1 / PARTS))))
            sent += number
        elif what == "touch" and number < sent:
            count = min(count, sent - number)
            leases.touch([(number, count)], int(ms * times))
            for each in set(range(number, number + count)) - set(puller.over):
                due[each] = now + ms * times / 1000, now + ms / 1000 * (times + 1 / PARTS)
        else:
            puller.wait(number / 100)
        now = puller.clock.time
        over = set(puller.over)
        assert len(over) == len(puller.over)
        assert all(due[each][0] <= now + 1e-6 for each in over)
        assert all(due[each][1] > now - 0.011 for each in set(range(sent)) - over)
        firsts, ends = leases._firsts, leases._ends
        assert all(first < end for first, end in zip(firsts, ends))
        assert all(end <= first for end, first in zip(ends, firsts[1:]))
        assert bool(leases._timer) == bool(firsts)


# -- at a broker


@pytest.fixture
def broker(h):
    with h.broker.listen("tcp://127.0.0.1:0", backoff_ms=20) as broker:
        yield broker


def accounts(broker, name="jobs"):
    endpoint = broker.endpoints[name]
    assert endpoint.balance == 0
    return endpoint


def pushed(peer, *items, options=None):
    peer.send(pack_control(OPEN, 1, 0, {"kind": "push", "name": "jobs", "options": options or {}}))
    peer.want(1, n=len(items), b=100)
    peer.expect(CREDIT)
    peer.send(data(1, 0, list(items)))
    peer.expect(ACK)


def pulling(peer, channel=2, n=1 << 60, name="jobs", **fields):
    """A consumer: what the answer to its OPEN says."""
    peer.send(pack_control(OPEN, channel, 0, {"kind": "pull", "name": name, **fields}))
    said = peer.fields(OPEN)
    peer.credit(channel, n)
    return said


def touch(peer, channel, *flat, **fields):
    peer.send(pack_control(TOUCH, channel, 0, {"r": list(flat), **fields}))


def answered(peer):
    """All that the broker has to say by now: the types of its frames."""
    peer.send(pack_control(PING, 0, 1))
    kinds = []
    while (kind := peer.next()[0]) != PONG:
        kinds.append(kind)
    return kinds


def end_leases(broker, within=3_600_001):
    """Time is over for what is out and has *within* seconds left at most, as if the clock had gone on."""
    for puller in list(accounts(broker).pullers):
        leases = puller.leases
        if leases is not None:
            leases._dues = [0.0 if due - broker.now() <= within else due for due in leases._dues]
            leases._armed = broker.now()
            leases._timer.cancel()
            leases._fire()


@pytest.fixture
def other(h, broker):
    other = Peer(h, broker.urls[0])
    yield other
    other.close()


def test_what_is_not_settled_in_time_goes_to_another_consumer_once_and_redelivered(h, broker, peer, other):
    pushed(peer, "a", "b")
    assert pulling(peer, lease=40) == {"lease": 40}
    peer.expect(DATA)
    assert pulling(other) == {}
    kind, seq, options, items = other.delivery()
    assert (kind, seq, options, items) == (DATA_OPTIONS, 0, {"redelivered": True, "attempts": 2}, ["a", "b"])
    assert peer.fields(NACK) == {"r": [0, 2], "code": "LEASE_EXPIRED"}
    other.ack(2, 0, 2)
    until(h, lambda: accounts(broker).acknowledged == 2)


def test_a_late_word_harms_nothing(h, broker, peer, other):
    pushed(peer, "a")
    pulling(peer, lease=20)
    peer.expect(NACK)
    pulling(other, lease=60_000)
    assert other.delivery()[3] == ["a"]
    peer.ack(2, 0, 1)
    peer.nack(2, 0, 1)
    touch(peer, 2, 0, 1)
    assert answered(peer) == []
    assert (accounts(broker).acknowledged, accounts(broker).flight_n) == (0, 1)


def test_what_is_settled_in_time_is_settled(h, broker, peer, other):
    pushed(peer, "a", "b")
    pulling(peer, lease=60_000)
    peer.expect(DATA)
    peer.ack(2, 0, 1)
    until(h, lambda: accounts(broker).acknowledged)
    end_leases(broker)
    assert peer.fields(NACK)["r"] == [1, 1]
    assert accounts(broker).acknowledged == 1


def test_who_touches_goes_on(h, broker, peer):
    pushed(peer, "a", "b")
    pulling(peer, n=2, lease=60_000)
    peer.expect(DATA)
    (puller,) = accounts(broker).pullers
    touch(peer, 2, 1, 1, lease=600_000)
    until(h, lambda: len(puller.leases._dues) == 2)
    end_leases(broker, within=100)
    assert peer.fields(NACK)["r"] == [0, 1]
    assert accounts(broker).flight_n == 1


def test_a_touch_without_a_time_has_that_of_the_lease(h, broker, peer):
    pushed(peer, "a")
    pulling(peer, lease=60_000)
    peer.expect(DATA)
    (puller,) = accounts(broker).pullers
    touch(peer, 2, 0, 1, lease=600_000)
    until(h, lambda: puller.leases._dues[0] - broker.now() > 100)
    touch(peer, 2, 0, 1)
    until(h, lambda: puller.leases._dues[0] - broker.now() <= 60)
    assert puller.endpoint.flight_n == 1


def test_a_touch_where_there_is_no_lease_is_passed_over(h, broker, peer):
    pushed(peer, "a")
    pulling(peer)
    peer.expect(DATA)
    touch(peer, 2, 0, 1, lease=1)
    assert answered(peer) == []
    assert accounts(broker).flight_n == 1


def test_to_touch_what_was_never_delivered_is_an_error(h, broker, peer):
    pushed(peer, "a")
    pulling(peer, lease=1000)
    peer.expect(DATA)
    touch(peer, 2, 0, 2)
    assert peer.fields(ERROR)["code"] == "BAD_SEQUENCE"


def test_who_let_a_lease_run_out_gets_nothing_until_it_is_heard_of(h, broker, peer, other):
    pushed(peer, "a")
    pulling(peer, lease=20)
    peer.expect(NACK)
    assert accounts(broker).ready_n == 1  # nobody else is there
    peer.credit(2)
    assert peer.delivery()[2:] == [{"redelivered": True, "attempts": 2}, ["a"]]


def test_the_lease_of_the_endpoint_is_for_who_does_not_say(h, broker, peer, other):
    pushed(peer, "a", options={"lease": 30})
    assert pulling(peer) == {"lease": 30}
    peer.expect(NACK)
    assert pulling(other, lease=0) == {}
    other.expect(DATA_OPTIONS)
    assert pulling(other, 3, lease=7) == {"lease": 7}


def test_after_so_many_leases_it_is_a_dead_letter(h, broker, peer):
    pushed(peer, "a", options={"max_attempts": 2})
    pulling(peer, lease=10)
    peer.expect(NACK)
    peer.credit(2)
    peer.expect(NACK)
    until(h, lambda: "jobs.dead" in broker.endpoints)
    assert (accounts(broker).dead, accounts(broker, "jobs.dead").ready_n) == (1, 1)


def test_a_consumer_that_goes_has_failed_only_what_it_had(h, broker, peer, other):
    pushed(peer, "a")
    pulling(other, lease=20)
    other.expect(NACK)
    other.close()
    until(h, lambda: not accounts(broker).pullers)
    pulling(peer)
    assert peer.delivery()[2] == {"redelivered": True, "attempts": 2}


def test_a_channel_that_is_closed_leaves_no_timer(h, broker, peer):
    pushed(peer, "a")
    pulling(peer, lease=3_600_000)
    peer.expect(DATA)
    (puller,) = accounts(broker).pullers
    timer = puller.leases._timer
    assert timer.home is not None
    peer.close_channel(2)
    peer.expect(CLOSE)
    assert timer.home is None


@pytest.mark.parametrize("kind", ["serve", "recv", "subscribe"])
def test_only_consumers_of_work_queues_have_leases(h, broker, peer, kind):
    peer.send(pack_control(OPEN, 2, 0, {"kind": kind, "name": "other", "lease": 50}))
    assert peer.fields(OPEN) == {}


# -- the accounts, whatever happens


class Leased(Endpoints):
    """`Endpoints` whose consumers may have leases, and whose queue may refuse more or drop its oldest messages."""

    @initialize(
        capacity=st.integers(1, 30),
        each=st.sampled_from([3, 60]),
        memory=st.sampled_from([1 << 30, 20_000, 6_000]),
        overflow=st.sampled_from(OVERFLOW),
        lease=st.sampled_from([0, 150]),
    )
    def start(self, capacity, each, memory, overflow, lease):
        super().start(capacity, each, memory)
        self.endpoint.terms = self.endpoint.terms.with_options({"overflow": overflow, "lease": lease})
        #: Consumers that have let a lease run out, and have said nothing since.
        self.silent = set()

    def turn(self):
        for puller in self.pullers:
            if not puller.sent_n and not puller.limit_n:
                puller.lend(None)
        self.clock.settle()
        over = [
            (puller, first, count)
            for puller in self.pullers
            for frame in puller.session.frames
            if frame[0] == NACK
            for first, count in pairs(control_map(frame)["r"])
        ]
        for puller, first, count in over:
            self.silent.add(puller)
            for seq in range(first, first + count):
                self.delivered[self.held[puller].pop(seq)] += 1
        super().turn()

    @precondition(has_consumers)
    @rule(data=st.data())
    def a_consumer_is_heard_of(self, data):
        puller = data.draw(st.sampled_from(self.pullers))
        puller.credit(Event(CREDIT, 0, 0, 1, {"n": puller.limit_n, "b": puller.limit_b}))
        self.silent.discard(puller)
        self.turn()

    @precondition(has_deliveries)
    @rule(data=st.data())
    def a_consumer_touches(self, data):
        puller, first, count = self.ranges(data)
        puller.touch(Event(TOUCH, 0, 0, 1, {"r": [first, count]}))
        self.silent.discard(puller)
        self.turn()

    @rule()
    def nearly_a_lease_passes(self):
        self.clock.pass_time(0.14)
        self.turn()

    @invariant()
    def every_message_is_in_one_place(self):
        if not hasattr(self, "endpoint"):
            return
        endpoint = self.endpoint
        assert endpoint.balance == 0
        assert endpoint.accepted == len(self.options) == self.sent - self.duplicates
        places = [item for batch in [*self.waiting(), *self.buried()] for item in unpacked(batch)]
        held = [item for held in self.held.values() for item in held.values()]
        there = [*places, *held, *self.acked]
        assert len(set(there)) == len(there) == endpoint.accepted - endpoint.dropped
        assert (len(held), len(self.acked)) == (endpoint.flight_n, endpoint.acknowledged)
        assert endpoint.dropped == sum(endpoint.drops.values())
        assert "overflow" not in endpoint.drops or endpoint.terms.overflow == "drop-oldest"

    @invariant()
    def nobody_waits_for_what_is_there(self):
        if not hasattr(self, "endpoint") or not self.endpoint.ready:
            return
        assert not any(puller.can_take for puller in self.pullers if puller not in self.silent)

    @invariant()
    def what_is_in_flight_has_a_lease_that_ends(self):
        if not hasattr(self, "endpoint"):
            return
        for puller in self.pullers:
            if puller.leases is not None:
                spans = list(zip(puller.leases._firsts, puller.leases._ends))
                assert all(any(first <= seq < end for first, end in spans) for seq in self.held[puller])
                assert bool(puller.leases._timer) == bool(spans)


Leased.TestCase.settings = settings(max_examples=60, stateful_step_count=60, deadline=None)
TestLeased = Leased.TestCase

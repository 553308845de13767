"""Leases as a consumer has them: renewed by touch, told when they are over, and of no harm to anybody then."""

from __future__ import annotations

import pytest
from peers import PATIENCE, until
from test_lease import end_leases

import vanilla
from vanilla.client.lease import KEPT, Lease
from vanilla.client.lot import Lot
from vanilla.protocol.frames import NACK, pack_control

#: Long enough never to be over in a test, in ms.
LONG = 3_600_000


@pytest.fixture
def broker(h):
    with h.broker.listen("tcp://127.0.0.1:0", backoff_ms=10) as broker:
        yield broker


def accounts(broker):
    endpoint = broker.endpoints["jobs"]
    assert endpoint.balance == 0
    return endpoint


def pushed(remote, *items):
    jobs = remote.push("jobs")
    jobs.send_many(items)
    jobs.sync(PATIENCE)
    return jobs


def taken(remote, **options):
    """A consumer, which goes when nobody has it any more, and its first delivery."""
    recver = remote.pull("jobs", ack=True, **options)
    return recver, recver.recv(PATIENCE)


def expiries(remote):
    """The texts of what was told of leases so far."""
    texts = []
    while True:
        try:
            kind, text = remote.events.recv(timeout=0)
        except vanilla.Timeout:
            return texts
        if kind == "lease_expired":
            texts.append(text)


def test_what_is_not_settled_in_time_is_for_another_and_its_first_consumer_knows(h, broker, near, far):
    pushed(near, "a")
    _mine, late = taken(near, lease=30)
    _theirs, again = taken(far, lease=LONG)
    assert (again.item, again.redelivered, again.attempts, again.expired) == ("a", True, 2, False)
    assert late.expired and not late.settled


def test_a_late_ack_harms_nothing_and_is_told(h, broker, near, far):
    pushed(near, "a")
    _mine, late = taken(near, lease=LONG)
    end_leases(broker)
    late.ack()  # nothing was heard of that here
    assert not late.expired
    _theirs, again = taken(far)
    near.ping()
    assert late.expired and late.settled
    assert expiries(near) == ["'jobs': 1 delivery was not settled in time"]
    assert accounts(broker).acknowledged == 0
    again.ack()
    far.ping()
    assert accounts(broker).acknowledged == 1
    assert near.link.recv(PATIENCE) == "connected"


@pytest.mark.parametrize("late_word", ["ack", "nack", "touch"])
def test_of_a_delivery_that_is_known_to_be_over_nothing_is_said(h, broker, near, far, late_word):
    pushed(near, "a", "b")
    mine, late = taken(near, lease=LONG)
    end_leases(broker)
    until(h, lambda: late.expired)
    _theirs, again = taken(far)
    state = mine._state
    state.due = float("inf")  # what there is to say is said at the edge
    getattr(late, late_word)()
    state._gather()
    assert not (state._nacks or state._done or state.lease.frames())
    near.ping()
    again.ack()
    far.ping()
    assert accounts(broker).acknowledged == 1
    assert accounts(broker).delayed_n == 0


def test_a_with_block_that_is_late_ends_as_any_other(h, broker, near, far):
    pushed(near, "a")
    _mine, late = taken(near, lease=LONG)
    with late:
        end_leases(broker)
        until(h, lambda: late.expired)
    assert late.settled
    assert far.pull("jobs", ack=True).recv(PATIENCE).redelivered


def test_who_touches_keeps_it(h, broker, near, far):
    pushed(near, "a")
    mine = near.pull("jobs", ack=True, lease=60_000)
    delivery = mine.recv(PATIENCE)
    delivery.touch(LONG)
    near.ping()
    (puller,) = accounts(broker).pullers
    assert puller.leases._dues[0] - broker.now() > 100
    delivery.touch()
    near.ping()
    assert puller.leases._dues[0] - broker.now() <= 60


def test_what_is_touched_in_one_tick_is_one_frame(h, broker, near):
    pushed(near, *range(10))
    mine = near.pull("jobs", ack=True, lease=LONG, prefetch=10)
    held = [mine.recv(PATIENCE) for _ in range(10)]
    lease = mine._state.lease
    near.ping()
    mine._state.due = float("inf")  # not before the edge
    for delivery in held:
        delivery.touch()
    held[0].touch(5_000)
    assert len(lease.frames()) == 2


def test_a_worker_that_computes_may_touch_without_a_turn_of_the_loop(h, broker, near):
    pushed(near, "a")
    mine = near.pull("jobs", ack=True, lease=LONG)
    delivery = mine.recv(PATIENCE)
    mine._state.due = 0.0
    out = near._link.out
    delivery.touch()
    assert not out and not mine._state.lease.frames()  # it has left


@pytest.mark.parametrize("ms", [0, -1, 1 << 63])
def test_a_touch_is_for_some_time(h, broker, near, ms):
    pushed(near, "a")
    _mine, delivery = taken(near, lease=LONG)
    with pytest.raises(ValueError, match="1 ms or more"):
        delivery.touch(ms)


def test_a_touch_where_there_is_no_lease_does_nothing(h, broker, near):
    pushed(near, "a")
    _mine, delivery = taken(near)
    delivery.touch(1)
    near.ping()
    assert accounts(broker).flight_n == 1
    assert not delivery.expired


@pytest.mark.parametrize("lease", [-1, 1 << 41])
def test_a_lease_is_a_time_that_may_be(h, broker, near, lease):
    with pytest.raises(ValueError, match="a lease is"):
        near.pull("jobs", ack=True, lease=lease)


@pytest.mark.parametrize("ack", [False, True])
def test_what_was_not_handed_out_is_dropped_when_its_lease_is_over(h, broker, near, far, ack):
    mine = near.pull("jobs", ack=ack, lease=LONG, prefetch=100)
    pushed(far, *range(600))
    first = mine.recv(PATIENCE)  # a part of what has come is decoded, and the rest waits
    until(h, lambda: mine._state.arrived == 100)
    if ack:
        assert (first.item, len(mine._state.buffer) > 0) == (0, True)
    near.ping()
    end_leases(broker)
    until(h, lambda: not mine._state.buffer and not mine._state.arrivals)
    again = mine.recv(PATIENCE)
    assert (again.item if ack else again) == (0 if ack else 1)
    assert expiries(near) == [f"'jobs': {100 if ack else 99} deliveries were not settled in time"]


def test_the_window_of_a_consumer_is_whole_again_when_a_lease_is_over(h, broker, near, far):
    pushed(near, *[b"x" * 1000] * 20)
    mine = near.pull("jobs", ack=True, lease=LONG, prefetch=10)
    held = [mine.recv(PATIENCE) for _ in range(10)]
    held[3].ack()
    near.ping()
    end_leases(broker)
    until(h, lambda: held[9].expired)
    assert [delivery.expired for delivery in held] == [True] * 3 + [False] + [True] * 6
    state = mine._state
    assert state.done_b == state.arrived_b
    for delivery in held:
        delivery.ack()
    near.ping()
    assert state.done_b == state.arrived_b


def test_a_consumer_that_goes_on_gets_more(h, broker, near):
    pushed(near, 0)
    mine = near.pull("jobs", ack=True, lease=LONG, prefetch=10)  # it has credit left
    late = mine.recv(PATIENCE)
    end_leases(broker)
    again = mine.recv(PATIENCE)
    assert (late.item, again.item, again.attempts) == (0, 0, 2)
    assert late.expired


def test_the_lease_of_the_endpoint_is_known_and_may_be_declined(h, broker, near, far):
    near.declare("jobs", lease=LONG)
    pushed(near, *range(3))
    mine, free, own = near.pull("jobs"), near.pull("jobs", lease=0), near.pull("jobs", lease=LONG - 1)
    for each in mine, free, own:
        each.recv(PATIENCE)
    assert mine._state.lease.ms == LONG
    assert free._state.lease is None
    assert own._state.lease.ms == LONG - 1


def test_what_is_consumed_too_slowly_is_for_others(h, broker, near, far):
    pushed(near, "a")
    done = h.state()

    def work(item):
        end_leases(broker)
        done.recv()

    near.pull("jobs", lease=LONG).consume(work)
    assert far.pull("jobs", ack=True).recv(PATIENCE).redelivered
    done.send(True)
    until(h, lambda: expiries(near))


def test_a_broker_that_speaks_of_what_it_never_sent_is_at_fault(h, broker, near):
    pushed(near, "a")
    mine = near.pull("jobs", ack=True, lease=LONG)
    mine.recv(PATIENCE)
    (session,) = broker.sessions
    session.put(pack_control(NACK, mine._state.id, 0, {"r": [1, 1], "code": "LEASE_EXPIRED"}))
    with pytest.raises(vanilla.ConnectionLost, match="never delivered"):
        mine.recv(PATIENCE)


def test_lots_that_are_settled_are_not_kept_for_ever():
    lease = Lease(None, 1000)
    for number in range(10 * KEPT):
        lot = Lot(None, 1, 1, {})
        lease.enter(number, lot)
        lot.settle(1)
    assert len(lease._lots) <= KEPT + 1


def test_of_a_lot_that_is_over_each_byte_is_counted_once():
    lot = Lot(None, 4, 400, {})
    lot.done += [0]
    assert lot.settle(len(lot.take_done())) == 100
    assert lot.lapse(range(2)) + lot.lapse(range(2, 4)) == 300
    lot.done += [1, 3]
    assert lot.take_done() == []
    assert lot.settle(1) == 0 and lot.is_settled


def test_what_is_held_for_long_keeps_nothing_of_what_was_settled_since(h, near, far):
    jobs = near.push("jobs")
    done = far.pull("jobs", ack=True, prefetch=1, lease=60_000)
    jobs.send(0)
    held = done.recv(PATIENCE)
    for number in range(1, 500):
        jobs.send(number)
        done.recv(PATIENCE).ack()
    assert len(done._state.lease._lots) <= 3 * KEPT
    held.ack()

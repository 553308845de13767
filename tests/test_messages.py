"""What a message may be sent with, from one end to the other: headers, priority, delay, time to live, key, id."""

from __future__ import annotations

from dataclasses import replace

import pytest
from peers import PATIENCE, Peer, until
from test_endpoint import Clock

import vanilla
from vanilla.broker import endpoint as endpoints
from vanilla.broker import keys
from vanilla.broker.broker import Broker
from vanilla.broker.dedupe import Seen
from vanilla.broker.memory import MESSAGE_BYTES
from vanilla.client.batch import BATCH_BYTES
from vanilla.protocol.frames import ACK, DATA, DATA_OPTIONS, ERROR


@pytest.fixture
def broker(h):
    with h.broker.listen("tcp://127.0.0.1:0", backoff_ms=10) as broker:
        yield broker


@pytest.fixture
def jobs(near):
    return near.push("jobs")


@pytest.fixture
def done(far):
    """A consumer of all that is there, which settles nothing by itself."""
    return far.pull("jobs", ack=True, prefetch=100)


def accounts(broker, name="jobs"):
    endpoint = broker.endpoints[name]
    assert endpoint.balance == 0
    return endpoint


def overdue(broker):
    """How many were dropped for being overdue."""
    return accounts(broker).drops.get("expired", 0)


def take(recver, count):
    return [recver.recv(timeout=PATIENCE) for _ in range(count)]


def items(deliveries):
    return [delivery.item for delivery in deliveries]


def nothing_comes(recver, timeout=50):
    with pytest.raises(vanilla.Timeout):
        recver.recv(timeout)


# -- what consumers are told


def test_what_a_message_is_sent_with_comes_with_it(jobs, done):
    sent = {"headers": {"trace": "é", "hops": [1, b"\xff", None]}, "key": "eu", "id": b"\x00", "priority": 7}
    jobs.send({"n": 1}, **sent)
    delivery = done.recv(PATIENCE)
    assert {name: getattr(delivery, name) for name in sent} == sent
    assert (delivery.item, delivery.redelivered, delivery.attempts) == ({"n": 1}, False, 1)


def test_a_message_that_was_sent_with_nothing_has_nothing(jobs, done):
    jobs.send(b"plain")
    jobs.send("with a time to live alone", ttl=60_000)
    for delivery in take(done, 2):
        assert (delivery.headers, delivery.key, delivery.id, delivery.priority) == ({}, None, None, 0)


def test_each_message_has_its_own_key_and_id_wherever_its_frame_is_cut(h, jobs, far):
    for number in range(50):
        jobs.send(number, key=f"key {number}" if number % 3 else None, id=bytes([number]) if number % 2 else None)
    jobs.sync(PATIENCE)
    done = far.pull("jobs", ack=True)  # asks for one, then for more
    for number in range(50):
        with done.recv(PATIENCE) as delivery:
            assert delivery.item == number
            assert delivery.key == (f"key {number}" if number % 3 else None)
            assert delivery.id == (bytes([number]) if number % 2 else None)


def test_what_was_sent_with_a_message_comes_again_with_it(jobs, done):
    jobs.send(1, key="a", headers={"b": 2})
    done.recv(PATIENCE).nack(0)
    delivery = done.recv(PATIENCE)
    assert (delivery.attempts, delivery.key, delivery.headers) == (2, "a", {"b": 2})


def test_the_headers_of_one_delivery_are_not_those_of_another(jobs, done):
    jobs.send_many([1, 2], headers={"a": 1})
    first, second = take(done, 2)
    first.headers["a"] = 5
    assert first.headers == second.headers == {"a": 1}


def test_a_dead_letter_keeps_what_it_was_sent_with(h, jobs, done, far, broker):
    jobs.send("bad", key="a", id="b", headers={"c": 3}, priority=4, ttl=60_000)
    for _ in range(5):
        done.recv(PATIENCE).nack(0)
    dead = far.pull("jobs.dead", ack=True).recv(PATIENCE)
    assert (dead.item, dead.key, dead.id, dead.headers, dead.priority) == ("bad", "a", "b", {"c": 3}, 4)
    assert accounts(broker).dead == 1


def test_plain_items_are_handed_out_whatever_they_were_sent_with(jobs, far):
    jobs.send("with", key="a", headers={"b": 1})
    jobs.send("without")
    assert take(far.pull("jobs"), 2) == ["with", "without"]


def test_a_list_shares_its_options(jobs, done):
    jobs.send_many((n for n in range(3)), headers={"a": 1}, priority=2, key=None)
    assert [(d.item, d.headers, d.priority) for d in take(done, 3)] == [(n, {"a": 1}, 2) for n in range(3)]


def test_messages_of_all_sizes_keep_their_order_and_their_options(h, jobs, far):
    sizes = [0, 100, 40_000, 300_000, 5, BATCH_BYTES, 1]
    task = h.spawn(lambda: [jobs.send(b"x" * size, headers={"size": size}) for size in sizes * 3])
    done = far.pull("jobs", ack=True)
    for size in sizes * 3:
        with done.recv(PATIENCE) as delivery:
            assert len(delivery.item) == delivery.headers["size"] == size
    task.join(PATIENCE)


@pytest.mark.parametrize(
    "sender",
    [
        lambda remote: remote.queue("a", 5).sender,
        lambda remote: remote.channel("b").sender,
        lambda remote: remote.broadcast("c").sender,
    ],
    ids=["queue", "rendezvous", "broadcast"],
)
def test_only_the_messages_of_work_queues_have_options(near, sender):
    with pytest.raises(TypeError, match="only a work queue's messages have options"):
        sender(near).send(1, key="a")


def test_a_closed_sender_is_closed_with_options_too(jobs):
    jobs.close()
    with pytest.raises(vanilla.Closed):
        jobs.send(1, key="a")


def test_a_message_that_is_too_big_with_its_options_is_refused_here(near, jobs, done):
    most = near.message_limit
    item = b"x" * (most - 3000)
    with pytest.raises(ValueError, match="too big"):
        jobs.send(item, headers={"a": "x" * 4000})
    jobs.send(item, headers={"a": "x" * 2900})
    assert done.recv(PATIENCE).item == item


def test_a_send_with_options_waits_while_the_queue_is_full(h):
    with h.broker.listen("tcp://127.0.0.1:0", capacity=2) as broker, h.client.connect(broker.urls[0]) as remote:
        jobs = remote.push("jobs")
        jobs.send_many([1, 2], key="a")
        with pytest.raises(vanilla.Timeout):
            jobs.send(3, timeout=50, priority=9)
        task = h.spawn(jobs.send, 4, headers={"four": 4})
        done = remote.pull("jobs", ack=True)
        for number in 1, 2, 4:
            with done.recv(PATIENCE) as delivery:
                assert delivery.item == number
        task.join(PATIENCE)
        assert (delivery.headers, delivery.priority) == ({"four": 4}, 0)


def test_a_frame_that_is_not_paid_for_with_its_options_ends_the_connection(h, broker):
    peer = Peer(h, broker.urls[0])
    peer.open(1, "push", "jobs")
    credit = peer.fields(0x22)
    peer.ask(1, 0, ["x" * (credit["b"] - 100)], headers={"a": "x" * 200})
    assert peer.fields(ERROR)["code"] == "OVER_CREDIT"
    assert peer.gone()
    peer.close()


# -- priority


def test_messages_of_a_higher_priority_go_first_and_each_keeps_its_order(jobs, far):
    for number in range(60):
        jobs.send(number, priority=(0, 9, 4)[number % 3])
    jobs.sync(PATIENCE)
    found = take(far.pull("jobs"), 60)
    assert found == [*range(1, 60, 3), *range(2, 60, 3), *range(0, 60, 3)]


def test_what_comes_back_stands_where_it_stood_in_its_priority(h, jobs, near, broker):
    jobs.send_many(["low 1", "low 2"])
    jobs.send_many(["high 1", "high 2"], priority=5)
    jobs.sync(PATIENCE)
    with h.client.connect(broker.urls[0]) as lost:
        assert items(take(lost.pull("jobs", ack=True, prefetch=3), 3)) == ["high 1", "high 2", "low 1"]
    jobs.send("high 3", priority=5)
    jobs.sync(PATIENCE)
    assert take(near.pull("jobs"), 5) == ["high 1", "high 2", "high 3", "low 1", "low 2"]


def test_an_endpoint_without_priorities_left_has_one_line_again(h, jobs, far, broker):
    jobs.send("low")
    jobs.send("high", priority=1)
    jobs.sync(PATIENCE)
    assert accounts(broker).priorities is not None
    assert take(far.pull("jobs"), 2) == ["high", "low"]
    assert accounts(broker).priorities is None


# -- delay


def test_a_delayed_message_comes_later_and_that_is_no_attempt(h, jobs, done, broker):
    jobs.send("later", delay=100)
    jobs.send("now")
    jobs.sync(PATIENCE)
    assert (accounts(broker).delayed_n, accounts(broker).accepted) == (1, 2)
    first, second = take(done, 2)
    assert (first.item, second.item, second.attempts, second.redelivered) == ("now", "later", 1, False)


def test_a_delay_counts_from_when_the_broker_has_the_message(h, jobs, done):
    then = h.spawn(h.sleep, 60)
    jobs.send("later", delay=60)
    assert done.recv(PATIENCE).item == "later"
    until(h, lambda: then.done)


def test_delayed_messages_of_one_time_keep_their_order_and_go_by_priority(jobs, done):
    jobs.send_many([1, 2, 3], delay=30)
    jobs.send_many([4, 5], delay=30, priority=1)
    first = take(done, 5)
    assert sorted(items(first)) == [1, 2, 3, 4, 5]
    assert [item for item in items(first) if item < 4] == [1, 2, 3]


def test_what_is_delayed_takes_room(h):
    with h.broker.listen("tcp://127.0.0.1:0", capacity=2) as broker, h.client.connect(broker.urls[0]) as remote:
        jobs = remote.push("jobs")
        jobs.send_many([1, 2], delay=60_000)
        with pytest.raises(vanilla.Timeout):
            jobs.send(3, timeout=50)


# -- time to live


def test_what_is_overdue_leaves_and_is_counted_though_nobody_pulls(h, jobs, near, broker):
    jobs.send("stays")
    jobs.send_many(["goes", "goes too"], ttl=30)
    jobs.send("stays, too", ttl=60_000)
    jobs.sync(PATIENCE)
    until(h, lambda: overdue(broker) == 2)
    assert (accounts(broker).ready_n, accounts(broker).dropped) == (2, 2)
    (status,) = near.status()["endpoints"]
    assert (status["ready"], status["dropped"], status["drops"]["expired"]) == (2, 2, 2)
    assert take(near.pull("jobs"), 2) == ["stays", "stays, too"]


def test_what_is_overdue_is_not_delivered_however_late_it_is_looked_for(h, jobs, far, broker, monkeypatch):
    monkeypatch.setattr(endpoints.Expiry, "note", lambda *_: None)
    now = broker.now
    jobs.send_many([1, 2], ttl=1_000)
    jobs.send(3)
    jobs.sync(PATIENCE)
    broker.now = lambda: now() + 1
    assert far.pull("jobs").recv(PATIENCE) == 3
    assert overdue(broker) == 2


def test_what_is_overdue_makes_room_for_who_waits(h):
    with h.broker.listen("tcp://127.0.0.1:0", capacity=1) as broker, h.client.connect(broker.urls[0]) as remote:
        jobs = remote.push("jobs")
        jobs.send("overdue", ttl=30)
        jobs.send("next", timeout=PATIENCE)
        assert remote.pull("jobs").recv(PATIENCE) == "next"


def test_a_message_that_failed_and_is_overdue_comes_no_more(h, jobs, done, broker):
    jobs.send(1, ttl=60)
    done.recv(PATIENCE).nack(60_000)
    until(h, lambda: overdue(broker) == 1)
    assert accounts(broker).empty


def test_who_has_an_overdue_message_may_settle_it(h, jobs, done, broker):
    jobs.send(1, ttl=30)
    delivery = done.recv(PATIENCE)
    h.sleep(50)
    delivery.ack()
    until(h, lambda: accounts(broker).acknowledged == 1)
    assert overdue(broker) == 0


def test_a_time_to_live_counts_while_a_message_is_delayed(h, jobs, done, broker):
    jobs.send(1, ttl=30, delay=60_000)
    until(h, lambda: "jobs" in broker.endpoints and overdue(broker) == 1)


def test_what_says_nothing_has_the_time_to_live_of_its_endpoint(h, near, broker):
    jobs = near.push("jobs", ttl=30)
    for item in b"plain", {"a": "dict"}:
        jobs.send(item)
    jobs.send("says so", ttl=60_000)
    jobs.send("with a key", key="a")
    jobs.sync(PATIENCE)
    until(h, lambda: overdue(broker) == 3)
    assert near.pull("jobs").recv(PATIENCE) == "says so"


def test_a_message_that_a_consumer_waits_for_has_the_endpoint_s_time_to_live_too(h, near, far, broker):
    jobs, done = near.push("jobs", ttl=100), far.pull("jobs", ack=True)
    task = h.spawn(done.recv)
    until(h, lambda: "jobs" in broker.endpoints and broker.endpoints["jobs"].hungry)
    jobs.send(1)
    task.join(PATIENCE).nack(60_000)
    until(h, lambda: overdue(broker) == 1)


def test_what_is_overdue_is_a_dead_letter_where_the_endpoint_names_a_place(h, near, broker):
    jobs = near.push("jobs", dead="overdue")
    jobs.send("late", ttl=30, headers={"a": 1})
    late = near.pull("overdue", ack=True).recv(PATIENCE)
    assert (late.item, late.headers) == ("late", {"a": 1})
    assert (accounts(broker).dead, accounts(broker).dropped) == (1, 0)


def test_a_queue_that_drops_its_oldest_keeps_those_of_a_higher_priority(h, near, broker):
    jobs = near.push("jobs", capacity=4, overflow="drop-oldest")
    jobs.send_many(["high 1", "high 2"], priority=1)
    jobs.send_many(["low 1", "low 2"])
    jobs.sync(PATIENCE)
    jobs.send("low 3", timeout=PATIENCE)
    jobs.sync(PATIENCE)
    found = near.pull("jobs")
    first = take(found, 3)
    assert first == ["high 1", "high 2", "low 3" if accounts(broker).dropped == 2 else "low 2"]


def test_a_queue_that_drops_its_oldest_goes_on_with_their_keys(h, near, far, broker):
    jobs = near.push("jobs", capacity=4, overflow="drop-oldest")
    done = far.pull("jobs", ack=True)
    jobs.send("held", key="a")
    held = done.recv(PATIENCE)
    for number in range(20):
        jobs.send(number, key="a", timeout=PATIENCE)
    jobs.sync(PATIENCE)
    held.ack()
    found = []
    while not found or found[-1] != 19:
        with done.recv(PATIENCE) as delivery:
            found.append(delivery.item)
    assert found == sorted(found)
    until(h, lambda: accounts(broker).acknowledged == len(found) + 1)
    assert accounts(broker).drops["overflow"] == 20 - len(found) > 0


# -- keys


def test_messages_of_one_key_are_with_one_consumer_at_a_time(h, jobs, near, far, broker):
    jobs.send_many(["a1", "a2"], key="a")
    jobs.send_many(["b1", "b2"], key="b")
    jobs.sync(PATIENCE)
    one, other = near.pull("jobs", ack=True), far.pull("jobs", ack=True)
    first, second = one.recv(PATIENCE), other.recv(PATIENCE)
    assert items([first, second]) == ["a1", "b1"]
    nothing_comes(one)
    nothing_comes(other)
    first.ack()
    assert other.recv(PATIENCE).item == "a2"
    nothing_comes(one)
    assert accounts(broker).ready_n == 1


def test_a_key_waits_for_its_messages_that_failed_and_others_go_on(h, jobs, done):
    jobs.send_many(["a1", "a2"], key="a")
    jobs.send("b1", key="b")
    jobs.send("none")
    failed, *others = take(done, 3)
    assert items([failed, *others]) == ["a1", "b1", "none"]
    failed.nack(100)
    again = done.recv(PATIENCE)
    assert (again.item, again.attempts) == ("a1", 2)
    nothing_comes(done)
    again.ack()
    assert done.recv(PATIENCE).item == "a2"


def test_a_key_goes_on_when_its_message_is_a_dead_letter(h, jobs, done, far):
    jobs.send_many(["bad", "good"], key="a")
    for _ in range(5):
        delivery = done.recv(PATIENCE)
        assert delivery.item == "bad"
        delivery.nack(0)
    assert done.recv(PATIENCE).item == "good"


def test_the_keys_of_a_lost_consumer_are_free(h, jobs, far, broker):
    jobs.send_many([1, 2, 3], key="a")
    jobs.sync(PATIENCE)
    lost = h.client.connect(broker.urls[0])
    assert lost.pull("jobs", ack=True).recv(PATIENCE).item == 1
    for session in list(broker.sessions):
        if any(puller.flight.count for puller in broker.endpoints["jobs"].pullers if puller.session is session):
            session.drop("test")
    done = far.pull("jobs", ack=True)
    for number in 1, 2, 3:
        with done.recv(PATIENCE) as delivery:
            assert (delivery.item, delivery.redelivered) == (number, number == 1)


def test_items_that_are_not_settled_by_hand_keep_the_order_of_their_keys(h, jobs, near, far, broker):
    found = []
    for remote in near, far:
        remote.pull("jobs").consume(lambda item: found.append(item) or h.sleep(0))
    for number in range(200):
        jobs.send([number % 7, number], key=bytes([number % 7]))
    until(h, lambda: len(found) == 200)
    for key in range(7):
        assert [number for own, number in found if own == key] == [*range(key, 200, 7)]
    until(h, lambda: accounts(broker).acknowledged == 200)
    assert not accounts(broker).keys._keys


def test_a_plain_recv_frees_its_key_when_the_item_is_handed_out(h, jobs, far):
    jobs.send_many([*range(100)], key="only")
    assert take(far.pull("jobs"), 100) == [*range(100)]


def test_an_overdue_message_does_not_keep_its_key(h, jobs, done, broker):
    jobs.send("held", key="a")
    jobs.send("overdue", key="a", ttl=30)
    jobs.send("next", key="a")
    held = done.recv(PATIENCE)
    until(h, lambda: overdue(broker) == 1)
    held.ack()
    assert done.recv(PATIENCE).item == "next"


def test_what_waits_for_a_key_goes_by_priority(h, jobs, done):
    jobs.send("first", key="a")
    held = done.recv(PATIENCE)
    for number in range(3):
        jobs.send(f"low {number}", key="a")
        jobs.send(f"high {number}", key="a", priority=3)
    jobs.sync(PATIENCE)
    found = []
    for _ in range(6):
        held.ack()
        held = done.recv(PATIENCE)
        found.append(held.item)
    assert found == ["high 0", "high 1", "high 2", "low 0", "low 1", "low 2"]


def test_to_find_its_place_behind_a_key_costs_a_message_a_few_looks(monkeypatch):
    looks = 0

    def counted(batch, index=0, rank=keys._rank):
        nonlocal looks
        looks += 1
        return rank(batch, index)

    clock = Clock()
    broker = Broker(clock)
    broker.now = lambda: clock.time
    endpoint = broker.endpoint("jobs")
    names = ["a", "b"] * 500
    for priority in 0, 9, 5:
        endpoint.admit(1000, b"\x01" * 1000, {"keys": names, "priority": priority})
        if not priority:
            monkeypatch.setattr(keys, "_rank", counted)
            assert endpoint.pop(1000, 1 << 20).count == 2
        assert endpoint.pop(1000, 1 << 20) is None
    waiting = endpoint.in_line()
    assert [batch.number for batch in waiting] == sorted(
        (batch.number for batch in waiting), key=lambda number: (number % 2, (2, 0, 1)[number // 1000], number)
    )
    assert looks < 40 * 3000


def test_one_frame_of_two_keys_is_taken_apart_and_comes_in_order(h, broker):
    """Each in turn, which is the worst: nothing in the frame stands beside another of its key."""
    peer = Peer(h, broker.urls[0])
    peer.open(1, "push", "jobs")
    peer.want(1, n=1000, b=100_000)
    while peer.fields(0x22)["n"] < 1000:
        peer.want(1, n=1000, b=100_000)
    peer.ask(1, 0, [*range(1000)], keys=["a", "b"] * 500)
    peer.expect(ACK)
    peer.open(2, "pull", "jobs")
    peer.credit(2)
    found = []
    while len(found) < 1000:
        _, seq, _, some = peer.delivery()
        assert len(some) <= 2
        found += some
        peer.ack(2, seq, len(some))
    assert found == [*range(1000)]
    peer.close()


# -- ids


def test_a_second_message_of_an_id_is_confirmed_discarded_and_counted(h, jobs, far, near, broker):
    for number in range(4):
        jobs.send(number, id=f"id {number % 2}")
    far.push("jobs").send("from another", id="id 0")
    far.push("jobs").sync(PATIENCE)
    jobs.sync(PATIENCE)
    assert jobs.unconfirmed == 0
    assert take(near.pull("jobs"), 2) == [0, 1]
    assert (accounts(broker).accepted, accounts(broker).duplicates) == (2, 3)
    (status,) = near.status()["endpoints"]
    assert (status["accepted"], status["duplicates"]) == (2, 3)


def test_an_id_is_known_after_its_message_is_done_and_everybody_has_left(h, near, broker):
    with h.client.connect(broker.urls[0]) as other:
        other.push("jobs").send(1, id="one")
        assert other.pull("jobs").recv(PATIENCE) == 1
    until(h, lambda: not broker.endpoints["jobs"].pullers)
    near.push("jobs").send(2, id="one")
    near.push("jobs").send(3, id="two")
    assert near.pull("jobs").recv(PATIENCE) == 3


def test_ids_are_an_endpoints_own(h, near):
    for name in "jobs", "others":
        near.push(name).send(name, id="one")
        assert near.pull(name).recv(PATIENCE) == name


def test_an_id_is_forgotten_after_its_time_and_then_its_endpoint_may_go(h, near, broker, monkeypatch):
    monkeypatch.setattr("vanilla.broker.dedupe.PAUSE", 0.01)
    broker.terms = replace(broker.terms, dedupe=50)
    with near.push("jobs") as jobs, near.pull("jobs") as done:
        jobs.send(1, id="one")
        assert done.recv(PATIENCE) == 1
        until(h, lambda: broker.endpoints["jobs"].seen is None)
        jobs.send(2, id="one")
        assert done.recv(PATIENCE) == 2
    until(h, lambda: "jobs" not in broker.endpoints)


def test_an_endpoint_that_remembers_ids_goes_where_its_place_is_needed(h):
    with h.broker.listen("tcp://127.0.0.1:0", endpoints=1) as broker, h.client.connect(broker.urls[0]) as remote:
        with remote.push("jobs") as jobs, remote.pull("jobs") as done:
            jobs.send(1, id="one")
            assert done.recv(PATIENCE) == 1
        until(h, lambda: broker.unused)
        remote.push("others").send(2)
        assert remote.pull("others").recv(PATIENCE) == 2
        assert [*broker.endpoints] == ["others"]


def test_an_endpoint_that_is_gone_leaves_no_timer_that_keeps_what_it_was():
    clock = Clock()
    broker = Broker(clock)
    broker.now = lambda: clock.time
    for options in {"ids": ["one"]}, {"ttl": 60_000}:
        endpoint = broker.endpoint("jobs")
        endpoint.admit(1, b"\x01", options)
        endpoint.take_out(endpoint.in_line())
        endpoint.drop(1, "purged")
        assert len(clock.timers) == 1
        broker._forget(endpoint)
        assert len(clock.timers) == 0


def test_however_often_ids_come_and_are_forgotten_one_timer_runs():
    clock = Clock()
    broker = Broker(clock)
    broker.now = lambda: clock.time
    seen = Seen(broker.endpoint("jobs"))
    for number in range(20):
        assert seen.fresh([str(number)], 100, 0.5) == [0]
        assert len(clock.timers) == 1
        clock.pass_time(0.6)


def test_the_oldest_ids_are_forgotten_for_newer_ones(h, near, broker):
    jobs = near.push("jobs", dedupe_entries=3)
    for name in "abcd", "bcd", "a":
        for id in name:
            jobs.send(id, id=id)
    jobs.sync(PATIENCE)
    assert (accounts(broker).accepted, accounts(broker).duplicates) == (5, 3)


def test_all_ids_together_take_a_quarter_of_the_memory_and_the_oldest_of_most_are_forgotten_first(h):
    with h.broker.listen("tcp://127.0.0.1:0", memory=8 << 20) as broker, h.client.connect(broker.urls[0]) as remote:
        few = remote.push("few")
        few.send(0, id="few")
        most = remote.push("most")
        remote.pull("few").recv(timeout=PATIENCE)
        remote.pull("most").consume(lambda item: None)
        for i in range(12_000):
            most.send(i, id=f"{i:016}")
        most.sync(timeout=PATIENCE)
        assert broker.windows.size == sum(broker.endpoints[name].seen.load for name in ("few", "most"))
        assert 1 << 20 < broker.windows.size <= 2 << 20
        few.send(0, id="few")
        most.send(0, id=f"{11_999:016}")
        most.send(0, id=f"{0:016}")
        few.sync(timeout=PATIENCE)
        most.sync(timeout=PATIENCE)
        assert (accounts(broker, "few").duplicates, accounts(broker, "most").duplicates) == (1, 1)


def test_the_memory_that_ids_take_is_counted(h, jobs, broker):
    jobs.send_many([b""] * 2)
    jobs.sync(PATIENCE)
    broker.memory.weigh()
    before = broker.memory.used
    for number in range(100):
        jobs.send(b"", id=b"x" * 100 + bytes([number]))
    jobs.sync(PATIENCE)
    broker.memory.weigh()
    assert broker.memory.used - before > 100 * 300
    assert accounts(broker).load == accounts(broker).counted


def test_the_memory_that_keys_take_is_counted(h, near, broker):
    def load_of(name, **options):
        sender = near.push(name)
        sender.send_many([1] * 100, **options)
        sender.sync(PATIENCE)
        endpoint = broker.endpoints[name]
        return endpoint.load - endpoint.granted_b - endpoint.granted_n * MESSAGE_BYTES

    assert load_of("keyed", key="ab") - load_of("plain") > 100 * 60


# -- the broker as a peer sees it


def test_a_delivery_has_the_options_of_its_messages_alone(h, broker):
    """What was cut or skipped has left its entries, and what differs stands in another frame."""
    peer = Peer(h, broker.urls[0])
    peer.open(1, "push", "jobs")
    peer.fields(0x22)
    peer.ask(1, 0, [0, 1, 2, 3], keys=["a", None, "b", None], ids=[None, "x", "x", "y"])
    peer.ask(1, 4, [4, 5], priority=0, headers={"h": 1})
    peer.ask(1, 6, [6], ttl=60_000)
    peer.open(2, "pull", "jobs")
    peer.credit(2, n=2)
    assert peer.delivery()[1:] == [0, {"keys": ["a", None], "ids": [None, "x"]}, [0, 1]]
    peer.credit(2)
    assert peer.delivery()[1:] == [2, {"ids": ["y"]}, [3]]
    assert peer.delivery()[1:] == [3, {"headers": {"h": 1}}, [4, 5]]
    assert peer.delivery()[1:] == [5, {}, [6]]
    peer.close()


def test_what_consumers_are_not_told_needs_no_options(h, broker):
    peer = Peer(h, broker.urls[0])
    peer.open(1, "push", "jobs")
    peer.fields(0x22)
    peer.ask(1, 0, [1], ttl=60_000)
    peer.ask(1, 1, [2], keys=[None], headers={}, priority=0)
    peer.open(2, "pull", "jobs")
    peer.credit(2)
    kind, *rest = peer.delivery()
    assert (kind, rest) == (DATA, [0, {}, [1, 2]])
    peer.nack(2, 0, 2, delay=0)
    kind, *rest = peer.delivery()
    assert (kind, rest) == (DATA_OPTIONS, [2, {"redelivered": True, "attempts": 2}, [1, 2]])
    peer.close()


def test_deliveries_are_no_longer_than_frames_may_be_whatever_their_keys_and_ids_take(h):
    """Ids of a few bytes are most of what small messages take; long ones of some and none of others are no average."""
    with h.broker.listen("tcp://127.0.0.1:0", frame_bytes=65536) as broker, h.client.connect(broker.urls[0]) as near:
        jobs, sent = near.push("jobs"), []
        for number in range(8_000):
            jobs.send(1, id=f"{number:x}", key=f"{'é' * 100}{number}" if 3_000 < number < 3_500 else None)
        jobs.sync(timeout=PATIENCE)
        with h.client.connect(broker.urls[0], reconnect=False) as far:
            back = far.pull("jobs", prefetch=100_000)
            while len(sent) < 8_000:
                sent += back.recv_many(1_000, timeout=PATIENCE)
        assert sent == [1] * 8_000

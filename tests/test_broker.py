"""The broker as a peer sees it, frame by frame, and as its accounts show it."""

from __future__ import annotations

import socket
from contextlib import closing

import pytest
from peers import PATIENCE, Peer, data, until

import vanilla
from vanilla import tcp
from vanilla.broker.flight import FRAGMENT_BYTES
from vanilla.broker.puller import FRAME_BYTES
from vanilla.broker.session import Session, describe_peer
from vanilla.client.batch import BATCH_BYTES
from vanilla.protocol.frames import (
    ACK,
    CLOSE,
    CREDIT,
    DATA,
    DATA_OPTIONS,
    ERROR,
    GO_AWAY,
    HELLO,
    MORE,
    OPEN,
    PING,
    PONG,
    pack_control,
)
from vanilla.protocol.urls import Address, parse

HI = pack_control(HELLO, 0, 0, {"v": 1, "id": b"p" * 16})


@pytest.fixture
def broker(h):
    with h.broker.listen("tcp://127.0.0.1:0", backoff_ms=20) as broker:
        yield broker


def pushing(peer, name="jobs", channel=1):
    """A push channel with its first credit."""
    peer.open(channel, "push", name)
    peer.want(channel, n=1, b=10)
    peer.expect(OPEN)
    return peer.fields(CREDIT)


def pulling(peer, name="jobs", channel=2, n=1 << 60, b=1 << 60):
    peer.open(channel, "pull", name)
    peer.expect(OPEN)
    if n:
        peer.credit(channel, n, b)


def name_of(peer):
    """What the broker calls it."""
    return describe_peer(peer.sock.getsockname())


def accounts(broker, name="jobs"):
    endpoint = broker.endpoints[name]
    assert endpoint.balance == 0
    return endpoint


# -- push and pull


def test_what_is_pushed_is_confirmed_and_delivered_with_its_number(h, broker, peer):
    pushing(peer)
    peer.send(data(1, 0, ["a", "b"]))
    assert peer.fields(ACK) == {"r": [0, 2]}
    pulling(peer)
    assert peer.delivery() == [DATA, 0, {}, ["a", "b"]]
    peer.send(data(1, 2, ["c"]))
    assert peer.delivery() == [DATA, 2, {}, ["c"]]


@pytest.fixture
def writes(broker, monkeypatch):
    """For each write of the broker the peers that had output waiting then."""
    found = []
    flush = Session.flush

    def noted(session):
        waiting = [each.peer for each in broker.sessions if each.out]
        if session.peer in waiting:
            found.append(waiting)
        flush(session)

    monkeypatch.setattr(Session, "flush", noted)
    return found


def test_a_delivery_leaves_before_its_confirm_is_made(h, broker, peer, writes):
    pushing(peer)
    with closing(Peer(h, broker.urls[0])) as consumer:
        pulling(consumer)
        consumer.send(pack_control(PING))
        consumer.expect(PONG)
        writes.clear()
        peer.send(data(1, 0, ["a"]))
        assert consumer.delivery() == [DATA, 0, {}, ["a"]]
        assert peer.fields(ACK) == {"r": [0, 1]}
        assert writes == [[name_of(consumer)], [name_of(peer)]]


def test_a_delivery_and_a_confirm_to_one_connection_are_one_write(h, broker, peer, writes):
    pushing(peer)
    pulling(peer)
    peer.send(pack_control(PING))
    peer.expect(PONG)
    writes.clear()
    peer.send(data(1, 0, ["a"]))
    assert peer.delivery() == [DATA, 0, {}, ["a"]]
    assert peer.fields(ACK) == {"r": [0, 1]}
    assert writes == [[name_of(peer)]]


def test_without_a_puller_messages_wait(h, broker, peer):
    pushing(peer)
    peer.send(data(1, 0, [1, 2, 3]))
    peer.expect(ACK)
    assert accounts(broker).ready_n == 3


def test_confirms_of_one_tick_are_one_range(h, broker, peer):
    pushing(peer)
    peer.send(data(1, 0, [1]), data(1, 1, [2, 3]), data(1, 3, [4]))
    assert peer.fields(ACK) == {"r": [0, 4]}


def test_batches_move_whole_when_credit_allows(h, broker, peer):
    pushing(peer)
    peer.want(1, n=1000, b=10_000)
    peer.fields(CREDIT)
    peer.send(data(1, 0, [7] * 1000))
    pulling(peer)
    assert peer.delivery() == [DATA, 0, {}, [7] * 1000]


def test_a_batch_is_cut_where_credit_ends_and_says_that_there_is_more(h, broker, peer):
    pushing(peer)
    peer.send(data(1, 0, list(range(10))))
    pulling(peer, n=4)
    assert peer.delivery() == [DATA | MORE, 0, {}, [0, 1, 2, 3]]
    peer.credit(2, n=9)
    assert peer.delivery() == [DATA | MORE, 4, {}, [4, 5, 6, 7, 8]]
    peer.credit(2, n=100)
    assert peer.delivery() == [DATA, 9, {}, [9]]


def test_byte_credit_may_be_overshot_by_one_message(h, broker, peer):
    pushing(peer)
    peer.send(data(1, 0, [b"x" * 100, b"y" * 100, b"z" * 100]))
    pulling(peer, b=103)  # one byte more than the first message takes
    assert peer.delivery()[3] == [b"x" * 100, b"y" * 100]
    peer.credit(2, b=204)  # what was sent, and no more
    peer.credit(2, b=205)
    assert peer.delivery()[3] == [b"z" * 100]


def test_small_batches_of_one_tick_share_a_frame(h, broker, peer):
    pushing(peer)
    peer.send(*(data(1, i, [i]) for i in range(10)))
    peer.expect(ACK)
    pulling(peer)
    assert peer.delivery() == [DATA, 0, {}, list(range(10))]


def test_two_idle_pullers_share_a_burst(h, broker, peer):
    pulling(peer, channel=2)
    pulling(peer, channel=3)
    assert pushing(peer)["n"] >= 100
    peer.send(data(1, 0, list(range(100))))
    deliveries = {}
    while sum(map(len, deliveries.values())) < 100:
        _, channel, _, count, _ = peer.expect(DATA, DATA | MORE)
        deliveries.setdefault(channel, []).extend(range(count))
    assert {channel: len(items) for channel, items in deliveries.items()} == {2: 50, 3: 50}


def test_a_name_must_be_a_name(h, broker, peer):
    for number, name in enumerate(["", "x" * 256, "a\nb", "a\x7fb", "a\x85b", "ä" * 128], 1):
        peer.open(number, "push", name)
        assert peer.fields(ERROR)["code"] == "BAD_NAME"
        peer.close_channel(number)
        peer.expect(CLOSE)
    pushing(peer, "ä" * 127 + "x", channel=100)


def test_an_unknown_kind_is_refused_and_the_connection_goes_on(h, broker, peer):
    peer.open(1, "teapot", "jobs")
    assert peer.fields(ERROR)["code"] == "BAD_KIND"
    peer.send(data(1, 0, [1]))  # was under way: passed over
    pushing(peer, channel=2)


def test_endpoints_go_when_idle_and_empty_and_their_counters_stay(h, broker, peer):
    pushing(peer)
    pulling(peer)
    peer.send(data(1, 0, [1, 2]))
    peer.delivery()
    peer.ack(2, 0, 2)
    peer.close_channel(1)
    peer.close_channel(2)
    peer.expect(CLOSE)
    peer.expect(CLOSE)
    assert not broker.endpoints
    assert (broker.totals.accepted, broker.totals.acknowledged) == (2, 2)
    assert peer.status()[""]["accepted"] == 2


def test_an_endpoint_with_messages_stays(h, broker, peer):
    pushing(peer)
    peer.send(data(1, 0, [1]))
    peer.close_channel(1)
    peer.expect(CLOSE)
    assert accounts(broker).ready_n == 1


def test_the_number_of_endpoints_is_limited(h):
    with h.broker.listen("tcp://127.0.0.1:0", endpoints=2) as broker:
        peer = Peer(h, broker.urls[0])
        pushing(peer, "a", 1)
        pushing(peer, "b", 2)
        peer.open(3, "push", "c")
        assert peer.fields(ERROR)["code"] == "TOO_MANY"
        peer.close()


def test_the_number_of_channels_is_limited(h):
    with h.broker.listen("tcp://127.0.0.1:0", channels=2) as broker:
        peer = Peer(h, broker.urls[0])
        pulling(peer, "a", 1)
        pulling(peer, "a", 2)
        peer.open(3, "pull", "a")
        assert peer.fields(ERROR)["code"] == "TOO_MANY"
        peer.close()


def test_the_number_of_connections_is_limited(h):
    with h.broker.listen("tcp://127.0.0.1:0", connections=1) as broker:
        first = Peer(h, broker.urls[0])
        second = Peer(h, broker.urls[0], hello=False)
        assert second.fields(ERROR)["code"] == "TOO_MANY"
        assert second.gone()
        second.close()
        first.close()
        until(h, lambda: not broker.sessions)
        Peer(h, broker.urls[0]).close()


def dial_before_it_looks(broker, said):
    """A connection that has said something before the broker accepts it."""
    sock = socket.create_connection(("127.0.0.1", parse(broker.urls[0]).port), 30)
    sock.sendall(said)
    return sock


def test_a_hello_that_came_along_has_no_deadline_to_keep(h, broker, monkeypatch):
    asked, after = [], h.after

    def ask(ms, f):
        asked.append(f)
        return after(ms, f)

    monkeypatch.setattr(h, "after", ask)
    with dial_before_it_looks(broker, HI):
        while not broker.sessions:
            h.sleep(1)
        (session,) = broker.sessions
        assert session.connection.state == "ready"
    until(h, lambda: not broker.sessions)
    assert session._no_hello not in asked


def test_who_has_left_before_it_is_accepted_is_forgotten(h, broker):
    dial_before_it_looks(broker, HI).close()
    dial_before_it_looks(broker, b"").close()
    Peer(h, broker.urls[0]).close()
    until(h, lambda: not broker.sessions)
    assert not h.timers


def test_a_ping_is_answered(h, broker, peer):
    peer.send(pack_control(PING, 0, 77))
    assert peer.expect(PONG)[2] == 77


# -- credit


def spend(peer, credit, channel=1, seq=0):
    """Send messages of one byte until the credit is spent; returns the next number."""
    count = credit["n"] - seq
    peer.send(data(channel, seq, [1] * count))
    return credit["n"]


def test_a_full_queue_gives_no_credit_until_a_consumer_makes_room(h):
    with h.broker.listen("tcp://127.0.0.1:0", capacity=100) as broker:
        peer = Peer(h, broker.urls[0])
        credit, seq = pushing(peer), 0
        while seq < 100:
            seq = spend(peer, credit, seq=seq)
            if seq < 100:
                credit = peer.fields(CREDIT)
        assert seq == 100
        peer.want(1, n=1, b=1)
        assert accounts(broker).room_n == 0
        pulling(peer, n=30)
        peer.expect(DATA | MORE)
        assert peer.fields(CREDIT)["n"] == 123  # three quarters of the room, see the next test
        peer.close()


def test_who_holds_credit_and_stands_still_does_not_stop_the_others(h):
    with h.broker.listen("tcp://127.0.0.1:0", capacity=1000) as broker:
        greedy, other = Peer(h, broker.urls[0]), Peer(h, broker.urls[0])
        pushing(greedy)
        for _ in range(20):  # as much as it can get
            greedy.want(1, n=1000, b=1 << 20)
            greedy.status()
        credit, seq = pushing(other), 0
        while seq < 200:
            seq = spend(other, credit, seq=seq)
            other.want(1, n=1000, b=1 << 20)
            credit = other.fields(CREDIT)
        assert accounts(broker).room_n >= 0
        greedy.close()
        other.close()


def test_more_than_credit_allows_ends_the_connection(h, broker, peer):
    credit = pushing(peer)
    peer.send(data(1, 0, [1] * (credit["n"] + 1)))
    assert peer.fields(ERROR)["code"] == "OVER_CREDIT"
    assert peer.gone()


def test_ten_thousand_producers_cannot_make_a_queue_grow(h):
    """Each has a channel of its own, wants all it can get, and sends all it may."""
    with h.broker.listen("tcp://127.0.0.1:0", capacity=500, capacity_bytes=1 << 20) as broker:
        peers = [Peer(h, broker.urls[0]) for _ in range(20)]
        for peer in peers:
            for channel in range(1, 501):
                peer.open(channel, "push", "jobs")
                peer.want(channel, n=1000, b=1000)
        until(h, lambda: "jobs" in broker.endpoints)
        endpoint = broker.endpoints["jobs"]
        until(h, lambda: len(endpoint.pushers) == 10_000)
        sent = {}
        worst = 0

        def send_all(peer):
            nonlocal worst
            while True:
                kind, channel, _, _, array = peer.next(timeout=6 * PATIENCE)
                if kind == CREDIT:
                    credit = peers_credit(array)
                    seq = sent.get((peer, channel), 0)
                    if credit > seq:
                        peer.send(data(channel, seq, [1] * (credit - seq)))
                        sent[peer, channel] = credit
                worst = max(worst, endpoint.ready_n + endpoint.granted_n)

        tasks = [h.spawn(send_all, peer) for peer in peers]
        until(h, lambda: endpoint.ready_n == 500)
        assert worst == 500
        assert endpoint.granted_n == 0
        consumer = Peer(h, broker.urls[0])
        pulling(consumer)
        taken = 0
        while taken < 5_000:  # room goes round: none of those who wait is passed over for ever
            taken += consumer.expect(DATA, DATA | MORE)[3]
            consumer.ack(2, 0, taken)
            assert endpoint.ready_n + endpoint.granted_n <= 500
        assert len(sent) > 2_000
        for task in tasks:
            task.cancel()
        h.sleep(0)
        for one in [*peers, consumer]:
            one.close()


def peers_credit(array):
    import msgpack

    return msgpack.unpackb(array)[0]["n"]


def test_what_is_given_back_may_be_used_by_others(h):
    with h.broker.listen("tcp://127.0.0.1:0", capacity=100) as broker:
        peer = Peer(h, broker.urls[0])
        pushing(peer, channel=1)
        peer.want(1, n=100, b=1000)
        assert peer.fields(CREDIT)["n"] == 75
        peer.send(data(1, 0, [1] * 40))
        peer.open(2, "push", "jobs")
        peer.want(2, n=100, b=1000)
        assert peer.fields(CREDIT)["n"] <= 20
        peer.want(1, limit=[40, 40], epoch=1)
        peer.want(2, n=100, b=1000)
        while peer.fields(CREDIT)["n"] < 30:
            pass
        peer.close()


def test_idle_producers_do_not_keep_others_from_streaming(h):
    with h.broker.listen("tcp://127.0.0.1:0", capacity=1_000) as broker:
        peer = Peer(h, broker.urls[0])
        for channel in range(1, 101):
            peer.open(channel, "push", "jobs")
        until(h, lambda: "jobs" in broker.endpoints and len(broker.endpoints["jobs"].pushers) == 100)
        assert accounts(broker).granted_n <= 516  # what nobody asked for is at most half, and one more
        other = Peer(h, broker.urls[0])
        other.open(1, "push", "jobs")
        other.want(1, n=1, b=10)
        assert other.fields(CREDIT)["n"] >= 16
        peer.close()
        other.close()


def test_a_lone_producer_gets_credit_for_a_burst_and_gets_it_again_after_it_was_idle(h, broker, peer):
    peer.open(1, "push", "jobs")
    assert peer.fields(CREDIT)["n"] >= 100
    peer.want(1, limit=[0, 0], epoch=1)
    while (credit := peer.fields(CREDIT)).get("epoch") != 1:
        pass
    assert credit["n"] >= 100


def test_of_many_producers_each_gets_little_credit_unasked(h, broker, peer):
    for channel in range(1, 101):
        peer.open(channel, "push", "jobs", options={"capacity": 10_000})
    until(h, lambda: "jobs" in broker.endpoints and len(broker.endpoints["jobs"].pushers) == 100)
    peer.open(101, "push", "jobs")
    while (frame := peer.expect(CREDIT))[1] != 101:
        pass
    assert peers_credit(frame[4]) == 16
    assert accounts(broker).granted_n <= 10_000 // 2 + 16


def test_a_thousand_batches_that_come_back_are_merged_once(h, broker, peer):
    credit = pushing(peer)
    peer.want(1, n=5000, b=5000)
    while credit["n"] < 5000:
        credit = peer.fields(CREDIT)
    peer.send(*(data(1, seq, [seq]) for seq in range(5000)))
    pulling(peer)
    got = 0
    while got < 5000:
        got += peer.expect(DATA, DATA | MORE)[3]
    peer.nack(2, *(part for seq in range(0, 5000, 2) for part in (seq, 1)), back=True)
    again = []
    while len(again) < 2500:
        again += peer.delivery()[3]
    assert again == list(range(0, 5000, 2))


def test_credit_after_a_return_carries_its_epoch(h, broker, peer):
    pushing(peer)
    peer.want(1, limit=[0, 0], epoch=7)
    assert peer.fields(CREDIT)["epoch"] == 7


def test_a_message_larger_than_the_whole_capacity_gets_through_alone(h):
    with h.broker.listen("tcp://127.0.0.1:0", capacity_bytes=1000) as broker:
        peer = Peer(h, broker.urls[0])
        pushing(peer)
        peer.want(1, n=1, b=5003)
        credit = peer.fields(CREDIT)
        assert credit["b"] >= 5003
        peer.send(data(1, 0, [b"x" * 5000]))
        assert peer.fields(ACK) == {"r": [0, 1]}
        assert accounts(broker).room_b < 0
        peer.close()


def test_a_lost_producer_leaves_its_credit(h, broker):
    first = Peer(h, broker.urls[0])
    pushing(first)
    assert accounts(broker).granted_n > 0
    first.close()
    until(h, lambda: not broker.endpoints)


def test_a_producer_that_closes_its_own_direction_still_reads_its_confirm(h, broker, peer):
    pushing(peer)
    peer.send(data(1, 0, [1, 2]))
    peer.sock.shutdown(socket.SHUT_WR)
    assert peer.fields(ACK) == {"r": [0, 2]}
    assert peer.gone()


# -- settling


def test_what_is_acknowledged_is_forgotten_and_twice_does_no_harm(h, broker, peer):
    pushing(peer)
    peer.send(data(1, 0, list(range(10))))
    pulling(peer)
    peer.delivery()
    peer.ack(2, 3, 2, 7, 1)
    peer.ack(2, 3, 2)
    peer.ack(2, 0, 4)
    until(h, lambda: accounts(broker).acknowledged == 6)
    assert accounts(broker).flight_n == 4


def test_to_settle_what_was_never_delivered_is_an_error(h, broker, peer):
    pushing(peer)
    pulling(peer)
    peer.send(data(1, 0, [1]))
    peer.delivery()
    peer.ack(2, 0, 2)
    assert peer.fields(ERROR)["code"] == "BAD_SEQUENCE"
    assert peer.gone()


def test_a_refused_message_comes_back_after_the_back_off_and_says_so(h, broker, peer):
    pushing(peer)
    peer.send(data(1, 0, ["a", "b"]))
    pulling(peer)
    peer.delivery()
    peer.nack(2, 0, 1)
    assert peer.delivery() == [DATA_OPTIONS, 2, {"redelivered": True, "attempts": 2}, ["a"]]
    peer.ack(2, 1, 2)
    until(h, lambda: accounts(broker).acknowledged == 2)


def test_the_back_off_doubles(h, broker, peer):
    pushing(peer)
    peer.send(data(1, 0, ["a"]))
    pulling(peer)
    delays = []
    after = h.after
    broker.hub.after = lambda ms, f: (delays.append(ms), after(0, f))[1]  # time passes at once
    for seq in range(4):
        peer.delivery()
        peer.nack(2, seq, 1)
    peer.delivery()
    del broker.hub.after
    assert delays == [20, 40, 80, 160]


def test_a_nack_may_say_when(h, broker, peer):
    pushing(peer)
    peer.send(data(1, 0, ["a"]))
    pulling(peer)
    peer.delivery()
    peer.nack(2, 0, 1, delay=0)
    assert peer.delivery() == [DATA_OPTIONS, 1, {"redelivered": True, "attempts": 2}, ["a"]]
    peer.nack(2, 1, 1, delay=3_600_000)
    until(h, lambda: accounts(broker).delayed_n == 1)
    assert peer.status()["jobs"]["delayed"] == 1


def test_after_five_attempts_a_message_is_a_dead_letter(h, broker, peer):
    pushing(peer)
    peer.send(data(1, 0, ["poison", "fine"]))
    pulling(peer)
    peer.delivery()
    peer.ack(2, 1, 1)
    attempts = []
    peer.nack(2, 0, 1, delay=0)
    for seq in range(2, 6):
        attempts.append(peer.delivery()[2]["attempts"])
        peer.nack(2, seq, 1, delay=0)
    assert attempts == [2, 3, 4, 5]
    until(h, lambda: "jobs.dead" in broker.endpoints)
    assert accounts(broker).dead == 1
    pulling(peer, "jobs.dead", 3)
    kind, seq, options, items = peer.delivery()
    assert [kind, seq, items] == [DATA_OPTIONS, 0, ["poison"]]
    dead = options.pop("dead")
    assert options == {} and 0 <= dead.pop("died") <= dead.pop("accepted")
    assert dead == {
        "endpoint": "jobs",
        "reason": "MAX_ATTEMPTS",
        "attempts": 5,
        "last_consumer": name_of(peer),
    }


def test_dead_letters_that_fail_have_no_grave_of_their_own(h, broker, peer):
    pushing(peer, "jobs.dead")
    peer.send(data(1, 0, ["x"]))
    pulling(peer, "jobs.dead")
    for seq in range(5):
        peer.delivery()
        peer.nack(2, seq, 1, delay=0)
    until(h, lambda: accounts(broker, "jobs.dead").delayed_n == 1)
    assert list(broker.endpoints) == ["jobs.dead"]


def test_where_dead_letters_have_no_room_they_stay(h):
    with h.broker.listen("tcp://127.0.0.1:0", capacity=1, backoff_ms=1) as broker:
        peer = Peer(h, broker.urls[0])
        pushing(peer, "jobs.dead", 3)
        peer.send(data(3, 0, ["full"]))
        pushing(peer)
        peer.send(data(1, 0, ["x"]))
        pulling(peer)
        for seq in range(5):
            peer.delivery()
            peer.nack(2, seq, 1, delay=0)
        assert peer.delivery()[2]["attempts"] == 5  # comes round again
        assert accounts(broker).dead == 0
        peer.close()


def test_what_was_only_prefetched_goes_back_in_front_and_in_order(h, broker, peer):
    pushing(peer)
    peer.send(data(1, 0, list(range(6))))
    pulling(peer, n=4)
    peer.delivery()
    peer.ack(2, 1, 1)
    peer.nack(2, 2, 2, back=True)
    until(h, lambda: accounts(broker).flight_n == 1)
    pulling(peer, channel=3)
    assert peer.delivery()[3] == [2, 3, 4, 5]


def test_a_lost_consumer_has_failed_only_its_oldest_message(h, broker, peer):
    pushing(peer)
    peer.send(data(1, 0, list(range(4))))
    lost = Peer(h, broker.urls[0])
    pulling(lost)
    lost.delivery()
    lost.ack(2, 1, 1)
    until(h, lambda: accounts(broker).acknowledged == 1)
    lost.close()
    until(h, lambda: accounts(broker).ready_n == 3)
    pulling(peer)
    assert peer.delivery()[2:] == [{"redelivered": True, "attempts": 2}, [0]]
    assert peer.delivery()[2:] == [{"redelivered": True, "attempts": 1}, [2, 3]]


def test_order_survives_the_death_of_two_consumers(h, broker, peer):
    pushing(peer)
    peer.send(data(1, 0, list(range(12))))
    first, second = Peer(h, broker.urls[0]), Peer(h, broker.urls[0])
    pulling(first, n=3)
    first.delivery()
    pulling(second, n=3)
    second.delivery()
    pulling(first, channel=3, n=3)
    first.delivery()
    second.close()
    first.close()
    until(h, lambda: accounts(broker).ready_n == 12)
    pulling(peer)
    items = []
    while len(items) < 12:
        items += peer.delivery()[3]
    assert items == list(range(12))


def test_a_detached_consumer_says_what_it_has_seen(h, broker, peer):
    pushing(peer)
    peer.send(data(1, 0, list(range(4))))
    pulling(peer)
    peer.delivery()
    peer.close_channel(2, seen=2)
    pulling(peer, channel=3)
    assert peer.delivery()[2:] == [{"redelivered": True, "attempts": 1}, [0, 1]]
    assert peer.delivery() == [DATA, 2, {}, [2, 3]]


def test_a_poison_message_that_kills_its_consumers_ends_as_a_dead_letter(h, broker, peer):
    pushing(peer)
    peer.send(data(1, 0, ["poison"]))
    for _ in range(5):
        victim = Peer(h, broker.urls[0])
        pulling(victim)
        victim.delivery()
        victim.close()
    until(h, lambda: "jobs.dead" in broker.endpoints)
    assert accounts(broker).dead == 1


# -- a consumer that does not read


def test_a_consumer_that_stops_reading_costs_bounded_memory_and_delays_no_one(h):
    with (
        h.broker.listen("tcp://127.0.0.1:0", output_bytes=100_000) as broker,
        h.client.connect(broker.urls[0]) as remote,
    ):
        stalled = Peer(h, broker.urls[0])
        pulling(stalled)
        got = h.router()
        task = remote.pull("jobs").consume(got.send)
        jobs = remote.push("jobs")
        for number in range(500):  # 25 MB
            jobs.send([number, b"x" * 50_000])
            if number > 300:
                got.recv(timeout=PATIENCE)
            # What one delivery may add: a frame of small batches, and a batch as its producer sent it, which is full
            # with the message that fills it.
            most = 100_000 + FRAME_BYTES + BATCH_BYTES + 50_010
            assert max(session.out.unsent for session in broker.sessions) < most
        assert 0 < accounts(broker).flight_n < 300
        task.cancel()
        stalled.close()


def test_a_peer_that_reads_no_answers_is_not_read_either(h):
    with h.broker.listen("tcp://127.0.0.1:0", output_bytes=20_000) as broker:
        deaf, bystander = Peer(h, broker.urls[0]), Peer(h, broker.urls[0])
        ping = pack_control(PING, 0, 1) * 1000

        def flood():
            while True:
                deaf.send(ping)

        task = h.spawn(flood)
        until(h, lambda: any(session.full and session.out.blocked for session in broker.sessions))
        for _ in range(100):
            bystander.send(pack_control(PING, 0, 5))
            bystander.expect(PONG)
        assert max(session.out.unsent for session in broker.sessions) < 20_000 + 300_000
        task.cancel()
        deaf.close()
        bystander.close()


def test_a_consumer_that_never_settles_is_given_no_more_than_the_broker_bears(h):
    limits = {"unsettled_bytes": 1_000_000}
    with h.broker.listen("tcp://127.0.0.1:0", **limits) as broker, h.client.connect(broker.urls[0]) as remote:
        peer = Peer(h, broker.urls[0])
        pulling(peer)
        jobs = remote.push("jobs")
        for _ in range(3000):
            jobs.send(b"x" * 1000)
        jobs.sync(timeout=PATIENCE)
        held = accounts(broker).flight_n
        most = 1_000_000 // (1003 + FRAGMENT_BYTES) + (260 << 10) // 1003  # a batch goes whole
        assert most // 3 < held < most
        peer.ack(2, 0, held)
        until(h, lambda: most // 3 < accounts(broker).flight_n < most and accounts(broker).acknowledged == held)
        peer.close()


def test_a_fault_in_a_session_s_last_words_ends_it(h, broker, peer, caplog, monkeypatch):
    def broken(self):
        raise RuntimeError("a fault of ours")

    bystander = Peer(h, broker.urls[0])
    pushing(peer)
    until(h, lambda: len(broker.sessions) == 2)
    (session,) = (session for session in broker.sessions if session.channels)
    monkeypatch.setattr(type(session), "_confirm", broken)
    peer.close()
    until(h, lambda: len(broker.sessions) == 1)
    monkeypatch.undo()
    assert [record.getMessage() for record in caplog.records].count(f"session {session.peer}: internal error") == 1
    assert bystander.status()[""]
    bystander.close()


# -- the end


def test_draining_tells_peers_and_waits_for_consumers(h, broker, peer):
    pushing(peer)
    peer.send(data(1, 0, [1, 2, 3]))
    peer.expect(ACK)
    pulling(peer, n=0)
    drained = h.spawn(broker.drain, PATIENCE)
    assert 0 < peer.fields(GO_AWAY)["drain"] <= PATIENCE
    with pytest.raises(vanilla.ConnectionLost):
        Peer(h, f"tcp://127.0.0.1:{peer.sock.getpeername()[1]}")
    peer.credit(2)
    peer.delivery()
    peer.ack(2, 0, 3)
    assert peer.gone()
    peer.close()
    assert drained.join(timeout=PATIENCE) is True


def test_draining_grants_no_new_credit(h, broker, peer):
    pushing(peer)
    pulling(peer, n=0)
    drained = h.spawn(broker.drain, PATIENCE)
    peer.expect(GO_AWAY)
    assert drained.join(timeout=PATIENCE) is True
    assert peer.gone()


def test_draining_ends_at_its_time_and_says_what_is_left(h, broker, peer, caplog):
    pushing(peer)
    peer.send(data(1, 0, [1, 2, 3]))
    pulling(peer, n=1)
    peer.delivery()
    assert h.spawn(broker.drain, 50).join(timeout=PATIENCE) is False
    assert "endpoint 'jobs': left: ready 2, delayed 0, in flight 1" in caplog.text


def test_draining_does_not_wait_where_nobody_pulls(h, broker, peer):
    pushing(peer)
    peer.send(data(1, 0, [1, 2, 3]))
    peer.expect(ACK)
    assert h.spawn(broker.drain, 3_600_000).join(timeout=PATIENCE) is False


# -- where it listens


def test_an_address_that_others_reach_is_refused_unless_insecure(h):
    with pytest.raises(ValueError, match="insecure"):
        h.broker.listen("tcp://0.0.0.0:0")
    h.broker.listen("tcp://0.0.0.0:0", insecure=True).close()


def test_an_address_that_is_refused_is_not_opened_first(h, monkeypatch):
    opened = []
    monkeypatch.setattr("vanilla.broker.broker._bind", opened.append)
    with pytest.raises(ValueError, match="insecure"):
        h.broker.listen("tcp://0.0.0.0:0")
    assert opened == []


def test_a_socket_that_others_reach_is_refused_as_well(h):
    with socket.create_server(("0.0.0.0", 0)) as server, h.broker.listen() as broker:
        with pytest.raises(ValueError, match="insecure"):
            broker.adopt(server, Address("tcp", *server.getsockname()))


def test_an_address_in_use_is_an_error(h, broker):
    with pytest.raises(OSError, match="in use"):
        h.broker.listen(broker.urls[0])


def test_options_out_of_range_are_refused(h):
    with pytest.raises(ValueError, match="capacity is 0"):
        h.broker.listen("tcp://127.0.0.1:0", capacity=0)


def test_connections_are_tuned(h, broker, peer):
    (session,) = broker.sessions
    assert session.sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    assert session.sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
    assert session.sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == tcp.KEEP_IDLE


def test_a_unix_socket_is_private_and_goes_with_the_broker(h, tmp_path):
    path = tmp_path / "broker.sock"
    with h.broker.listen(f"unix://{path}") as broker:
        assert path.stat().st_mode & 0o777 == 0o600
        Peer(h, broker.urls[0]).close()
    assert not path.exists()

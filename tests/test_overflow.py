"""What becomes of producers while a queue is full: they wait, they are told so, or the oldest messages make room."""

from __future__ import annotations

import pytest
from peers import PATIENCE, Peer, data, settled, until

import vanilla
from vanilla.broker.pusher import SPARE_PART
from vanilla.exception import Refused
from vanilla.protocol.errors import REJECTIONS
from vanilla.protocol.frames import ACK, CREDIT, DATA, NACK, OPEN, PING, PONG, pack_control


@pytest.fixture
def broker(h):
    with h.broker.listen("tcp://127.0.0.1:0", backoff_ms=20) as broker:
        yield broker


@pytest.fixture
def remote(connect):
    return connect()


def accounts(broker):
    endpoint = broker.endpoints["jobs"]
    assert endpoint.balance == 0
    assert sum(endpoint.drops.values()) == endpoint.dropped
    return endpoint


def opened(peer, options, channel=1):
    peer.send(pack_control(OPEN, channel, 0, {"kind": "push", "name": "jobs", "options": options}))
    peer.expect(OPEN)


def granted(peer, key, least):
    """The next credit of *least* at least."""
    while (credit := peer.fields(CREDIT)[key]) < least:
        pass
    return credit


def filled(peer, options, items):
    """A queue that has *items* and no room, all of whose credit is used: the next number."""
    opened(peer, {"capacity": len(items), **options})
    limit = at = 0
    while at < len(items):
        if at == limit:
            peer.want(1, n=len(items) - at, b=100)
            limit = granted(peer, "n", at + 1)
        peer.send(data(1, at, items[at:limit]))
        at = limit
    peer.expect(ACK)
    return at


# -- reject


def test_a_full_queue_that_rejects_answers_a_want_with_the_numbers_that_wait(h, broker, peer):
    at = filled(peer, {"overflow": "reject"}, [1, 2, 3])
    peer.want(1, n=4, b=40)
    assert peer.fields(NACK) == {"r": [at, 4], "code": "FULL"}
    assert accounts(broker).ready_n == 3


def test_who_was_rejected_is_granted_what_it_asks_for_once_there_is_room(h, broker, peer):
    at = filled(peer, {"overflow": "reject"}, [1, 2, 3])
    peer.want(1, n=1, b=10)
    peer.expect(NACK)
    peer.open(2, "pull", "jobs")
    peer.credit(2)
    peer.expect(DATA)
    peer.ack(2, 0, 3)
    peer.want(1, n=1, b=10)
    assert peer.fields(CREDIT)["n"] > at


def test_a_producer_that_has_used_its_credit_and_asks_for_none_keeps_no_other_from_its_answer(h, broker, peer):
    filled(peer, {"overflow": "reject"}, [1, 2, 3])
    other = Peer(h, broker.urls[0])
    other.open(1, "push", "jobs")
    other.want(1, n=1, b=1)
    assert other.fields(NACK)["r"] == [0, 1]
    other.close()


def test_a_message_larger_than_an_empty_queue_that_rejects_gets_through_alone(h, broker, peer):
    opened(peer, {"capacity_bytes": 10, "overflow": "reject"})
    peer.want(1, n=1, b=100)
    granted(peer, "b", 100)


def test_at_the_limit_of_memory_a_queue_that_rejects_says_so_and_one_that_blocks_waits(h):
    with h.broker.listen("tcp://127.0.0.1:0", memory=1 << 20, frame_bytes=1 << 18) as broker:
        peer = Peer(h, broker.urls[0])
        opened(peer, {"overflow": "reject"})
        peer.expect(CREDIT)
        peer.open(2, "push", "others")
        peer.expect(CREDIT)
        broker.memory.used += broker.memory.limit
        peer.want(2, n=1000, b=1 << 17)
        peer.want(1, n=1000, b=1 << 17)
        assert peer.expect(NACK, CREDIT)[:2] == (NACK, 1)
        broker.memory.used -= broker.memory.limit
        peer.close()


def test_a_send_to_a_full_queue_that_rejects_raises_rejected_and_is_not_sent(h, broker, remote):
    jobs = remote.push("jobs", capacity=3, overflow="reject")
    sent = 0
    with pytest.raises(vanilla.Rejected) as caught:
        while True:
            jobs.send(sent, PATIENCE)
            sent += 1
    assert (caught.value.code, sent) == ("FULL", 3)
    assert "'jobs'" in caught.value.text and REJECTIONS["FULL"] in caught.value.text
    jobs.sync(PATIENCE)
    assert accounts(broker).accepted == 3
    assert remote.pull("jobs").recv(PATIENCE) == 0
    until(h, lambda: accounts(broker).acknowledged)
    jobs.send("again", PATIENCE)


def test_every_send_that_waits_is_rejected(h, broker, remote):
    jobs = remote.push("jobs", capacity=1, overflow="reject")
    jobs.send("first", PATIENCE)
    jobs.sync(PATIENCE)
    raised = []

    def send(item):
        try:
            jobs.send(item, PATIENCE)
        except vanilla.Rejected as error:
            raised.append((item, error.code))

    tasks = [h.spawn(send, number) for number in range(5)]
    for task in tasks:
        task.join()
    assert sorted(raised) == [(number, "FULL") for number in range(5)]


def test_of_a_list_it_is_told_how_many_a_queue_that_rejects_has_taken(h, broker, remote):
    jobs = remote.push("jobs", capacity=10, overflow="reject")
    with pytest.raises(vanilla.Rejected) as caught:
        jobs.send_many(list(range(25)), PATIENCE)
    assert caught.value.sent == 10
    jobs.sync(PATIENCE)
    assert accounts(broker).accepted == 10


def test_a_select_does_not_wait_for_a_queue_that_rejects(h, broker, remote):
    jobs = remote.push("jobs", capacity=1, overflow="reject")
    jobs.send("first", PATIENCE)
    jobs.sync(PATIENCE)
    end, _ = h.select([jobs], timeout=PATIENCE)
    assert end is jobs
    with pytest.raises(vanilla.Rejected):
        jobs.send("second", PATIENCE)


def test_a_rejection_of_what_has_left_since_is_passed_over(h, broker, remote):
    jobs = remote.push("jobs", capacity=1)
    jobs.send(1)
    jobs.sync(PATIENCE)
    waiting = h.spawn(jobs.send, 2)
    until(h, lambda: jobs._state.senders)
    (session,) = broker.sessions
    session.put(pack_control(NACK, jobs._state.id, 0, {"r": [0, 1], "code": "FULL"}))
    remote.ping()
    assert jobs._state.senders
    assert remote.pull("jobs").recv(PATIENCE) == 1
    waiting.join(PATIENCE)
    jobs.sync(PATIENCE)
    assert accounts(broker).accepted == 2


# -- drop-oldest


def test_the_oldest_messages_make_room_and_are_counted(h, broker, peer):
    at = filled(peer, {"overflow": "drop-oldest"}, list(range(10)))
    peer.want(1, n=3, b=3)
    more = granted(peer, "n", at + 1) - at
    peer.send(data(1, at, list(range(10, 10 + more))))
    until(h, lambda: accounts(broker).accepted == 10 + more)
    assert 1 <= more <= 3
    assert accounts(broker).drops == {"overflow": 3}
    peer.open(2, "pull", "jobs")
    peer.credit(2)
    assert peer.delivery()[3][0] == 3


def test_a_stream_gets_a_bit_more_than_it_asks_for(h, broker, peer):
    at = filled(peer, {"overflow": "drop-oldest"}, [0] * 1000)
    peer.want(1, n=1, b=1)
    more = granted(peer, "n", at + 1) - at
    dropped = accounts(broker).dropped
    assert 1 < more <= dropped <= 1000 // SPARE_PART


def test_bytes_make_room_for_bytes(h, broker, peer):
    opened(peer, {"capacity_bytes": 100, "overflow": "drop-oldest"})
    peer.want(1, n=2, b=62)
    granted(peer, "b", 62)
    peer.send(data(1, 0, ["x" * 30, "y" * 30]))
    peer.expect(ACK)
    peer.want(1, n=1, b=60)
    granted(peer, "b", 62 + 60)
    assert accounts(broker).drops == {"overflow": 1}


def test_a_message_larger_than_the_whole_queue_takes_the_place_of_all_that_is_ready(h, broker, peer):
    opened(peer, {"capacity_bytes": 100, "overflow": "drop-oldest"})
    peer.want(1, n=2, b=62)
    granted(peer, "b", 62)
    peer.send(data(1, 0, ["x" * 30, "y" * 30]))
    peer.expect(ACK)
    peer.want(1, n=1, b=500)
    granted(peer, "b", 62 + 500)
    assert accounts(broker).drops == {"overflow": 2}


def test_what_is_in_flight_or_delayed_is_not_dropped(h, broker, peer):
    at = filled(peer, {"overflow": "drop-oldest"}, [0, 1, 2, 3])
    peer.open(2, "pull", "jobs")
    peer.credit(2, n=2)
    peer.delivery()
    peer.want(1, n=2, b=2)
    limit = granted(peer, "n", at + 1)
    if limit < at + 2:
        peer.want(1, n=2, b=2)
        limit = granted(peer, "n", at + 2)
    peer.send(data(1, at, [4, 5]))
    peer.nack(2, 0, 1, delay=60_000)
    until(h, lambda: accounts(broker).ready_n == 4 and accounts(broker).delayed_n == 1)
    peer.want(1, n=1, b=1)
    granted(peer, "n", at + 3)
    endpoint = accounts(broker)
    assert (endpoint.flight_n, endpoint.delayed_n, endpoint.ready_n, endpoint.dropped) == (1, 1, 2, 2)


def test_a_producer_that_does_not_ask_drops_nothing(h, broker, peer):
    filled(peer, {"overflow": "drop-oldest"}, [0, 1, 2, 3])
    other = Peer(h, broker.urls[0])
    other.open(1, "push", "jobs")
    other.expect(OPEN)
    other.send(pack_control(PING, 0, 1))
    other.expect(PONG)
    assert accounts(broker).dropped == 0
    other.close()


def test_a_producer_that_never_stops_keeps_the_newest(h, broker, remote):
    jobs = remote.push("jobs", capacity=100, overflow="drop-oldest")
    for number in range(5_000):
        jobs.send(number, PATIENCE)
    jobs.sync(PATIENCE)
    endpoint = accounts(broker)
    assert endpoint.dropped + endpoint.ready_n == 5_000
    assert endpoint.ready_n <= 100
    pull = remote.pull("jobs")
    left = [pull.recv(PATIENCE) for _ in range(endpoint.ready_n)]
    assert left == list(range(5_000 - len(left), 5_000))


def test_a_queue_that_drops_drops_nothing_while_there_is_room(h, broker, remote):
    jobs = remote.push("jobs", capacity=1000, overflow="drop-oldest")
    pull = remote.pull("jobs")
    for number in range(1000):
        jobs.send(number, PATIENCE)
        assert pull.recv(PATIENCE) == number
    assert accounts(broker).dropped == 0


# -- other rejections


def test_a_message_that_is_too_big_is_rejected_and_a_value_error(h, broker, remote):
    jobs = remote.push("jobs")
    with pytest.raises(vanilla.Rejected, match="too big") as caught:
        jobs.send(b"x" * (2 << 20))
    assert caught.value.code == "TOO_BIG"
    assert isinstance(caught.value, ValueError)
    jobs.send("small")
    jobs.sync(PATIENCE)


def test_a_sender_that_has_no_permission_is_rejected_and_refused(h, tmp_path):
    file = tmp_path / "permissions"
    file.write_text('[[rule]]\nidentity = "*"\nendpoint = "other"\nverbs = ["push"]\n')
    with h.broker.listen("tcp://127.0.0.1:0", permissions=str(file)) as broker:
        with h.client.connect(broker.urls[0]) as remote:
            jobs = remote.push("jobs")
            with pytest.raises(vanilla.Rejected) as caught:
                jobs.send(1, PATIENCE)
            assert caught.value.code == "DENIED"
            assert isinstance(caught.value, Refused)
            with pytest.raises(vanilla.Rejected):
                jobs.sync(PATIENCE)


# -- as a client asks for it


def test_who_pushes_with_other_options_than_hold_is_refused(h, broker, connect):
    connect().push("jobs", capacity=5).send(1, PATIENCE)
    jobs = connect().push("jobs", capacity=6)
    with pytest.raises(Refused) as caught:
        jobs.send(1, PATIENCE)
    assert caught.value.code == "CONFLICT"
    assert not isinstance(caught.value, vanilla.Rejected)


def test_who_pulls_with_other_options_than_hold_is_refused(h, broker, connect):
    connect().push("jobs", ttl=50_000, capacity=5).send(1, PATIENCE)
    assert connect().pull("jobs", capacity=5).recv(PATIENCE) == 1
    with pytest.raises(Refused, match="'capacity'"):
        connect().pull("jobs", ttl=50_000, capacity=6).recv(PATIENCE)


def test_the_second_sender_of_a_connection_may_ask_for_what_holds_and_for_nothing_else(h, broker, remote):
    first = remote.push("jobs", capacity=5)
    remote.push("jobs", capacity=5, overflow="block").send(1, PATIENCE)
    with pytest.raises(Refused, match="CONFLICT"):
        remote.push("jobs", capacity=6)
    first.send(2, PATIENCE)
    assert accounts(broker).capacity == 5


def test_declare_makes_an_endpoint_that_stays(h, broker, remote):
    remote.declare("jobs", capacity=5, overflow="reject", dead="graveyard")
    until(h, lambda: not accounts(broker).pullers)
    assert accounts(broker).terms.dead == "graveyard"
    remote.declare("jobs", capacity=5)
    with pytest.raises(Refused, match="CONFLICT"):
        remote.declare("jobs", overflow="block")


@pytest.mark.parametrize("call", ["push", "pull", "declare"])
def test_an_option_that_is_none_is_told_before_anything_is_sent(h, broker, remote, call):
    with pytest.raises(TypeError, match="capactiy"):
        getattr(remote, call)("jobs", capactiy=5)
    with pytest.raises(ValueError, match="overflow"):
        getattr(remote, call)("jobs", overflow="spill")
    remote.ping()
    assert not broker.endpoints


def test_room_that_is_free_as_a_message_is_passed_on_is_granted_to_who_waits(h):
    with h.broker.listen("tcp://127.0.0.1:0") as broker:
        consumer, one, other = (Peer(h, broker.urls[0]) for _ in range(3))
        consumer.open(1, "pull", "jobs", options={"capacity": 2})
        consumer.credit(1)
        settled(consumer)
        for peer in one, other:
            peer.open(1, "push", "jobs")
            settled(peer)
        one.want(1, n=2, b=1 << 20)
        settled(one)
        other.want(1, n=1, b=10)
        h.sleep(20)  # the pause between two grants is over
        assert CREDIT not in [frame[0] for frame in settled(other)]
        one.send(data(1, 0, ["x"]))
        assert consumer.delivery()[-1] == ["x"]
        consumer.ack(1, 0, 1)
        other.expect(CREDIT)
        for peer in consumer, one, other:
            peer.close()

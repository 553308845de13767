"""Producers that come back: what they send again is passed over, and a half-open connection is replaced."""

from __future__ import annotations

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from peers import Peer, data, settled, until

import vanilla
from vanilla.broker.tokens import line_of
from vanilla.protocol.frames import ACK, CLEAR, CREDIT, DATA, DATA_OPTIONS, ERROR, HELLO, OPEN, pack_control, pack_head

ID = b"producer" * 2


@pytest.fixture
def broker(h):
    with h.broker.listen("tcp://127.0.0.1:0") as broker:
        yield broker


@pytest.fixture
def come(h, broker):
    """A connection of the producer; the one before is lost."""
    peers = []

    def come(id=ID, **fields):
        if peers:
            lose(h, broker, peers.pop())
        peers.append(Peer(h, broker.urls[0], id=id))
        return peers[-1]

    yield come
    for peer in peers:
        peer.close()


def lose(h, broker, peer):
    peer.close()
    until(h, lambda: not broker.sessions)


def pushing(peer, first=0, n=100, **fields):
    """Open a channel that pushes to "jobs", with credit: the number that the broker expects."""
    peer.open(1, "push", "jobs", first, **fields)
    peer.want(1, n=n, b=10_000)
    expected = peer.expect(OPEN)[2]
    while peer.fields(CREDIT)["n"] < first + n:
        pass
    return expected


def accepted(broker):
    endpoint = broker.endpoints["jobs"]
    assert endpoint.balance == 0
    return endpoint.accepted


def delivered(h, broker, count):
    """What a consumer gets, and which of it as redelivered."""
    peer = Peer(h, broker.urls[0])
    peer.open(1, "pull", "jobs")
    peer.credit(1)
    items, marked = [], []
    while len(items) < count:
        _, _, options, some = peer.delivery()
        items += some
        marked += [options.get("redelivered", False)] * len(some)
    assert settled(peer) == []
    peer.close()
    return items, marked


# -- what is sent again


def test_what_came_before_is_confirmed_by_the_answer(h, broker, come):
    peer = come()
    pushing(peer)
    peer.send(data(1, 0, ["a", "b"]))
    peer.expect(ACK)
    peer = come()
    assert pushing(peer, 0, resume=True) == 2
    peer.send(data(1, 2, ["c"]))
    assert peer.fields(ACK) == {"r": [2, 1]}
    assert delivered(h, broker, 3) == (["a", "b", "c"], [False] * 3)


def test_what_did_not_come_is_new(h, broker, come):
    peer = come()
    pushing(peer, 5)
    peer = come()
    assert pushing(peer, 5, resume=True) == 5
    peer.send(data(1, 5, ["a"]))
    assert peer.fields(ACK) == {"r": [5, 1]}


def test_of_a_frame_that_came_in_part_before_the_rest_is_accepted(h, broker, come):
    peer = come()
    pushing(peer)
    peer.send(data(1, 0, ["a", "b"]), data(1, 2, ["c"]))
    peer.expect(ACK)
    peer = come()
    pushing(peer, resume=True)
    peer.send(data(1, 0, ["a"]), data(1, 1, ["b", "c", "d"]))
    assert peer.fields(ACK) == {"r": [3, 1]}
    assert delivered(h, broker, 4) == (["a", "b", "c", "d"], [False] * 4)


def test_bytes_of_what_is_passed_over_count_as_sent(h, broker, come):
    peer = come()
    pushing(peer)
    peer.send(data(1, 0, ["x" * 99]))
    peer.expect(ACK)
    peer = come()
    pushing(peer, resume=True)
    (session,) = broker.sessions
    peer.send(data(1, 0, ["x" * 99]))
    assert not [frame for frame in settled(peer) if frame[0] == ERROR]
    quota = session.channels[1].quota
    assert (quota.n, quota.b) == (1, 101)


@pytest.mark.parametrize("seq", [0, 2, 6])
def test_what_is_sent_again_has_no_gaps(h, broker, come, seq):
    peer = come()
    pushing(peer)
    peer.send(data(1, 0, list("abcde")))
    peer.expect(ACK)
    peer = come()
    pushing(peer, 1, resume=True)
    peer.send(data(1, seq, ["x"]))
    assert peer.fields(ERROR)["code"] == "BAD_SEQUENCE"
    assert accepted(broker) == 5


@pytest.mark.parametrize("resume", [False, True])
def test_what_came_on_this_connection_does_not_come_twice(h, broker, come, resume):
    if resume:
        peer = come()
        pushing(peer)
        peer.send(data(1, 0, ["a"]))
        peer.expect(ACK)
    peer = come()
    pushing(peer, resume=resume)
    peer.send(data(1, 0, ["a"]), data(1, 1, ["b"]), data(1, resume, ["again"]))
    assert peer.fields(ERROR)["code"] == "BAD_SEQUENCE"
    assert accepted(broker) == 2


def test_more_bytes_than_credit_are_not_passed_over(h, broker, come):
    peer = come()
    pushing(peer)
    peer.send(data(1, 0, ["x" * 9000, 1]))
    peer.expect(ACK)
    peer = come()
    pushing(peer, resume=True)
    (session,) = broker.sessions
    quota = session.channels[1].quota
    quota.spend(0, quota.left_b - 100)
    peer.send(data(1, 0, ["x" * 9000]))
    assert peer.fields(ERROR)["code"] == "OVER_CREDIT"


def test_without_resume_numbers_begin_anew(h, broker, come):
    peer = come()
    pushing(peer)
    peer.send(data(1, 0, ["a", "b"]))
    peer.expect(ACK)
    peer = come()
    assert pushing(peer) == 0
    peer.send(data(1, 0, ["c"]))
    assert peer.fields(ACK) == {"r": [0, 1]}
    assert accepted(broker) == 3


def test_records_outlive_their_endpoint(h, broker, come):
    peer = come()
    pushing(peer)
    peer.send(data(1, 0, ["a", "b"]))
    peer.expect(ACK)
    lose(h, broker, peer)
    delivered(h, broker, 2)
    consumer = Peer(h, broker.urls[0])
    consumer.open(1, "pull", "jobs")
    consumer.credit(1)
    consumer.delivery()
    consumer.ack(1, 0, 2)
    consumer.close_channel(1)
    settled(consumer)
    assert "jobs" not in broker.endpoints
    consumer.close()
    assert pushing(come(), resume=True) == 2


def test_a_producer_that_is_not_known_any_more_is_told(h, broker, come):
    peer = come()
    peer.open(1, "push", "jobs", 7, resume=True)
    assert peer.fields(ERROR)["code"] == "UNKNOWN_PRODUCER"
    peer.close_channel(1)
    peer.open(2, "push", "jobs", 7)
    peer.want(2, n=1, b=10)
    assert peer.expect(OPEN)[2] == 7


def test_a_channel_that_is_closed_leaves_no_record(h, broker, come):
    peer = come()
    pushing(peer)
    peer.send(data(1, 0, ["a"]))
    peer.expect(ACK)
    peer.close_channel(1)
    settled(peer)
    peer = come()
    assert len(broker.producers) == 0
    peer.open(1, "push", "jobs", 1, resume=True)
    assert peer.fields(ERROR)["code"] == "UNKNOWN_PRODUCER"


def test_a_record_that_is_refused_its_channel_stays(h, broker, come):
    peer = come()
    pushing(peer)
    peer = come()
    broker.draining = True
    peer.open(1, "push", "jobs", resume=True)
    assert peer.fields(ERROR)["code"] == "GOING_AWAY"
    broker.draining = False
    peer.open(2, "push", "jobs", resume=True)
    peer.expect(OPEN)


def test_a_message_that_another_broker_may_have_delivered_is_marked(h, broker, come):
    peer = come()
    pushing(peer)
    options, body = msgpack.packb({"redelivered": True}), msgpack.packb("a")
    peer.send(pack_head(DATA_OPTIONS, 1, 0, 2, len(options) + len(body)) + options + body, data(1, 1, ["b"]))
    peer.expect(ACK)
    assert delivered(h, broker, 2) == (["a", "b"], [True, False])


@settings(max_examples=30, deadline=None)
@given(st.lists(st.lists(st.integers(0, 3), max_size=4), max_size=4), st.data())
def test_each_message_is_accepted_once_wherever_its_producer_begins_again(cuts, draw):
    with vanilla.Hub() as h, h.broker.listen("tcp://127.0.0.1:0") as broker:
        known = 0
        for index, frames in enumerate([*cuts, [1]]):
            peer = Peer(h, broker.urls[0], id=ID)
            first = draw.draw(st.integers(0, known))
            assert pushing(peer, first, resume=index > 0) == known
            again = draw.draw(st.booleans())
            at = first if again else known
            counts = [known - at, *frames] if draw.draw(st.booleans()) else [known - at + sum(frames)]
            for count in filter(None, counts):
                peer.send(data(1, at, list(range(at, at + count))))
                at += count
            known = at
            settled(peer)
            lose(h, broker, peer)
        assert accepted(broker) == known
        assert delivered(h, broker, known)[0] == list(range(known))


# -- how long they are kept


def test_the_longest_gone_is_forgotten_first(h):
    with h.broker.listen("tcp://127.0.0.1:0", producers=2) as broker:
        for id in (b"a" * 16, b"b" * 16, b"a" * 16, b"c" * 16):
            peer = Peer(h, broker.urls[0], id=id)
            pushing(peer)
            lose(h, broker, peer)
        peer = Peer(h, broker.urls[0])
        assert peer.status()[""]["producers"] == 2
        peer.close()
        for id, known in ((b"a" * 16, True), (b"b" * 16, False), (b"c" * 16, True)):
            peer = Peer(h, broker.urls[0], id=id)
            peer.open(1, "push", "jobs", resume=True)
            assert peer.expect(OPEN, ERROR)[0] == (OPEN if known else ERROR)
            peer.close_channel(1)
            lose(h, broker, peer)


def test_a_record_is_forgotten_after_its_time(h):
    with h.broker.listen("tcp://127.0.0.1:0", producer_ttl_ms=1_000) as broker:
        now = broker.now()
        broker.now = lambda: now
        peer = Peer(h, broker.urls[0], id=ID)
        pushing(peer)
        now += 3_600  # as long as it is here, it does not age
        lose(h, broker, peer)
        for later, known in ((0.9, True), (1.1, False)):
            now += later
            peer = Peer(h, broker.urls[0], id=ID)
            peer.open(1, "push", "jobs", resume=True)
            assert peer.expect(OPEN, ERROR)[0] == (OPEN if known else ERROR)
            lose(h, broker, peer)


# -- two connections of one client


def test_a_connection_is_replaced_by_the_next_of_its_client(h, broker):
    old = Peer(h, broker.urls[0], id=ID)
    pushing(old)
    old.send(data(1, 0, ["a"]))
    old.expect(ACK)
    old.open(2, "pull", "jobs")
    old.credit(2)
    assert old.delivery()[3] == ["a"]
    new = Peer(h, broker.urls[0], id=ID)
    assert old.fields(ERROR)["code"] == "REPLACED"
    assert old.gone()
    old.close()
    new.open(1, "pull", "jobs")
    new.credit(1)
    assert new.delivery() == [DATA_OPTIONS, 0, {"redelivered": True, "attempts": 2}, ["a"]]
    until(h, lambda: len(broker.sessions) == 1)
    new.open(2, "push", "jobs", resume=True)
    new.want(2, n=1, b=10)
    assert new.expect(OPEN)[1:3] == (2, 1)
    new.close()


def test_the_end_of_a_replaced_connection_does_not_touch_its_successor(h, broker):
    peers = [Peer(h, broker.urls[0], id=ID) for _ in range(3)]
    until(h, lambda: len(broker.sessions) == 3 or peers[0].gone())
    for peer in peers[:2]:
        assert peer.fields(ERROR)["code"] == "REPLACED"
        peer.close()
    until(h, lambda: len(broker.sessions) == 1)
    last = Peer(h, broker.urls[0], id=ID)
    assert peers[2].fields(ERROR)["code"] == "REPLACED"
    peers[2].close()
    assert settled(last) == []
    last.close()


def test_nobody_replaces_somebody_else(h, tmp_path):
    secrets = {who: f"the token of {who}, of some length" for who in ("me", "you")}
    file = tmp_path / "tokens"
    file.touch(mode=0o600)
    file.write_text("".join(f"{line_of(*each)}\n" for each in secrets.items()))
    with h.broker.listen("tcp://127.0.0.1:0", token_file=str(file)) as broker:
        mine, theirs = (Peer(h, broker.urls[0], hello=False) for _ in range(2))
        mine.send(pack_control(HELLO, 0, 0, {"v": 1, "id": ID, "token": secrets["me"]}))
        mine.expect(HELLO)
        theirs.send(pack_control(HELLO, 0, 0, {"v": 1, "id": ID, "token": secrets["you"]}))
        assert theirs.fields(ERROR)["code"] == "DENIED"
        assert settled(mine) == []
        mine.close()
        theirs.close()


# -- numbers of deliveries


@pytest.mark.parametrize("kind", ["pull", "recv", "subscribe"])
def test_deliveries_are_numbered_from_where_the_consumer_wants(h, broker, kind):
    peer = Peer(h, broker.urls[0])
    peer.open(1, kind, "jobs", 40)
    peer.credit(1, 42, 100)
    peer.open(2, {"pull": "push", "recv": "send", "subscribe": "publish"}[kind], "jobs")
    if kind != "subscribe":
        peer.want(2, n=1, b=100)
        peer.expect(CREDIT)
    peer.send(data(2, 0, ["a"]))
    assert peer.delivery()[:2] == [DATA, 40]
    if kind != "subscribe":
        peer.ack(1, 40, 1)
    assert not [frame for frame in settled(peer) if frame[0] == ERROR]
    peer.close()


def test_requests_are_numbered_from_where_the_server_wants(h, broker):
    peer = Peer(h, broker.urls[0])
    peer.open(1, "serve", "sums", 40)
    peer.credit(1, 42, 100)
    peer.open(2, "call", "sums")
    peer.expect(CREDIT)
    peer.ask(2, 0, [1])
    assert peer.delivery()[:2] == [DATA, 40]
    peer.reply(1, 40, 2)
    assert peer.answer()[2:] == [0, [2]]
    peer.close()


def test_a_state_that_has_no_value_says_so_to_who_comes_back(h, broker):
    peer = Peer(h, broker.urls[0])
    peer.open(1, "state", "x")
    assert [frame[0] for frame in settled(peer)] == [OPEN]
    peer.open(2, "state", "x", 3, resume=True)
    assert [frame[:3] for frame in settled(peer)] == [(OPEN, 2, 3), (CLEAR, 2, 0)]
    peer.close()


def test_what_is_new_in_a_frame_that_came_in_part_keeps_its_own_options(h, broker, come):
    peer = come()
    pushing(peer)
    peer.ask(1, 0, ["a", "b"], keys=["1", "2"], headers={"h": 1})
    peer.expect(ACK)
    peer = come()
    pushing(peer, resume=True)
    (session,) = broker.sessions
    peer.ask(1, 0, ["a", "b", "c", "d"], keys=["1", "2", None, "4"], headers={"h": 1})
    assert peer.fields(ACK) == {"r": [2, 2]}
    options = {"keys": ["1", "2", None, "4"], "headers": {"h": 1}}
    assert session.channels[1].quota.b == len(msgpack.packb(options)) + 8
    consumer = Peer(h, broker.urls[0])
    consumer.open(1, "pull", "jobs")
    consumer.credit(1)
    assert consumer.delivery()[2:] == [{"headers": {"h": 1}, "keys": ["1", "2", None, "4"]}, ["a", "b", "c", "d"]]
    consumer.close()

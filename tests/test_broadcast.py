"""The broker's broadcasts: nobody's reading slows anybody, and what is missed is counted and told."""

from __future__ import annotations

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st
from peers import PATIENCE, Peer, data, settled, until
from test_endpoint import Clock, Connection

from vanilla.broker.broadcast import Broadcast, Publisher, Subscriber
from vanilla.broker.broker import Broker
from vanilla.broker.options import Options
from vanilla.client import push
from vanilla.protocol.connection import Event
from vanilla.protocol.frames import ACK, CREDIT, DATA, ERROR, NACK, OPEN, pack_head

OUTPUT = 64 << 10


@pytest.fixture
def broker(h):
    with h.broker.listen("tcp://127.0.0.1:0", output_bytes=OUTPUT) as broker:
        yield broker


def told(peer):
    """What a subscriber is told of what was sent so far: items, and ranges that it missed."""
    found = []
    for frame in settled(peer):
        if frame[0] == DATA:
            found += [(frame[2] + place, item) for place, item in enumerate(msgpack.unpackb(frame[4]))]
        elif frame[0] == NACK:
            found.append(msgpack.unpackb(frame[4])[0]["r"])
    return found


def test_credit_is_for_what_is_sent_and_what_is_missed_is_told_before_what_follows(h, broker, peer):
    peer.open(1, "publish", "e")
    peer.open(2, "subscribe", "e")
    peer.send(data(1, 0, ["a", "b"]))
    assert told(peer) == []
    peer.credit(2, n=3)
    assert told(peer) == [[0, 2]]
    peer.send(data(1, 2, ["c", "d", "e", "f"]))
    assert told(peer) == [(2, "c"), (3, "d"), (4, "e")]
    peer.send(data(1, 6, ["g"]))
    assert told(peer) == []
    peer.credit(2, n=10)
    peer.send(data(1, 7, ["h"]))
    assert told(peer) == [[5, 2], (7, "h")]
    said = peer.status()["e"]
    assert (said["kind"], said["missed"], said["dropped"], said["acknowledged"]) == ("broadcast", 4, 4, 4)
    assert (said["pushers"], said["pullers"]) == (1, 1)


def test_one_large_message_may_go_beyond_the_bytes(h, broker, peer):
    peer.open(1, "publish", "e")
    peer.open(2, "subscribe", "e")
    peer.credit(2, n=100, b=10)
    peer.send(data(1, 0, [b"x" * 1000, b"y"]))
    assert told(peer) == [(0, b"x" * 1000)]


def test_a_publisher_is_confirmed_without_credit(h, broker, peer):
    peer.open(1, "publish", "e", first=7)
    peer.send(data(1, 7, ["a", "b"]))
    assert [frame[0] for frame in (peer.next(), peer.next())] == [OPEN, ACK]


def test_numbers_of_a_publisher_follow_each_other(h, broker, peer):
    peer.open(1, "publish", "e")
    peer.send(data(1, 1, ["a"]))
    assert b"BAD_SEQUENCE" in bytes(peer.expect(ERROR)[4])


def test_a_publisher_never_hears_of_credit(h, broker, peer):
    peer.open(1, "publish", "e")
    for number in range(0, 20_000, 1000):
        peer.send(data(1, number, [*range(1000)]))
        assert peer.next()[0] != CREDIT


def test_a_subscriber_that_never_reads_grows_no_memory_and_slows_nobody(h, broker, peer):
    """64 MB go by it; others get all of them."""
    lazy = Peer(h, broker.urls[0])
    lazy.open(1, "subscribe", "e")
    lazy.credit(1)
    lazy.expect(OPEN)
    until(h, lambda: broker.endpoints["e"].pullers)
    (subscriber,) = broker.endpoints["e"].pullers
    with h.client.connect(broker.urls[0]) as remote:
        news = remote.broadcast("e")
        recver = news.subscribe()
        item = b"x" * 32_000
        for _ in range(2000):
            news.send(item)
            assert recver.recv(timeout=10_000) == item
            assert subscriber.session.out.unsent <= OUTPUT + 33_000
        assert recver.missed == 0
    assert broker.endpoints["e"].missed > 1000
    assert subscriber.session.full
    # and when it reads again, it is told what it has missed
    received = missed = 0
    while received + missed < 2000:
        kind, _, seq, count, array = lazy.expect(DATA, NACK)
        assert (seq if kind == DATA else msgpack.unpackb(array)[0]["r"][0]) == received + missed
        if kind == DATA:
            received += count
        else:
            missed += msgpack.unpackb(array)[0]["r"][1]
    assert missed == broker.endpoints["e"].missed
    lazy.close()


def test_a_body_is_shared_by_all_subscribers(h, broker, peer):
    """However many subscribe, a frame that none has read yet is there once."""
    endpoint = Broadcast(broker, "x")
    bodies = []

    class Session:
        beside = None
        full = False

        def __init__(self):
            self.broker = broker

        def put(self, head, body):
            bodies.append(body)

    for number in range(100):
        subscriber = Subscriber(Session(), number, endpoint)
        subscriber.limit_n = subscriber.limit_b = 1 << 60
    endpoint.accept(2, msgpack.packb("a") + msgpack.packb("b"))
    endpoint.accept(1, msgpack.packb("c"))
    endpoint.match()
    assert len(bodies) == 100
    assert len({id(body) for body in bodies}) == 1
    assert bodies[0] == b"\xa1a\xa1b\xa1c"


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("publish"), st.integers(1, 6)),
        st.tuples(st.just("credit"), st.integers(0, 2), st.integers(0, 8), st.integers(0, 20)),
        st.tuples(st.just("full"), st.integers(0, 2), st.booleans()),
        st.tuples(st.just("relieve"), st.integers(0, 2)),
        st.tuples(st.just("turn")),
    ),
    max_size=60,
)


@given(STEPS)
def test_each_message_is_sent_or_missed_once_and_the_accounts_hold(steps):
    clock = Clock()
    broker = Broker(clock, Options())
    broker.now = lambda: clock.time
    endpoint = broker.endpoint("e", Broadcast)
    publisher = Publisher(Connection(broker), 1, endpoint, 0)
    subscribers = [Subscriber(Connection(broker), 2 + i, endpoint) for i in range(3)]
    heard = [[] for _ in subscribers]
    missed = [0] * 3
    sent = 0

    def turn():
        nonlocal missed
        clock.settle()
        for place, subscriber in enumerate(subscribers):
            frames, subscriber.session.frames = subscriber.session.frames, []
            for kind, _, seq, _, array in frames:
                if kind == DATA:
                    items = msgpack.unpackb(array)
                    assert items == [*range(seq, seq + len(items))]
                    assert seq == len(heard[place]) + missed[place]
                    heard[place] += items
                else:
                    (fields,) = msgpack.unpackb(array)
                    assert kind == NACK and fields["r"][0] == len(heard[place]) + missed[place]
                    missed[place] += fields["r"][1]

    for what, *rest in steps:
        if what == "publish":
            items = [*range(sent, sent + rest[0])]
            body = b"".join(map(msgpack.packb, items))
            array = pack_head(DATA, 1, 0, len(items), len(body))[21:] + body
            publisher.data(Event(DATA, 1, sent, len(items), array))
            sent += len(items)
        elif what == "credit":
            subscriber = subscribers[rest[0]]
            n, b = subscriber.sent_n + rest[1], subscriber.sent_b + rest[2]
            subscriber.credit(Event(CREDIT, 0, 0, 1, {"n": n, "b": b}))
        elif what == "full":
            subscribers[rest[0]].session.full = rest[1]
        elif what == "relieve":
            session = subscribers[rest[0]].session
            starved, session.starved = session.starved, set()
            for each in starved:
                each.line_up()
        else:
            turn()
        assert endpoint.balance == 0
        for subscriber in subscribers:
            assert subscriber.sent_n <= subscriber.limit_n
    for subscriber in subscribers:
        subscriber.session.full = False
        subscriber.credit(Event(CREDIT, 0, 0, 1, {"n": 1 << 60, "b": 1 << 60}))
    turn()
    assert [len(one) + gap for one, gap in zip(heard, missed)] == [s.next for s in subscribers] == [sent] * 3
    assert endpoint.missed == sum(missed)
    assert endpoint.accepted == sent == endpoint.acknowledged + endpoint.dropped
    assert endpoint.dropped <= min(missed)


def test_an_idle_publisher_has_no_credit_to_give_back(h, broker, monkeypatch):
    monkeypatch.setattr(push, "IDLE_MS", 1)
    with h.client.connect(broker.urls[0]) as remote:
        news = remote.broadcast("e")
        for number in range(3):
            news.send(number)
            h.sleep(10)
            remote.ping()
        news.sync(timeout=10_000)


def test_what_was_missed_is_told_before_a_message_that_comes_first():
    """The output has room again, and a message comes before those who waited for that are looked after."""
    clock = Clock()
    broker = Broker(clock, Options())
    broker.now = lambda: clock.time
    subscriber = Subscriber(Connection(broker), 1, broker.endpoint("e", Broadcast))
    subscriber.credit(Event(CREDIT, 0, 0, 1, {"n": 9, "b": 9}))
    subscriber.session.full = True
    assert subscriber.offer(2, b"\x01\x02") == 0
    subscriber.session.full = False
    assert subscriber.offer(1, b"\x03") == 1
    assert [(frame[0], frame[2]) for frame in subscriber.session.frames] == [(NACK, 0), (DATA, 2)]
    assert msgpack.unpackb(subscriber.session.frames[0][4]) == [{"r": [0, 2]}]


def test_what_is_published_right_behind_a_subscription_is_not_missed(h, broker, monkeypatch):
    with h.client.connect(broker.urls[0]) as remote:
        news, link, kinds = remote.broadcast("news"), remote._link, []
        put = link.put
        monkeypatch.setattr(link, "put", lambda *parts: (kinds.append(parts[0][6]), put(*parts)))
        with news.subscribe() as inbox:
            assert kinds == [OPEN, CREDIT]
            news.send("first")
            assert inbox.recv(timeout=PATIENCE) == "first"

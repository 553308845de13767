"""The broker's pipes, queues and channels: the accounts of a rendezvous under any sequence of what can happen to it,
and what its peers are told."""

from __future__ import annotations

import socket

import msgpack
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from peers import PATIENCE, Peer, data, settled, until
from test_endpoint import Clock, Connection, has_consumers, has_deliveries, has_producers

import vanilla
from vanilla.broker.broker import Broker
from vanilla.broker.conduit import Conduit, ConduitPuller, ConduitPusher, Rendezvous
from vanilla.broker.options import Options
from vanilla.broker.session import UNCLOSED
from vanilla.client import push
from vanilla.client.rendezvous import RendezvousState
from vanilla.protocol.connection import Event
from vanilla.protocol.frames import (
    ACK,
    CANCEL,
    CLOSE,
    CREDIT,
    DATA,
    DATA_OPTIONS,
    ERROR,
    FAIL,
    MORE,
    NACK,
    OPEN,
    pack_control,
    pack_head,
)


class Meetings(RuleBasedStateMachine):
    """Senders and receivers of a rendezvous come, meet, change their minds and go.

    Each message that a sender has sent is in one place, and each sender that is there hears once, and truly, what
    became of it.
    """

    @initialize()
    def start(self):
        self.clock = Clock()
        self.broker = Broker(self.clock, Options(max_attempts=3, backoff_ms=100))
        self.broker.now = lambda: self.clock.time
        self.endpoint = Conduit.at(self.broker, "meet", {"as": "channel", "capacity": 0})
        self.pushers, self.pullers = [], []
        self.number = self.sent = 0
        #: What each sender has sent and not heard of: its number -> message.
        self.unheard = {}
        #: What each receiver holds: channel number -> message.
        self.held = {}
        self.acked, self.dead, self.withdrawn, self.lost = set(), set(), set(), set()
        self.seen = set()

    def turn(self):
        self.clock.settle()
        for puller in self.pullers:
            frames, puller.session.frames = puller.session.frames, []
            for kind, _, seq, _, array in frames:
                assert kind & ~MORE in (DATA, DATA_OPTIONS)
                items = msgpack.unpackb(array)
                options = items.pop(0) if kind & ~MORE == DATA_OPTIONS else {}
                for offset, item in enumerate(items):
                    self.held[puller][seq + offset] = item
                    assert item not in self.withdrawn
                    assert options.get("redelivered", False) == (item in self.seen)
        for pusher in self.pushers:
            frames, pusher.session.frames = pusher.session.frames, []
            for kind, _, seq, _, array in frames:
                fields = msgpack.unpackb(array)[0]
                if kind == ACK:
                    for first, count in zip(fields["r"][::2], fields["r"][1::2]):
                        for number in range(first, first + count):
                            assert self.unheard[pusher].pop(number) in self.acked | self.dead
                elif kind == FAIL:
                    item = self.unheard[pusher].pop(seq)
                    assert item not in self.acked | self.dead
                    assert (fields["code"] == "PEER_LOST") == (item in self.seen)
                    (self.lost if item in self.seen else self.withdrawn).add(item)
                else:
                    assert kind == CREDIT

    @rule()
    def a_sender_comes(self):
        if len(self.pushers) < 4:
            self.number += 1
            pusher = ConduitPusher(Connection(self.broker), self.number, self.endpoint, 0)
            self.pushers.append(pusher)
            self.unheard[pusher] = {}
        self.turn()

    @precondition(has_producers)
    @rule(n=st.integers(0, 5), data=st.data())
    def a_sender_wants_credit(self, n, data):
        data.draw(st.sampled_from(self.pushers)).want(Event(0, 0, 0, 1, {"n": n, "b": n * 10}))
        self.turn()

    @precondition(has_producers)
    @rule(data=st.data())
    def a_sender_wants_no_more(self, data):
        pusher = data.draw(st.sampled_from(self.pushers))
        quota = pusher.quota
        pusher.want(Event(0, 0, 0, 1, {"n": 0, "b": 0, "limit": [quota.n, quota.b], "epoch": pusher.epoch + 1}))
        self.turn()

    @rule(most=st.integers(1, 5), data=st.data(), wait=st.booleans())
    def a_sender_sends(self, most, data, wait):
        ready = [pusher for pusher in self.pushers if not pusher.spent]
        if not ready:
            return
        pusher = data.draw(st.sampled_from(ready))
        packed, size = [], 0
        while len(packed) < min(most, pusher.quota.left_n):
            packed.append(msgpack.packb(self.sent))
            size += len(packed[-1])
            if size > pusher.quota.left_b:
                packed.pop()
                break
            self.unheard[pusher][pusher.quota.n + len(packed) - 1] = self.sent
            self.sent += 1
        if packed:
            body = b"".join(packed)
            array = pack_head(DATA, 1, 0, len(packed), len(body))[21:] + body
            pusher.data(Event(DATA, 1, pusher.quota.n, len(packed), array))
        if wait:
            self.turn()

    @precondition(has_producers)
    @rule(data=st.data())
    def a_sender_cancels(self, data):
        pusher = data.draw(st.sampled_from(self.pushers))
        first = data.draw(st.integers(0, pusher.quota.n + 1))
        count = data.draw(st.integers(1, 5))
        pusher.cancel(Event(CANCEL, 0, 0, 1, {"r": [first, count, first + count + 1, 1]}))
        self.turn()

    @precondition(has_producers)
    @rule(data=st.data())
    def a_sender_goes(self, data):
        pusher = data.draw(st.sampled_from(self.pushers))
        self.pushers.remove(pusher)
        del self.unheard[pusher]
        pusher.detach(None)
        self.turn()

    @rule()
    def a_receiver_comes(self):
        if len(self.pullers) < 4:
            self.number += 1
            puller = ConduitPuller(Connection(self.broker), self.number, self.endpoint)
            self.pullers.append(puller)
            self.held[puller] = {}
        self.turn()

    @precondition(has_consumers)
    @rule(n=st.integers(1, 4), b=st.integers(1, 30), data=st.data())
    def a_receiver_waits(self, n, b, data):
        puller = data.draw(st.sampled_from(self.pullers))
        puller.credit(Event(0, 0, 0, 1, {"n": puller.sent_n + n, "b": puller.sent_b + b}))
        self.turn()

    def ranges(self, data):
        puller = data.draw(st.sampled_from([puller for puller in self.pullers if puller.sent_n]))
        first = data.draw(st.integers(0, puller.sent_n - 1))
        return puller, first, data.draw(st.integers(1, puller.sent_n - first))

    @precondition(has_deliveries)
    @rule(data=st.data())
    def a_receiver_takes(self, data):
        puller, first, count = self.ranges(data)
        for seq in range(first, first + count):
            item = self.held[puller].pop(seq, None)
            if item is not None:
                assert item not in self.acked
                self.acked.add(item)
        puller.ack(Event(ACK, 0, 0, 1, {"r": [first, count]}))
        self.turn()

    @precondition(has_deliveries)
    @rule(data=st.data(), dead=st.booleans())
    def a_receiver_gives_back(self, data, dead):
        puller, first, count = self.ranges(data)
        for seq in range(first, first + count):
            item = self.held[puller].pop(seq, None)
            if item is not None and dead:
                self.dead.add(item)
        puller.nack(Event(NACK, 0, 0, 1, {"r": [first, count], **({"dead": "X"} if dead else {"back": True})}))
        self.turn()

    @precondition(has_consumers)
    @rule(data=st.data(), crash=st.booleans())
    def a_receiver_goes(self, data, crash):
        puller = data.draw(st.sampled_from(self.pullers))
        self.pullers.remove(puller)
        seen = None if crash else data.draw(st.integers(0, puller.sent_n))
        self.seen |= {item for seq, item in self.held.pop(puller).items() if seen is None or seq < seen}
        puller.detach(seen)
        self.dead |= set(self.graveyard())
        self.turn()

    def graveyard(self):
        grave = self.broker.endpoints.get("meet.dead")
        return [item for batch in grave.ready for item in unpacked(batch.body)] if grave else []

    @rule(seconds=st.sampled_from([0.05, 0.2, 10]))
    def time_passes(self, seconds):
        self.clock.pass_time(seconds)
        self.turn()

    @invariant()
    def every_message_is_in_one_place(self):
        if not hasattr(self, "endpoint"):
            return
        endpoint = self.endpoint
        assert endpoint.balance == 0
        assert endpoint.accepted == self.sent
        ready = [item for batch in (*endpoint.ready, *endpoint.delayed) for item in unpacked(batch.body)]
        held = [item for held in self.held.values() for item in held.values()]
        places = [*ready, *held, *self.acked, *self.dead]
        assert len(set(places)) == len(places) == self.sent - endpoint.dropped
        assert not (self.withdrawn | self.lost) & set(places)

    @invariant()
    def who_is_there_and_has_not_heard_has_something_that_is_ready_or_held(self):
        if not hasattr(self, "endpoint"):
            return
        endpoint = self.endpoint
        ready = {item for batch in (*endpoint.ready, *endpoint.delayed) for item in unpacked(batch.body)}
        held = {item for held in self.held.values() for item in held.values()}
        for pusher in self.pushers:
            assert set(self.unheard[pusher].values()) <= ready | held
            assert set(self.unheard[pusher]) == pusher.open | pusher.cancelled
        for batch in endpoint.ready:
            first = batch.number + batch.origin.shift
            assert not batch.origin.pusher.gone
            assert not batch.origin.pusher.cancelled & {*range(first, first + batch.count)}

    @invariant()
    def the_sums_are_the_sums(self):
        if not hasattr(self, "endpoint"):
            return
        endpoint = self.endpoint
        assert endpoint.ready_n == sum(batch.count for batch in endpoint.ready)
        assert endpoint.ready_b == sum(len(batch.body) for batch in endpoint.ready)
        assert endpoint.flight_n == sum(puller.flight.count for puller in endpoint.pullers)
        if not endpoint.broker._touched:
            assert not endpoint.ready or not any(puller.can_take for puller in self.pullers)


def unpacked(body):
    unpacker = msgpack.Unpacker()
    unpacker.feed(body)
    return [*unpacker]


Meetings.TestCase.settings = settings(max_examples=80, stateful_step_count=60, deadline=None)
TestMeetings = Meetings.TestCase


# -- what peers are told


@pytest.fixture
def broker(h):
    with h.broker.listen("tcp://127.0.0.1:0") as broker:
        yield broker
        for endpoint in broker.endpoints.values():
            assert endpoint.balance == 0


def opened(peer, channel, kind, **fields):
    peer.send(pack_control(OPEN, channel, 0, {"kind": kind, "name": "a", **fields}))


def cancel(peer, channel, *flat):
    peer.send(pack_control(CANCEL, channel, 0, {"r": list(flat)}))


def test_without_fields_it_is_a_channel_that_holds_nothing(h, broker, peer):
    opened(peer, 1, "send")
    peer.expect(OPEN)
    assert peer.status()["a"]["kind"] == "channel"
    assert peer.status()["a"]["capacity"] == 0


def test_a_sender_has_credit_only_while_a_receiver_waits(h, broker, peer):
    opened(peer, 1, "send")
    opened(peer, 2, "recv")
    peer.want(1, n=3, b=3)
    assert peer.status()["a"]["granted"] == 0
    peer.credit(2, 2)
    assert peer.fields(CREDIT)["n"] == 2


def test_the_confirm_comes_when_the_item_is_taken(h, broker, peer):
    opened(peer, 1, "send")
    opened(peer, 2, "recv")
    peer.want(1, n=2, b=2)
    peer.credit(2, 2)
    peer.expect(CREDIT)
    peer.send(data(1, 0, [7, 8]))
    assert peer.delivery()[3] == [7, 8]
    assert peer.status()["a"]["in_flight"] == 2
    peer.ack(2, 1, 1)
    assert peer.fields(ACK) == {"r": [1, 1]}
    peer.ack(2, 0, 1)
    assert peer.fields(ACK) == {"r": [0, 1]}


def test_what_is_cancelled_while_a_receiver_holds_it_is_delivered_if_it_is_taken(h, broker, peer):
    opened(peer, 1, "send")
    opened(peer, 2, "recv")
    peer.want(1, n=1, b=1)
    peer.credit(2, 1)
    peer.expect(CREDIT)
    peer.send(data(1, 0, [7]))
    peer.delivery()
    cancel(peer, 1, 0, 1 << 60)
    assert peer.status()["a"]["in_flight"] == 1
    peer.ack(2, 0, 1)
    assert peer.fields(ACK) == {"r": [0, 1]}


def test_what_is_cancelled_while_a_receiver_holds_it_is_withdrawn_if_it_comes_back(h, broker, peer):
    opened(peer, 1, "send")
    opened(peer, 2, "recv")
    peer.want(1, n=1, b=1)
    peer.credit(2, 1)
    peer.expect(CREDIT)
    peer.send(data(1, 0, [7]))
    peer.delivery()
    cancel(peer, 1, 0, 1)
    peer.nack(2, 0, 1, back=True)
    frame = peer.expect(FAIL)
    assert frame[2] == 0
    assert msgpack.unpackb(frame[4])[0]["code"] == "WITHDRAWN"
    assert peer.status()["a"]["dropped"] == 1


def test_all_that_is_cancelled_in_a_tick_costs_one_look(h, broker, peer, monkeypatch):
    looks = []
    sift = Rendezvous.sift
    monkeypatch.setattr(Rendezvous, "sift", lambda *args: (looks.append(1), sift(*args)))
    opened(peer, 1, "send")
    opened(peer, 2, "recv")
    for number in range(5):
        peer.want(1, n=1, b=1)
        peer.credit(2, number + 1)
        peer.expect(CREDIT)
        peer.send(data(1, number, [number]))
        peer.delivery()
    peer.send(b"".join(pack_control(CANCEL, 1, 0, {"r": [number, 1]}) for number in reversed(range(5))))
    settled(peer)
    assert len(looks) == 1
    peer.nack(2, 0, 5, back=True)
    heard = [(kind, seq) for kind, _, seq, _, _ in settled(peer)]
    assert heard == [(FAIL, number) for number in range(5)]


def test_a_cancel_means_nothing_to_a_queue(h, broker, peer):
    opened(peer, 1, "send", **{"as": "queue", "capacity": 5})
    peer.want(1, n=1, b=1)
    peer.expect(CREDIT)
    peer.send(data(1, 0, [7]))
    cancel(peer, 1, 0, 1)
    assert ACK in [kind for kind, *_ in settled(peer)]
    (pusher,) = broker.endpoints["a"].pushers
    assert not pusher.unwanted
    opened(peer, 2, "recv", **{"as": "queue", "capacity": 5})
    peer.credit(2)
    assert peer.delivery()[3] == [7]


def test_what_is_cancelled_and_lost_with_its_receiver_may_have_been_taken_and_that_is_said(h, broker, peer):
    other = Peer(h, broker.urls[0])
    opened(peer, 1, "send")
    opened(other, 1, "recv")
    other.credit(1, 1)
    peer.want(1, n=1, b=1)
    peer.expect(CREDIT)
    peer.send(data(1, 0, [7]))
    other.delivery()
    cancel(peer, 1, 0, 1)
    peer.status()
    other.close()
    assert peer.fields(FAIL)["code"] == "PEER_LOST"


def test_a_lost_sender_takes_with_it_what_nobody_holds(h, broker, peer):
    other = Peer(h, broker.urls[0])
    opened(other, 1, "send")
    opened(peer, 1, "recv")
    peer.credit(1, 1)
    other.want(1, n=1, b=1)
    other.expect(CREDIT)
    other.send(data(1, 0, [7]))
    peer.delivery()
    other.close()
    until(h, lambda: not broker.endpoints["a"].pushers)
    peer.nack(1, 0, 1, back=True)
    said = peer.status()["a"]
    assert (said["ready"], said["in_flight"], said["dropped"]) == (0, 0, 1)


@pytest.mark.parametrize("fields", [{}, {"delay": 5}])
def test_a_receiver_refuses_nothing_for_later(h, broker, peer, fields):
    opened(peer, 1, "send", **{"as": "queue", "capacity": 5})
    opened(peer, 2, "recv", **{"as": "queue", "capacity": 5})
    peer.want(1, n=1, b=1)
    peer.expect(CREDIT)
    peer.send(data(1, 0, [1]))
    peer.credit(2)
    peer.delivery()
    peer.nack(2, 0, 1, **fields)
    assert peer.fields(ERROR)["code"] == "BAD_MAP"
    assert peer.gone()


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"as": "tube"}, "BAD_KIND"),
        ({"as": "pipe", "capacity": 1}, "TOO_MANY"),
        ({"as": "queue"}, "TOO_MANY"),
        ({"as": "channel", "capacity": 100_001}, "TOO_MANY"),
    ],
)
def test_what_is_no_pipe_queue_or_channel_is_refused(h, broker, peer, fields, code):
    opened(peer, 1, "send", **fields)
    assert peer.fields(ERROR)["code"] == code
    assert "a" not in peer.status()


def test_a_sender_that_comes_again_opens_a_queue_that_was_closed(h, broker):
    with h.client.connect(broker.urls[0]) as near, h.client.connect(broker.urls[0]) as far:
        for number in (1, 2):
            with near.queue("a", 5).sender as sender:
                sender.send(number)
        assert list(far.queue("a", 5).recver) == [1, 2]


def test_a_connection_that_leaves_only_lets_go(h, broker):
    with h.client.connect(broker.urls[0]) as far:
        recver = far.queue("a", 5).recver
        with h.client.connect(broker.urls[0]) as near:
            near.queue("a", 5).send(1)
        assert recver.recv(timeout=PATIENCE) == 1
        with pytest.raises(vanilla.Timeout):
            recver.recv(timeout=20)
        assert not recver.halted


def test_what_was_under_way_when_the_receiver_closed_is_logged(h, broker, peer, caplog):
    with h.client.connect(broker.urls[0]) as near:
        sender = near.queue("a", 100).sender
        sender.send(1)
        sender.sync(timeout=PATIENCE)
        opened(peer, 1, "recv", **{"as": "queue", "capacity": 100})
        peer.expect(OPEN)
        peer.send(pack_control(CLOSE, 1, 0, {"end": True}))
        sender.send(2, timeout=0)  # the broker hears of the end first, and this sender then
        until(h, lambda: sender.halted)
        assert sender.unconfirmed == 1
    assert "1 items did not arrive" in caplog.text


def queue_of_5(peer, channel, kind):
    opened(peer, channel, kind, **{"as": "queue", "capacity": 5})
    if kind == "send":
        peer.want(channel, n=1, b=1)
        while not peer.fields(CREDIT)["n"]:
            pass


def test_the_receiver_hears_of_the_end_when_it_has_settled_all(h, broker, peer):
    queue_of_5(peer, 1, "send")
    queue_of_5(peer, 2, "recv")
    peer.credit(2)
    peer.send(data(1, 0, [1]))
    peer.delivery()
    peer.send(pack_control(CLOSE, 1, 0, {"end": True}))
    assert ERROR not in [frame[0] for frame in settled(peer)]
    peer.ack(2, 0, 1)
    assert peer.fields(ERROR)["code"] == "CLOSED"


def test_what_was_accepted_before_the_receiver_closed_is_confirmed_before_the_end(h, broker, peer):
    queue_of_5(peer, 1, "send")
    queue_of_5(peer, 2, "recv")
    peer.send(data(1, 0, [1]), pack_control(CLOSE, 2, 0, {"end": True}))
    assert [frame[0] for frame in settled(peer) if frame[0] in (ACK, ERROR)] == [ACK, ERROR]


def test_a_new_sender_takes_back_the_end_that_the_receiver_has_not_heard_of(h, broker, peer):
    for channel in (1, 2):
        queue_of_5(peer, channel, "send")
        peer.send(data(channel, 0, [channel]))
        if channel == 1:
            peer.send(pack_control(CLOSE, 1, 0, {"end": True}))
    queue_of_5(peer, 3, "recv")
    peer.credit(3)
    assert peer.delivery()[3] == [1, 2]
    peer.ack(3, 0, 2)
    assert ERROR not in [frame[0] for frame in settled(peer)]


def test_what_is_ready_goes_with_its_sender(h, broker, peer):
    opened(peer, 1, "send")
    opened(peer, 2, "recv")
    peer.want(1, n=1, b=1)
    peer.credit(2, 1)
    peer.expect(CREDIT)
    peer.send(data(1, 0, [7]))
    peer.delivery()
    peer.nack(2, 0, 1, back=True)
    assert peer.status()["a"]["ready"] == 1
    peer.close_channel(1)
    said = peer.status()["a"]
    assert (said["ready"], said["dropped"]) == (0, 1)
    peer.credit(2, 2)
    assert DATA not in [frame[0] for frame in settled(peer)]


@pytest.fixture
def ends(h, broker):
    """The Sender and the Recver of a rendezvous, each over a connection of its own."""
    with h.client.connect(broker.urls[0]) as near, h.client.connect(broker.urls[0]) as far:
        yield near.channel("a").sender, far.channel("a").recver


def test_a_poll_succeeds_while_a_receiver_waits(h, broker, ends):
    sender, recver = ends
    for number in range(20):
        task = h.spawn(recver.recv)
        h.select([sender], timeout=PATIENCE)
        sender.send(number, timeout=0)
        assert task.join(timeout=PATIENCE) == number


def test_a_send_that_gave_up_asks_for_nothing_any_more(h, broker, ends):
    sender, _ = ends
    with pytest.raises(vanilla.Timeout):
        sender.send(1, timeout=10)
    (pusher,) = broker.endpoints["a"].pushers
    until(h, lambda: (pusher.want_n, pusher.epoch) == (0, 1))


def test_credit_that_nobody_uses_goes_back(h, broker, ends, monkeypatch):
    monkeypatch.setattr(push, "IDLE_MS", 1_000_000)
    sender, recver = ends
    tasks = [h.spawn(sender.send, number) for number in range(3)]
    h.sleep(20)
    for task in tasks[1:]:
        task.cancel()
    taken = [h.spawn(recver.recv) for _ in range(3)]
    assert taken[0].join(timeout=PATIENCE) == 0
    until(h, lambda: broker.endpoints["a"].granted_n == 0)
    tasks = [h.spawn(sender.send, number) for number in (1, 2)]
    assert [task.join(timeout=PATIENCE) for task in taken[1:]] == [1, 2]
    for task in tasks:
        task.join(timeout=PATIENCE)


def test_nothing_is_asked_for_ahead(h, broker, ends):
    sender, recver = ends
    task = h.spawn(sender.send_many, [*range(500)])
    for number in range(500):
        assert recver.recv(timeout=PATIENCE) == number
    task.join(timeout=PATIENCE)
    (puller,) = broker.endpoints["a"].pullers
    assert (puller.sent_n, puller.limit_n) == (500, 500)


def test_what_a_cancelled_task_had_sent_is_withdrawn(h, broker, ends):
    sender, recver = ends
    with pytest.raises(vanilla.Timeout):
        recver.recv(timeout=20)
    task = h.spawn(sender.send, "cancelled")
    until(h, lambda: broker.endpoints["a"].flight_n)
    task.cancel()
    until(h, lambda: broker.endpoints["a"].dropped)
    task = h.spawn(sender.send, "next")
    assert recver.recv(timeout=PATIENCE) == "next"
    task.join(timeout=PATIENCE)


def test_channels_that_others_have_ended_do_not_count_as_refused(h, broker, peer):
    terms = {"as": "queue", "capacity": 5}
    other = Peer(h, broker.urls[0])
    names = {channel: f"q{channel}" for channel in range(1, UNCLOSED + 3)}
    for channel, name in names.items():
        peer.send(pack_control(OPEN, channel, 0, {"kind": "send", "name": name, **terms}))
    settled(peer)
    for channel, name in names.items():
        other.send(pack_control(OPEN, channel, 0, {"kind": "recv", "name": name, **terms}))
        other.send(pack_control(CLOSE, channel, 0, {"end": True}))
    settled(other)
    assert sum(frame[0] == ERROR for frame in settled(peer)) == len(names)
    opened(peer, UNCLOSED + 10, "send", **terms)
    assert peer.expect(OPEN, ERROR)[:2] == (OPEN, UNCLOSED + 10)
    other.close()


def lost(remote):
    """Its connection is gone, and it has not noticed yet."""
    remote._link.sock.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize("end", ["lost", "closed"])
def test_a_send_whose_end_ends_between_its_credit_and_its_turn_fails(h, broker, monkeypatch, end):
    with (
        h.client.connect(broker.urls[0], reconnect=False) as near,
        h.client.connect(broker.urls[0]) as far,
    ):
        sender = near.channel("a").sender
        receiver = h.spawn(far.channel("a").recver.recv, PATIENCE)
        if end == "lost":
            until(h, lambda: "a" in broker.endpoints)
            h.select([sender], PATIENCE)
            lost(near)
            with pytest.raises(vanilla.ConnectionLost):
                sender.send(1, timeout=500)
        else:
            until(h, lambda: "a" in broker.endpoints)
            serve = RendezvousState._serve

            def serve_and_close(state):  # the frame that brings the credit wakes another task first, which closes
                waited = len(state.senders)
                serve(state)
                if len(state.senders) < waited:
                    sender.close()

            monkeypatch.setattr(RendezvousState, "_serve", serve_and_close)
            with pytest.raises(vanilla.Closed):
                sender.send(1, timeout=500)
        receiver.cancel()


def test_a_sender_that_was_dropped_while_its_item_was_on_its_way_frees_its_end(h, broker):
    with h.client.connect(broker.urls[0]) as near, h.client.connect(broker.urls[0]) as far:
        sender = near.pipe("p").sender
        state = sender._state
        task = h.spawn(sender.send, "x")
        recver = far.pipe("p").recver
        with pytest.raises(vanilla.Timeout):
            recver.recv(timeout=0)
        until(h, lambda: state.parcels)
        task.cancel()
        del sender
        with pytest.raises(vanilla.Cancelled):
            task.join()
        del task
        until(h, lambda: not near._link.channels)
        again = h.spawn(far.pipe("p").sender.send, "y", PATIENCE)
        assert recver.recv(timeout=PATIENCE) in ("x", "y")
        again.cancel()


@pytest.mark.parametrize("shape", ["pipe", "queue"])
def test_an_end_that_was_never_used_closes_nothing(h, broker, shape):
    with h.client.connect(broker.urls[0]) as near, h.client.connect(broker.urls[0]) as far:
        size = [5] * (shape == "queue")
        unused = getattr(near, shape)("a", *size).sender
        recver = getattr(far, shape)("a", *size).recver
        task = h.spawn(recver.recv)
        until(h, lambda: "a" in broker.endpoints)
        unused.close()
        h.spawn(getattr(near, shape)("a", *size).sender.send, "still there")
        assert task.join(timeout=PATIENCE) == "still there"

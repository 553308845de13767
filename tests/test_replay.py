"""What a producer sends again: frames as they were, in part, marked, or not at all. And all of it, against a model."""

from __future__ import annotations

import msgpack
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule
from peers import PATIENCE, until

import vanilla
from vanilla.client.replay import Frame, Replay
from vanilla.protocol.frames import COUNTED_BYTES, DATA, DATA_OPTIONS, Keeper, pack_head
from vanilla.protocol.options import pack_options

CHANNEL = 3
HERE, THERE = b"h" * 16, b"t" * 16


def frame(first, items, broker=None, **options):
    body = b"".join(map(msgpack.packb, items))
    head = pack_head(DATA, CHANNEL, first, len(items), len(body))
    if options:
        packed = pack_options(options)
        head = pack_head(DATA_OPTIONS, CHANNEL, first, len(items) + 1, len(packed) + len(body)) + packed
    return Frame(first + len(items), len(items), len(body), (head, body), broker)


def read(frame, channel=CHANNEL):
    """[first number, options, items] of it, as a broker reads it."""
    data = bytearray(b"".join(frame.parts))
    ((kind, on, seq, count, array),) = Keeper(1 << 30, data).received(len(data))
    assert on == channel
    items = msgpack.unpackb(array)
    assert len(items) == count
    options = items.pop(0) if kind == DATA_OPTIONS else {}
    assert (frame.end, frame.count) == (seq + len(items), len(items))
    return [seq, options, items]


def take(replay, n=1 << 60, b=1 << 60, limit=1 << 20, channel=CHANNEL, broker=HERE):
    return replay.take(n, b, limit, channel, broker)


def test_a_frame_that_fits_is_sent_as_it_was():
    kept = frame(5, ["a", "b"], HERE)
    replay = Replay([kept], 5)
    assert take(replay).parts is kept.parts
    assert (replay.n, replay.b, replay.size) == (7, 4, 0)


def test_for_another_process_it_is_marked_and_keeps_its_options():
    replay = Replay([frame(5, ["a"], THERE), frame(6, ["b"], THERE, priority=3), frame(7, ["c"])], 5)
    sent = [take(replay) for _ in range(3)]
    assert [read(each) for each in sent] == [
        [5, {"redelivered": True}, ["a"]],
        [6, {"priority": 3, "redelivered": True}, ["b"]],
        [7, {}, ["c"]],
    ]
    assert {each.broker for each in sent} == {HERE}
    assert read(take(Replay(sent, 5))) == [5, {"redelivered": True}, ["a"]]


def test_options_of_each_message_are_cut_with_the_messages():
    replay = Replay([frame(0, ["a", "b", "c"], HERE, ids=[1, None, 3], delay=5)], 0)
    assert read(take(replay, n=2)) == [0, {"ids": [1, None], "delay": 5}, ["a", "b"]]
    assert read(take(replay)) == [2, {"ids": [3], "delay": 5}, ["c"]]


@settings(deadline=None)
@given(
    st.lists(st.lists(st.binary(max_size=40), min_size=1, max_size=6), min_size=1, max_size=6),
    st.lists(st.tuples(st.integers(0, 5), st.integers(0, 90)), max_size=40),
    st.integers(80, 200),
    st.booleans(),
)
def test_all_is_sent_in_order_and_within_credit_and_limit(groups, credit, limit, elsewhere):
    frames, first = [], 7
    for items in groups:
        frames.append(frame(first, items, THERE if elsewhere else HERE))
        first += len(items)
    replay = Replay(frames, 7)
    n, b, got = 7, 0, []
    for more_n, more_b in [*credit, (1_000, 100_000)]:
        n, b = n + more_n, b + more_b
        while replay.frames:
            sent = take(replay, n, b, limit)
            if sent is None:
                least = replay.first_size(CHANNEL)
                room = limit - COUNTED_BYTES
                assert replay.n >= n or replay.b + least > b or least > room
                break
            assert replay.n <= n
            assert replay.b <= b
            assert sum(map(len, sent.parts)) - 5 <= limit
            assert replay.size == sum(frame.size for frame in replay.frames)
            seq, options, items = read(sent)
            assert seq == 7 + len(got)
            assert options == ({"redelivered": True} if elsewhere else {})
            got += items
    assert got == [item for items in groups for item in items]


@given(st.lists(st.integers(1, 5), min_size=1, max_size=5), st.data())
def test_what_the_broker_has_is_skipped_wherever_that_ends(counts, draw):
    frames, first = [], 0
    for count in counts:
        frames.append(frame(first, list(range(first, first + count)), HERE))
        first += count
    replay = Replay(frames, 0)
    known = draw.draw(st.integers(0, first))
    size = replay.size
    skipped = replay.skip(known, CHANNEL)
    assert (replay.n, replay.size) == (known, size - skipped)
    rest = []
    while replay.frames:
        seq, _, items = read(take(replay))
        assert seq == known + len(rest)
        rest += items
    assert rest == list(range(known, first))


def test_a_message_that_no_frame_of_this_broker_holds_is_told_from_one_that_waits_for_credit():
    replay = Replay([frame(0, ["x" * 50], THERE)], 0)
    assert take(replay, limit=80) is None
    assert replay.never_fits(80, CHANNEL)
    assert not replay.never_fits(100, CHANNEL)
    assert take(replay, b=10, limit=100) is None
    assert take(replay, limit=100)


def test_what_never_left_is_kept_when_the_rest_is_dropped_and_goes_by_another_channel():
    replay = Replay([frame(0, ["a", "b"], HERE), frame(2, ["c"], THERE), frame(3, ["d"], None, delay=1)], 0)
    assert replay.drop_sent() == 3
    assert (replay.n, replay.size) == (3, 2)
    replay.readdress(CHANNEL + 1)
    assert read(take(replay), CHANNEL + 1) == [3, {"delay": 1}, ["d"]]


# -- a producer and its broker, whatever happens between them


class Producer(RuleBasedStateMachine):
    """Messages in all sizes, connections that break at all times, brokers that begin anew."""

    @initialize(capacity=st.sampled_from([5, 200, 10_000]), capacity_bytes=st.sampled_from([3_000, 1 << 20]))
    def begin(self, capacity, capacity_bytes):
        self.h = vanilla.Hub()
        self.options = {"capacity": capacity, "capacity_bytes": capacity_bytes}
        self.broker = self.h.broker.listen("tcp://127.0.0.1:0", **self.options)
        self.url = self.broker.urls[0]
        self.remote = self.h.client.connect(self.url, backoff=(1, 2), linger=0)
        self.jobs = self.remote.push("jobs")
        self.sent = 0
        #: What the consumer got, as (number, redelivered).
        self.got = []
        self.was_another = False
        self.consume()

    def consume(self):
        """A consumer that is never lost but with its broker: at the broker itself."""
        consumer = self.h.client.connect(self.url, reconnect=False, linger=0)

        def work():
            try:
                for delivery in consumer.pull("jobs", ack=True):
                    self.got.append((delivery.item[0], delivery.redelivered))
                    delivery.ack()
            except vanilla.ConnectionLost:
                pass

        self.h.spawn(work)

    @rule(count=st.integers(1, 30), size=st.sampled_from([0, 10, 900, 2_500]), many=st.booleans())
    def send(self, count, size, many):
        items = [[self.sent + i, b"x" * size] for i in range(count)]
        if many:
            self.jobs.send_many(items, timeout=PATIENCE)
            self.sent += count
            return
        try:
            for item in items:
                self.jobs.send(item, timeout=0)
                self.sent += 1
        except vanilla.Timeout:
            pass

    @rule()
    def flush(self):
        self.jobs.flush()

    @rule(turns=st.integers(1, 4))
    def turn(self, turns):
        for _ in range(turns):
            self.h.sleep(0.1)

    @rule()
    def cut(self):
        for session in self.broker.sessions:
            if session.producer == self.remote._link.id:
                session.drop("test")
                break

    @rule()
    def read_and_cut(self):
        """The broker reads what has come and takes it, and the confirm is lost."""
        for session in self.broker.sessions:
            if session.producer == self.remote._link.id:
                session.ready(1)
                session.drop("test")
                break

    @rule()
    def cut_here(self):
        if not self.remote._link.down:
            self.remote._link.lost("test")

    @rule()
    def restart(self):
        self.broker.close()
        self.was_another = True
        self.broker = self.h.broker.listen(self.url, **self.options)
        self.consume()

    @rule()
    def settle(self):
        """In the end all is confirmed and nothing is missing."""
        self.jobs.sync(timeout=PATIENCE)
        assert self.jobs.unconfirmed == 0
        assert not self.jobs._state.sent
        assert all(endpoint.balance == 0 for endpoint in self.broker.endpoints.values())

    def teardown(self):
        if not hasattr(self, "jobs"):
            return
        try:
            self.settle()
            until(self.h, lambda: all(endpoint.empty for endpoint in self.broker.endpoints.values()))
            if not self.was_another:
                assert self.got == [(number, False) for number in range(self.sent)]
            seen = set()
            for number, redelivered in self.got:
                assert redelivered or number not in seen, f"{number} came twice in silence"
                seen.add(number)
        finally:
            self.remote.close(0)
            self.broker.close()
            self.h.stop()


Producer.TestCase.settings = settings(max_examples=30, stateful_step_count=25, deadline=None)
TestProducer = Producer.TestCase


def test_a_frame_that_waits_for_credit_was_not_sent_to_the_process_it_is_marked_for():
    """Else the next connection would ask that process what has come, and be told that nothing is known."""
    replay = Replay([frame(0, ["a"], THERE)], 0)
    for _ in range(2):
        assert take(replay, n=0) is None
    assert not replay.was_sent_to(HERE)
    assert take(replay)

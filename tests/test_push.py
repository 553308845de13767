"""The producer's half: what is sent, whenever and whatever, leaves once, in order and within its credit."""

from __future__ import annotations

from random import Random

import msgpack
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

import vanilla
from vanilla.client import lists, push
from vanilla.client.batch import make_message, packed_message
from vanilla.client.packing import LARGE_BYTES, MEDIUM_BYTES, pack_many
from vanilla.client.sender import PushSender
from vanilla.exception import Timeout
from vanilla.protocol.connection import Event
from vanilla.protocol.credit import Quota
from vanilla.protocol.frames import CREDIT, DATA, DATA_OPTIONS, FRAME_LIMIT, WANT, Keeper, control_map
from vanilla.protocol.options import read_options
from vanilla.protocol.scan import scan

SIZES = st.sampled_from([0, 1, 16, 100, 900, 1100, 4000, 5000, 31_000, 33_000, 60_000, 66_000, 200_000])


OPTIONS = st.sampled_from(
    [
        {},
        {"delay": 5},
        {"ttl": 1000, "priority": 9},
        {"id": b"one"},
        {"id": "i" * 255},
        {"headers": {"trace": "x" * 4000}},
        {"headers": {"trace": "x"}, "id": "two"},
    ]
)


class Link:
    """What a PushState asks of its link; the broker behind it checks each frame."""

    loose = False
    beside = None

    def __init__(self, hub, frame_limit):
        self.hub = hub
        self.frame_limit = frame_limit
        self.depth = 64
        self.fresh = True
        self.full = self.crowded = self.ended = self.down = False
        self.broker = b"broker"
        self.dirty = {}
        self.quota = Quota(0)
        self.waits = []
        self.bodies = []
        self.options = []
        self.frames = 0
        #: What was put, as it was.
        self.parts = []
        self.epoch = 0

    def open(self, kind, name, state, fields=None):
        return 1

    def check(self):
        pass

    def put(self, *parts):
        self.parts += parts
        data = bytearray(b"".join(parts))
        for kind, _, seq, count, array in Keeper(1 << 30, data).received(len(data)):
            if kind == WANT:
                self._want(control_map((kind, 1, seq, count, array)))
            else:
                assert kind in (DATA, DATA_OPTIONS)
                self._data(seq, count, array, kind == DATA_OPTIONS)

    def _want(self, fields):
        if "limit" in fields:
            self.quota.lower_to(*fields["limit"])
            self.epoch = fields["epoch"]
        else:
            self.waits.append((fields["n"], fields["b"]))

    def _data(self, seq, count, array, has_options):
        size = len(array) - 5
        items = msgpack.unpackb(array)
        options = [{}] * count
        if has_options:
            count -= 1
            at = scan(array, 5, 1, 1 << 62)[1]
            shared = read_options(array[5:at], "push", count)
            assert shared
            lists = [shared.pop(name, [None] * count) for name in ("keys", "ids")]
            named = ({"key": key, "id": id} for key, id in zip(*lists))
            options = [{**shared, **{k: v for k, v in names.items() if v is not None}} for names in named]
            items = items[1:]
        assert seq == self.quota.n
        assert count <= self.quota.left_n
        assert size <= self.quota.left_b
        assert 21 + size <= self.frame_limit
        self.quota.spend(count, size)
        self.bodies += items
        self.options += options
        self.frames += 1

    def flush(self):
        self.fresh = False

    poll = poll_now = flush

    def call_closers(self, state):
        assert not state.closers

    def edge(self):
        self.fresh = True
        for state in list(self.dirty):
            if not state.emit():
                del self.dirty[state]


def has_nothing_to_say(machine):
    """When `Producer.idle` may run. Not a lambda: hypothesis 6.100 would parse the file at each look to quote it."""
    return not machine.link.dirty


class Producer(RuleBasedStateMachine):
    """Sends of all sizes, credit in all sizes, and a clock that goes on as it likes."""

    @initialize(limit=st.sampled_from([4096, 100_000, FRAME_LIMIT]))
    def begin(self, limit):
        self.hub = vanilla.Hub()
        self.now = 100.0
        self.real, push.monotonic = push.monotonic, lambda: self.now
        self.link = Link(self.hub, limit)
        self.state = push.PushState(self.link, "jobs")
        self.sender = PushSender(self.state, 0)
        self.sent = []
        self.options = []

    def teardown(self):
        if hasattr(self, "link"):
            push.monotonic = self.real
            self.link.ended = True
            self.hub.stop()

    def _send(self, item, **options):
        try:
            self.sender.send(item, timeout=0, **options)
        except Timeout:
            waiting = self.state.batch.count
            assert self.link.full or self.link.quota.left_n <= waiting or self.link.quota.left_b < 205_000
        except ValueError:  # too big
            assert len(msgpack.packb(item)) + (5_000 if options else 0) > self.link.frame_limit - 21
        else:
            self.sent.append(item)
            self.options.append(options)

    @rule(size=SIZES, count=st.sampled_from([1, 9, 70, 200]))
    def send_bytes(self, size, count):
        for _ in range(count if size < 5000 else 1 + count % 7):
            self._send(bytes([len(self.sent) % 251]) * size)

    @rule(size=SIZES, count=st.sampled_from([1, 9, 70, 200]))
    def send_text(self, size, count):
        for _ in range(count if size < 5000 else 1 + count % 7):
            self._send([len(self.sent), "x" * size])

    @rule(sizes=st.lists(SIZES, min_size=2, max_size=6), kinds=st.lists(st.sampled_from("bto"), min_size=2, max_size=7))
    def send_mixed(self, sizes, kinds):
        for kind, size in zip(kinds * 20, sizes * 20 if max(sizes) < 5000 else sizes):
            if kind == "o":
                with pytest.raises((TypeError, ValueError)):
                    self.sender.send(object() if size % 2 else 1 << 64)
            else:
                self._send(b"x" * size if kind == "b" else ["x" * size, len(self.sent)])

    @rule(size=SIZES, count=st.sampled_from([1, 9, 70]), options=OPTIONS, key=st.booleans(), text=st.booleans())
    def send_with_options(self, size, count, options, key, text):
        for number in range(count if size < 5000 else 1 + count % 7):
            own = {"key": f"key {number % 3}"} if key and number % 4 else {}
            self._send("x" * size if text else b"x" * size, **options, **own)

    @rule(sizes=st.lists(SIZES, min_size=1, max_size=4), count=st.sampled_from([1, 9, 70, 200]), text=st.booleans())
    def send_list(self, sizes, count, text):
        items = [b"x" * size for size in sizes] * (count if max(sizes) < 5000 else 1 + count % 7)
        items = [["x" * len(item)] for item in items] if text else items
        try:
            self.sender.send_many(items, timeout=0)
        except (Timeout, ValueError) as error:
            items = items[: error.sent]
        self.sent += items
        self.options += [{}] * len(items)

    @rule(more_n=st.sampled_from([0, 1, 16, 100, 1000]), more_b=st.sampled_from([0, 1000, 70_000, 1 << 20]))
    def credit(self, more_n, more_b):
        quota = self.link.quota
        quota.raise_to(quota.limit_n + more_n, quota.limit_b + more_b)
        fields = {"n": quota.limit_n, "b": quota.limit_b, "epoch": self.link.epoch}
        self.state.frames[CREDIT](self.state, Event(CREDIT, 1, 0, 1, fields))

    @rule(ms=st.sampled_from([0.1, 0.7, 1.5]))
    def time_passes(self, ms):
        self.now += ms / 1000

    @rule()
    def edge(self):
        self.link.edge()
        assert not self.state.pending and not self.state.batch.count

    @rule(full=st.booleans())
    def socket_fills_or_drains(self, full):
        self.link.full = full

    @precondition(has_nothing_to_say)
    @rule()
    def idle(self):
        self.state._look_idle()
        self.state._look_idle()
        assert self.link.quota.left_n == self.link.quota.left_b == 0

    @rule()
    def flush(self):
        self.sender.flush()
        assert self.link.bodies == self.sent

    @invariant()
    def what_left_was_sent_and_nothing_else(self):
        if hasattr(self, "link"):
            assert self.link.bodies == self.sent[: len(self.link.bodies)]
            assert self.link.options == self.options[: len(self.link.options)]
            assert self.sender.unconfirmed == len(self.sent)

    @invariant()
    def what_is_pending_is_of_one_kind(self):
        if hasattr(self, "link"):
            state = self.state
            assert min(state.slack, state.room) <= 0
            assert all(type(piece) is bytes for piece in state.pending)
            assert not (state.slack > 0 and state.pending and state._packed)
            assert not (state.room > 0 and not state._packed)


Producer.TestCase.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
TestProducer = Producer.TestCase


@pytest.fixture
def link():
    """A link of endless credit."""
    hub = vanilla.Hub()
    link = Link(hub, FRAME_LIMIT)
    link.quota.raise_to(1 << 40, 1 << 40)
    link.fresh = False
    yield link
    link.ended = True
    hub.stop()


@pytest.fixture
def sender(link, monkeypatch):
    monkeypatch.setattr(push, "monotonic", lambda: 100.0)
    state = push.PushState(link, "jobs")
    state.quota.raise_to(1 << 40, 1 << 40)
    state._since = 100.0
    return PushSender(state, 0)


def test_keys_and_ids_end_no_batch(link, sender):
    for number in range(1000):
        sender.send(b"%d" % number, key=f"key {number % 7}" if number % 3 else None, id=number.to_bytes(2, "big"))
        sender.send(number)
    sender.flush()
    assert link.frames == 1
    assert [options.get("key") for options in link.options[:6]] == [None, None, "key 1", None, "key 2", None]


def test_a_change_of_what_messages_share_ends_the_frame_and_nothing_else(link, sender):
    for priority in (3, 3, 5, 5, 0, 0):
        sender.send("x", priority=priority)
    for headers in ({"a": 1}, {"a": 1}, {"a": 2}):
        sender.send_many([1, 2], headers=headers)
    sender.flush()
    assert link.frames == 5
    assert [options.get("priority", 0) for options in link.options[:6]] == [3, 3, 5, 5, 0, 0]


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"priority": 10}, ValueError, "0 to 9"),
        ({"priority": -1}, ValueError, "0 to 9"),
        ({"priority": 1.0}, TypeError, "whole number"),
        ({"delay": -1}, ValueError, "delay is 0 ms or more"),
        ({"delay": float("nan")}, ValueError, "delay is 0 ms or more"),
        ({"delay": "5"}, TypeError, "a number of ms"),
        ({"ttl": 1 << 63}, ValueError, "63 bits"),
        ({"key": ""}, ValueError, "1 to 255 bytes"),
        ({"key": "é" * 128}, ValueError, "1 to 255 bytes"),
        ({"key": "\ud800"}, ValueError, "UTF-8"),
        ({"key": 5}, TypeError, "text or bytes"),
        ({"id": b"x" * 256}, ValueError, "1 to 255 bytes"),
        ({"headers": {"a": "x" * 4096}}, ValueError, "limit is 4096"),
        ({"headers": {1: 2}}, TypeError, "text as keys"),
        ({"headers": {"a": {1: 2}}}, ValueError, "cannot be sent"),
        ({"headers": {"a": {1}}}, TypeError, "serialize"),
        ({"headers": {"a": 1 << 64}}, ValueError, "cannot be sent"),
        ({"colour": 1}, TypeError, "colour"),
    ],
    ids=str,
)
def test_an_option_that_the_broker_would_refuse_is_refused_here(link, sender, options, error, words):
    with pytest.raises(error, match=words):
        sender.send(b"not sent", **options)
    sender.send(b"sent")
    sender.flush()
    assert link.bodies == [b"sent"]


def test_headers_nest_as_deep_as_messages_and_no_deeper(link, sender):
    deepest = {}
    for _ in range(62):  # in a map, in a map
        deepest = {"a": deepest}
    sender.send(1, headers=deepest)
    with pytest.raises(ValueError, match="nested deeper"):
        sender.send(2, headers={"a": {"a": deepest}})


def test_an_id_is_given_to_one_message(sender):
    with pytest.raises(TypeError, match="one message's"):
        sender.send_many([1, 2], id="both")


@pytest.mark.parametrize("large", [b"x" * 100_000, "x" * 100_000, ["x" * 100_000]], ids=["bytes", "text", "list"])
def test_a_list_is_packed_some_at_a_time(monkeypatch, large):
    """Small items before large ones do not make it pack thousands of those, nor do large ones make small ones slow."""
    calls = []
    monkeypatch.setattr(lists, "pack_many", lambda items, depth: calls.append(len(items)) or pack_many(items, depth))
    hub = vanilla.Hub()
    link = Link(hub, FRAME_LIMIT)
    link.quota.raise_to(1 << 40, 1 << 40)
    state = push.PushState(link, "jobs")
    state.quota.raise_to(1 << 40, 1 << 40)
    sender = PushSender(state, 0)
    items = [*range(5000), *[large] * 50, *range(5000)]
    sender.send_many(items)
    sender.flush()
    assert link.bodies == items
    assert max(calls) <= lists.MOST_STEP
    assert sum(calls) < len(items) + 3 * lists.MOST_STEP
    assert len(calls) < 250
    link.ended = True
    hub.stop()


def test_small_items_are_packed_together_where_frames_are_short_too(link, sender, monkeypatch):
    link.frame_limit = 1_200
    alone = []
    monkeypatch.setattr(push, "make_message", lambda item, link: alone.append(item) or make_message(item, link))
    items = [b"%016d" % number for number in range(2_000)]
    for item in items:
        sender.send(item)
    sender.flush()
    assert link.bodies == items and link.frames < 40
    assert len(alone) <= link.frames


@pytest.mark.parametrize("item", [{"id": 1}, "text", [1, 2.5, None], 7], ids=str)
def test_small_items_of_any_kind_go_together(link, sender, monkeypatch, item):
    alone = []
    monkeypatch.setattr(push, "packed_message", lambda *args: alone.append(args) or packed_message(*args))
    for _ in range(1_000):
        sender.send(item)
    sender.flush()
    assert link.bodies == [item] * 1_000 and link.frames == 1
    assert len(alone) == 1  # the first, which decides what the others may do


def test_an_item_that_changes_once_it_is_sent_arrives_as_it_was(link, sender):
    item = {"at": 0}
    for at in range(200):
        item["at"] = at
        sender.send(item)
        sender.send(b"between") if at % 50 == 0 else None
    sender.flush()
    assert [body["at"] for body in link.bodies if body != b"between"] == list(range(200))


def test_a_packed_item_that_is_larger_is_not_joined_with_others(link, sender):
    for item in "small", "small", "x" * 5_000:
        sender.send(item)
    assert not sender._state.pending
    sender.flush()
    assert any(len(part) == 5_003 for part in link.parts)


@pytest.mark.parametrize("item", [b"bytes", "text"])
def test_nothing_is_taken_at_an_end_that_was_refused(link, sender, item):
    link.close_channel = lambda state: None
    for _ in range(3):
        sender.send(item)
    sender._state.refused("DENIED", "no more")
    for late in item, b"bytes", "text":
        with pytest.raises(vanilla.Refused):
            sender.send(late)
    assert not sender._state.pending


def test_an_item_that_cannot_be_packed_takes_nothing_with_it(link, sender):
    for item in "good", "good", object(), "good", b"good", [object()], "good", ValueError("x"):
        try:
            sender.send(item)
        except TypeError:
            assert not isinstance(item, (str, bytes))
    sender.flush()
    assert link.bodies == ["good", "good", "good", b"good", "good"]


MIXED = [1, MEDIUM_BYTES - 1, MEDIUM_BYTES, MEDIUM_BYTES + 1, 10_000, LARGE_BYTES - 1, LARGE_BYTES]


@pytest.mark.parametrize("many", [False, True], ids=["one by one", "a list"])
def test_items_of_all_sizes_leave_in_order_and_larger_ones_are_not_copied(link, sender, many):
    random = Random(1)
    items = [bytes([at % 250]) * size for at, size in enumerate(random.choices(MIXED, k=400))]
    items += [b"x" * MEDIUM_BYTES] * 40 + ["text", *items, 5]
    if many:
        sender.send_many(items)
    else:
        for item in items:
            sender.send(item)
    sender.flush()
    assert link.bodies == items
    written = set(map(id, link.parts))
    most = [item for item in items if item.__class__ is bytes and len(item) > MEDIUM_BYTES]
    assert sum(id(item) in written for item in most) > len(most) / 2  # small ones take their neighbours along

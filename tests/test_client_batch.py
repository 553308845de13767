"""What a producer has taken: small messages are joined, large ones stay the objects that they are."""

from __future__ import annotations

import msgpack
from hypothesis import given, settings
from hypothesis import strategies as st

from vanilla.client.batch import BATCH_BYTES, RUN_BYTES, SMALL_BYTES, Batch, Message
from vanilla.client.packing import LARGE_BYTES, MEDIUM_HEAD_BYTES, large_parts, medium_parts, pack_run


def packed(item):
    body = msgpack.packb(item)
    return Message((body,), len(body))


sizes = st.integers(0, 3 * SMALL_BYTES) | st.integers(SMALL_BYTES - 9, SMALL_BYTES + 9)
steps = st.lists(st.tuples(st.booleans(), st.lists(sizes, min_size=1, max_size=5)), max_size=20)


@settings(deadline=None)
@given(steps)
def test_all_that_was_added_leaves_in_order(steps):
    batch, expected = Batch(), []
    for together, lengths in steps:
        items = [bytes([len(expected) % 250]) * length for length in lengths]
        expected += items
        if together:
            batch.add_run(pack_run(items), len(items))
        else:
            for item in items:
                batch.add(packed(item))
    assert batch.count == len(expected)
    size = batch.size
    body = b"".join(batch.take())
    assert len(body) == size
    assert body == b"".join(map(msgpack.packb, expected))
    assert (batch.count, batch.size, batch.take()) == (0, 0, [])


def test_small_messages_are_joined_into_runs():
    batch = Batch()
    while batch.size < BATCH_BYTES:
        batch.add(packed({"id": batch.count, "text": "x" * 100}))
    parts = batch.take()
    assert len(parts) == -(-BATCH_BYTES // RUN_BYTES)
    assert max(map(len, parts)) < RUN_BYTES + SMALL_BYTES


def test_a_large_message_is_not_copied():
    batch, large = Batch(), bytes(RUN_BYTES)
    batch.add(packed(1))
    batch.add(Message(large_parts(large), RUN_BYTES + 5))
    batch.add(packed(2))
    assert [part is large for part in batch.take()] == [False, False, True, False]


@given(st.lists(st.integers(256, LARGE_BYTES - 1), min_size=1, max_size=20))
def test_messages_that_are_not_copied_are_packed_as_others(lengths):
    items = [bytes([at % 250]) * length for at, length in enumerate(lengths)]
    batch, parts = Batch(), medium_parts(items)
    batch.add_run(pack_run([b"before"]), 1)
    batch.add_parts(parts, sum(lengths) + MEDIUM_HEAD_BYTES * len(items), len(items))
    assert parts[1::2] == items and all(map(lambda part, item: part is item, parts[1::2], items))
    assert (batch.count, batch.size) == (len(items) + 1, sum(map(len, parts)) + len(msgpack.packb(b"before")))
    assert b"".join(batch.take()) == b"".join(map(msgpack.packb, [b"before", *items]))


def test_what_is_cleared_does_not_leave():
    batch = Batch()
    batch.add(packed(1))
    batch.add(packed(bytes(SMALL_BYTES)))
    batch.clear()
    assert (batch.count, batch.size, batch.take()) == (0, 0, [])

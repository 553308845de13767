"""Batches are cut without being unpacked."""

from __future__ import annotations

import msgpack
from hypothesis import given
from hypothesis import strategies as st

from vanilla.broker.batch import Batch, split_first
from vanilla.protocol.scan import scan


def made(items, number=7):
    batch = Batch(number, len(items), memoryview(b"".join(map(msgpack.packb, items))), 1.5)
    batch.attempts, batch.redelivered = 2, True
    return batch


def items(batch):
    unpacker = msgpack.Unpacker()
    unpacker.feed(batch.body)
    return list(unpacker)


things = st.lists(
    st.one_of(st.integers(-(2**63), 2**64 - 1), st.text(), st.lists(st.booleans())), min_size=1, max_size=20
)


@given(things, st.data())
def test_a_part_has_the_messages_and_the_history_of_its_place(whole, data):
    batch = made(whole)
    low = data.draw(st.integers(0, len(whole) - 1))
    high = data.draw(st.integers(low + 1, len(whole)))
    part = batch.part(low, high)
    assert items(part) == whole[low:high]
    assert (part.number, part.count, part.size) == (7 + low, high - low, len(part.body))
    assert (part.time, part.attempts, part.redelivered) == (1.5, 2, True)


@given(things.filter(lambda things: len(things) > 1), st.data())
def test_a_cut_loses_nothing(whole, data):
    batch = made(whole)
    count = data.draw(st.integers(1, len(whole) - 1))
    head, tail = batch.cut(count, scan(batch.body, 0, count, 1 << 62)[1])
    assert items(head) + items(tail) == whole
    assert (head.count, tail.number, tail.count) == (count, 7 + count, len(whole) - count)
    assert head.size + tail.size == batch.size


def test_a_small_part_does_not_keep_the_whole():
    batch = made([b"x" * 100_000, 1, 2])
    part = batch.part(1, 2)
    assert isinstance(part.body, bytes)
    assert batch.part(0, 3) is batch


def test_the_first_of_one_is_all():
    assert [items(part) for part in split_first(made([1]))] == [[1]]
    assert [items(part) for part in split_first(made([1, 2, 3]))] == [[1], [2, 3]]

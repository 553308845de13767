"""Deliveries that are not settled, against a dict."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from vanilla.broker.batch import Batch
from vanilla.broker.flight import EVERYTHING, FRAGMENT_BYTES, Flight


def batch(number, count):
    return Batch(number, count, bytes(count), 0.0)


def flight(*counts):
    made, seq = Flight(), 0
    for count in counts:
        made.add(seq, batch(100 + seq, count))
        seq += count
    return made


def numbers(pieces):
    """The channel's numbers of some pieces, and the accept numbers that the batches give them."""
    seqs = [seq for piece in pieces for seq in range(piece.seq, piece.seq + piece.high - piece.low)]
    accepted = [piece.batch.number + i for piece in pieces for i in range(piece.low, piece.high)]
    return seqs, accepted


def test_a_whole_batch_comes_out_whole():
    made = flight(3, 4)
    assert numbers(made.take([(0, 3)])) == ([0, 1, 2], [100, 101, 102])
    assert (made.count, made.size, len(made)) == (4, 4, 1)


def test_the_middle_of_a_batch_leaves_both_sides():
    made = flight(5)
    assert numbers(made.take([(2, 1)])) == ([2], [102])
    assert numbers(made.take(EVERYTHING)) == ([0, 1, 3, 4], [100, 101, 103, 104])


def test_a_range_may_cross_batches_and_reach_beyond_them():
    made = flight(3, 3, 3)
    assert numbers(made.take([(2, 1 << 63)]))[0] == [2, 3, 4, 5, 6, 7, 8]
    assert made.count == 2


def test_what_is_not_in_does_no_harm():
    made = flight(3)
    made.take([(0, 3)])
    assert made.take([(0, 3)]) == []
    assert (made.count, made.size, made.cost) == (0, 0, 0)


ranges = st.lists(st.tuples(st.integers(0, 9), st.integers(1, 12)), min_size=1, max_size=8).map(
    lambda steps: [(at, count) for at, count in spread(steps)]
)


def spread(steps):
    """Ascending, disjoint ranges out of (gap, count)."""
    at = 0
    for gap, count in steps:
        yield at + gap, count
        at += gap + count


@given(st.lists(st.integers(1, 6), max_size=12), st.lists(ranges, max_size=8))
def test_it_is_a_set_of_numbers(counts, takes):
    made, twin = flight(*counts), flight(*counts)
    model = {seq: 100 + seq for seq in range(sum(counts))}
    for some in takes:
        wanted = [seq for first, count in some for seq in range(first, first + count)]
        taken = {seq: model.pop(seq) for seq in wanted if seq in model}
        before = twin.count
        assert twin.settle(some) == before - twin.count == len(taken)
        seqs, accepted = numbers(made.take(some))
        assert dict(zip(seqs, accepted)) == taken
        assert seqs == sorted(taken)
        assert (made.count, made.size) == (twin.count, twin.size)
        assert made.count == len(model)
        assert made.cost == made.size + FRAGMENT_BYTES * made.count
        assert len(model) >= made.size >= 0
    left = numbers(made.take(EVERYTHING))
    assert left == numbers(twin.take(EVERYTHING))
    assert left[0] == sorted(model)
    assert (made.count, made.size, made.cost) == (0, 0, 0)


def test_few_messages_of_a_frame_do_not_keep_it_in_memory():
    frame = bytes(1000)
    whole = Batch(0, 1000, memoryview(frame), 0.0)
    first, second = whole.cut(700, 700)
    made = Flight()
    made.add(0, first)
    made.add(700, second)
    made.take([(10, 650), (750, 250)])
    assert [entry.batch.pinned for entry in made._entries] == [10, 40, 50]


def test_who_settles_in_order_keeps_no_frame_for_its_last_messages():
    made = Flight()
    made.add(0, Batch(0, 1000, memoryview(bytes(1000)), 0.0))
    assert [made.settle([(0, 500)]), made.settle([(500, 400)])] == [500, 400]
    assert [(entry.seq, entry.batch.pinned, entry.size) for entry in made._entries] == [(900, 100, 100)]
    assert made.settle([(0, 950)]) == 50
    assert (made.count, made.size) == (50, 50)


def test_a_large_message_that_is_kept_counts_as_large_among_small_ones():
    large = b"\xc5" + (1000).to_bytes(2, "big") + bytes(1000)
    made = Flight()
    made.add(0, Batch(0, 1001, b"\x01" * 500 + large + b"\x01" * 500, 0.0))
    made.take([(0, 500), (501, 500)])
    assert (made.count, made.size) == (1, len(large))


def test_ranges_that_are_settled_already_cost_no_look_at_what_lies_between_them():
    made = flight(*[1] * 1_000)
    made.take([(0, 1), (999, 1)])
    entries = made._entries
    assert made.take([(0, 1), (999, 1)]) == []
    assert made._entries is entries and made.count == 998
    assert [piece.seq for piece in made.take([(0, 2), (500, 1), (999, 1)])] == [1, 500]
    assert made.count == 996

"""Ranges of numbers, against a set; and what a peer may not say in their name."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vanilla.protocol.errors import ProtocolError
from vanilla.protocol.frames import MAX_SEQ
from vanilla.protocol.ranges import Ranges, check_ranges, pairs

added = st.lists(st.tuples(st.integers(0, 60), st.integers(0, 9)), max_size=40)


def build(calls):
    ranges, model = Ranges(), set()
    for first, count in calls:
        ranges.add(first, count)
        model.update(range(first, first + count))
    return ranges, model


def numbers(found):
    return {number for first, count in found for number in range(first, first + count)}


@settings(deadline=None)
@given(added)
def test_ranges_hold_what_a_set_holds(calls):
    ranges, model = build(calls)
    assert numbers(ranges) == model


@settings(deadline=None)
@given(added)
def test_ranges_are_ascending_and_apart(calls):
    ranges, _ = build(calls)
    found = list(ranges)
    assert all(a + n < b for (a, n), (b, _) in zip(found, found[1:]))
    assert all(count > 0 for _, count in found)
    assert len(ranges) == len(found)


@settings(deadline=None)
@given(added, st.lists(st.integers(0, 9), min_size=1, unique=True))
def test_single_numbers_may_be_added_in_any_order(calls, more):
    ranges, model = build(calls)
    ranges.add_each(more)
    assert numbers(ranges) == model | set(more)
    check_ranges(ranges.take())


@settings(deadline=None)
@given(added, st.integers(1, 5))
def test_what_is_taken_is_what_a_peer_may_send_and_is_gone(calls, most):
    ranges, model = build(calls)
    taken = set()
    while ranges:
        flat = ranges.take(most)
        assert len(flat) <= 2 * most
        check_ranges(flat)
        part = numbers(pairs(flat))
        assert not part & taken
        taken |= part
    assert taken == model
    assert ranges.take() == []


@settings(deadline=None)
@given(added, added, st.integers(1, 5))
def test_a_number_may_be_added_again_after_it_was_taken(before, after, most):
    ranges, model = build(before)
    model -= numbers(pairs(ranges.take(most)) if ranges else [])
    for first, count in after:
        ranges.add(first, count)
        model.update(range(first, first + count))
    assert numbers(ranges) == model


def test_numbers_in_order_are_one_range():
    ranges, _ = build([(number, 1) for number in range(1000)])
    assert ranges.take() == [0, 1000]


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 50), st.integers(1, 9)), min_size=1, max_size=9))
def test_ranges_ascend_without_overlap(said):
    flat = [number for pair in said for number in pair]
    ascends = all(a + n <= b for (a, n), (b, _) in zip(said, said[1:]))
    if ascends:
        check_ranges(flat)
        assert pairs(flat) == said
    else:
        with pytest.raises(ProtocolError, match="BAD_MAP"):
            check_ranges(flat)


@pytest.mark.parametrize(
    "flat",
    [
        None,
        {},
        "ab",
        (0, 1),
        [],
        [0],
        [0, 1, 2],
        [0, 0],
        [0, -1],
        [-1, 2],
        [True, 1],
        [0, True],
        [0.0, 1],
        ["0", 1],
        [None, 1],
        [5, 1, 3, 1],
        [5, 2, 6, 1],
        [5, 1, 5, 1],
        [MAX_SEQ, 2],
        [MAX_SEQ + 1, 1],
        [0, MAX_SEQ + 2],
    ],
    ids=repr,
)
def test_bad_ranges_are_refused(flat):
    with pytest.raises(ProtocolError) as caught:
        check_ranges(flat)
    assert caught.value.code == "BAD_MAP"


@pytest.mark.parametrize("flat", [[MAX_SEQ, 1], [0, MAX_SEQ + 1], [0, 1, 1, 1]], ids=repr)
def test_ranges_at_their_bounds_are_taken(flat):
    check_ranges(flat)
    assert pairs(flat) == list(zip(flat[::2], flat[1::2]))

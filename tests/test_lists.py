"""Lists are packed as their items are, however many at a time, and nothing that cannot be sent takes others with it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vanilla.client.batch import RUN_BYTES
from vanilla.client.lists import FIRST_STEP, MEDIUM_ITEMS, MOST_STEP, ListPacker, is_medium, medium
from vanilla.client.packing import LARGE_BYTES, MEDIUM_BYTES, MEDIUM_HEAD_BYTES, pack, unpack

FAR = 1 << 40
DEPTH = 64
ITEMS = st.one_of(
    st.integers(0, 99),
    st.sampled_from([b"", b"x" * 300, b"x" * (MEDIUM_BYTES - 1), b"x" * MEDIUM_BYTES, b"x" * LARGE_BYTES]),
    st.sampled_from(["x" * LARGE_BYTES, ["x" * RUN_BYTES], object(), 1 << 70]),
)


def unpacked(pieces, count):
    return unpack(b"\xdd" + count.to_bytes(4, "big") + b"".join(pieces))


def cannot_be_packed(item):
    try:
        pack(item, DEPTH)
    except (TypeError, ValueError):
        return True
    return False


@given(st.lists(st.tuples(ITEMS, st.integers(1, 40)), max_size=30), st.sampled_from([FAR, 4000, 0]), st.data())
def test_any_list_is_packed_run_by_run(runs, most_b, data):
    items = [item for item, count in runs for _ in range(count)]
    packer, at = ListPacker(), 0
    packer.step = data.draw(st.sampled_from([1, FIRST_STEP, MOST_STEP]))
    while at < len(items):
        pieces, count = packer.pack(items, at, len(items), most_b, DEPTH)
        assert unpacked(pieces, count) == items[at : at + count]
        assert sum(map(len, pieces)) <= most_b
        assert not count or not is_medium(items[at])
        if not count:
            item = items[at]
            assert is_medium(item) or cannot_be_packed(item) or len(pack(item, DEPTH)) > most_b
        assert 1 <= packer.step <= MOST_STEP
        at += count or 1


@given(st.lists(ITEMS, max_size=40), st.integers(0, 100_000))
def test_bytes_that_are_not_to_be_copied_go_together(items, most_b):
    chosen = medium(items, 0, len(items), most_b)
    assert chosen == items[: len(chosen)]
    assert all(MEDIUM_BYTES <= len(item) < LARGE_BYTES for item in chosen)
    assert len(chosen) <= MEDIUM_ITEMS
    assert sum(map(len, chosen)) + len(chosen) * MEDIUM_HEAD_BYTES <= most_b


def test_nothing_behind_the_end_is_packed():
    assert medium([b"x" * MEDIUM_BYTES] * 4, 1, 3, FAR) == [b"x" * MEDIUM_BYTES] * 2
    pieces, count = ListPacker().pack(list(range(9)), 2, 5, FAR, DEPTH)
    assert unpacked(pieces, count) == [2, 3, 4]


def test_a_run_is_about_as_long_as_one_may_be():
    pieces, count = ListPacker().pack([b"x" * 98] * 5000, 0, 5000, FAR, DEPTH)
    assert RUN_BYTES <= sum(map(len, pieces)) == 100 * count < RUN_BYTES * 5 // 4


@pytest.mark.parametrize("items", [["x" * LARGE_BYTES] * 9, [object()] * 9])
def test_a_packer_that_meets_what_is_large_or_nothing_goes_back_to_few(items):
    packer = ListPacker()
    packer.step = MOST_STEP
    packer.pack(items, 0, 9, FAR, DEPTH)
    assert packer.step <= FIRST_STEP

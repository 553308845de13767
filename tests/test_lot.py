"""A lot of deliveries: what part of its bytes each is."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from vanilla.client.lot import Lot


@settings(deadline=None)
@given(st.integers(1, 10_000), st.lists(st.integers(1, 50), min_size=1))
def test_all_of_a_lot_are_all_of_its_bytes_and_each_is_as_many_as_another(size, parts):
    lot = Lot(None, sum(parts), size, {})
    each = size / sum(parts)
    settled = [lot.settle(count) for count in parts]
    assert sum(settled) == size
    assert all(abs(found - count * each) < 1 for found, count in zip(settled, parts))

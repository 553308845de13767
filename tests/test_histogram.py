"""The histogram: what it tells is near what it was given, and many are as one."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from vanilla.client.histogram import Histogram

VALUES = st.lists(st.integers(0, 10**12), min_size=1)


def histogram(values):
    made = Histogram()
    for value in values:
        made.add(value)
    return made


@given(VALUES, st.floats(0.01, 1))
def test_a_quantile_is_less_than_two_percent_below_a_value_that_so_many_are_not_above(values, part):
    exact = sorted(values)[-int(-part * len(values) // 1) - 1]
    found = histogram(values).quantile(part)
    assert exact * 0.98 <= found <= exact


@given(VALUES, VALUES)
def test_what_two_have_counted_adds_up(some, others):
    merged = histogram(some)
    merged.merge(histogram(others).pairs())
    both = histogram(some + others)
    assert sorted(merged.pairs()) == sorted(both.pairs())
    assert merged.total == len(some) + len(others)


def test_without_values_there_is_no_quantile():
    assert Histogram().quantile(0.5) is None

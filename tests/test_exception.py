"""The errors' family tree, which users' except clauses rely on."""

from __future__ import annotations

import pytest

import vanilla
from vanilla import exception


@pytest.mark.parametrize("error", [exception.Stop, exception.Closed, exception.Abandoned])
def test_the_ends_of_a_channel_are_halts(error):
    assert issubclass(error, exception.Halt)


@pytest.mark.parametrize("error", [exception.Timeout, exception.ConnectionLost, exception.Busy, exception.Forked])
def test_failures_are_no_halts_so_that_no_iteration_ends_on_them_in_silence(error):
    assert issubclass(error, Exception)
    assert not issubclass(error, exception.Halt)


def test_a_cancellation_is_not_swallowed_by_except_exception():
    assert not issubclass(exception.Cancelled, Exception)


def test_a_halt_names_an_end_only_when_it_comes_from_select():
    assert exception.Closed("x").end is None


def test_every_error_is_in_the_package_and_documented():
    for name, error in vars(exception).items():
        if isinstance(error, type):
            assert getattr(vanilla, name) is error
            assert error.__doc__

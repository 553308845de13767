"""Message options: a closed set, in which nothing is passed over."""

from __future__ import annotations

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vanilla.protocol.errors import ProtocolError
from vanilla.protocol.options import OPTIONS, pack_options, read_options

to_client = st.fixed_dictionaries(
    {}, optional={"redelivered": st.booleans(), "attempts": st.integers(1, (1 << 32) - 1)}
)


@settings(deadline=None)
@given(to_client)
def test_options_are_read_as_they_were_written(options):
    assert read_options(pack_options(options), "client") == options


@settings(deadline=None)
@given(st.dictionaries(st.text(max_size=12), st.integers(0, 9), min_size=1, max_size=3))
def test_an_unknown_option_is_refused_and_named(options):
    with pytest.raises(ProtocolError, match="BAD_MAP") as caught:
        read_options(pack_options(options), "broker")
    assert any(repr(key) in caught.value.text for key in options)


@pytest.mark.parametrize("side", OPTIONS)
def test_no_options_are_fine(side):
    assert read_options(b"\x80", side) == {}


@pytest.mark.parametrize(
    "options",
    [
        {"attempts": 0},
        {"attempts": -1},
        {"attempts": 1 << 32},
        {"attempts": True},
        {"attempts": 1.0},
        {"redelivered": 1},
        {"redelivered": None},
        {b"attempts": 1},
        {"attempts": 1, "delay": 5},
        [],
        None,
        5,
    ],
    ids=repr,
)
def test_a_wrong_value_is_refused(options):
    with pytest.raises(ProtocolError) as caught:
        read_options(msgpack.packb(options), "client")
    assert caught.value.code == "BAD_MAP"


def test_an_option_for_the_other_side_is_unknown():
    with pytest.raises(ProtocolError, match="BAD_MAP"):
        read_options(pack_options({"attempts": 2}), "broker")


@settings(deadline=None)
@given(st.binary(max_size=30))
def test_any_bytes_are_options_or_refused(packed):
    try:
        outcome = type(read_options(packed, "client"))
    except ProtocolError as error:
        outcome = error.code
    assert outcome in (dict, "BAD_MAP")

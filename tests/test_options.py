"""Message options: a closed set, in which nothing is passed over."""

from __future__ import annotations

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vanilla.protocol.errors import ProtocolError
from vanilla.protocol.frames import MAX_SEQ
from vanilla.protocol.options import OPTIONS, pack_options, read_options

#: Of a frame of one message.
NAMES = st.none() | st.text(min_size=1, max_size=60) | st.binary(min_size=1, max_size=255)
SAID = {
    "priority": st.integers(0, 9),
    "headers": st.dictionaries(st.text(max_size=9), st.integers(0, 9) | st.binary(max_size=9), max_size=3),
    "keys": st.tuples(NAMES).map(list),
    "ids": st.tuples(NAMES).map(list),
}
#: Right values of each option on each kind of channel.
VALUES = {
    "push": {
        "redelivered": st.booleans(),
        "delay": st.integers(0, MAX_SEQ),
        "ttl": st.integers(1, MAX_SEQ),
        **SAID,
    },
    "pull": {
        "redelivered": st.booleans(),
        "attempts": st.integers(1, (1 << 32) - 1),
        "dead": st.just({"endpoint": "jobs", "reason": "OLD", "attempts": 5, "accepted": 1, "died": 0}),
        **SAID,
    },
    "call": {"wait": st.booleans(), "deadline": st.integers(0, MAX_SEQ), "trace": st.booleans()},
    "send": {},
    "recv": {"redelivered": st.booleans(), "attempts": st.integers(1, (1 << 32) - 1)},
    "serve": {"deadline": st.integers(0, MAX_SEQ), "trace": st.booleans(), "identity": st.text(max_size=9)},
    "state": {},
    "publish": {},
    "subscribe": {},
}
channels = st.sampled_from(sorted(VALUES))
with_channel = channels.flatmap(
    lambda channel: st.tuples(st.just(channel), st.fixed_dictionaries({}, optional=VALUES[channel]))
)


def test_every_option_of_every_channel_is_tried():
    assert {channel: set(known) for channel, known in VALUES.items()} == {
        channel: set(known) for channel, known in OPTIONS.items()
    }


@settings(deadline=None)
@given(with_channel)
def test_options_are_read_as_they_were_written(case):
    channel, options = case
    assert read_options(pack_options(options), channel, 1) == options


@settings(deadline=None)
@given(channels, st.dictionaries(st.text(max_size=12), st.integers(0, 9), min_size=1, max_size=3))
def test_an_unknown_option_is_refused_and_named(channel, options):
    options = {key: value for key, value in options.items() if key not in OPTIONS[channel]} or {"colour": 5}
    with pytest.raises(ProtocolError, match="BAD_MAP") as caught:
        read_options(pack_options(options), channel, 1)
    assert any(repr(key) in caught.value.text for key in options)


@pytest.mark.parametrize("channel", OPTIONS)
def test_no_options_are_fine(channel):
    assert read_options(b"\x80", channel, 1) == {}


@pytest.mark.parametrize(
    ("channel", "options"),
    [
        ("pull", {"attempts": 0}),
        ("pull", {"attempts": -1}),
        ("pull", {"attempts": 1 << 32}),
        ("pull", {"attempts": True}),
        ("pull", {"attempts": 1.0}),
        ("pull", {"redelivered": 1}),
        ("pull", {"redelivered": None}),
        ("pull", {b"attempts": 1}),
        ("pull", {"attempts": 1, "delay": 5}),
        ("call", {"wait": 1}),
        ("call", {"wait": None}),
        ("call", {"deadline": -1}),
        ("call", {"deadline": 1 << 63}),
        ("call", {"deadline": 1.0}),
        ("call", {"deadline": True}),
        ("call", {"trace": 0}),
        ("call", {b"wait": True}),
        ("serve", {"deadline": -1}),
        ("serve", {"deadline": None}),
        ("serve", {"trace": "yes"}),
        ("serve", {"identity": b"root"}),
        ("serve", {"identity": None}),
        ("serve", {"identity": 5}),
        *((channel, nonsense) for channel in OPTIONS for nonsense in ([], None, 5)),
    ],
    ids=repr,
)
def test_a_wrong_value_is_refused(channel, options):
    with pytest.raises(ProtocolError) as caught:
        read_options(msgpack.packb(options), channel, 1)
    assert caught.value.code == "BAD_MAP"


@pytest.mark.parametrize(
    ("channel", "options"),
    [
        ("push", {"attempts": 2}),
        ("push", {"wait": True}),
        ("pull", {"deadline": 5}),
        ("call", {"identity": "root"}),
        ("call", {"redelivered": True}),
        ("serve", {"wait": True}),
        ("serve", {"attempts": 1}),
    ],
    ids=repr,
)
def test_an_option_of_another_kind_of_channel_is_unknown(channel, options):
    assert any(set(options) <= set(known) for known in OPTIONS.values())
    with pytest.raises(ProtocolError, match="BAD_MAP: there is no message option"):
        read_options(pack_options(options), channel, 1)


@settings(deadline=None)
@given(channels, st.binary(max_size=30))
def test_any_bytes_are_options_or_refused(channel, packed):
    try:
        outcome = type(read_options(packed, channel, 1))
    except ProtocolError as error:
        outcome = error.code
    assert outcome in (dict, "BAD_MAP")

"""Trains: what is written and read at once is what its datagrams are one by one, in C and in Python."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vanilla.protocol import trains
from vanilla.protocol.packets import (
    DATA,
    MAX_NUMBER,
    OVERHEAD_BYTES,
    BadPacket,
    Data,
    Stream,
    pack_data,
    pack_stream,
    parse_data,
)
from vanilla.protocol.trains import Consecutive, pack_c, pack_python, parse_c, parse_one, parse_python

PACKERS = [pack_python] + [pack_c] * (pack_c is not None)
PARSERS = [parse_python] + [parse_c] * (parse_c is not None)
STREAM_BYTES = bytes(range(251)) * 80

firsts = st.integers(0, 1 << 50)
sizes = st.integers(1, 300)


@pytest.fixture(params=PARSERS, ids=lambda parser: parser.__name__)
def parser(request):
    return request.param


@pytest.mark.parametrize("packer", PACKERS)
@settings(deadline=None)
@given(firsts, st.integers(1, 64), sizes, firsts, st.integers(0, 50))
def test_a_train_is_its_datagrams(packer, first, count, each, offset, at):
    train = packer(first, 77, offset, STREAM_BYTES, at, count, each)
    segment = each + OVERHEAD_BYTES
    assert len(train) == count * segment
    for index in range(count):
        begin = at + index * each
        assert parse_data(train[index * segment : (index + 1) * segment]) == Data(
            first + index, 77, [Stream(offset + index * each, STREAM_BYTES[begin : begin + each], False)]
        )
    for parser in PARSERS:
        assert parser(train, segment) == Consecutive(first, 77, count, offset, STREAM_BYTES[at : at + count * each])


@settings(deadline=None, max_examples=300)
@given(
    st.one_of(firsts, st.integers(MAX_NUMBER - 5, MAX_NUMBER)),
    st.integers(1, 6),
    st.integers(1, 40),
    st.one_of(firsts, st.integers(MAX_NUMBER - 100, MAX_NUMBER)),
    st.lists(st.tuples(st.integers(0, 200), st.integers(1, 255)), max_size=2),
    st.integers(27, 70),
)
def test_either_twin_reads_a_train_as_its_datagrams_are_or_not_at_all(first, count, each, offset, spoilt, other):
    segment = each + OVERHEAD_BYTES
    train = bytearray(
        b"".join(
            pack_data(
                (first + n) & MAX_NUMBER, 77, [pack_stream((offset + n * each) & MAX_NUMBER, bytes([n]) * each, False)]
            )
            for n in range(count)
        )
    )
    for at, change in spoilt:
        if at < len(train):
            train[at] ^= change
    for cut in (segment, other):
        whole = train[: len(train) // cut * cut]
        if not whole:
            continue
        told = {parser(memoryview(whole), cut) for parser in map(_hashable, PARSERS)}
        assert len(told) == 1
        one = told.pop()
        if one is None:
            continue
        at, numbers = one.offset, iter(range(one.number, one.number + one.packets))
        for begin in range(0, len(whole), cut):
            number, token, [item] = parse_data(whole[begin : begin + cut])
            assert (number, token, item.offset, item.end) == (next(numbers), one.token, at, False)
            at += len(item.body)


def _hashable(parser):
    def parse(data, segment):
        got = parser(data, segment)
        return got and got._replace(body=bytes(got.body))

    return parse


@pytest.mark.parametrize("spoil", [0, 7, 15, 16, 23, 24, 25])
def test_a_train_with_another_head_among_its_own_is_none(parser, spoil):
    train = bytearray(pack_python(5, 77, 1000, bytes(300), 0, 3, 100))
    assert parser(train, 126) is not None
    train[126 + spoil] ^= 1
    assert parser(train, 126) is None


@pytest.mark.parametrize("segment", [1, 25, 26, 27, 126, 127, 378, 400])
def test_a_segment_that_is_not_the_trains_reads_nothing_outside_of_it(parser, segment):
    train = bytes(pack_python(5, 77, 1000, bytes(range(100)) * 3, 0, 3, 100))
    whole = train[: len(train) // segment * segment]
    assert (parser(whole, segment) is not None) is (segment == 126) if whole else True


@pytest.mark.skipif(pack_c is None, reason="the C library is not built here")
@pytest.mark.parametrize(
    ("number", "offset", "at", "count", "each"),
    [(0, 0, 1, 3, 100), (0, 0, -1, 3, 100), (MAX_NUMBER, 0, 0, 3, 100), (0, MAX_NUMBER, 0, 3, 100), (0, 0, 0, 3, 0)],
)
def test_a_train_beyond_what_there_is_is_not_written(number, offset, at, count, each):
    with pytest.raises(ValueError, match="no train"):
        pack_c(number, 1, offset, bytes(300), at, count, each)


@settings(deadline=None, max_examples=300)
@given(st.sampled_from([DATA, 1, 9]), st.binary(min_size=15, max_size=15), st.binary(max_size=40), st.booleans())
def test_what_is_read_sooner_is_what_the_datagram_says(kind, head, rest, plain):
    data = bytes([kind]) + head + (pack_stream(7, rest, False) if plain and rest else rest)
    one = parse_one(data)
    try:
        value = parse_data(data)
    except BadPacket:
        value = None
    if one is not None:
        assert value == Data(one.number, one.token, [Stream(one.offset, one.body, False)])
    elif value is not None:
        assert len(value.items) > 1 or type(value.items[0]) is not Stream or value.items[0].end


def test_without_the_library_or_if_it_is_not_wanted_the_twin_serves():
    code = (
        "from vanilla.protocol import trains as t; "
        "print(t.pack_train is t.pack_python, t.parse_train is t.parse_python)"
    )
    environ = {**os.environ, "VANILLA_PURE": "1"}
    assert subprocess.check_output([sys.executable, "-c", code], env=environ).split() == [b"True", b"True"]
    if trains.pack_c is not None:
        assert trains.pack_train is trains.pack_c and trains.parse_train is trains.parse_c

"""Datagrams: every vector of ``tests/datagrams``, and that nothing that comes raises anything but BadPacket."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from vectors import parse_bytes

from vanilla.protocol import packets
from vanilla.protocol.packets import (
    ACK,
    CHALLENGE,
    CLOSE,
    DATA,
    INIT,
    LOOSE,
    LOOSE_PART,
    MAX_NUMBER,
    RESPONSE,
    RETRY,
    STREAM,
    STREAM_END,
    WINDOW,
    Ack,
    BadPacket,
    Challenge,
    Close,
    Data,
    Init,
    Loose,
    LoosePart,
    Ping,
    Response,
    Retry,
    Stream,
    Window,
)

PARSERS = {
    INIT: packets.parse_init,
    RETRY: packets.parse_retry,
    DATA: packets.parse_data,
    CLOSE: packets.parse_close,
}
PACKERS = {
    Stream: lambda item: packets.pack_stream(*item),
    Ack: lambda item: packets.pack_ack(item.ranges, item.delay),
    Window: lambda item: packets.pack_window(*item),
    Ping: lambda item: packets.PING_ITEM,
    Challenge: lambda item: packets.pack_challenge(*item),
    Response: lambda item: packets.pack_response(*item),
    Loose: lambda item: packets.pack_loose(*item),
    LoosePart: lambda item: packets.pack_loose_part(*item),
}


def parse(data):
    return PARSERS[packets.kind_of(data)](data)


def pack(value):
    if type(value) is Data:
        return packets.pack_data(value.number, value.token, [PACKERS[type(item)](item) for item in value.items])
    return {Init: packets.pack_init, Retry: packets.pack_retry, Close: packets.pack_close}[type(value)](value)


def vectors():
    for path in sorted(Path(__file__).with_name("datagrams").glob("*.hex")):
        text = path.read_text()
        value = re.search("^value: (.*)$", text, re.MULTILINE)
        lines = [line.partition("#")[0] for line in text.splitlines() if not line.startswith("value:")]
        yield pytest.param(eval(value[1]) if value else None, b"".join(map(parse_bytes, lines)), id=path.stem)


VECTORS = list(vectors())


@pytest.mark.parametrize(("value", "data"), VECTORS)
def test_a_vector_is_what_it_says(value, data):
    if value is None:
        with pytest.raises(BadPacket):
            parse(data)
    else:
        assert parse(data) == value
        assert parse(memoryview(bytearray(data))) == value
        assert pack(value) == data


@pytest.mark.parametrize(("value", "data"), [v for v in VECTORS if v.values[0] is not None])
def test_a_datagram_that_is_cut_short_is_malformed_or_says_less(value, data):
    for at in range(len(data)):
        try:
            assert parse(data[:at]) != value
        except BadPacket:
            pass


u64 = st.integers(0, (1 << 64) - 1)
number = st.integers(0, MAX_NUMBER)


@st.composite
def acks(draw):
    at = draw(st.integers(0, 1 << 40))
    ranges = []
    for gap, length in draw(st.lists(st.tuples(st.integers(1, 1 << 20), st.integers(1, 1 << 20)), min_size=1)):
        at += gap
        ranges.append((at, at + length - 1))
        at += length
    return Ack(draw(st.integers(0, 1000)) / 1e6, ranges)


items = st.one_of(
    st.builds(Stream, st.integers(0, MAX_NUMBER - 100), st.binary(min_size=1, max_size=60), st.booleans()),
    acks(),
    st.builds(Window, number, st.integers(1, 1 << 31), st.integers(1200, 65507)),
    st.just(Ping()),
    st.builds(Challenge, u64),
    st.builds(Response, u64),
    st.builds(Loose, number, st.binary(min_size=1, max_size=60)),
    st.builds(
        LoosePart,
        number,
        u64,
        st.integers(0, 1 << 20),
        st.integers(1 << 21, 1 << 22),
        st.binary(min_size=1, max_size=60),
    ),
)


@settings(deadline=None)
@given(st.builds(Data, number, u64, st.lists(items, min_size=1, max_size=6)))
def test_what_is_packed_is_parsed_as_it_was(value):
    assert parse(pack(value)) == value


_heads = st.sampled_from([INIT, RETRY, DATA, CLOSE, 0, 9])
_types = st.sampled_from([STREAM, STREAM_END, ACK, WINDOW, 0x40, CHALLENGE, RESPONSE, LOOSE, LOOSE_PART, 0])


@settings(deadline=None, max_examples=500)
@given(_heads, st.binary(min_size=15, max_size=15), st.lists(st.tuples(_types, st.binary(max_size=32)), max_size=5))
def test_nothing_that_comes_raises_anything_but_bad_packet(kind, head, parts):
    data = bytes([kind]) + head + b"".join(bytes([type_]) + rest for type_, rest in parts)
    try:
        parse(data)
    except BadPacket:
        pass


def test_an_ack_says_the_largest_ranges_that_fit():
    ranges = [(at, at) for at in range(0, 1000, 2)]
    data = packets.pack_data(0, 1, [packets.pack_ack(ranges, 0.0)])
    assert parse(data).items[0].ranges == ranges[-packets.MAX_RANGES - 1 :]


def test_an_ack_of_more_packets_than_it_can_count_says_the_largest():
    data = packets.pack_data(0, 1, [packets.pack_ack([(0, 1), (5, 1 << 40)], 0.0)])
    assert parse(data).items[0].ranges == [((1 << 40) - 0xFFFFFFFF, 1 << 40)]


def test_the_text_of_a_close_is_cut_between_characters():
    data = packets.pack_close(Close(0, 1, "ä" * 150))
    assert parse(data).text == "ä" * 100


def test_the_page_on_udp_lists_kinds_items_and_codes_as_the_code_has_them():
    page = (Path(__file__).parent.parent / "docs" / "udp.md").read_text()
    rows = re.findall(r"^\| (\w+) \| (\w+) \|(.*)\|$", page, re.M)
    kinds = {int(number): name for number, name, _ in rows if name in packets.NAMES.values() and name != "CLOSE"}
    assert kinds == {kind: name for kind, name in packets.NAMES.items() if name != "CLOSE"}
    items = {int(number, 16): name for number, name, _ in rows if name in packets.ITEM_NAMES.values()}
    assert items == packets.ITEM_NAMES
    codes = {int(number): (name, text.strip()) for number, name, text in rows if name in dict(packets.CODES.values())}
    assert codes == packets.CODES

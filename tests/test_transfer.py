"""The two ends of a stream and what has come: properties of `Backlog`, `Reassembly` and `Arrivals`."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vanilla.protocol.arrivals import DELAY, MANY, MOST_RANGES, PATIENCE, Arrivals
from vanilla.protocol.backlog import Backlog
from vanilla.protocol.packets import Ack, pack_data, parse_data
from vanilla.protocol.reassembly import MOST_PIECES, Contradiction, Reassembly

DATA = bytes(range(256)) * 8

# -- Reassembly

pieces = st.lists(st.tuples(st.integers(0, 300), st.integers(1, 80)), max_size=40)


@settings(deadline=None)
@given(pieces, st.integers(1, 50))
def test_pieces_in_any_order_that_overlap_in_any_way_make_the_stream(parts, most):
    stream = Reassembly()
    known = set()
    read = b""
    for offset, size in parts:
        stream.add(offset, DATA[offset : offset + size], False)
        known.update(range(offset, offset + size))
        there = next(at for at in range(1000) if at not in known)
        assert stream.next == there and stream.ready == there - len(read)
        read += bytes(stream.take(most))
    read += bytes(stream.take(1 << 20))
    assert read == DATA[: stream.next]
    held = sum(map(len, stream._pieces))
    assert held == len([at for at in known if at > stream.next])


def test_a_stream_has_one_end():
    stream = Reassembly()
    stream.add(5, b"xyz", True)
    assert not stream.ended
    for offset, body, end in ((5, b"xyzz", False), (5, b"xy", True), (8, b"!", True)):
        with pytest.raises(Contradiction):
            stream.add(offset, body, end)
    stream.add(0, b"abcde", False)
    assert stream.ended and bytes(stream.take(99)) == b"abcdexyz"


def test_an_end_below_what_came_is_a_contradiction():
    stream = Reassembly()
    stream.add(50, b"x", False)
    with pytest.raises(Contradiction):
        stream.add(0, b"abc", True)


def test_it_says_when_it_holds_too_many_pieces():
    stream = Reassembly()
    for at in range(MOST_PIECES):
        assert not stream.full
        stream.add(2 * at + 1, b"x", False)
    assert stream.full


def test_reading_into_several_buffers_fills_one_after_the_other():
    stream = Reassembly()
    stream.add(0, b"abcdefgh", False)
    stream.add(8, b"ijkl", False)
    buffers = [bytearray(3), bytearray(0), bytearray(7), bytearray(9)]
    assert stream.read_into([memoryview(buffer) for buffer in buffers]) == 12
    assert [bytes(buffer) for buffer in buffers] == [b"abc", b"", b"defghij", b"kl" + bytes(7)]


# -- Backlog

steps = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.integers(1, 200), st.just(0)),
        st.tuples(st.just("cut"), st.integers(1, 50), st.integers(1, 4)),
        st.tuples(st.just("ack"), st.integers(0, 30), st.just(0)),
        st.tuples(st.just("lose"), st.integers(0, 30), st.just(0)),
        st.tuples(st.just("limit"), st.integers(1, 300), st.just(0)),
        st.tuples(st.just("finish"), st.just(0), st.just(0)),
    ),
    max_size=60,
)


@settings(deadline=None, max_examples=300)
@given(steps)
def test_whatever_is_lost_the_peer_gets_the_stream_and_its_end(said):
    backlog = Backlog(1000, 100)
    put = 0
    got = Reassembly()
    flying = []

    def deliver(cut):
        got.add(cut.offset, cut.block[cut.at : cut.at + cut.size], cut.end)
        backlog.acknowledge(cut.offset, cut.offset + cut.size + cut.end)

    def take(each, count):
        cut = backlog.cut(each, count)
        if cut is not None:
            assert cut.size + cut.end > 0 and cut.size <= each * count
            assert cut.offset + cut.size <= backlog.limit
            flying.append(cut)
        return cut

    for what, n, m in said:
        if what == "put" and not backlog.ended:
            pieces = [DATA[put : put + n // 2], DATA[put + n // 2 : put + n]]
            room = backlog.room
            taken = backlog.put(pieces)
            assert taken == min(room, sum(map(len, pieces)))
            put += taken
        elif what == "cut":
            take(n, m)
        elif what == "ack" and n < len(flying):
            deliver(flying.pop(n))
        elif what == "lose" and n < len(flying):
            cut = flying.pop(n)
            backlog.lose(cut.offset, cut.offset + cut.size + cut.end)
        elif what == "limit":
            backlog.limit += n
        elif what == "finish":
            backlog.finish()
    backlog.limit = 1 << 40
    backlog.finish()
    while backlog.wants or flying:
        while take(40, 3) is not None:
            pass
        while flying:
            deliver(flying.pop())
    assert backlog.done and backlog.empty and got.ended
    assert bytes(got.take(1 << 20)) == DATA[:put]
    assert backlog._blocks == [] and not backlog._above


def test_what_was_acknowledged_another_way_is_not_sent_again():
    backlog = Backlog(1000, 1000)
    backlog.put([DATA[:100]])
    backlog.cut(10, 10)
    backlog.acknowledge(20, 40)
    backlog.lose(0, 100)
    backlog.acknowledge(60, 70)
    sent = []
    while (cut := backlog.cut(100, 1)) is not None:
        sent.append((cut.offset, cut.size))
    assert sent == [(0, 20), (40, 20), (70, 30)]


def test_small_pieces_share_datagrams_and_full_ones_are_full_as_long_as_there_is_more():
    backlog = Backlog(100_000, 100_000)
    for _ in range(50):
        backlog.put([b"x" * 30])
    assert backlog.cut(100, 1).size == 100
    backlog.put([b"y" * 950])
    sizes = [backlog.cut(100, 1).size for _ in range(24)]
    assert sizes == [100] * 23 + [50]


# -- Arrivals


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 200), st.integers(1, 20)), min_size=1, max_size=40))
def test_packets_are_new_once_and_all_of_them_are_said(parts):
    arrivals = Arrivals(10)
    known = set()
    for first, count in parts:
        numbers = set(range(first, first + count))
        assert arrivals.add(first, count, 0.0) == bool(numbers - known)
        known |= numbers
        assert arrivals.largest == max(known)
    arrivals.expect(1, 0.0, True)
    [ack] = parse_data(pack_data(0, 1, [arrivals.item(0.0)])).items
    assert isinstance(ack, Ack)
    assert {at for first, last in ack.ranges for at in range(first, last + 1)} == known


def test_an_acknowledgement_waits_a_little_unless_there_is_much_to_say():
    arrivals = Arrivals(10)
    arrivals.add(0, 9, 5.0)
    arrivals.expect(9, 5.0)
    assert arrivals.at == 5.0 + DELAY
    arrivals.add(9, 1, 5.0005)
    arrivals.expect(1, 5.0005)
    assert arrivals.at == 5.0005
    assert arrivals.item(5.0005) is not None and arrivals.item(5.0005) is None


def test_the_acknowledgement_of_what_comes_alone_waits_longer_unless_there_is_much_of_it():
    arrivals = Arrivals(10)
    for number in range(MANY - 1):
        arrivals.add(number, 1, 5.0)
        arrivals.expect(1, 5.0 + number / 1e4, lone=True)
        assert arrivals.at == 5.0 + PATIENCE
    arrivals.expect(1, 5.001, lone=True)
    assert arrivals.at == 5.001 + DELAY


def test_behind_a_full_datagram_no_other_has_to_wait_for_longer():
    arrivals = Arrivals(10)
    arrivals.add(0, 2, 5.0)
    arrivals.expect(1, 5.0, lone=True)
    arrivals.expect(1, 5.0)
    assert arrivals.at == 5.0 + DELAY
    arrivals.item(5.0)
    for at, wait in ((5.004, DELAY), (5.006, PATIENCE)):
        arrivals.expect(1, at, lone=True)
        assert arrivals.at == at + wait
        arrivals.item(at)


def test_what_the_peer_has_heard_is_not_said_again_and_not_new_again():
    arrivals = Arrivals(10)
    for number in (0, 2, 4, 6):
        arrivals.add(number, 1, 0.0)
    arrivals.forget(4)
    assert arrivals._firsts == [4, 6]
    assert not arrivals.add(1, 1, 0.0) and arrivals.add(5, 1, 0.0)


def test_holes_take_no_more_than_so_much():
    arrivals = Arrivals(10)
    for number in range(0, 10 * MOST_RANGES, 2):
        arrivals.add(number, 1, 0.0)
    assert len(arrivals._firsts) == MOST_RANGES
    assert not arrivals.add(1, 1, 0.0)

"""A peer that has the token of a session and keeps no rule: nothing is raised, nothing grows, and nobody else gets more
than three times what came from there."""

from __future__ import annotations

import sys
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vanilla.protocol import outgoing, packets
from vanilla.protocol.arrivals import MOST_RANGES
from vanilla.protocol.limits import Limits
from vanilla.protocol.loose import LOOSE_FRAME_BYTES, MOST_BYTES, MOST_INCOMPLETE, PART_COST
from vanilla.protocol.reassembly import MOST_PIECES, SMALL_BYTES, Reassembly
from vanilla.protocol.recovery import MOST_GONE
from vanilla.protocol.transport import CLOSED, DEAF_PTOS, MOST_FLYING, MOVES, Transport
from vanilla.protocol.whereabouts import AMPLIFICATION, MOST_RESPONSES

TOKEN, PEER = 7, 9
HOME = "home"
LIMITS = Limits(window=200_000, buffer=200_000)


class Rogue:
    """A server's session, and what its peer, or who pretends to be it, says to it."""

    def __init__(self, client=False, loose=False):
        self.now = 100.0
        address = None if client else HOME
        self.transport = Transport(client, self.now, TOKEN, Random(1), PEER, address, LIMITS)
        if loose:
            self.transport.loosen()
        self.number = 0
        #: By address, in bytes; what the session has sent, in order.
        self.came = {}
        self.went = {}
        self.sent = []
        self.pump()

    def say(self, *items, number=None, address=HOME):
        """A DATA datagram of *items*, which are packed."""
        if number is None:
            number = self.number
            self.number += 1
        self.hear(packets.pack_data(number, TOKEN, list(items)), address)

    def hear(self, data, address=HOME, segment=0):
        self.came[address] = self.came.get(address, 0) + len(data)
        self.transport.receive(data, self.now, address, segment)
        self.pump()

    def wait(self, seconds):
        """Time passes, with nothing but what the session does by itself."""
        until = self.now + seconds
        while (at := self.transport.next_time()) is not None and at <= until:
            self.now = max(self.now, at)
            self.pump()
        self.now = until
        self.pump()

    def pump(self):
        transport = self.transport
        for _ in range(5):
            for data, _, address in transport.datagrams(self.now):
                self.sent.append(data)
                if address != transport.address:
                    self.went[address] = self.went.get(address, 0) + len(data)
            if (at := transport.next_time()) is None or at > self.now:
                break
        else:
            raise AssertionError("it wants to be called again and again")
        self.check()

    def check(self):
        transport = self.transport
        assert transport.state in MOVES
        recovery, incoming, arrivals = transport._outgoing.recovery, transport._incoming, transport._notices.arrivals
        runs = recovery._sent.runs
        assert recovery.flying == sum(run.end - run.first for run in runs) <= MOST_FLYING + LIMITS.datagrams
        assert recovery.in_flight == sum(run.wire for run in runs)
        assert len(recovery._gone) <= MOST_GONE
        assert len(incoming._pieces) <= MOST_PIECES
        assert incoming.read <= incoming.next <= transport._notices.granted
        assert len(arrivals._firsts) <= MOST_RANGES
        assert len(transport._whereabouts.responses) <= MOST_RESPONSES
        if (loose := transport.loose) is not None:
            held = sum(len(one.body) + PART_COST for one in loose.ready)
            held += sum(one.cost for one in loose._incomplete.values())
            assert held <= 2 * (MOST_BYTES + LOOSE_FRAME_BYTES) and len(loose._incomplete) <= MOST_INCOMPLETE
        for address, size in self.went.items():
            assert size <= AMPLIFICATION * self.came.get(address, 0)


numbers = st.one_of(st.integers(0, 40), st.integers(0, packets.MAX_NUMBER))
offsets = st.one_of(st.integers(0, 400), st.integers(0, 250_000), st.integers(0, packets.MAX_NUMBER - 1200))
acks = st.lists(st.tuples(st.integers(1, 3), st.integers(1, 4)), min_size=1, max_size=6)


def pack_ack(start, parts, delay):
    ranges = []
    for gap, length in parts:
        ranges.append((start + gap, start + gap + length - 1))
        start += gap + length
    return packets.pack_ack(ranges, delay)


items = st.one_of(
    st.builds(packets.pack_stream, offsets, st.binary(min_size=1, max_size=40), st.booleans()),
    st.builds(pack_ack, st.integers(-1, 30), acks, st.sampled_from([0.0, 0.01, 4000.0])),
    st.builds(
        packets.pack_window, numbers, st.sampled_from([1, 7, 4096, 0xFFFFFFFF]), st.sampled_from([1, 1200, 60_000])
    ),
    st.just(packets.PING_ITEM),
    st.builds(packets.pack_challenge, st.integers(0, 9)),
    st.builds(packets.pack_response, st.integers(0, 9)),
    st.builds(packets.pack_loose, numbers, st.binary(min_size=1, max_size=40)),
    st.builds(
        packets.pack_loose_part,
        st.integers(0, 3) | numbers,
        st.integers(0, 2),
        st.integers(0, 3),
        st.integers(1, 4) | st.integers(1, 0xFFFFFFFF),
        st.binary(min_size=1, max_size=3),
    ),
)
addresses = st.sampled_from([HOME, HOME, "b", "c"])
steps = st.one_of(
    st.tuples(st.just("say"), st.lists(items, min_size=1, max_size=6), st.none() | numbers, addresses),
    st.tuples(st.just("again"), st.integers(0, 20), addresses),
    st.tuples(st.just("bytes"), st.binary(max_size=60), addresses),
    st.tuples(st.just("turned"), st.integers(0, 20), st.integers(0, 300), addresses),
    st.tuples(st.just("answer"), st.booleans(), addresses),
    st.tuples(st.just("init"), addresses),
    st.tuples(st.just("retry"), st.integers(1, 2), st.sampled_from([PEER, 5])),
    st.tuples(st.just("wait"), st.sampled_from([0.0, 0.001, 0.3, 5.0, 61.0])),
    st.tuples(st.just("put"), st.integers(1, 5000)),
    st.tuples(st.just("read"), st.integers(1, 5000)),
    st.tuples(st.just("loose"), st.integers(1, 3000)),
    st.tuples(st.just("finish")),
)


@settings(deadline=None, max_examples=300)
@given(st.booleans(), st.booleans(), st.lists(steps, max_size=40))
def test_whatever_a_peer_says_nothing_is_raised_and_nothing_grows(client, loose, said):
    rogue = Rogue(client, loose)
    transport, heard = rogue.transport, []
    hear = rogue.hear

    def record(data, address=HOME, segment=0):
        heard.append(data)
        hear(data, address, segment)

    rogue.hear = record
    for what, *how in said:
        if what == "say":
            parts, number, address = how
            rogue.say(*parts, number=number, address=address)
        elif what == "again" and heard:
            rogue.hear(heard[how[0] % len(heard)], how[1])
        elif what == "bytes":
            rogue.hear(*how)
        elif what == "turned" and heard:
            data = bytearray(heard[how[0] % len(heard)])
            if data:
                data[how[1] % len(data)] ^= 1 << how[1] % 8
            rogue.hear(bytes(data), how[2])
        elif what == "answer":  # to the last challenge, or to all that was sent
            item = packets.pack_ack([(0, max(transport._outgoing.recovery.next - 1, 0))], 0.0)
            if how[0] and transport._whereabouts.there is not None:
                item = packets.pack_response(transport._whereabouts.there.value)
            rogue.say(item, address=how[1])
        elif what == "init":
            rogue.hear(packets.pack_init(packets.Init(1, TOKEN, PEER, bytes(16))), how[0])
        elif what == "retry":
            rogue.hear(packets.pack_retry(packets.Retry(how[0], TOKEN, how[1], bytes(16))))
        elif what == "wait":
            rogue.wait(how[0])
        elif what == "put":
            transport.put([bytes(how[0])])
            rogue.pump()
        elif what == "read":
            transport.read(how[0])
            rogue.pump()
        elif what == "loose" and loose:
            transport.loose.put([bytes(how[0])], 0, 1)
            rogue.pump()
        elif what == "finish":
            transport.finish()
            rogue.pump()


@pytest.mark.parametrize(
    "item",
    [packets.pack_challenge(1) * 4, packets.PING_ITEM],
    ids=["challenges", "pings"],
)
def test_a_peer_that_asks_and_never_acknowledges_leaves_nothing_behind(item):
    rogue = Rogue()
    for _ in range(20_000):
        rogue.say(item)
    assert rogue.transport._outgoing.recovery.flying < 10


def test_inits_again_and_again_are_answered_so_many_times():
    rogue = Rogue()
    init = packets.pack_init(packets.Init(1, TOKEN, PEER, bytes(16)))
    for _ in range(2 * MOST_FLYING):
        rogue.transport.receive(init, rogue.now, HOME)
        for data, _, _ in rogue.transport.datagrams(rogue.now):
            rogue.sent.append(data)
    assert rogue.transport._outgoing.recovery.flying == MOST_FLYING


def test_a_peer_that_speaks_and_never_acknowledges_is_left():
    rogue = Rogue()
    rogue.transport.put([bytes(10_000)])
    rogue.pump()
    for _ in range(10 * DEAF_PTOS):
        rogue.say(packets.PING_ITEM)
        rogue.wait(2.0)
        if rogue.transport.state == CLOSED:
            break
    assert rogue.transport.error[0] == packets.BAD_PACKET
    assert "acknowledged" in rogue.transport.error[1]


@pytest.mark.parametrize("speaks", [True, False])
def test_a_peer_that_acknowledges_late_is_not_left(speaks):
    rogue = Rogue()
    rogue.transport.limits = LIMITS._replace(idle=3600.0)
    for _ in range(4):
        rogue.transport.put([bytes(1000)])
        rogue.pump()
        for _ in range(DEAF_PTOS - 2 if speaks else 2 * DEAF_PTOS):
            if speaks:
                rogue.wait(0.001)
                rogue.say(packets.PING_ITEM)
            rogue.wait(rogue.transport._outgoing.recovery.next_time() - rogue.now)
        rogue.say(packets.pack_ack([(0, rogue.transport._outgoing.recovery.next - 1)], 0.0))
    assert rogue.transport.state != CLOSED


def test_a_challenge_from_elsewhere_is_answered_within_what_came():
    rogue = Rogue()
    for number in range(100):
        rogue.say(packets.pack_challenge(number) * 4, address="victim")
        rogue.wait(0.5)
    assert 0 < rogue.went["victim"] <= AMPLIFICATION * rogue.came["victim"]
    rogue.say(packets.pack_challenge(5))
    assert any(packets.pack_response(5) in data for data in rogue.sent)


def test_the_windows_of_a_peer_only_grow():
    rogue = Rogue()
    rogue.say(packets.pack_window(150_000, 4096, packets.DATAGRAM_BYTES))
    rogue.say(packets.pack_window(10, 1, packets.DATAGRAM_BYTES))
    assert rogue.transport._outgoing.backlog.limit == 150_000 and rogue.transport._outgoing.peer_datagrams == 4096


@pytest.mark.skipif(sys.implementation.name != "cpython", reason="nobody knows there what an object takes")
@pytest.mark.parametrize("size", [1, 2, 100, SMALL_BYTES - 1])
def test_a_stream_in_tiny_pieces_costs_little_more_than_its_bytes(size):
    stream = Reassembly()
    total = 200_000 // size * size
    for offset in range(0, total, size):
        stream.add(offset, bytes(size), False)
    pieces = stream._ready
    assert sum(map(sys.getsizeof, pieces)) < 1.5 * total
    assert len(stream.take(total)) == total


def test_a_stream_in_tiny_pieces_out_of_order_costs_little_more_once_it_is_in_order():
    stream = Reassembly()
    for offset in range(MOST_PIECES - 1, -1, -1):
        stream.add(offset, b"x", False)
    assert len(stream._ready) < MOST_PIECES / SMALL_BYTES * 2 + 2
    assert stream.ready == MOST_PIECES


def test_a_stream_in_more_pieces_than_are_kept_goes_on_once_the_first_hole_is_filled():
    rogue = Rogue()
    for at in range(MOST_PIECES):
        rogue.say(packets.pack_stream(10 + 2 * at, b"ab", False))
    rogue.say(packets.pack_stream(10 + 2 * MOST_PIECES + 1, b"d", False))  # of what is dropped
    assert rogue.transport._incoming.full and not rogue.transport.ready
    rogue.say(packets.pack_stream(0, b"0123456789", False))
    assert rogue.transport.ready == 10 + 2 * MOST_PIECES


def test_a_peer_that_fills_windows_and_never_acknowledges_one_gets_no_more_and_is_left(monkeypatch):
    monkeypatch.setattr(outgoing, "MOST_FLYING", 50)
    rogue = Rogue()
    transport, sent, size = rogue.transport, 0, 20_000
    for _ in range(1000):
        if transport.state == CLOSED:
            break
        if sent + size <= transport._notices.granted:
            rogue.say(packets.pack_stream(sent, bytes(size), False))
            sent += len(transport.read(size))
        else:
            rogue.say(packets.PING_ITEM)
        rogue.wait(0.01 if transport._outgoing.recovery.flying < 50 else 2.0)  # sooner than a probe is due
        assert transport._outgoing.recovery.flying <= 50 + DEAF_PTOS
    assert transport.error == (packets.BAD_PACKET, "nothing was acknowledged for too long")


def test_frames_beside_the_stream_that_nobody_takes_are_bounded_by_what_they_cost():
    rogue = Rogue(loose=True)
    item = packets.pack_loose(0, b"x") * 100
    for _ in range(MOST_BYTES // 100 // PART_COST + 200):
        rogue.transport.receive(packets.pack_data(rogue.number, TOKEN, [item]), rogue.now, HOME)
        rogue.number += 1
    assert len(rogue.transport.loose.ready) <= MOST_BYTES / PART_COST + 100
    rogue.transport.loose.take()
    rogue.say(item)
    assert len(rogue.transport.loose.ready) == 100


def test_bytes_that_contradict_those_in_order_change_nothing():
    rogue = Rogue()
    rogue.say(packets.pack_stream(0, b"0123456789", False))
    rogue.say(packets.pack_stream(0, b"ABCDEFGHIJafterwards", False))
    assert bytes(rogue.transport.read(100)) == b"0123456789afterwards"

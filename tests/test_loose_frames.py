"""Frames beside the stream, in simulated time: each comes once or is lost, and both ends know how many."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from links import MANY, Flow, Link, World, bytes_of

from vanilla.protocol import loose, packets
from vanilla.protocol.limits import Limits
from vanilla.protocol.loose import LooseFrames
from vanilla.protocol.packets import Loose, LoosePart, parse_data
from vanilla.protocol.reassembly import Contradiction
from vanilla.protocol.transport import CLOSED, OPEN

EACH = packets.DATAGRAM_BYTES - packets.HEAD_BYTES

PATHS = {
    "lossless": {},
    "lossy": {"loss": 0.05},
    "very lossy": {"loss": 0.3},
    "all of it": {"loss": 0.2, "duplicate": 0.1, "reorder": 0.2, "jitter": 0.003},
    "reordering": {"reorder": 0.5, "late": 0.03},
    "narrow": {"rate": 1e6, "queue": 20_000},
}


def opened(seed=1, limits=MANY, **path):
    """A flow whose ends both take frames beside the stream."""
    world = World(seed)
    made = Flow(world, Link(world, delay=0.01, **path), Link(world, delay=0.01, **path), limits)
    made.start()
    assert world.run(60.0, lambda: made.client.transport.state == OPEN and made.server is not None)
    made.client.transport.loosen()
    made.server.transport.loosen()
    return made


def send(made, sizes):
    """Put frames of these *sizes*, each of 10 messages, as far as there is room, until all is known of them: the
    numbers that came."""
    ours, theirs = made.client.transport.loose, made.server.transport.loose
    came = []
    left = list(enumerate(sizes))

    def done():
        for position, body in theirs.take():
            assert body == position.to_bytes(4, "big") * (len(body) // 4)
            came.append(position)
        while left and not ours.full:
            number, size = left.pop(0)
            ours.put([number.to_bytes(4, "big") * (size // 4)], number, 10)
        made.client.pump()
        return not left and not ours.pending

    assert made.world.run(made.world.now + 300.0, done)
    made.world.run(made.world.now + 1.0)  # what was declared lost may still come
    done()
    return came


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("seed", range(5))
def test_each_frame_comes_once_or_is_counted_as_lost(path, seed):
    made = opened(seed, **PATHS[path])
    sizes = [made.world.random.choice((8, 400, 1100, 1172, 1176, 5000, 20_000)) for _ in range(400)]
    came = send(made, sizes)
    tally = made.client.transport.loose.tally
    assert len(came) == len(set(came)) >= tally.acknowledged
    assert tally.sent == 400 == tally.acknowledged + tally.lost
    if not PATHS[path].get("reorder"):  # else some that were declared lost may have come, and too late to be told
        assert len(came) == tally.acknowledged and came == sorted(came)
    assert tally.sent_messages == 4000 == tally.acknowledged_messages + tally.lost_messages
    if path == "lossless":
        assert tally.lost == 0
    elif PATHS[path].get("loss"):
        assert 0 < tally.lost < 400


def test_what_is_lost_at_the_very_end_is_found_out():
    made = opened()
    ours = made.client.transport.loose
    made.world.run(made.world.now + 1.0)
    made.client.outgoing.dark = True
    ours.put([b"gone"], 0, 1)
    made.client.pump()
    made.world.run(made.world.now + 0.5)
    assert ours.pending == 1
    made.client.outgoing.dark = False
    assert made.world.run(made.world.now + 5.0, lambda: not ours.pending)
    assert ours.tally.lost == 1 and ours.news() and not ours.news()


@pytest.mark.parametrize(("held", "most"), [(16, 8), (5, 3), (1, 1)])
def test_half_of_what_the_peers_buffer_holds_is_in_flight_at_most(held, most):
    made = opened(limits=Limits(datagrams=held))
    made.world.run(made.world.now + 1.0)
    ours = made.client.transport.loose
    for number in range(100):
        ours.put([bytes(1000)], number, 1)
    flying = 0

    def done():
        nonlocal flying
        flying = max(flying, made.client.transport._outgoing.recovery.flying)
        return not ours.pending

    made.client.pump()
    assert made.world.run(made.world.now + 60.0, done)
    assert flying == most and ours.tally.acknowledged == 100


def test_the_stream_goes_on_beside_it_and_neither_starves():
    made = opened(rate=1e6, queue=50_000)
    data, made.client.source = bytes_of(1_000_000, made.world.random)
    ours, theirs = made.client.transport.loose, made.server.transport.loose
    size = 0

    def done():
        nonlocal size
        size += sum(len(body) for _, body in theirs.take())
        while not ours.full:
            ours.put([bytes(1000)], 0, 1)
        return made.server.count == len(data)

    made.client.pump()
    assert made.world.run(60.0, done) and made.server.got == data
    assert 0.5e6 < size < 2e6


def test_it_is_paced_and_keeps_to_the_window_as_the_stream_does():
    made = opened(rate=1e6, queue=30_000)
    made.client.outgoing.overflows = 0
    began = made.world.now
    came = send(made, [1000] * 5000)
    assert made.world.now - began > 4.5  # 5 MB at 1 MB/s
    assert len(came) > 4000


def test_a_frame_to_who_takes_none_is_lost():
    made = opened()
    made.server.transport._outgoing.loose = None
    ours = made.client.transport.loose
    ours.put([b"x"], 0, 1)
    made.client.pump()
    assert made.world.run(made.world.now + 5.0, lambda: not ours.pending)
    assert ours.tally.lost == 1 and made.server.transport.state == OPEN


def test_small_frames_share_a_datagram_and_equal_datagrams_a_train():
    made = opened()
    transport = made.client.transport
    for _ in range(90):
        transport.loose.put([bytes(100)], 0, 1)
    trains = [train for train in transport.datagrams(made.world.now) if len(train.data) > 200]
    assert [len(parse_data(trains[0].data[: trains[0].segment]).items)] == [10]
    assert [(len(train.data), train.segment) for train in trains] == [(9 * trains[0].segment, trains[0].segment)]


def test_parts_of_two_minds_end_the_session():
    made = opened()
    server = made.server.transport
    for number, total in enumerate((10, 11)):
        item = packets.pack_loose_part(0, 0, number, total, b"x")
        server.receive(packets.pack_data((1 << 30) + number, server.token, [item]), made.world.now)
    assert server.state == CLOSED and server.error[0] == packets.BAD_PACKET


# -- what comes, by itself


def part(frame, offset, total=10, body=b"x"):
    return LoosePart(frame, 5, offset, total, body)


@given(st.data())
@settings(deadline=None)
def test_parts_come_in_any_order(data):
    frames = LooseFrames(EACH)
    body = bytes(range(200))
    cuts = sorted({0, 200, *data.draw(st.lists(st.integers(1, 199)))})
    pieces = [part(3, a, 200, body[a:b]) for a, b in zip(cuts, cuts[1:])]
    for piece in data.draw(st.permutations(pieces)):
        assert not frames.ready and frames.accepts(piece)
        frames.came(piece)
    assert frames.take() == loose.deque([(5, body)]) and not frames._held


def test_of_too_many_incomplete_frames_the_oldest_goes_and_is_not_begun_again():
    frames = LooseFrames(EACH)
    for number in range(loose.MOST_INCOMPLETE + 1):
        frames.came(part(number, 0))
    assert not frames.accepts(part(0, 1)) and frames.accepts(part(1, 1))
    assert len(frames._incomplete) == loose.MOST_INCOMPLETE


def test_incomplete_frames_take_no_more_memory_than_they_may_however_short_their_parts():
    frames = LooseFrames(EACH)
    for number in range(60):
        for offset in range(1000):
            piece = part(number, offset, 1 << 20)
            if frames.accepts(piece):
                frames.came(piece)
            assert sum(frame.cost for frame in frames._incomplete.values()) == frames._held <= loose.MOST_BYTES
    assert len(frames._incomplete) < 60


def test_what_nobody_takes_is_not_accepted_beyond_a_bound():
    frames = LooseFrames(EACH)
    item = Loose(0, bytes(1000))
    for _ in range(2 * loose.MOST_BYTES // 1000):
        if frames.accepts(item):
            frames.came(item)
    assert frames.ready_b < loose.MOST_BYTES + 1000
    assert not frames.accepts(part(0, 0))
    frames.take()
    assert frames.accepts(item)
    assert not frames.accepts(part(0, 0, loose.LOOSE_FRAME_BYTES + 1))


@pytest.mark.parametrize(
    "pieces",
    [[(0, b"ab"), (0, b"ab")], [(0, b"aaaaa"), (2, b"bbbbb")], [(1, b"aaaaa"), (2, b"bbbbb")]],
    ids=["twice", "overlap", "no beginning"],
)
def test_parts_that_do_not_fit_together_are_a_contradiction(pieces):
    frames = LooseFrames(EACH)
    with pytest.raises(Contradiction):
        for offset, body in pieces:
            frames.came(part(0, offset, 10, body))


def test_the_rest_of_a_frame_of_which_a_part_is_lost_is_not_sent():
    frames = LooseFrames(EACH)
    frames.put([bytes(50_000)], 0, 3)
    frames.put([b"next"], 0, 1)
    _, first = frames.datagram()
    _, second = frames.datagram()
    frames.lose(first)
    items, (third,) = frames.datagram()
    assert len(items) == 1 and third.size == 4 and frames.unsent == 0
    frames.acknowledge(second)
    assert (frames.pending, frames.tally.lost, frames.tally.lost_messages) == (1, 1, 3)
    frames.regain(first)
    assert (frames.tally.lost, frames.tally.acknowledged) == (1, 0)  # the rest was never sent


def test_what_comes_after_all_counts_as_acknowledged():
    frames = LooseFrames(EACH)
    frames.put([b"x"], 0, 3)
    _, sent = frames.datagram()
    frames.lose(sent)
    assert frames.tally.lost_messages == 3
    frames.regain(sent)
    tally = frames.tally
    assert (tally.lost, tally.lost_messages, tally.acknowledged, tally.acknowledged_messages) == (0, 0, 1, 3)


def test_who_found_it_full_is_told_once_there_is_room():
    frames = LooseFrames(EACH)
    assert not frames.news()
    while not frames.full:
        frames.put([bytes(1000)], 0, 1)
    assert not frames.news()
    while frames.unsent * 2 >= loose.QUEUE_BYTES:
        assert not frames.news()
        frames.datagram()
    assert frames.news() and not frames.news()

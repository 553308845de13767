"""The reader and the writers of frames: whatever way the bytes come, the same frames come out."""

from __future__ import annotations

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vanilla.protocol import frames
from vanilla.protocol.errors import ProtocolError
from vanilla.protocol.frames import Keeper, Lender, control_map, pack_control, pack_head, part_index

LIMIT = 1 << 20
KINDS = Keeper, Lender

kinds = st.sampled_from([frames.DATA, frames.DATA_OPTIONS, frames.DATA | frames.MORE, frames.REPLY, frames.PART])
small_bodies = st.lists(st.integers(-200, 70_000) | st.text(max_size=9), min_size=1, max_size=9)
large_bodies = st.integers(1, 400_000).map(lambda size: [b"x" * size])
whole_frames = st.builds(
    lambda kind, channel, seq, items: whole(kind, channel, seq, items),
    kinds,
    st.integers(0, frames.MAX_CHANNEL),
    st.integers(0, (1 << 64) - 1),
    small_bodies | large_bodies,
)
streams = st.lists(whole_frames, max_size=5)


def whole(kind, channel, seq, items):
    body = b"".join(map(msgpack.packb, items))
    return pack_head(kind, channel, seq, len(items), len(body)) + body


def put(reader, data):
    """One read of up to all of *data*: (the frames, what is left of *data*)."""
    n, rest = 0, memoryview(data)
    for buffer in reader.buffers():
        part = rest[: len(buffer)]
        buffer[: len(part)] = part
        rest = rest[len(part) :]
        n += len(part)
    return [(*head, bytes(array)) for *head, array in reader.received(n)], rest


def read_all(pieces, limit=LIMIT, first=0, scratch_bytes=frames.SCRATCH_BYTES):
    """(frames, the code of the error or None), when the bytes come in these pieces; either kind of reader says so."""
    keeper, lender = (read(kind(limit, bytearray(scratch_bytes), first), pieces) for kind in KINDS)
    assert keeper == lender
    return keeper


def read(reader, pieces):
    found = []
    for piece in pieces:
        rest = memoryview(piece)
        while rest:
            try:
                got, rest = put(reader, rest)
            except ProtocolError as error:
                return found, error.code
            found += got
            if reader.error is not None:
                return found, reader.error.code
    return found, None


def expected(stream):
    """The frames of a stream, by msgpack alone."""
    return [
        (kind, channel, seq, len(objects), data[frames.HEAD_BYTES - frames.ARRAY_HEAD_BYTES :])
        for data in stream
        for kind, channel, seq, objects in [msgpack.unpackb(msgpack.unpackb(data))]
    ]


def cut(data, points):
    edges = [0, *sorted(points), len(data)]
    return [data[a:b] for a, b in zip(edges, edges[1:]) if a < b]


# -- splitting


@settings(deadline=None)
@given(streams, st.data())
def test_any_splitting_gives_the_same_frames(stream, data):
    joined = b"".join(stream)
    pieces = cut(joined, data.draw(st.lists(st.integers(0, len(joined)), max_size=20)))
    assert read_all(pieces) == (expected(stream), None)


@settings(deadline=None, max_examples=30)
@given(streams, st.integers(64, 4096))
def test_a_small_scratch_buffer_will_do(stream, scratch_bytes):
    assert read_all(stream, scratch_bytes=scratch_bytes) == (expected(stream), None)


def test_bytes_one_at_a_time_give_the_same_frames():
    stream = [
        whole(frames.DATA, 1, 0, [1, "two"]),
        pack_control(frames.PING, 0, 3),
        whole(frames.DATA, 1, 2, [b"x" * 300]),
    ]
    joined = b"".join(stream)
    assert read_all([joined[at : at + 1] for at in range(len(joined))]) == (expected(stream), None)


@settings(deadline=None, max_examples=50)
@given(st.lists(streams, min_size=2, max_size=4), st.data())
def test_readers_that_share_a_scratch_buffer_do_not_mix(several, data):
    scratch = bytearray(frames.SCRATCH_BYTES)
    readers = [Keeper(LIMIT, scratch) for _ in several]
    rests = [memoryview(b"".join(stream)) for stream in several]
    found = [[] for _ in several]
    while any(rests):
        which = data.draw(st.sampled_from([i for i, rest in enumerate(rests) if rest]))
        piece = rests[which][: data.draw(st.integers(1, 200_000))]
        got, left = put(readers[which], piece)
        found[which] += got
        rests[which] = rests[which][len(piece) - len(left) :]
    assert found == [expected(stream) for stream in several]


@settings(deadline=None)
@given(whole_frames, st.data())
def test_a_frame_cut_short_is_never_handed_out(frame, data):
    at = data.draw(st.integers(0, len(frame) - 1))
    assert read_all(cut(frame[:at], [])) == ([], None)


def test_the_rest_of_a_large_array_is_read_in_place_and_the_next_head_behind_it():
    large, small = whole(frames.DATA, 1, 0, [b"x" * 70_000]), pack_control(frames.PING, 0, 1)
    reader = Keeper(LIMIT, bytearray(frames.SCRATCH_BYTES))
    assert read(reader, [large[:100], large[100:]])[0] == expected([large])  # its size is known from here on
    assert put(reader, large[:100])[0] == []
    first, second = reader.buffers()
    assert len(first) == len(large) - 100 and first.obj is not reader.scratch.obj and second.obj is reader.scratch.obj
    del first, second
    got, rest = put(reader, large[100:] + small + small[:10])
    assert got == expected([large, small]) and not rest
    assert reader.waiting_bytes == 10
    assert put(reader, small[10:])[0] == expected([small])
    assert reader.waiting_bytes == 0


# -- limits


@pytest.mark.parametrize("over", [0, 1])
def test_the_limit_counts_what_the_length_field_counts(over):
    head = pack_head(frames.DATA, 1, 0, 1, 1000 - frames.COUNTED_BYTES + over)
    assert read_all([head], limit=1000) == ([], "TOO_BIG" if over else None)


def test_a_frame_over_the_limit_is_refused_by_its_first_five_bytes():
    for kind in KINDS:
        reader = kind(1000, bytearray(64))
        assert put(reader, b"\xc6\x00\x00\x03")[0] == []
        with pytest.raises(ProtocolError, match="TOO_BIG"):
            put(reader, b"\xe9")


def test_the_first_frame_may_have_a_limit_of_its_own():
    long, short = whole(frames.DATA, 1, 0, [b"x" * 2000]), pack_control(frames.PING)
    assert read_all([short + long], limit=3000, first=1000) == (expected([short, long]), None)
    assert read_all([long + short], limit=3000, first=1000) == ([], "TOO_BIG")
    assert read_all([short + long], limit=1000, first=3000) == (expected([short]), "TOO_BIG")


def trickle_a_gigabyte(kind):
    """A frame of 1 GiB is announced and 3 MB of it come: the reader, and how much has come, after each read."""
    reader = kind(frames.MAX_FRAME_LIMIT, bytearray(frames.SCRATCH_BYTES))
    piece, came = bytes(60_000), frames.HEAD_BYTES
    put(reader, pack_head(frames.DATA, 1, 0, 1, frames.MAX_FRAME_LIMIT - frames.COUNTED_BYTES))
    yield reader, came
    for _ in range(50):
        rest = memoryview(piece)
        while rest:
            before = len(rest)
            _, rest = put(reader, rest)
            came += before - len(rest)
            yield reader, came


@pytest.mark.parametrize("kind", KINDS)
def test_an_announced_gigabyte_takes_room_only_for_what_has_come(kind):
    for reader, came in trickle_a_gigabyte(kind):
        assert reader.waiting_bytes <= max(Keeper.FIRST, 2 * came)
        assert len(reader.scratch) <= max(frames.SCRATCH_BYTES, 2 * came)
    assert came > 3_000_000


@pytest.mark.parametrize("kind", KINDS)
def test_an_announced_gigabyte_takes_memory_only_for_what_has_come(kind):
    tracemalloc = pytest.importorskip("tracemalloc")  # PyPy has none
    tracemalloc.start()
    try:
        *_, (_, came) = trickle_a_gigabyte(kind)
        assert tracemalloc.get_traced_memory()[1] < 6 * came + (1 << 20)
    finally:
        tracemalloc.stop()


def test_room_is_made_at_once_only_for_as_much_as_this_peer_has_sent_whole_before():
    large = whole(frames.DATA, 1, 0, [b"x" * 300_000])
    reader = Keeper(LIMIT, bytearray(frames.SCRATCH_BYTES))
    put(reader, large[:100])
    assert reader.waiting_bytes <= Keeper.FIRST
    rest = memoryview(large)[100:]
    while rest:
        _, rest = put(reader, rest)
    put(reader, large[:100])
    assert reader.waiting_bytes == len(large) - frames.ARRAY_AT


# -- lending


def test_a_lent_array_stands_where_it_was_read_to_and_may_be_written_to():
    stream = whole(frames.DATA, 1, 0, [1, 2]) + whole(frames.DATA, 1, 2, [b"x" * 100_000])
    reader = Lender(LIMIT, bytearray(frames.SCRATCH_BYTES))
    (view,) = reader.buffers()
    view[: len(stream)] = stream
    arrays = [array for *_, array in reader.received(len(stream))]
    assert all(array.obj is reader.scratch.obj and not array.readonly for array in arrays)


def test_behind_a_large_frame_a_lender_reads_no_more_than_the_next_head():
    large = whole(frames.DATA, 1, 0, [b"x" * 70_000])
    reader = Lender(LIMIT, bytearray(frames.SCRATCH_BYTES))
    put(reader, large[:100])
    (view,) = reader.buffers()
    assert len(view) == len(large) - 100 + frames.NEXT_BYTES


def test_a_lender_moves_nothing_that_stands_in_front_already():
    tracemalloc = pytest.importorskip("tracemalloc")  # PyPy has none
    reader = Lender(frames.MAX_FRAME_LIMIT, bytearray(8 << 20))
    put(reader, whole(frames.DATA, 1, 0, [b"x" * (7 << 20)])[:-9])
    tracemalloc.start()
    try:
        reader.buffers()
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_a_lender_gives_a_very_large_buffer_up():
    small, large = whole(frames.DATA, 1, 0, [1]), whole(frames.DATA, 1, 0, [b"x" * 3_000_000])
    reader = Lender(frames.MAX_FRAME_LIMIT, bytearray(frames.SCRATCH_BYTES))
    assert read(reader, [small, large, small]) == (expected([small, large, small]), None)
    put(reader, small)
    assert len(reader.scratch) <= Lender.MOST


# -- garbage


HEAD = pack_head(frames.PING, 0, 0, 1, 1)
FIXED = {0: "BAD_FRAME", 5: "BAD_FRAME", 7: "BAD_FRAME", 12: "BAD_FRAME", 21: "BAD_FRAME"}


@pytest.mark.parametrize("at", FIXED)
@pytest.mark.parametrize("together", [True, False], ids=["whole", "byte by byte"])
def test_garbage_is_refused_at_its_first_wrong_byte(at, together):
    wrong = HEAD[:at] + b"\x00"
    assert read_all(cut(wrong, [] if together else range(1, len(wrong)))) == ([], "BAD_FRAME")
    assert read_all(cut(wrong[:-1], [])) == ([], None)


def test_the_first_wrong_byte_decides_the_code():
    assert read_all([b"\xc6\xff\xff\xff\xff\x00" + bytes(30)]) == ([], "TOO_BIG")
    assert read_all([b"\xc6\x00\x00\x00\x05\x00" + bytes(30)]) == ([], "BAD_FRAME")


@settings(deadline=None)
@given(streams, st.binary(min_size=26, max_size=60), st.data())
def test_what_stands_before_garbage_counts_however_it_is_split(stream, garbage, data):
    joined = b"".join(stream) + garbage
    pieces = cut(joined, data.draw(st.lists(st.integers(0, len(joined)), max_size=20)))
    assert read_all(pieces) == read_all([joined])
    assert read_all(pieces)[0][: len(stream)] == expected(stream)


def test_the_end_of_the_stream_is_an_eoferror():
    with pytest.raises(EOFError):
        frames.reading(lambda buffers: 0, Keeper(LIMIT, bytearray(64)))


# -- writing


@settings(deadline=None)
@given(st.integers(0, 127), st.integers(0, (1 << 32) - 1), st.integers(0, (1 << 64) - 1), st.integers(0, 9))
def test_a_head_is_read_by_any_msgpack_library(kind, channel, seq, count):
    data = pack_head(kind, channel, seq, count, count) + bytes(count)
    assert msgpack.unpackb(msgpack.unpackb(data)) == [kind, channel, seq, [0] * count]
    assert len(pack_head(kind, channel, seq, count, count)) == frames.HEAD_BYTES


fields = st.dictionaries(
    st.text(max_size=5), st.none() | st.booleans() | st.integers(-5, 1 << 63) | st.text(max_size=9)
)


@settings(deadline=None)
@given(fields)
def test_a_control_frame_carries_its_map(values):
    (frame,), _ = read_all([pack_control(frames.STATUS, 3, 4, values)])
    assert frame[:4] == (frames.STATUS, 3, 4, 1)
    assert control_map(frame) == values


@settings(deadline=None)
@given(st.binary(max_size=40), st.integers(0, 2))
def test_a_map_that_is_no_map_is_refused_with_a_code(body, count):
    frame = frames.STATUS, 0, 0, count, b"\xdd" + count.to_bytes(4, "big") + body
    try:
        outcome = type(control_map(frame))
    except ProtocolError as error:
        outcome = error.code
    assert outcome in (dict, "BAD_MAP", "BAD_MESSAGE")


@pytest.mark.parametrize("over", [0, 1])
def test_the_limit_of_a_map_counts_as_that_of_a_frame_does(over):
    (frame,), _ = read_all([pack_control(frames.STATUS, 0, 0, {"after": "x" * 1000})])
    length = len(pack_control(frames.STATUS, 0, 0, {"after": "x" * 1000})) - 5
    if over:
        with pytest.raises(ProtocolError, match="BAD_MAP"):
            control_map(frame, length - 1)
    else:
        control_map(frame, length)


# -- parts of a streamed reply


def part(count, body):
    """The array of a PART."""
    return b"\xdd" + count.to_bytes(4, "big") + body


@settings(deadline=None)
@given(
    st.integers(-(1 << 63), (1 << 64) - 1),
    st.lists(st.text(max_size=5), max_size=3),
    st.sampled_from([bytes, memoryview]),
)
def test_a_part_says_the_index_of_its_first_item(index, items, kind):
    body = b"".join(map(msgpack.packb, [index, *items]))
    array = kind(part(1 + len(items), body))
    assert part_index(array, 1 + len(items)) == (index, frames.ARRAY_HEAD_BYTES + len(msgpack.packb(index)))


@pytest.mark.parametrize(
    "width", [b"\xcc", b"\xcd\0", b"\xce\0\0\0", b"\xcf" + bytes(7), b"\xd0", b"\xd1\0", b"\xd3" + bytes(7)]
)
def test_any_form_of_an_integer_is_an_index(width):
    assert part_index(part(2, width + b"\x05\xc0"), 2) == (5, frames.ARRAY_HEAD_BYTES + len(width) + 1)


@settings(deadline=None)
@given(st.binary(max_size=20))
def test_a_part_without_an_index_is_refused_and_never_raises_another_error(body):
    try:
        index, at = part_index(part(1, body), 1)
        outcome = "an index" if msgpack.unpackb(body[: at - frames.ARRAY_HEAD_BYTES]) == index else "another"
    except ProtocolError as error:
        outcome = error.code
    assert outcome in ("an index", "BAD_MESSAGE")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xa1\xff",
        b"\x81\x90\xc0",
        b"\xc0",
        b"\xc3",
        b"\xca" + bytes(4),
        b"\xcb" + bytes(8),
        b"\xd6\xff" + bytes(4),
        b"\xcf\0",
    ],
    ids=bytes.hex,
)
def test_what_is_no_whole_integer_is_no_index(body):
    with pytest.raises(ProtocolError, match="BAD_MESSAGE"):
        part_index(part(1, body), 1)


@pytest.mark.parametrize("body", [b"", b"\x05"], ids=["empty", "more than it says"])
def test_a_part_of_no_objects_has_no_index(body):
    with pytest.raises(ProtocolError, match="BAD_MESSAGE"):
        part_index(part(0, body), 0)

"""The scanner: both implementations, against each other and against msgpack itself."""

from __future__ import annotations

import array
import datetime
import os
import subprocess
import sys
from functools import partial

import msgpack
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from vanilla.protocol import errors, scan

SCANNERS = {"python": scan.scan_python}
if scan.scan_c is not None:
    SCANNERS["c"] = scan.scan_c

NO_LIMIT = 2**62


@pytest.fixture(params=sorted(SCANNERS))
def scanner(request):
    return SCANNERS[request.param]


def outcome(scanner, *arguments):
    """What a scanner did, in a form that compares: its result, or the type and text of its error."""
    try:
        return scanner(*arguments)
    except (errors.BadMessage, ValueError) as error:
        return type(error), str(error)


def agreed(*arguments):
    """The one outcome of all scanners."""
    first, *others = [outcome(scanner, *arguments) for scanner in SCANNERS.values()]
    for other in others:
        assert other == first
    return first


def refusal(scanner, body, count=1, depth=scan.DEPTH):
    """The text with which a body is refused."""
    with pytest.raises(errors.BadMessage) as caught:
        scanner(body, 0, count, NO_LIMIT, depth)
    assert caught.value.code == "BAD_MESSAGE"
    return caught.value.text


# What there is to send: everything that msgpack packs by itself, and timestamps.

scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text(max_size=40)
    | st.binary(max_size=40)
    | st.sampled_from([255, 256, 65535, 65536]).flatmap(lambda size: st.sampled_from([b"x" * size, "y" * size]))
    | st.builds(msgpack.Timestamp, st.integers(-(2**63), 2**63 - 1), st.integers(0, 999_999_999))
)
keys = st.text(max_size=5) | st.integers(-5, 300)
objects = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=20) | st.dictionaries(keys, inner, max_size=20),
    max_leaves=30,
)
bodies = st.lists(objects.map(msgpack.packb), max_size=12)

#: Bytes that more often than chance are heads.
heads = bytes([*range(0x80, 0x84), *range(0x90, 0x94), 0xA3, *range(0xC0, 0xE0), 0x00, 0x01, 0x04, 0x0C, 0xFF])
wild = st.binary(max_size=60) | st.lists(st.sampled_from(heads), max_size=60).map(bytes)
small_limits = st.integers(-2, 40)
depths = st.integers(-1, 5) | st.integers(0, 256)

#: No test asserts on wall time, so hypothesis shall not either.
at_any_pace = settings(deadline=None)


def test_the_c_scanner_is_there_where_it_is_expected():
    if os.environ.get("VANILLA_EXPECT_C") == "1":
        assert scan.scan_c is not None
        assert scan.KIND == "c"


def test_kind_names_the_scanner_in_use():
    assert scan.scan is SCANNERS[scan.KIND]


def test_vanilla_pure_forces_the_python_scanner():
    script = "from vanilla.protocol import scan; print(scan.KIND, scan.scan is scan.scan_python, scan.scan_c)"
    environment = {**os.environ, "VANILLA_PURE": "1"}
    out = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert out.stdout.split() == ["python", "True", "None"]


def test_a_missing_extension_leaves_the_python_scanner_and_another_error_shows():
    script = """
import sys
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "vanilla.protocol._scan":
            raise {error}("from the finder")
sys.meta_path.insert(0, Finder())
from vanilla.protocol import scan
print(scan.KIND)
"""
    environment = {name: value for name, value in os.environ.items() if name != "VANILLA_PURE"}
    run = partial(subprocess.run, env=environment, capture_output=True, text=True)
    missing = run([sys.executable, "-c", script.format(error="ImportError")])
    assert missing.stdout.strip() == "python", missing.stderr
    broken = run([sys.executable, "-c", script.format(error="MemoryError")])
    assert "MemoryError: from the finder" in broken.stderr


# Well-formed bodies.


@at_any_pace
@given(bodies, st.data())
def test_after_k_messages_the_offset_is_the_sum_of_their_packed_lengths(packed, data):
    body = b"".join(packed)
    k = data.draw(st.integers(0, len(packed)))
    assert agreed(body, 0, k, NO_LIMIT) == (k, sum(map(len, packed[:k])))


@at_any_pace
@given(bodies, st.data())
def test_a_scan_goes_on_where_another_ended(packed, data):
    body = b"".join(packed)
    k = data.draw(st.integers(0, len(packed)))
    _, middle = agreed(body, 0, k, NO_LIMIT)
    assert agreed(body, middle, len(packed) - k, NO_LIMIT) == (len(packed) - k, len(body))


@at_any_pace
@given(bodies, st.integers(-5, 200))
def test_a_scan_ends_with_the_message_that_reaches_the_bytes_allowed(packed, max_bytes):
    expected = end = 0
    while expected < len(packed) and end < max_bytes:
        end += len(packed[expected])
        expected += 1
    assert agreed(b"".join(packed), 0, len(packed), max_bytes) == (expected, end)


@at_any_pace
@given(bodies)
def test_check_accepts_exactly_the_right_count(packed):
    body = b"".join(packed)
    for scanner in SCANNERS.values():
        scan.check(body, len(packed), scanner=scanner)
        with pytest.raises(errors.BadMessage, match="should begin"):
            scan.check(body, len(packed) + 1, scanner=scanner)
        for fewer in range(len(packed)):
            with pytest.raises(errors.BadMessage, match=f"the head says {fewer}; .* the body at byte {len(body)}"):
                scan.check(body, fewer, scanner=scanner)


@at_any_pace
@given(objects.map(msgpack.packb))
def test_every_prefix_of_a_message_is_refused_as_cut_short(body):
    cuts = range(len(body)) if len(body) < 300 else [*range(100), *range(len(body) - 100, len(body))]
    for cut in cuts:
        error, text = agreed(body[:cut], 0, 1, NO_LIMIT)
        assert error is errors.BadMessage
        assert f"the body ends at byte {cut}" in text


def body_of(head, width, number, content):
    """An object with its length or count in `width` bytes, whether so many are needed or not."""
    return bytes([head]) + number.to_bytes(width, "big") + content


#: Heads with a length or count behind them: the bytes that it takes, and each of the counted.
BYTES_COUNTED = {0xC4: (1, 1), 0xC5: (2, 1), 0xC6: (4, 1), 0xD9: (1, 1), 0xDA: (2, 1), 0xDB: (4, 1)}
OBJECTS_COUNTED = {0xDC: (2, 1), 0xDD: (4, 1), 0xDE: (2, 2), 0xDF: (4, 2)}
COUNTED = {**BYTES_COUNTED, **OBJECTS_COUNTED}
NUMBERS = [0, 1, 2, 127, 255, 256, 257, 65535, 65536, 70000]


@pytest.mark.parametrize(
    ("head", "number"),
    [(head, number) for head, (width, _) in COUNTED.items() for number in NUMBERS if number < 256**width],
)
def test_a_length_or_count_of_any_width_is_followed(scanner, head, number):
    width, bytes_each = COUNTED[head]
    body = body_of(head, width, number, b"\x01" * number * bytes_each)
    assert scanner(body, 0, 1, NO_LIMIT) == (1, len(body))
    assert scanner(b"\x92" + body + b"\xa1x" + body, 0, 2, NO_LIMIT) == (2, 2 * len(body) + 3)
    for cut in range(1, 1 + width):
        assert refusal(scanner, body[:cut]) == f"the object at byte 0 is cut short: the body ends at byte {cut}"
    if number:
        assert f"the body ends at byte {len(body) - 1}" in refusal(scanner, body[:-1])


# Anything at all.


@at_any_pace
@given(wild, st.integers(0, 60), small_limits, small_limits | st.just(NO_LIMIT), depths)
def test_both_scanners_do_the_same_with_any_bytes_and_any_limits(body, offset, count, max_bytes, depth):
    agreed(body, offset, count, max_bytes, depth)


@at_any_pace
@given(bodies, st.data())
def test_both_scanners_do_the_same_with_a_damaged_body(packed, data):
    body = bytearray(b"".join(packed))
    assume(body)
    for _ in range(data.draw(st.integers(1, 4))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.sampled_from(heads) | st.integers(0, 255))
    del body[data.draw(st.integers(0, len(body))) :]
    agreed(bytes(body), 0, len(packed), NO_LIMIT, data.draw(st.sampled_from([0, 1, 2, 64])))


@at_any_pace
@given(wild)
def test_well_formed_is_what_msgpack_can_skip_but_for_exts(body):
    got = agreed(body, 0, 1, NO_LIMIT, scan.MOST_DEPTH)
    unpacker = msgpack.Unpacker(strict_map_key=False)
    unpacker.feed(body)
    try:
        unpacker.skip()
    except (msgpack.OutOfData, ValueError):
        assert got[0] is errors.BadMessage
    else:
        assert got == (1, unpacker.tell()) or "is not a timestamp" in got[1]


@pytest.mark.parametrize("head", range(256))
def test_every_head_is_measured_as_msgpack_measures_it(head):
    for filling in (b"\x00", b"\x01", b"\xff\x01"):
        body = bytes([head]) + (filling * 600)[:600]
        got = agreed(body, 0, 1, NO_LIMIT)
        unpacker = msgpack.Unpacker()
        unpacker.feed(body)
        try:
            unpacker.skip()
        except (msgpack.OutOfData, ValueError):
            assert got[0] is errors.BadMessage
        else:
            assert got == (1, unpacker.tell()) or "is not a timestamp" in got[1]


# Arguments.


def test_a_count_of_zero_passes_nothing_whatever_follows(scanner):
    assert scanner(b"\xc1", 0, 0, 100) == (0, 0)
    assert scanner(b"", 0, 0, 100) == (0, 0)
    assert scanner(b"\xc0\xc0", 2, 0, 100) == (0, 2)


@pytest.mark.parametrize("max_bytes", [0, -1, -(2**70)])
def test_without_byte_credit_nothing_is_passed(scanner, max_bytes):
    assert scanner(b"\xc0\xc0", 1, 1, max_bytes) == (0, 1)


def test_one_message_may_overshoot_the_byte_credit(scanner):
    body = msgpack.packb(b"x" * 1000) * 3
    assert scanner(body, 0, 3, 1) == (1, 1003)
    assert scanner(body, 0, 3, 1003) == (1, 1003)
    assert scanner(body, 0, 3, 1004) == (2, 2006)


def test_bytes_are_counted_from_the_offset(scanner):
    assert scanner(b"\x01" * 10, 5, 10, 3) == (3, 8)


def test_what_stands_behind_the_last_message_is_not_looked_at(scanner):
    assert scanner(b"\x01\xc1", 0, 1, 100) == (1, 1)
    assert scanner(b"\x01\xc1", 0, 2, 1) == (1, 1)


@pytest.mark.parametrize("huge", [2**32, 2**63 - 1, 2**63, 2**64 - 1, 2**80])
def test_credit_may_be_of_any_size(scanner, huge):
    assert scanner(b"\x01\x02", 0, 2, huge) == (2, 2)
    assert scanner(b"\x01\x02", 0, huge, 2) == (2, 2)
    with pytest.raises(errors.BadMessage, match="the body ends at byte 2"):
        scanner(b"\x01\x02", 0, huge, huge)


@pytest.mark.parametrize(
    ("offset", "count", "depth"),
    [(-1, 1, 64), (3, 1, 64), (0, -1, 64), (0, 1, -1), (0, 1, 256), (2**80, 1, 64), (0, -(2**80), 64), (0, 1, 2**80)],
)
def test_a_wrong_argument_is_the_callers_fault(offset, count, depth):
    error, text = agreed(b"\x01\x02", offset, count, 100, depth)
    assert error is ValueError
    assert f"offset {offset} " in text
    assert f"count {count} " in text
    assert f"depth {depth} " in text


def test_check_begins_at_its_offset(scanner):
    scan.check(b"\xc1\x01\x02", 2, offset=1, scanner=scanner)
    scan.check(b"\xc1", 0, offset=1, scanner=scanner)
    with pytest.raises(ValueError):
        scan.check(b"\xc1", 0, offset=2, scanner=scanner)


def test_check_counts_empty_bodies_right(scanner):
    scan.check(b"", 0, scanner=scanner)
    with pytest.raises(errors.BadMessage):
        scan.check(b"", 1, scanner=scanner)
    with pytest.raises(errors.BadMessage):
        scan.check(b"\x01", 0, scanner=scanner)


# Buffers.


@at_any_pace
@given(bodies, st.binary(max_size=9), st.binary(max_size=9))
def test_a_slice_of_a_memoryview_is_a_body_of_its_own(packed, before, after):
    body = b"".join(packed)
    view = memoryview(before + body + after)[len(before) : len(before) + len(body)]
    assert agreed(view, 0, len(packed), NO_LIMIT) == (len(packed), len(body))
    assert agreed(view, 0, len(packed) + 1, NO_LIMIT) == agreed(body, 0, len(packed) + 1, NO_LIMIT)
    scan.check(view, len(packed))


@pytest.mark.parametrize(
    "form", [bytes, bytearray, memoryview, lambda body: memoryview(bytearray(body)), type("Subclass", (bytes,), {})]
)
def test_any_buffer_of_bytes_will_do(scanner, form):
    assert scanner(form(b"\xa2hi\x93\x01\x02\x03"), 0, 2, 100) == (2, 7)
    assert scanner(form(b""), 0, 0, 100) == (0, 0)
    with pytest.raises(errors.BadMessage, match="the body ends at byte 2"):
        scanner(form(b"\xa2h"), 0, 1, 100)


def test_a_view_of_wider_items_is_scanned_by_bytes(scanner):
    view = memoryview(array.array("I", [0x01010101, 0x01010101]))
    assert scanner(view, 3, 5, 100) == (5, 8)
    scan.check(view, 8, scanner=scanner)


def test_a_view_with_gaps_is_refused(scanner):
    with pytest.raises(TypeError):
        scanner(memoryview(b"\x01\x02\x03\x04")[::2], 0, 1, 100)


@pytest.mark.parametrize("thing", ["text", None, 5, [1]])
def test_what_is_not_a_buffer_is_a_type_error(scanner, thing):
    with pytest.raises(TypeError):
        scanner(thing, 0, 1, 100)


def test_a_bytearray_can_be_resized_after_a_scan_and_while_its_error_is_held(scanner):
    body = bytearray(b"\x01\xc1")
    scanner(body, 0, 1, 100)
    body += b"\x01"
    with pytest.raises(errors.BadMessage) as held:
        scanner(body, 0, 3, 100)
    body += b"\x01"
    del body[:]
    assert held.value.text == "byte 1 is 0xc1, with which no msgpack object begins"


GUARDED = """
import ctypes, mmap
from vanilla.protocol import errors, scan
page = mmap.PAGESIZE
memory = mmap.mmap(-1, 2 * page)
second = ctypes.addressof(ctypes.c_char.from_buffer(memory)) + page
libc = ctypes.CDLL(None, use_errno=True)
assert libc.mprotect(ctypes.c_void_p(second), ctypes.c_size_t(page), 0) == 0
refused = 0
for head in range(256):
    for room in range(16):
        for filling in (b"\\x00", b"\\x0c\\xff", b"\\xff"):
            body = (bytes([head]) + filling * 16)[:room]
            memory[page - room:page] = body
            try:
                scan.scan(memoryview(memory)[page - room:page], 0, 3, 100)
            except errors.BadMessage:
                refused += 1
assert refused > 4000, refused
print("nothing was read")
"""


def test_nothing_behind_the_body_is_read():
    """The body ends where a page begins that cannot be read: one byte too far would end the process."""
    run = subprocess.run([sys.executable, "-c", GUARDED], capture_output=True, text=True)
    assert run.stdout == "nothing was read\n", (run.returncode, run.stderr)


# What is refused.


def test_the_text_of_a_refusal_says_what_and_where(scanner):
    assert refusal(scanner, b"\x01\xa5hi", 2) == "the object at byte 1 is cut short: the body ends at byte 4"
    assert refusal(scanner, b"\x01\x01", 3) == "the body ends at byte 2, where one more object should begin"
    assert refusal(scanner, b"\x92\x01\xc1") == "byte 2 is 0xc1, with which no msgpack object begins"
    assert refusal(scanner, b"\x91\xd4\x01\x00") == "the ext at byte 1 is not a timestamp, and no other ext is allowed"
    assert refusal(scanner, b"\x91\x91\x01", depth=1) == "the container at byte 1 is nested deeper than 1"


TIMESTAMPS = {
    "fixext 4": b"\xd6\xff" + bytes(4),
    "fixext 8": b"\xd7\xff" + bytes(8),
    "ext 8 of 12": b"\xc7\x0c\xff" + bytes(12),
    "the last second of 32 bits": msgpack.packb(msgpack.Timestamp(2**32 - 1)),
    "nanoseconds": msgpack.packb(msgpack.Timestamp(2**34 - 1, 999_999_999)),
    "before 1970": msgpack.packb(msgpack.Timestamp(-1)),
    "a datetime": msgpack.packb(datetime.datetime(2024, 2, 29, tzinfo=datetime.timezone.utc), datetime=True),
}
OTHER_EXTS = {
    "fixext 1": b"\xd4\xff" + bytes(1),
    "fixext 2": b"\xd5\xff" + bytes(2),
    "fixext 16": b"\xd8\xff" + bytes(16),
    "fixext 4 of type 1": b"\xd6\x01" + bytes(4),
    "fixext 8 of type -2": b"\xd7\xfe" + bytes(8),
    "ext 8 of 12, type 5": b"\xc7\x0c\x05" + bytes(12),
    "ext 8 of 0": b"\xc7\x00\xff",
    "ext 8 of 4": b"\xc7\x04\xff" + bytes(4),
    "ext 8 of 8": b"\xc7\x08\xff" + bytes(8),
    "ext 8 of 11": b"\xc7\x0b\xff" + bytes(11),
    "ext 8 of 13": b"\xc7\x0d\xff" + bytes(13),
    "ext 16 of 12": b"\xc8\x00\x0c\xff" + bytes(12),
    "ext 32 of 12": b"\xc9\x00\x00\x00\x0c\xff" + bytes(12),
}


@pytest.mark.parametrize("name", TIMESTAMPS)
def test_a_timestamp_is_passed(scanner, name):
    body = TIMESTAMPS[name]
    assert scanner(body + body, 0, 2, 100) == (2, 2 * len(body))
    assert scanner(b"\x91" + body, 0, 1, 100) == (1, 1 + len(body))


@pytest.mark.parametrize("name", OTHER_EXTS)
def test_any_other_ext_is_refused(scanner, name):
    assert "the ext at byte 0 is not a timestamp" in refusal(scanner, OTHER_EXTS[name])
    assert "the ext at byte 2 is not a timestamp" in refusal(scanner, b"\x92\x01" + OTHER_EXTS[name])


def nested(levels, one):
    """Containers one in another, the innermost empty."""
    return one * (levels - 1) + (b"\x90" if one == b"\x91" else b"\x80") if levels else b"\xc0"


@pytest.mark.parametrize("one", [b"\x91", b"\x81\xc0"], ids=["arrays", "maps"])
def test_containers_nest_up_to_the_depth_and_no_deeper(scanner, one):
    for levels in (63, 64):
        body = nested(levels, one)
        assert scanner(body, 0, 1, NO_LIMIT, 64) == (1, len(body))
        assert scanner(body, 0, 1, NO_LIMIT) == (1, len(body))
    assert refusal(scanner, nested(65, one)) == f"the container at byte {64 * len(one)} is nested deeper than 64"
    assert scanner(nested(255, one), 0, 1, NO_LIMIT, 255)[0] == 1
    assert "deeper than 255" in refusal(scanner, nested(256, one), depth=255)


def test_at_depth_zero_a_message_is_a_scalar(scanner):
    assert scanner(b"\x01\xa1x", 0, 2, 100, 0) == (2, 3)
    for empty in (b"\x90", b"\x80", b"\xdc\x00\x00", b"\xdf\x00\x00\x00\x00"):
        assert "the container at byte 0 is nested deeper than 0" in refusal(scanner, empty, depth=0)


def test_depth_counts_what_is_open_not_what_was(scanner):
    body = b"\x94" + b"\x91\x90" * 4
    assert scanner(body, 0, 1, 100, 3) == (1, len(body))


@pytest.mark.parametrize("head", ["c6", "db", "dd", "df"])
@pytest.mark.parametrize("length", ["ffffffff", "80000000", "7fffffff", "fffffffb"])
def test_a_huge_length_is_refused_without_reading_or_allocating(scanner, head, length):
    body = bytes.fromhex(head + length) + b"\x01\x02"
    assert "the body ends at byte 7" in refusal(scanner, body)
    assert "the body ends at byte 8" in refusal(scanner, b"\x91" + body)


def test_huge_containers_in_each_other_are_refused(scanner):
    assert "the body ends at byte 315" in refusal(scanner, b"\xdf\xff\xff\xff\xff" * 63)


@pytest.mark.parametrize("pattern", [b"\x81", b"\x91", b"\x81\x01", b"\xdd\x00\x00\x00\x01", b"\xdf\xff\xff\xff\xff"])
def test_a_megabyte_of_nested_containers_is_refused_at_the_depth_limit(scanner, pattern):
    assert "is nested deeper than 64" in refusal(scanner, pattern * (2**20 // len(pattern)))


@pytest.mark.parametrize("empty", [b"\x80", b"\x90"])
def test_a_megabyte_of_empty_containers_side_by_side_is_well_formed(scanner, empty):
    scan.check(empty * 2**20, 2**20, scanner=scanner)
    scan.check(b"\xdd\x00\x10\x00\x00" + empty * 2**20, 1, scanner=scanner)


def test_text_need_not_be_utf8_and_keys_may_be_anything(scanner):
    assert scanner(b"\xa1\xff\x81\x90\x01\x82\x01\x01\x01\x01", 0, 3, 100) == (3, 10)

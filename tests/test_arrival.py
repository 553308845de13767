"""Messages that have arrived: decoded when they are wanted, a portion at a time."""

from __future__ import annotations

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vanilla.client.arrival import PORTION_BYTES, Arrival
from vanilla.client.packing import UNDECODABLE
from vanilla.protocol.errors import BadMessage
from vanilla.protocol.frames import ARRAY_HEAD_BYTES

BAD = b"\xa2\xff\xff"  # text that is not UTF-8

items = st.integers(-200, 70_000) | st.text(max_size=9) | st.binary(max_size=300) | st.lists(st.none(), max_size=3)


def arrived(bodies, count=None, before=b""):
    body = b"".join(bodies)
    array = b"\xdd" + (len(bodies) if count is None else count).to_bytes(4, "big") + before + body
    at = ARRAY_HEAD_BYTES + len(before)
    return Arrival(memoryview(bytearray(array)), at, len(bodies) if count is None else count, {})


def drain(arrival, most):
    """All items, and the sum of their sizes."""
    found, size = [], 0
    while arrival.left:
        portion, taken = arrival.take(next(most))
        found += portion
        size += taken
    return found, size


@settings(deadline=None)
@given(st.lists(items | st.just(UNDECODABLE), min_size=1, max_size=40), st.data())
def test_however_it_is_portioned_the_same_items_come_out(expected, data):
    bodies = [BAD if item is UNDECODABLE else msgpack.packb(item) for item in expected]
    arrival = arrived(bodies, before=msgpack.packb({"redelivered": True}))
    most = iter(lambda: data.draw(st.integers(1, 50)), None)
    found = []
    size = arrival.size
    while arrival.left:
        if data.draw(st.booleans()):
            arrival.own()
        portion, taken = arrival.take(next(most))
        assert UNDECODABLE not in portion or portion == [UNDECODABLE]
        found += portion
        size -= taken
        assert arrival.size == size
    assert found == expected
    assert size == 0


def test_no_more_than_a_portion_is_decoded_at_once():
    small = arrived([msgpack.packb(bytes(1000))] * 200)
    portion, size = small.take(1000)
    assert PORTION_BYTES <= size <= PORTION_BYTES + 1003
    assert len(portion) == size // 1003
    large = arrived([msgpack.packb(bytes(PORTION_BYTES))] * 3)
    assert [len(large.take(1000)[0]) for _ in range(3)] == [1, 1, 1]


def test_what_is_owned_no_longer_changes_with_what_was_lent():
    lent = bytearray(b"\xdd\x00\x00\x00\x02\x01\x02")
    arrival = Arrival(memoryview(lent), 5, 2, {})
    assert arrival.take(1) == ([1], 1)
    arrival.own()
    lent[:] = bytes(7)
    assert arrival.take(9) == ([2], 1)


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("most", [1, 9])
def test_a_count_that_lies_is_the_broker_s_fault(count, most):
    with pytest.raises(BadMessage):
        drain(arrived([b"\x01", b"\x02"], count), iter(lambda: most, None))


def test_a_message_that_is_none_is_the_broker_s_fault():
    with pytest.raises(BadMessage):
        drain(arrived([b"\x01", b"\xc1"]), iter(lambda: 9, None))


def test_bytes_behind_a_large_last_message_are_the_broker_s_fault_too():
    with pytest.raises(BadMessage):
        drain(arrived([msgpack.packb(bytes(PORTION_BYTES)), b"\x01"], 1), iter(lambda: 9, None))

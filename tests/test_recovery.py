"""What is in flight, after RFC 9002: round-trip times, loss, probes; and that runs are cut without losing a packet."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vanilla.protocol.packets import OVERHEAD_BYTES
from vanilla.protocol.recovery import ACK_DELAY, INITIAL_RTT, MAX_PTO, Recovery


def numbers(runs):
    return [number for run in runs for number in range(run.first, run.end)]


def sent(recovery, now, count, each=100):
    at = recovery.next * each
    return recovery.sent(now, count, at, each, at + count * each)


def test_the_first_sample_is_the_round_trip_and_later_ones_move_it_by_an_eighth():
    recovery = Recovery(0.0)
    sent(recovery, 1.0, 2)
    recovery.acknowledged([(0, 0)], 0.0, 1.08)
    assert (recovery.smoothed, recovery.min_rtt) == (pytest.approx(0.08), pytest.approx(0.08))
    recovery.acknowledged([(0, 1)], 0.008, 1.168)  # 168 ms, of which 8 the peer's
    assert recovery.smoothed == pytest.approx(0.08 + (0.16 - 0.08) / 8)
    assert recovery.min_rtt == pytest.approx(0.08)


def test_the_peers_delay_never_makes_a_round_trip_shorter_than_the_shortest():
    recovery = Recovery(0.0)
    sent(recovery, 0.0, 2)
    recovery.acknowledged([(0, 0)], 0.0, 0.1)
    recovery.acknowledged([(0, 1)], 5.0, 0.1)
    assert recovery.smoothed == pytest.approx(0.1)


def test_three_packets_later_a_packet_is_lost_and_a_run_is_cut_for_it():
    recovery = Recovery(0.0)
    sent(recovery, 0.0, 10)
    assert numbers(recovery.acknowledged([(0, 1), (3, 5)], 0.0, 0.1).lost) == [2]
    outcome = recovery.acknowledged([(0, 1), (3, 5), (8, 8)], 0.0, 0.1)
    assert numbers(outcome.acked) == [8] and outcome.lost == []  # 6 and 7 are too near
    assert recovery.flying == 3 and recovery.in_flight == 3 * (100 + OVERHEAD_BYTES)


def test_a_packet_is_lost_when_a_later_one_came_and_nine_eighths_of_a_round_trip_are_over():
    recovery = Recovery(0.0)
    sent(recovery, 0.0, 2)
    recovery.acknowledged([(1, 1)], 0.0, 0.08)
    assert recovery.next_time() == pytest.approx(0.09)
    assert recovery.due(0.0899) == ([], False)
    lost, probe = recovery.due(recovery.next_time())
    assert numbers(lost) == [0] and not probe
    assert recovery.next_time() is None


def test_probes_back_off_up_to_a_limit_and_an_acknowledgement_ends_that():
    recovery = Recovery(0.0)
    sent(recovery, 0.0, 1)
    waits = []
    now = 0.0
    for _ in range(8):
        at = recovery.next_time()
        waits.append(at - now)
        now = at
        assert recovery.due(now) == ([], True)
    first = INITIAL_RTT + 4 * INITIAL_RTT / 2 + ACK_DELAY
    assert waits == pytest.approx([min(first * 2**n, MAX_PTO) for n in range(8)])
    recovery.acknowledged([(0, 0)], 0.0, now)
    assert recovery.backoff == 0 and recovery.next_time() is None


def test_a_packet_that_comes_after_it_was_lost_is_spurious_and_widens_the_thresholds():
    recovery = Recovery(0.0)
    sent(recovery, 0.0, 20)
    assert numbers(recovery.acknowledged([(1, 5)], 0.0, 0.1).lost) == [0]
    assert numbers(recovery.acknowledged([(0, 5)], 0.0, 0.1).spurious) == [0]
    assert recovery.acknowledged([(0, 5), (7, 10)], 0.0, 0.1).lost == []  # three behind was not enough


@pytest.mark.parametrize(("middle", "persistent"), [(False, True), (True, False)])
def test_congestion_is_persistent_if_nothing_came_for_three_ptos(middle, persistent):
    recovery = Recovery(0.0)
    sent(recovery, 0.0, 1)
    recovery.acknowledged([(0, 0)], 0.0, 0.1)
    for step in range(4):
        sent(recovery, 1.0 + step, 1)  # 1 to 4, over three seconds
    if middle:
        recovery.acknowledged([(2, 2)], 0.0, 3.1)
    recovery._packet_threshold = 1
    sent(recovery, 5.0, 1)
    lost = recovery.acknowledged([(5, 5)], 0.0, 5.1).lost
    assert recovery.persistent(lost) == persistent


def test_the_delivery_rate_is_what_came_in_the_time_that_it_took():
    recovery = Recovery(0.0)
    for step in range(40):
        sent(recovery, step * 0.01, 10)
        if step >= 10:
            first = (step - 10) * 10
            sample = recovery.acknowledged([(0, first + 9)], 0.0, step * 0.01).sample
    assert sample.rate == pytest.approx(10 * (100 + OVERHEAD_BYTES) / 0.01)
    assert sample.rtt == pytest.approx(0.1) and not sample.limited


def test_a_rate_is_the_applications_after_there_was_nothing_to_send():
    recovery = Recovery(0.0)
    sent(recovery, 0.0, 1)
    recovery.limit()
    sent(recovery, 0.05, 1)
    assert not recovery.acknowledged([(0, 0)], 0.0, 0.1).sample.limited
    assert recovery.acknowledged([(0, 1)], 0.0, 0.15).sample.limited


@settings(deadline=None, max_examples=200)
@given(
    st.lists(st.integers(1, 30), min_size=1, max_size=8),
    st.lists(st.tuples(st.integers(0, 200), st.integers(1, 30)), max_size=20),
)
def test_each_packet_is_in_flight_or_acknowledged_or_lost_and_so_are_its_bytes(runs, acks):
    recovery = Recovery(0.0)
    for count in runs:
        sent(recovery, 0.0, count)
    total = recovery.next
    acked, lost, spurious = [], [], []
    bytes_of = {}
    now = 0.1
    for first, count in acks:
        last = min(first + count, total) - 1
        if first > last:
            continue
        outcome = recovery.acknowledged([(first, last)], 0.0, now)
        now += 0.01
        acked += numbers(outcome.acked)
        lost += numbers(outcome.lost)
        spurious += numbers(outcome.spurious)
        for run in outcome.acked + outcome.lost:
            for at in range(run.first, run.end):
                begin = run.offset + (at - run.first) * run.each
                assert begin == at * 100
                bytes_of[at] = begin
            assert run.stop == run.end * 100
        flying = numbers(recovery._sent.runs)
        assert sorted(acked + lost + flying) == list(range(total))
        assert recovery.flying == len(flying)
        assert recovery.in_flight == len(flying) * (100 + OVERHEAD_BYTES)
        assert set(spurious) <= set(lost) and len(set(spurious)) == len(spurious)


def test_a_peer_cannot_claim_a_queue_as_its_own_delay():
    recovery = Recovery(0.0)
    recovery.sent(0.0, 1, 0, 100, 100)
    recovery.acknowledged([(0, 0)], 0.0, 0.02)
    recovery.sent(1.0, 1, 100, 100, 200)
    sample = recovery.acknowledged([(1, 1)], 0.2, 1.22).sample
    assert sample.rtt >= 0.22 - ACK_DELAY
    assert recovery.smoothed > 0.04


def test_the_short_way_leaves_an_older_acknowledgement_to_the_long_one():
    """What flies between the two may be lost."""
    recovery = Recovery(0.0)
    for number in range(3):
        recovery.sent(0.0, 1, 100 * number, 100, 100 * number + 100)
    recovery.acknowledged([(2, 2)], 0.0, 0.02)
    due = recovery.next_time()
    assert recovery.acknowledged_first(0, 0, 0.0, 0.02) is None
    assert recovery.next_time() == due

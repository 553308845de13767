"""Timers: what is due when, with the time passed in."""

from __future__ import annotations

import heapq
from collections import OrderedDict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vanilla.timers import DUE, Timers, disarm


def fire(timers, now):
    """Run what is due, as the hub does."""
    for timer in timers.expire(now):
        if timer.home is DUE:
            timer.home = None
            timer.fire()


def test_a_timer_fires_once_and_not_before_it_is_due():
    timers, fired = Timers(), []
    timers.after(1.0, 10.0, lambda: fired.append("x"))
    fire(timers, 10.999)
    assert fired == []
    fire(timers, 11.0)
    fire(timers, 12.0)
    assert fired == ["x"]
    assert len(timers) == 0


@pytest.mark.trap("equal due times")
def test_equal_due_times_fire_in_the_order_they_were_armed_and_are_never_compared():
    timers, fired = Timers(), []
    # one from a FIFO of its own each, one from the heap, all due at 4.0; actions have no order
    timers.after(2.0, 2.0, lambda: fired.append(1))
    timers.at(4.0, lambda: fired.append(2))
    timers.after(3.0, 1.0, lambda: fired.append(3))
    timers.at(4.0, lambda: fired.append(4))
    timers.after(2.0, 2.0, lambda: fired.append(5))
    fire(timers, 4.0)
    assert fired == [1, 2, 3, 4, 5]


def test_different_lengths_fire_by_due_time():
    timers, fired = Timers(), []
    timers.after(3.0, 0.0, lambda: fired.append("late"))
    timers.at(2.0, lambda: fired.append("middle"))
    timers.after(1.0, 0.0, lambda: fired.append("soon"))
    fire(timers, 5.0)
    assert fired == ["soon", "middle", "late"]


def test_cancel_may_come_twice_and_after_the_end():
    timers, fired = Timers(), []
    for timer in timers.after(1.0, 0.0, fired.clear), timers.at(1.0, fired.clear):
        timer.cancel()
        timer.cancel()
    assert len(timers) == 0
    done = timers.after(1.0, 0.0, lambda: fired.append("x"))
    fire(timers, 1.0)
    done.cancel()
    assert fired == ["x"]


def test_a_timer_can_cancel_one_that_is_due_in_the_same_batch():
    timers, fired = Timers(), []
    for later in (
        lambda: timers.after(1.0, 0.0, lambda: fired.append("no")),
        lambda: timers.at(1.0, lambda: fired.append("no")),
    ):
        timers.after(1.0, 0.0, lambda: victim.cancel())  # noqa: B023 (called before the next turn)
        victim = later()
        fire(timers, 1.0)
    assert fired == []


class Unfinished(OrderedDict):
    """A FIFO that a ctrl-C hits just before a timer is in it."""

    def __setitem__(self, timer, nothing):
        raise KeyboardInterrupt


def test_a_timer_whose_arming_was_interrupted_can_be_disarmed_and_armed_again():
    timers, fired = Timers(), []
    timer = Bare(fired)
    timers._fifos[1.0] = Unfinished()
    with pytest.raises(KeyboardInterrupt):
        timers.arm(timer, 1.0, 0.0)
    disarm(timer)
    timers.arm(timer, 2.0, 0.0)
    fire(timers, 2.0)
    assert fired == [2.0]


def test_a_cancelled_timer_leaves_nothing_behind():
    timers = Timers()
    for _ in range(1000):
        timers.after(1.0, 0.0, print).cancel()
    assert len(timers) == 0
    assert timers.next_due() is None


def test_a_cancelled_timer_lets_go_of_its_action():
    timers = Timers()
    timer = timers.at(1.0, print)
    timer.cancel()
    assert timer.action is None


def test_the_heap_is_swept_when_most_of_it_is_cancelled():
    timers = Timers()
    keep = timers.at(0.5, print)
    for i in range(1000):
        timers.at(1.0 + i, print).cancel()
    assert len(timers._heap.entries) < 200
    assert len(timers) == 1
    assert timers.next_due() == keep.due


def test_more_lengths_than_fifos_share_the_heap():
    timers, fired = Timers(lengths=2), []
    for delay in (5.0, 3.0, 4.0, 1.0, 2.0):
        timers.after(delay, 0.0, lambda delay=delay: fired.append(delay))
    assert timers.next_due() == 1.0
    fire(timers, 10.0)
    assert fired == [1.0, 2.0, 3.0, 4.0, 5.0]


def test_a_new_length_takes_the_place_of_an_empty_fifo():
    timers = Timers(lengths=2)
    for delay in range(100):
        timers.after(float(delay), 0.0, print).cancel()
    assert len(timers._fifos) == 2
    assert len(timers._heap.entries) == 0


class Bare:
    """Any object with these three can be a timer."""

    def __init__(self, fired):
        self.home = None
        self.fired = fired

    def fire(self):
        self.fired.append(self.due)


def test_a_timer_that_was_disarmed_can_be_armed_again():
    for lengths in 32, 0:  # in a FIFO, in the heap
        timers, fired = Timers(lengths), []
        timer = Bare(fired)
        timers.arm(timer, 5.0, 0.0)
        disarm(timer)
        timers.arm(timer, 1.0, 0.0)
        assert len(timers) == 1
        assert timers.next_due() == 1.0
        fire(timers, 9.0)
        assert fired == [1.0]
        assert len(timers) == 0
        timers.arm(timer, 1.0, 10.0)
        disarm(timer)
        timers.arm(timer, 5.0, 10.0)
        timers.at(13.0, print)
        fire(timers, 12.0)
        assert fired == [1.0]
        assert timers.next_due() == 13.0


def test_nothing_is_due_when_there_is_nothing():
    timers = Timers()
    assert timers.next_due() is None
    assert timers.expire(1e9) == []


@given(
    lengths=st.integers(0, 4),
    steps=st.lists(
        st.one_of(
            st.tuples(st.just("after"), st.integers(0, 6)),
            st.tuples(st.just("at"), st.integers(0, 40)),
            st.tuples(st.just("cancel"), st.integers(0, 30)),
            st.tuples(st.just("pass"), st.integers(0, 4)),
        ),
        max_size=60,
    ),
)
def test_any_sequence_fires_what_a_plain_heap_would(lengths, steps):
    timers, now, made = Timers(lengths), 0, []
    model: list = []  # (due, serial)
    fired: list = []
    for step, n in steps:
        serial = len(made)
        if step == "after":
            made.append(timers.after(float(n), float(now), lambda serial=serial: fired.append(serial)))
            heapq.heappush(model, (now + n, serial))
        elif step == "at":
            made.append(timers.at(float(n), lambda serial=serial: fired.append(serial)))
            heapq.heappush(model, (n, serial))
        elif step == "cancel" and made:
            made[n % len(made)].cancel()
            model = [entry for entry in model if entry[1] != n % len(made)]
            heapq.heapify(model)
        elif step == "pass":
            now += n
            expected = []
            while model and model[0][0] <= now:
                expected.append(heapq.heappop(model)[1])
            fired.clear()
            fire(timers, float(now))
            assert fired == expected
        assert len(timers) == len(model)
        assert timers.next_due() == (model[0][0] if model else None)

"""Timers and schedules."""

from __future__ import annotations

import contextvars
import threading
import time

import pytest
from actors import run
from hypothesis import given, settings
from hypothesis import strategies as st

import vanilla
from vanilla import Stop
from vanilla.task import BUDGET

request = contextvars.ContextVar("request", default="none")

HOUR = 3_600_000


class Clock:
    """The monotonic clock, which the test moves on."""

    def __init__(self, monkeypatch):
        self.ahead = 0.0
        for module in "schedule", "loop", "task":
            monkeypatch.setattr(f"vanilla.{module}.monotonic", self)

    def __call__(self):
        return time.monotonic() + self.ahead

    def pass_by(self, h, ms):
        self.ahead += ms / 1000
        run(h)


@pytest.fixture
def clock(monkeypatch):
    return Clock(monkeypatch)


# -- timers


def test_a_timer_runs_once_in_a_task_of_its_own(h, clock):
    seen = []

    def work(*args, **kwargs):
        h.sleep(0)  # it may wait
        seen.append((args, kwargs))

    timer = h.timer(HOUR, work, 1, b=2)
    clock.pass_by(h, HOUR - 10_000)
    assert timer.pending
    assert seen == []
    clock.pass_by(h, 10_001)
    assert seen == [((1,), {"b": 2})]
    assert not timer.pending
    clock.pass_by(h, 2 * HOUR)
    assert len(seen) == 1


def test_timers_of_one_time_run_in_the_order_in_which_they_were_made(h, clock):
    seen = []
    for i in range(5):
        h.timer(HOUR, seen.append, i)
    clock.pass_by(h, HOUR + 1)
    assert seen == [0, 1, 2, 3, 4]


def test_a_cancelled_timer_never_runs(h, clock):
    seen = []
    timer = h.timer(HOUR, seen.append, 1)
    timer.cancel()
    timer.cancel()
    assert not timer.pending
    assert len(h.timers) == 0
    clock.pass_by(h, 2 * HOUR)
    assert seen == []


def test_a_timer_that_has_fired_but_not_begun_can_be_cancelled(h):
    seen = []
    timer = h.timer(HOUR, seen.append, 1)
    h.timers.expire(float("inf"))
    timer.home = None
    timer.fire()
    assert timer.pending
    timer.cancel()
    assert not timer.pending
    run(h)
    assert seen == []


def test_to_cancel_a_timer_that_has_run_or_runs_does_nothing(h):
    seen = []

    def work():
        assert not timer.pending
        timer.cancel()
        h.sleep(0)
        seen.append(1)

    timer = h.timer(0, work)
    run(h)
    timer.cancel()
    run(h)
    assert seen == [1]


@pytest.mark.parametrize("state", ["pending", "cancelled", "fired", "run"])
def test_reset_waits_anew(h, clock, state):
    seen = []
    timer = h.timer(HOUR, seen.append, 1)
    if state == "pending":
        clock.pass_by(h, HOUR - 10_000)
    elif state == "cancelled":
        timer.cancel()
    elif state == "fired":
        h.timers.expire(float("inf"))
        timer.home = None
        timer.fire()
    else:
        clock.pass_by(h, HOUR + 1)
        assert seen.pop() == 1
    timer.reset()
    assert timer.pending
    clock.pass_by(h, HOUR - 10_000)
    assert seen == []
    clock.pass_by(h, 10_001)
    assert seen == [1]


def test_reset_may_say_another_time_which_then_stays(h, clock):
    seen = []
    timer = h.timer(HOUR, seen.append, 1)
    timer.reset(1000)
    clock.pass_by(h, 2000)
    timer.reset()
    clock.pass_by(h, 2000)
    assert seen == [1, 1]


@pytest.mark.parametrize(("ms", "error"), [("soon", TypeError), (float("nan"), ValueError)])
def test_what_is_no_time_changes_nothing(h, ms, error):
    timer = h.timer(HOUR, abs, 1)
    with pytest.raises(error):
        timer.reset(ms)
    assert timer.pending
    with pytest.raises(error):
        h.timer(ms, abs, 1)
    with pytest.raises(error):
        h.every(ms, abs, 1)


def test_what_a_timer_raises_is_logged_and_told(h, caplog):
    told = []
    h.onerror(lambda what, error: told.append((str(what), type(error))))
    h.timer(0, int, "x")
    run(h)
    assert "ValueError" in caplog.text
    assert told == [("task 1 (int)", ValueError)]


@pytest.mark.parametrize("make", ["timer", "every"])
def test_it_runs_in_a_copy_of_its_makers_context(h, make):
    seen = []

    def work():
        seen.append(request.get())
        request.set("changed")

    request.set("maker")
    made = getattr(h, make)(1, work)
    request.set("none")
    while not seen:
        h.sleep(1)
    assert seen[0] == "maker"
    assert request.get() == "none"
    if make == "timer":
        made.reset(0)
        run(h)
        assert seen == ["maker", "maker"]


def test_the_hubs_end_with_pending_timers_and_schedules_runs_nothing(clock, caplog):
    seen = []
    with vanilla.Hub() as hub:
        for ms in 0, HOUR:
            hub.timer(ms, seen.append, ms)
        hub.every(HOUR, seen.append, 2)
        hub.every(HOUR, seen.append, 3)
        hub.spawn(hub.sleep, HOUR)
        hub.sleep(-1)
        seen.clear()
        hub.timer(0, seen.append, "late")
        clock.ahead += 10 * HOUR
    assert seen == []
    assert caplog.text == ""
    assert not hub.tasks


def test_a_timer_that_is_due_while_the_hub_ends_does_not_run(clock, caplog):
    seen = []
    with vanilla.Hub() as hub:
        for _ in range(BUDGET + 100):  # so many that the loop looks at its timers before all have ended
            hub.spawn(hub.sleep, 10 * HOUR)
        hub.timer(HOUR, seen.append, 1)
        run(hub)
        clock.ahead += 2 * HOUR
    assert len(hub.timers) == 0
    assert seen == []
    assert caplog.text == ""


def test_another_thread_may_neither_make_nor_cancel_nor_reset(h):
    timer, schedule, errors = h.timer(HOUR, abs, 1), h.every(HOUR, abs, 1), []

    def use():
        for f in timer.cancel, timer.reset, schedule.cancel, lambda: h.timer(1, abs, 1), lambda: h.every(1, abs, 1):
            try:
                f()
            except RuntimeError as error:
                errors.append(str(error))

    thread = threading.Thread(target=use)
    thread.start()
    thread.join()
    assert len(errors) == 5
    assert timer.pending


# -- schedules


def test_a_schedule_runs_again_and_again(h, clock):
    seen = []
    schedule = h.every(1000, seen.append, 1)
    clock.pass_by(h, 500)
    assert seen == []
    for i in range(1, 4):
        clock.pass_by(h, 1000)
        assert len(seen) == schedule.runs == i
    assert schedule.missed == schedule.failed == 0


def test_a_schedule_survives_an_exception_and_tells_of_it(h, clock, caplog):
    def work():
        raise ValueError("again")

    told = []
    h.onerror(lambda what, error: told.append((what, str(error))))
    schedule = h.every(1000, work)
    clock.pass_by(h, 500)
    for i in range(1, 4):
        clock.pass_by(h, 1000)
        assert schedule.failed == schedule.runs == i
    assert caplog.text.count("ValueError: again") == 3
    assert "work raised; the next run comes" in caplog.text
    assert told == [(work, "again")] * 3


def test_a_long_run_is_not_overlapped_and_the_next_comes_when_it_would_have_come_anyway(h, clock):
    gate, begun = h.channel(), []

    def work():
        begun.append(round(clock() - start))
        gate.recv()

    start = clock()
    schedule = h.every(10_000, work)
    run(h)
    clock.pass_by(h, 10_000)
    assert begun == [10]
    clock.pass_by(h, 25_000)
    assert begun == [10]
    gate.send(1)
    run(h)
    assert schedule.missed == 2
    assert begun == [10]
    clock.pass_by(h, 5_000)
    assert begun == [10, 40]
    gate.send(1)
    run(h)
    clock.pass_by(h, 10_000)
    assert begun == [10, 40, 50]
    assert (schedule.runs, schedule.missed) == (3, 2)


def test_a_run_that_begins_late_moves_none_of_the_next(h, clock):
    begun = []
    start = clock()
    schedule = h.every(10_000, lambda: begun.append(round(clock() - start)))
    run(h)
    for ms in 14_000, 6_000, 10_000, 13_000, 7_000:
        clock.pass_by(h, ms)
    assert begun == [14, 20, 30, 43, 50]
    assert schedule.missed == 0


def test_a_cancelled_schedule_runs_no_more(h, clock):
    seen = []
    schedule = h.every(1000, seen.append, 1)
    clock.pass_by(h, 1500)
    schedule.cancel()
    schedule.cancel()
    run(h)
    assert not h.tasks
    assert len(h.timers) == 0
    clock.pass_by(h, 5000)
    assert seen == [1]


def test_a_schedule_may_be_cancelled_before_its_task_has_begun(h, clock):
    schedule = h.every(1000, abs, 1)
    schedule.cancel()
    run(h)
    assert not h.tasks
    assert schedule.runs == 0


def test_a_run_that_is_under_way_ends_by_itself_and_is_the_last(h, clock):
    gate, seen = h.channel(), []
    schedule = h.every(1000, lambda: seen.append(gate.recv()))
    run(h)
    clock.pass_by(h, 1500)
    schedule.cancel()
    run(h)
    gate.send("whole")
    run(h)
    assert seen == ["whole"]
    assert not h.tasks


def test_a_schedule_that_is_cancelled_in_the_tick_in_which_it_is_due_does_not_run(h, clock):
    seen = []
    h.timer(1000, lambda: schedule.cancel())
    schedule = h.every(1000, seen.append, 1)
    run(h)
    clock.pass_by(h, 1500)
    assert seen == []


def test_a_function_may_cancel_its_own_schedule(h, clock):
    schedule = h.every(1000, lambda: schedule.cancel())
    run(h)
    clock.pass_by(h, 1500)
    clock.pass_by(h, 5000)
    assert schedule.runs == 1
    assert not h.tasks


def test_a_run_that_is_due_is_not_lost_if_its_task_is_cancelled_in_the_same_tick(h):
    seen = []
    schedule = h.every(HOUR, seen.append, 1)
    run(h)
    (task,) = h.tasks
    schedule._wake()
    task.cancel()
    run(h)
    assert seen == [1]
    assert task.done


@pytest.mark.parametrize("ms", [0, -1, -0.0])
def test_a_schedule_without_a_pause_is_refused(h, ms):
    with pytest.raises(ValueError, match="more than 0 ms"):
        h.every(ms, abs, 1)


def test_the_hubs_end_in_the_middle_of_a_run_is_no_failure(caplog):
    with vanilla.Hub() as hub:
        schedule = hub.every(0.001, hub.sleep, HOUR)
        while not schedule.runs:
            hub.sleep(0)
        run(hub)
    assert schedule.failed == 0
    assert not hub.tasks
    assert caplog.text == ""


def test_a_deadlock_is_told_once_the_schedules_are_cancelled(h):
    schedule = h.every(1, lambda: schedule.cancel())
    with pytest.raises(Stop):
        h.event().wait()
    assert schedule.runs == 1


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.integers(0, 45), st.integers(0, 45)), max_size=8))
def test_runs_and_missed_ones_are_all_that_were_due(waits):
    """Each run takes some tenths of its interval, and begins some tenths after it could."""
    with pytest.MonkeyPatch.context() as monkeypatch, vanilla.Hub() as h:
        clock, tenth = Clock(monkeypatch), 1_000_000
        naps = iter([])

        def work():
            clock.ahead += next(naps, 0) * tenth / 1000

        schedule = h.every(10 * tenth, work)
        clock.ahead += tenth / 2000  # half a tenth: never at a boundary
        run(h)
        now = 0
        for wait, nap in waits:
            naps, before, due = iter([nap]), schedule.runs, schedule.runs + schedule.missed + 1
            clock.pass_by(h, wait * tenth)
            now += wait
            assert schedule.runs - before == (now // 10 >= due)
            if schedule.runs > before:
                now += nap
            assert schedule.runs + schedule.missed == now // 10

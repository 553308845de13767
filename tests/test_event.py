"""Events."""

from __future__ import annotations

import gc
import sys
import threading
import weakref

import pytest
from actors import LONG, Actor, run

from vanilla import Cancelled, Stop, Timeout


@pytest.mark.trap("waiters out of order")
def test_set_wakes_all_who_wait_in_the_order_in_which_they_came(h):
    event, woken = h.event(), []
    for i in range(5):
        h.spawn(lambda i=i: (event.wait(), woken.append(i)))
    run(h)
    assert woken == []
    event.set()
    run(h)
    assert woken == [0, 1, 2, 3, 4]


def test_wait_returns_at_once_while_it_is_set(h):
    event = h.event()
    assert not event.is_set
    event.set()
    assert event.is_set
    assert event.wait(timeout=0) is None
    event.set()
    event.wait()
    event.clear()
    assert not event.is_set
    with pytest.raises(Timeout):
        event.wait(timeout=0)


@pytest.mark.trap("an Event's time-out looks set")
@pytest.mark.parametrize("ms", [0, 1])
def test_a_wait_that_times_out_raises_and_does_not_look_like_set(h, ms):
    event = h.event()
    with pytest.raises(Timeout, match="an event to be set"):
        event.wait(timeout=ms)
    assert len(h.timers) == 0
    event.set()
    event.wait()


def test_a_timeout_stands_when_the_event_is_set_a_moment_later(h):
    event, actor = h.event(), Actor(h)
    actor.do(lambda: event.wait(LONG) or "set")
    actor.expire()
    event.set()
    run(h)
    assert actor.heard == ["timeout"]


def test_a_set_stands_when_the_timeout_comes_a_moment_later(h):
    event, actor = h.event(), Actor(h)
    actor.do(lambda: event.wait(LONG) or "set")
    event.set()
    actor.expire()
    actor.task.cancel()
    event.clear()
    run(h)
    assert actor.heard == ["set", "cancelled"]


def test_who_was_woken_returns_though_the_event_is_cleared_at_once(h):
    event = h.event()
    task = h.spawn(event.wait)
    run(h)
    event.set()
    event.clear()
    task.join(timeout=1000)
    late = h.spawn(event.wait)
    run(h)
    assert not late.done


def test_a_cancelled_waiter_is_gone(h):
    event = h.event()
    first, second = h.spawn(event.wait), h.spawn(event.wait)
    run(h)
    first.cancel()
    run(h)
    event.set()
    second.join(timeout=1000)
    with pytest.raises(Cancelled):
        first.join()


def test_a_deadlock_says_who_waits_for_an_event(h):
    event = h.event()
    with pytest.raises(Stop, match="the main task waits for an event to be set"):
        event.wait()
    event.set()
    event.wait()


def test_another_thread_may_neither_set_nor_wait(h):
    event, errors = h.event(), []

    def use():
        for f in event.set, event.wait:
            try:
                f()
            except RuntimeError as error:
                errors.append(str(error))

    thread = threading.Thread(target=use)
    thread.start()
    thread.join()
    assert len(errors) == 2
    assert "another thread" in errors[0]
    assert not event.is_set


@pytest.mark.skipif(sys.implementation.name != "cpython", reason="counts no references")
def test_what_is_dropped_leaves_no_cycle(h):
    event = h.event()
    for ms in 0, 1:
        with pytest.raises(Timeout):
            event.wait(timeout=ms)
    ref = weakref.ref(event)
    gc.collect()
    gc.disable()
    try:
        del event
        assert ref() is None
    finally:
        gc.enable()

"""Semaphores."""

from __future__ import annotations

import threading

import pytest
from actors import LONG, Actor, run
from hypothesis import given, settings
from hypothesis import strategies as st

import vanilla
from vanilla import Stop, Timeout


def test_so_many_at_a_time(h):
    semaphore, inside, most = h.semaphore(2), 0, 0

    def work():
        nonlocal inside, most
        with semaphore:
            inside += 1
            most = max(most, inside)
            h.sleep(1)
            inside -= 1

    tasks = [h.spawn(work) for _ in range(7)]
    for task in tasks:
        task.join()
    assert most == 2
    assert semaphore.value == 2


@pytest.mark.trap("waiters out of order")
def test_who_waits_longest_gets_the_next_permit_and_nobody_overtakes(h):
    semaphore, got = h.semaphore(0), []
    for i in range(3):
        h.spawn(lambda i=i: (semaphore.acquire(), got.append(i)))
    run(h)
    semaphore.release()
    with pytest.raises(Timeout):
        semaphore.acquire(timeout=0)  # it is promised to the first
    run(h)
    assert got == [0]
    semaphore.release(2)
    run(h)
    assert got == [0, 1, 2]


def test_what_nobody_waits_for_is_free(h):
    semaphore = h.semaphore(0)
    task = h.spawn(semaphore.acquire)
    run(h)
    semaphore.release(3)
    task.join()
    assert semaphore.value == 2


@pytest.mark.parametrize("ms", [0, 1])
def test_a_timeout_takes_nothing(h, ms):
    semaphore = h.semaphore(0)
    with pytest.raises(Timeout, match="acquire of a semaphore"):
        semaphore.acquire(timeout=ms)
    semaphore.release()
    assert semaphore.value == 1
    assert len(h.timers) == 0


def test_a_release_beyond_the_bound_is_an_error_and_releases_nothing(h):
    semaphore = h.semaphore(1, bound=2)
    with pytest.raises(ValueError, match="2 in all"):
        semaphore.release(2)
    assert semaphore.value == 1
    semaphore.release()
    with pytest.raises(ValueError):
        semaphore.release()
    assert semaphore.value == 2


def test_the_bound_counts_permits_that_go_to_waiters(h):
    semaphore = h.semaphore(1, bound=1)
    semaphore.acquire()
    tasks = [h.spawn(semaphore.acquire) for _ in range(2)]
    run(h)
    with pytest.raises(ValueError):
        semaphore.release(2)
    run(h)
    assert not any(task.done for task in tasks)
    semaphore.release()
    tasks[0].join()


@pytest.mark.parametrize("arguments", [(-1,), (2, 1)])
def test_a_semaphore_that_cannot_be_is_refused(h, arguments):
    with pytest.raises(ValueError):
        h.semaphore(*arguments)


def test_a_release_of_nothing_is_refused(h):
    with pytest.raises(ValueError):
        h.semaphore().release(0)


def test_a_deadlock_says_who_waits(h):
    with pytest.raises(Stop, match="the main task waits for acquire of a semaphore"):
        h.semaphore(0).acquire()


def test_another_thread_may_not_wait_nor_wake(h):
    semaphore, errors = h.semaphore(0), []
    task = h.spawn(semaphore.acquire)
    run(h)

    def use():
        for f in semaphore.acquire, semaphore.release:
            try:
                f()
            except RuntimeError as error:
                errors.append(str(error))

    thread = threading.Thread(target=use)
    thread.start()
    thread.join()
    assert len(errors) == 2
    semaphore.release()
    task.join()
    assert semaphore.value == 0


def test_a_ctrl_c_before_parking_leaves_nobody_in_line(h, monkeypatch):
    semaphore = h.semaphore(0)

    def struck(runner, me, on, timeout=-1):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(type(h.runner), "park", struck)
        with pytest.raises(KeyboardInterrupt):
            semaphore.acquire()
    semaphore.release()
    assert semaphore.value == 1


ACTORS = 4
ACTOR = st.integers(0, ACTORS - 1)
IN_A_TICK = st.one_of(
    st.tuples(st.just("release"), st.integers(1, 3)),
    st.tuples(st.just("expire"), ACTOR),
    st.tuples(st.just("cancel"), ACTOR),
)
STEPS = st.lists(st.one_of(ACTOR, st.lists(IN_A_TICK, min_size=1, max_size=5)), max_size=25)


@settings(deadline=None, max_examples=150)
@given(st.integers(0, 2), st.sampled_from([None, 2, 5]), STEPS)
def test_no_permit_is_ever_lost_or_made_up_whatever_comes_in_one_tick(value, bound, steps):
    """A step is an actor that acquires, or what happens within one tick."""
    with vanilla.Hub() as h:
        semaphore = h.semaphore(value, bound)
        actors = [Actor(h) for _ in range(ACTORS)]
        line, expected = [], [[] for _ in actors]
        for step in steps:
            if isinstance(step, int):
                if step in line:
                    continue
                if value:
                    value -= 1
                    expected[step].append("got")
                else:
                    line.append(step)
                actors[step].do(lambda: semaphore.acquire(LONG) or "got")
            cancelled = set()
            for what, n in step if isinstance(step, list) else ():
                if what == "release":
                    if bound is not None and value + n > bound:
                        with pytest.raises(ValueError):
                            semaphore.release(n)
                        continue
                    semaphore.release(n)
                    handed, line = line[:n], line[n:]
                    value += n - len(handed)
                    for i in handed:
                        expected[i].append("got")
                elif what == "expire":
                    actors[n].expire() if n in line or actors[n].task.waiter.on is semaphore else None
                    if n in line:
                        line.remove(n)
                        expected[n].append("timeout")
                elif n not in cancelled:  # of two in a tick the task hears once
                    cancelled.add(n)
                    actors[n].task.cancel()
                    if n in line:
                        line.remove(n)
                    expected[n].append("cancelled")
            run(h)
            assert [actor.heard for actor in actors] == expected
            assert semaphore.value == value

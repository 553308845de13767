"""Locks, and those that may be acquired again."""

from __future__ import annotations

import gc
import os
import sys
import threading
import weakref

import pytest
from actors import LONG, Actor, run
from hypothesis import given, settings
from hypothesis import strategies as st

import vanilla
from vanilla import Cancelled, Forked, Stop, Timeout

KINDS = ["lock", "rlock"]


@pytest.fixture(params=KINDS)
def lock(request, h):
    return getattr(h, request.param)()


def test_one_task_at_a_time(h, lock):
    inside, seen = [], []

    def work(i):
        with lock:
            inside.append(i)
            h.sleep(1)
            seen.append(list(inside))
            inside.remove(i)

    for task in [h.spawn(work, i) for i in range(4)]:
        task.join()
    assert seen == [[0], [1], [2], [3]]
    assert lock.holder is None


@pytest.mark.trap("waiters out of order")
def test_it_passes_to_the_task_that_waits_longest_and_nobody_overtakes(h, lock):
    got = []

    def work(i):
        with lock:
            got.append(i)

    lock.acquire()
    tasks = [h.spawn(work, i) for i in range(3)]
    run(h)
    lock.release()
    assert lock.holder is tasks[0]
    with pytest.raises(Timeout):
        lock.acquire(timeout=0)
    tasks[-1].join()
    assert got == [0, 1, 2]


@pytest.mark.trap("a stranger releases a lock")
def test_a_release_by_one_who_does_not_hold_it_is_an_error_that_names_the_holder(h, lock):
    def worker():
        lock.acquire()
        h.sleep(LONG)

    with pytest.raises(RuntimeError, match=r"the main task cannot release.*is free"):
        lock.release()
    task = h.spawn(worker)
    run(h)
    with pytest.raises(RuntimeError, match=r"the main task cannot release.*held by task 1 \(.*worker\)"):
        lock.release()
    with pytest.raises(RuntimeError):
        h.spawn(lock.release).join()
    assert lock.holder is task


@pytest.mark.parametrize("ms", [0, 1])
def test_a_timeout_says_who_has_it(h, lock, ms):
    gate = h.event()

    def worker():
        with lock:
            gate.wait()

    h.spawn(worker)
    run(h)
    with pytest.raises(Timeout, match=r"acquire of a lock that task 1 \(.*worker\) holds"):
        lock.acquire(timeout=ms)
    assert len(h.timers) == 0
    gate.set()
    lock.acquire()
    lock.release()


def test_a_task_that_ends_without_a_release_leaves_it_locked_and_the_deadlock_names_it(h, lock):
    def forgetful():
        lock.acquire()

    task = h.spawn(forgetful)
    task.join()
    other = h.spawn(abs, -1)  # on the same greenlet, perhaps
    other.join()
    assert lock.holder is task
    with pytest.raises(Stop, match=r"waits for acquire of a lock that task 1 \(.*forgetful\), which has ended, holds"):
        lock.acquire()
    with pytest.raises(RuntimeError, match="forgetful"):
        lock.release()


def test_a_task_that_never_waited_holds_it_and_not_the_next_one_on_its_greenlet(h, lock):
    first = h.spawn(lock.acquire)
    first.join()

    def second():
        lock.release()

    with pytest.raises(RuntimeError):
        h.spawn(second).join()
    assert lock.holder is first


def test_a_lock_that_its_holder_acquires_again_is_an_error_and_no_deadlock(h):
    lock = h.lock()
    with lock:
        with pytest.raises(RuntimeError, match=r"the main task has this lock already.*rlock"):
            lock.acquire()
        assert lock.holder is not None
    assert lock.holder is None


def test_an_rlock_is_free_after_as_many_releases(h):
    lock = h.rlock()
    with lock, lock:
        task = h.spawn(lock.acquire)
        run(h)
        lock.acquire()
        lock.release()
        run(h)
        assert not task.done
    assert lock.holder is task
    task.join()


def test_an_rlock_that_was_handed_over_counts_from_one(h):
    lock = h.rlock()
    lock.acquire()
    lock.acquire()

    def work():
        with lock:
            pass
        return lock.holder

    task = h.spawn(work)
    run(h)
    lock.release()
    lock.release()
    assert task.join() is None


def test_a_cancelled_waiter_is_passed_over(h, lock):
    lock.acquire()
    first, second = h.spawn(lock.acquire), h.spawn(lock.acquire)
    run(h)
    first.cancel()
    lock.release()
    second.join()
    with pytest.raises(Cancelled):
        first.join()
    assert lock.holder is second


def test_a_holder_that_is_cancelled_inside_of_with_releases_it(h, lock):
    def work():
        with lock:
            h.sleep(LONG)

    task = h.spawn(work)
    run(h)
    task.cancel()
    lock.acquire()
    assert task.done


def test_the_end_of_the_hub_releases_what_with_holds(h):
    hub = vanilla.Hub()
    lock, seen = hub.lock(), []

    def work(i):
        with lock:
            try:
                hub.sleep(LONG)
            finally:
                seen.append(i)

    for i in range(3):
        hub.spawn(work, i)
    run(hub)
    hub.stop()
    assert seen == [0]
    assert not hub.tasks


def test_a_ctrl_c_before_parking_leaves_nobody_in_line(h, lock, monkeypatch):
    gate = h.event()
    holder = h.spawn(lambda: (lock.acquire(), gate.wait(), lock.release()))
    run(h)
    gate.set()

    def struck(runner, me, on, timeout=-1):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(type(h.runner), "park", struck)
        with pytest.raises(KeyboardInterrupt):
            lock.acquire()
    holder.join()
    assert lock.holder is None


def test_a_ctrl_c_just_after_it_was_handed_over_passes_it_on(h, lock, monkeypatch):
    gate = h.event()
    holder = h.spawn(lambda: (lock.acquire(), gate.wait(), lock.release()))
    run(h)
    gate.set()
    park = type(h.runner).park

    def struck(runner, me, on, timeout=-1):
        park(runner, me, on, timeout)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(type(h.runner), "park", struck)
        with pytest.raises(KeyboardInterrupt):
            lock.acquire()
    assert holder.done
    assert lock.holder is None


def test_another_thread_may_not_use_it(h, lock):
    errors = []

    def use():
        for f in lock.acquire, lock.release:
            try:
                f()
            except RuntimeError as error:
                errors.append(str(error))

    thread = threading.Thread(target=use)
    thread.start()
    thread.join()
    assert len(errors) == 2
    assert all("another thread" in error for error in errors)
    assert lock.holder is None


def test_a_forked_child_may_not_use_it(h, lock):
    with lock:
        pid = os.fork()
        if not pid:
            try:
                lock.release()
            except Forked:
                os._exit(7)
            finally:
                os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7


def test_a_timer_that_is_due_before_a_woken_waiter_has_run_does_nothing(h, lock):
    actor = Actor(h)
    with lock:
        actor.do(lambda: lock.acquire(LONG))
        actor.task.cancel()
    actor.expire()  # nobody has the lock now, and the actor waits for it no more
    run(h)
    assert actor.heard == ["cancelled"]


@pytest.mark.skipif(sys.implementation.name != "cpython", reason="counts no references")
def test_what_is_dropped_leaves_no_cycle(h):
    def use():
        lock = h.rlock()
        with lock:
            task = h.spawn(patient, lock)
            task.join()
        return weakref.ref(lock)

    def patient(lock):
        try:
            lock.acquire(timeout=1)
        except Timeout:
            pass

    gc.collect()
    gc.disable()
    try:
        ref = use()
        run(h)
        assert ref() is None
    finally:
        gc.enable()


ACTORS = 4
ACTOR = st.integers(0, ACTORS - 1)
MEANWHILE = st.lists(st.tuples(st.sampled_from(["expire", "cancel"]), ACTOR), max_size=4)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("acquire"), ACTOR),
        st.tuples(st.just("release"), MEANWHILE, MEANWHILE),
        st.tuples(st.just("steal"), ACTOR),
    ),
    max_size=25,
)


class Model:
    """What a lock is to do: who has it how often, who waits, and what each of its actors hears."""

    def __init__(self, reentrant):
        self.reentrant = reentrant
        self.holder, self.depth, self.line = None, 0, []
        self.heard = [[] for _ in range(ACTORS)]

    def acquire(self, i):
        if self.holder is None:
            self.holder, self.depth = i, 1
            self.heard[i].append("got")
        elif self.holder != i:
            self.line.append(i)
        elif self.reentrant:
            self.depth += 1
            self.heard[i].append("got")
        else:
            self.heard[i].append("error")

    def release(self):
        self.depth -= 1
        if not self.depth:
            self.holder = None
            if self.line:
                self.acquire(self.line.pop(0))

    def end_wait(self, i, how):
        if i in self.line:
            self.line.remove(i)
            self.heard[i].append(how)
        elif how == "cancelled":  # raised where it waits next
            self.heard[i].append(how)


def told(f):
    """What an actor hears of *f*."""

    def call():
        try:
            f()
        except RuntimeError:
            return "error"
        return "got"

    return call


@pytest.mark.parametrize("kind", KINDS)
@settings(deadline=None, max_examples=150)
@given(steps=STEPS)
def test_it_is_never_lost_nor_held_by_two_whatever_comes_in_one_tick(kind, steps):
    with vanilla.Hub() as h:
        lock, model = getattr(h, kind)(), Model(kind == "rlock")
        actors = [Actor(h) for _ in range(ACTORS)]

        def meanwhile(events, cancelled):
            for what, i in events:
                if what == "expire":
                    if actors[i].task.waiter.on is lock:
                        actors[i].expire()
                    model.end_wait(i, "timeout")
                elif i not in cancelled:  # of two in a tick a task hears once
                    cancelled.add(i)
                    actors[i].task.cancel()
                    model.end_wait(i, "cancelled")

        def release(before, after):
            cancelled = set()
            meanwhile(before, cancelled)
            lock.release()
            model.release()
            meanwhile(after, cancelled)

        for what, *how in steps:
            if what == "release":
                if model.holder is not None:
                    actors[model.holder].do(lambda how=how: release(*how))
            elif how[0] in model.line:
                continue
            elif what == "acquire":
                model.acquire(how[0])
                actors[how[0]].do(told(lambda: lock.acquire(LONG)))
            elif how[0] != model.holder:
                model.heard[how[0]].append("error")
                actors[how[0]].do(told(lock.release))
            assert [actor.heard for actor in actors] == model.heard
            assert lock.holder is (None if model.holder is None else actors[model.holder].task)

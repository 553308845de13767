"""Conditions."""

from __future__ import annotations

import gc
import sys
import weakref

import pytest
from actors import LONG, Actor, run
from hypothesis import example, given, settings
from hypothesis import strategies as st

import vanilla
from vanilla import Cancelled, Stop, Timeout


def waiter(h, condition, i, woken):
    def wait():
        with condition:
            condition.wait()
            woken.append(i)

    task = h.spawn(wait)
    run(h)
    return task


def notify(condition, n=1):
    with condition:
        condition.notify(n)


@pytest.mark.trap("waiters out of order")
def test_notify_wakes_those_who_have_waited_longest(h):
    condition, woken = h.condition(), []
    for i in range(4):
        waiter(h, condition, i, woken)
    notify(condition)
    run(h)
    assert woken == [0]
    notify(condition, 2)
    run(h)
    assert woken == [0, 1, 2]
    notify(condition, 5)
    run(h)
    assert woken == [0, 1, 2, 3]


def test_notify_all_wakes_all_in_order(h):
    condition, woken = h.condition(), []
    for i in range(4):
        waiter(h, condition, i, woken)
    with condition:
        condition.notify_all()
        run(h)
        assert woken == []
    run(h)
    assert woken == [0, 1, 2, 3]


def test_who_was_notified_has_the_lock_when_wait_returns(h):
    condition, seen = h.condition(h.lock()), []

    def work(i):
        with condition:
            condition.wait()
            seen.append(i)
            h.sleep(1)
            seen.append(i)

    tasks = [h.spawn(work, i) for i in range(3)]
    run(h)
    with condition:
        condition.notify_all()
    for task in tasks:
        task.join()
    assert seen == [0, 0, 1, 1, 2, 2]


def test_wait_gives_an_rlock_back_however_often_it_was_acquired(h):
    lock = h.rlock()
    condition = h.condition(lock)

    def work():
        with lock, lock, lock:
            condition.wait()
            return lock.holder

    task = h.spawn(work)
    run(h)
    assert lock.holder is None
    notify(condition)
    assert task.join() is task
    assert lock.holder is None


@pytest.mark.parametrize("ms", [0, 1])
def test_a_timeout_is_raised_under_the_lock(h, ms):
    lock = h.lock()
    condition = h.condition(lock)
    with condition:
        with pytest.raises(Timeout, match="a condition to be notified"):
            condition.wait(timeout=ms)
        assert lock.holder is not None
    assert lock.holder is None
    assert len(h.timers) == 0


def test_what_is_no_timeout_is_an_error_under_the_lock(h):
    lock = h.lock()
    condition = h.condition(lock)
    with condition:
        with pytest.raises(TypeError):
            condition.wait("soon")
        assert lock.holder is not None


def test_a_cancelled_waiter_has_its_lock_again_before_it_raises(h):
    lock = h.lock()
    condition, seen = h.condition(lock), []

    def work():
        with condition:
            try:
                condition.wait()
            finally:
                seen.append(lock.holder)

    task = h.spawn(work)
    run(h)
    with lock:
        task.cancel()
        run(h)
        task.cancel()  # it does not begin without the lock, however often it is told
        run(h)
        assert seen == []
    with pytest.raises(Cancelled):
        task.join()
    assert seen == [task]
    assert lock.holder is None


def test_a_cancellation_while_it_waits_for_the_lock_does_not_lose_the_notification(h):
    condition, actor = h.condition(), Actor(h)

    def wait():
        with condition:
            condition.wait()
        return "notified"

    actor.do(wait)
    with condition:
        condition.notify()
        run(h)
        actor.task.cancel()
        run(h)
        assert actor.heard == []
    run(h)
    assert actor.heard == ["notified", "cancelled"]


def test_a_cancellation_in_the_tick_of_the_notification_does_not_lose_it(h):
    condition, actor = h.condition(), Actor(h)

    def wait():
        with condition:
            condition.wait(LONG)
        return "notified"

    actor.do(wait)
    notify(condition)
    actor.expire()
    actor.task.cancel()
    run(h)
    assert actor.heard == ["notified", "cancelled"]


def test_a_notification_goes_to_the_next_if_the_first_was_cancelled_before(h):
    condition, woken = h.condition(), []
    first = waiter(h, condition, 0, woken)
    waiter(h, condition, 1, woken)
    first.cancel()
    notify(condition)
    run(h)
    assert woken == [1]


def test_all_but_acquire_need_the_lock(h):
    condition = h.condition()
    uses = [
        condition.wait,
        condition.notify,
        condition.notify_all,
        condition.release,
        lambda: condition.wait_for(lambda: True),
    ]
    for use in uses:
        with pytest.raises(RuntimeError, match="does not have the lock, which is free"):
            use()
    h.spawn(condition.acquire).join()
    for use in uses:
        with pytest.raises(RuntimeError, match="does not have the lock, which is held by task 1"):
            use()


def test_acquire_and_release_are_the_locks(h):
    lock = h.rlock()
    condition = h.condition(lock)
    condition.acquire()
    lock.acquire()
    condition.release()
    assert lock.holder is not None
    condition.release()
    assert lock.holder is None
    h.spawn(condition.acquire).join()
    with pytest.raises(Timeout):
        condition.acquire(timeout=0)


def test_wait_for_returns_what_the_predicate_gave(h):
    condition, basket = h.condition(), []

    def eat():
        with condition:
            return condition.wait_for(lambda: basket)

    task = h.spawn(eat)
    run(h)
    notify(condition)  # in vain
    run(h)
    assert not task.done
    basket.append("pear")
    notify(condition)
    assert task.join() is basket
    with condition:
        assert condition.wait_for(lambda: 7, timeout=0) == 7


@pytest.mark.parametrize("ms", [0, 1])
def test_wait_for_times_out_under_the_lock(h, ms):
    lock = h.lock()
    condition = h.condition(lock)
    with condition:
        with pytest.raises(Timeout):
            condition.wait_for(lambda: False, timeout=ms)
        assert lock.holder is not None


def test_wait_for_asks_once_more_when_its_time_is_over(h):
    condition, answers = h.condition(), iter([0, "so it is"])
    with condition:
        assert condition.wait_for(lambda: next(answers), timeout=1) == "so it is"


def test_a_lock_that_is_none_of_the_hubs_is_refused(h):
    with pytest.raises(TypeError, match=r"h\.lock\(\) or h\.rlock\(\)"):
        h.condition(h.semaphore())
    with vanilla.Hub() as other, pytest.raises(ValueError, match="its own hub"):
        h.condition(other.lock())


def test_a_deadlock_says_who_waits_for_a_condition_and_leaves_the_lock_right(h):
    lock = h.lock()
    condition = h.condition(lock)
    with pytest.raises(Stop, match="the main task waits for a condition to be notified"):
        with condition:
            condition.wait()
    assert lock.holder is None


def test_a_deadlock_in_getting_the_lock_back_is_told_and_not_hidden_by_with(h):
    lock = h.lock()
    condition = h.condition(lock)

    def forgetful():
        lock.acquire()
        condition.notify()

    with pytest.raises(Stop, match=r"acquire of a lock that task 1 \(.*forgetful\), which has ended, holds"):
        with condition:
            h.spawn(forgetful)
            condition.wait()


def test_the_hubs_end_finds_waiters_who_release_their_locks():
    hub = vanilla.Hub()
    condition, seen = hub.condition(), []

    def work(i):
        with condition:
            try:
                condition.wait()
            except Stop:
                seen.append(i)
                raise

    for i in range(3):
        hub.spawn(work, i)
    run(hub)

    def holder():
        with condition:
            condition.notify()
            hub.sleep(LONG)

    hub.spawn(holder)
    run(hub)
    hub.stop()
    assert sorted(seen) == [1, 2]  # the one that was notified heard it where it waited next
    assert not hub.tasks


@pytest.mark.parametrize("by", ["main", "ended"])
def test_the_hubs_end_is_no_wait_for_a_lock_that_nobody_will_release(by, caplog):
    hub = vanilla.Hub()
    condition = hub.condition()

    def work():
        with condition:
            condition.wait()

    hub.spawn(work)
    run(hub)
    if by == "main":
        condition.acquire()
    else:
        hub.spawn(condition.acquire).join()
    hub.stop()
    assert not hub.tasks
    assert "still there" not in caplog.text


@pytest.mark.skipif(sys.implementation.name != "cpython", reason="counts no references")
def test_what_is_dropped_leaves_no_cycle(h):
    def use():
        condition = h.condition()
        with condition:
            task = h.spawn(patient, condition)
            h.sleep(0)
            try:
                condition.wait_for(lambda: False, timeout=1)
            except Timeout:
                pass
            task.cancel()
            run(h)
            task.cancel()
            run(h)
        task.join()
        return weakref.ref(condition)

    def patient(condition):
        try:
            with condition:
                condition.wait()
        except Cancelled:
            pass
        try:
            h.sleep(0)
        except Cancelled:
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
MEANWHILE = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["expire", "cancel"]), ACTOR), st.tuples(st.just("notify"), st.integers(1, ACTORS))
    ),
    max_size=4,
)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("acquire"), ACTOR),
        st.tuples(st.just("hold"), MEANWHILE),
        st.tuples(st.just("release"), MEANWHILE, MEANWHILE),
        st.tuples(st.just("wait")),
    ),
    max_size=30,
)


class Model:
    """What a condition over an rlock is to do.

    ``line`` has who waits for the lock: an actor, how often it is to have it, and what it hears then; None if it hears
    of a timeout and a cancellation at once, because it is a plain acquire.
    """

    def __init__(self):
        self.holder, self.depth = None, 0
        self.line, self.waiting, self.woken = [], [], []
        #: Those who have got the lock in this tick, and are to hear of a cancellation then.
        self.told = set()
        self.heard = [[] for _ in range(ACTORS)]

    def busy(self, i):
        return any(entry[0] == i for entry in [*self.waiting, *self.line])

    def acquire(self, i):
        if self.holder is None:
            self.holder, self.depth = i, 1
        elif self.holder == i:
            self.depth += 1
        else:
            self.line.append([i, 1, None])

    def take_back(self, entry):
        if self.holder is None:
            self.holder, self.depth = entry[:2]
            self.heard[entry[0]] += entry[2]
        else:
            self.line.append(entry)

    def release(self):
        self.depth -= 1
        if not self.depth:
            self.give_up()

    def give_up(self):
        self.holder = None
        if self.line:
            i, self.depth, heard = self.line.pop(0)
            self.holder = i
            self.heard[i] += heard or []
            if heard and heard[-1] == "cancelled later":
                self.told.add(i)

    def wait(self):
        self.waiting.append((self.holder, self.depth))
        self.give_up()

    def event(self, what, n):
        if what == "notify":
            for _ in range(min(n, len(self.waiting))):
                i, depth = self.waiting.pop(0)
                self.woken.append([i, depth, ["notified"]])
            return
        for entry in [entry for entry in self.waiting if entry[0] == n]:
            self.waiting.remove(entry)
            self.woken.append([*entry, ["timeout" if what == "expire" else "cancelled"]])
            return
        for entry in [entry for entry in self.line if entry[0] == n and entry[2] is None]:
            self.line.remove(entry)
            self.heard[n].append("timeout" if what == "expire" else "cancelled")
            return
        if what == "cancel":
            for entry in self.line + self.woken:
                if entry[0] == n:
                    if entry[2][-1] != "cancelled later":
                        entry[2].append("cancelled later")
                    return
            if n not in self.told:
                self.heard[n].append("cancelled later")

    def edge(self):
        """Those who were woken run."""
        self.told.clear()
        woken, self.woken = self.woken, []
        for entry in woken:
            self.take_back(entry)


@settings(deadline=None, max_examples=250)
@given(STEPS)
@example(
    [
        ("acquire", 1),
        ("wait",),
        ("acquire", 3),
        ("wait",),
        ("acquire", 0),
        ("hold", [("notify", 1), ("notify", 1)]),
        ("wait",),
        ("release", [("notify", 1), ("cancel", 3)], []),  # who is cancelled keeps its place in the lock's line
    ]
)
def test_no_notification_is_lost_and_the_lock_always_somebodys_whatever_comes_in_one_tick(steps):
    with vanilla.Hub() as h:
        lock, model = h.rlock(), Model()
        condition = h.condition(lock)
        actors = [Actor(h) for _ in range(ACTORS)]

        def happen(events, cancelled):
            for what, n in events:
                if what == "notify":
                    condition.notify(n)
                elif what == "expire":
                    timed = any(i == n for i, _ in model.waiting) or any(e[0] == n and e[2] is None for e in model.line)
                    if timed:
                        actors[n].expire()
                elif n in cancelled:  # of two in a tick a task hears once
                    continue
                else:
                    cancelled.add(n)
                    actors[n].task.cancel()
                model.event(what, n)

        def hold(events):
            happen(events, set())

        def release(before, after):
            cancelled = set()
            happen(before, cancelled)
            condition.release()
            model.release()
            happen([event for event in after if event[0] != "notify"], cancelled)

        def wait():
            condition.wait(LONG)
            return "notified"

        for what, *how in steps:
            if what == "acquire":
                if not model.busy(how[0]):
                    model.acquire(how[0])
                    actors[how[0]].do(lambda: condition.acquire(LONG))
            elif model.holder is not None:
                actor = actors[model.holder]
                if what == "wait":
                    model.wait()
                    actor.do(wait)
                else:
                    actor.do(lambda f={"hold": hold, "release": release}[what], how=how: f(*how))
            model.edge()
            heard = [[text.replace(" later", "") for text in texts] for texts in model.heard]
            assert [actor.heard for actor in actors] == heard
            assert lock.holder is (None if model.holder is None else actors[model.holder].task)
            assert model.holder is None or lock._depth == model.depth

"""The Hub: tasks, the loop, and what they promise when things go wrong."""

from __future__ import annotations

import contextlib
import contextvars
import gc
import itertools
import os
import re
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
import traceback
import weakref
from collections import deque
from functools import partial
from unittest import mock

import pytest
from descriptors import open_descriptors
from greenlet import getcurrent

from vanilla import Abandoned, Cancelled, Closed, Forked, Halt, Hub, Stop, Timeout
from vanilla.poll import IN
from vanilla.selection import EMPTY
from vanilla.task import Runner


def run(h):
    """Let every task run until it waits."""
    h.sleep(0)
    h.sleep(0)


# -- spawn, join, done


def test_a_task_runs_when_its_maker_waits_and_join_returns_its_result(h):
    seen = []
    task = h.spawn(lambda a, b: seen.append(a) or a + b, 1, b=2)
    assert seen == []
    assert not task.done
    assert task.join() == 3
    assert task.done
    assert task.join() == 3


def test_tasks_start_in_the_order_in_which_they_were_made(h):
    seen = []
    for i in range(5):
        h.spawn(seen.append, i)
    run(h)
    assert seen == [0, 1, 2, 3, 4]


def test_join_raises_what_the_task_raised_and_it_is_logged_with_its_traceback(h, caplog):
    def broken():
        raise ValueError("told you")

    task = h.spawn(broken)
    with pytest.raises(ValueError, match="told you"):
        task.join()
    assert "broken" in caplog.text
    assert "raise ValueError" in caplog.text


def test_join_raises_with_the_same_traceback_each_time(h):
    task = h.spawn(lambda: 1 / 0)
    depths = []
    for _ in range(3):
        with pytest.raises(ZeroDivisionError) as raised:
            task.join()
        depths.append(len(traceback.extract_tb(raised.tb)))
    assert depths[0] >= 2
    assert depths[1] == depths[2] <= depths[0]


@pytest.mark.parametrize("ms", [0, 1])
def test_join_may_time_out_and_be_tried_again(h, ms):
    ch = h.pipe()
    task = h.spawn(ch.recv)
    with pytest.raises(Timeout, match="join of task"):
        task.join(timeout=ms)
    ch.send(1)
    assert task.join(timeout=5000) == 1
    assert len(h.timers) == 0


def test_several_tasks_may_join_one(h):
    ch = h.pipe()
    task = h.spawn(ch.recv)
    joiners = [h.spawn(task.join) for _ in range(3)]
    run(h)
    ch.send("all")
    assert [joiner.join() for joiner in joiners] == ["all"] * 3


def test_a_task_says_what_it_is_and_whether_it_is_done(h):
    def some_work():
        pass

    task = h.spawn(some_work)
    assert "some_work" in repr(task)
    assert not repr(task).endswith(", done>")
    task.join()
    assert repr(task).endswith(", done>")


def test_a_task_that_is_done_keeps_neither_arguments_nor_frames(h):
    class Thing:
        pass

    def broken(thing):
        kept = thing
        raise ValueError(str(type(kept)))

    thing = Thing()
    ref = weakref.ref(thing)
    task = h.spawn(broken, thing)
    del thing
    run(h)
    gc.collect()
    assert task.done
    assert ref() is None


def test_new_tasks_and_woken_ones_run_in_the_order_in_which_they_became_ready(h):
    ch, seen = h.channel(), []
    for i in range(3):
        h.spawn(lambda i=i: (ch.recv(), seen.append(f"woken {i}")))
    run(h)
    for i in range(3):
        ch.send(i)
        h.spawn(seen.append, f"new {i}")
    run(h)
    assert seen == ["woken 0", "new 0", "woken 1", "new 1", "woken 2", "new 2"]
    assert h.runner.fresh == 0
    assert h.runner.spare == 0


def test_what_is_no_exception_but_an_error_comes_out_of_join_and_nowhere_else(h):
    def work():
        raise GeneratorExit("from a task")

    task = h.spawn(work)
    with pytest.raises(GeneratorExit, match="from a task"):
        task.join()
    h.sleep(0)
    assert h.spawn(abs, -1).join() == 1


# -- fibers


def test_tasks_that_never_wait_share_a_greenlet(h):
    tasks = [h.spawn(getcurrent) for _ in range(5)]
    assert len({task.join() for task in tasks}) == 1


def test_the_greenlet_of_a_task_that_has_waited_runs_no_other(h):
    def work(wait):
        wait()
        return getcurrent()

    ways = lambda: h.sleep(0), lambda: h.channel(1).recv(timeout=1), lambda: h.select([h.channel()], timeout=1)
    for way in ways:

        def wait(way=way):
            with contextlib.suppress(Timeout):
                way()

        assert h.spawn(work, wait).join() is not h.spawn(getcurrent).join()


def test_a_queue_in_which_a_signal_handler_s_error_has_left_a_task_hands_nothing_to_the_next(h, monkeypatch):
    """As a ctrl-C does that strikes between standing in line and parking."""
    ch, other = h.channel(), h.channel()
    line_up = type(h.runner).line_up

    def struck(runner, queue, on, timeout=-1, item=None):
        me = runner.me()
        me.value = item
        queue.append(me)
        raise KeyboardInterrupt

    def victim():
        monkeypatch.setattr(type(h.runner), "line_up", struck)
        try:
            ch.recv()
        except KeyboardInterrupt:
            monkeypatch.setattr(type(h.runner), "line_up", line_up)

    h.spawn(victim).join()
    task = h.spawn(other.recv)
    run(h)
    ch.send("lost")
    other.send("mine")
    assert task.join(timeout=1000) == "mine"


def test_a_sleep_is_not_deceived_by_what_a_ctrl_c_has_left_in_the_slot(h):
    h.runner.me().value = "left"
    h.sleep(1)
    assert h.runner.me().value is None


def test_a_hub_that_was_stopped_is_kept_by_no_idle_fiber():
    h = Hub()
    h.spawn(print, end="").join()
    assert h.runner.idle is not None
    h.stop()
    ref = weakref.ref(h)
    del h
    gc.collect()
    assert ref() is None


def test_a_fiber_that_died_between_two_tasks_runs_none(h):
    """As it does when a ctrl-C hits it there."""
    run(h)
    h.spawn(print, end="").join()
    fiber = h.runner.idle
    fiber.parent = getcurrent()
    fiber.throw()
    assert h.spawn(getcurrent).join() is not fiber
    assert h.runner.idle is not fiber


def test_an_interruption_that_a_task_has_not_heard_of_is_not_for_the_next_on_its_fiber(h):
    tasks = []
    tasks.append(h.spawn(lambda: tasks[0].cancel()))
    tasks[0].join()
    assert h.spawn(h.sleep, 0).join() is None


# -- contextvars

name = contextvars.ContextVar("name", default="nobody")


def test_each_task_has_a_copy_of_its_makers_context(h):
    seen, ch = {}, h.channel()

    def work(who):
        seen[who] = [name.get()]
        name.set(who)
        ch.recv()  # others run, and set theirs
        seen[who].append(name.get())

    name.set("maker")
    for who in "abc":
        h.spawn(work, who)
    run(h)
    assert name.get() == "maker"
    for _ in "abc":
        ch.send(1)
    run(h)
    assert seen == {who: ["maker", who] for who in "abc"}
    assert name.get() == "maker"


def test_a_task_sees_nothing_of_the_one_before_it_on_its_fiber(h):
    class Thing:
        pass

    def work():
        before = name.get()
        name.set(Thing())
        h.sleep(0)
        return before, weakref.ref(name.get())

    first, ref = h.spawn(work).join()
    gc.collect()
    assert ref() is None
    second, _ = h.spawn(work).join()
    assert first == second == name.get()


def test_the_context_is_copied_when_the_task_is_made(h):
    name.set("early")
    task = h.spawn(name.get)
    name.set("late")
    assert task.join() == "early"


# -- sleep, spawn_later


def test_sleepers_of_equal_length_wake_in_the_order_in_which_they_lay_down(h):
    seen = []
    tasks = [h.spawn(lambda i=i: (h.sleep(1), seen.append(i))) for i in range(5)]
    for task in tasks:
        task.join()
    assert seen == [0, 1, 2, 3, 4]


WALL_CLOCK = """
    import sys, time

    looks = 0

    def wall_clock():
        global looks
        looks += 1
        return 1e9 + looks * float(sys.argv[1])

    monotonic, time.time = time.monotonic, wall_clock
    import vanilla

    with vanilla.Hub() as h:
        ch = h.channel()
        h.spawn_later(5, ch.send, "later")
        h.after(10, lambda: h.spawn(ch.send, "after"))
        print(ch.recv(timeout=60_000), h.select([ch], timeout=60_000)[1])
        try:
            ch.recv(timeout=5)
        except vanilla.Timeout:
            print("over")
        started = monotonic()
        h.sleep(20)
        print("slept" if monotonic() - started >= 0.02 else "woke early")
"""


@pytest.mark.trap("wall-clock timers")
@pytest.mark.parametrize("step", ["3600", "0", "-3600"])
def test_a_wall_clock_that_jumps_or_stands_still_moves_no_timer(step):
    """Each look at it finds it *step* seconds further."""
    argv = [sys.executable, "-c", textwrap.dedent(WALL_CLOCK), step]
    ran = subprocess.run(argv, capture_output=True, text=True, timeout=30)
    assert ran.stdout.split() == ["later", "after", "over", "slept"], ran.stderr


def test_shorter_sleeps_end_first(h):
    seen = []
    tasks = [h.spawn(lambda ms=ms: (h.sleep(ms), seen.append(ms))) for ms in (20, 10, 1)]
    for task in tasks:
        task.join()
    assert seen == [1, 10, 20]


def test_sleep_lasts_at_least_as_long_as_it_says(h):
    start = time.monotonic()
    h.sleep(5)
    assert time.monotonic() - start >= 0.005


def test_sleep_of_zero_or_less_lets_the_others_run(h):
    seen = []
    for ms in 0, -5:
        h.spawn(seen.append, ms)
        h.sleep(ms)
    assert seen == [0, -5]


@pytest.mark.parametrize("ms", [1e15, float("inf")])
def test_a_sleep_may_be_longer_than_epoll_can_wait(h, caplog, ms):
    task = h.spawn(h.sleep, ms)
    ch = h.pipe()
    a, b = socket.socketpair()
    with a, b:
        h.poll.register(a.fileno(), lambda events: (h.poll.unregister(a.fileno()), h.spawn(ch.send, 1)))
        b.send(b"x")
        assert ch.recv() == 1
    assert not task.done
    assert not caplog.records


NO_TIMES = [(float("nan"), ValueError), ("5", TypeError), (None, TypeError), (1j, TypeError)]


@pytest.mark.parametrize(("ms", "error"), NO_TIMES)
def test_what_is_no_time_is_refused_by_whatever_waits_and_leaves_nothing_behind(h, ms, error):
    ch, state, queue = h.channel(), h.state(), deque()
    task = h.spawn(ch.recv)
    waits = [
        lambda: h.sleep(ms),
        lambda: h.spawn_later(ms, print),
        lambda: h.after(ms, print),
        lambda: h.pulse(ms),
        lambda: h.select([state], ms),
        lambda: h.wait(queue, "something of mine", ms),
        lambda: h.tcp.connect(1, timeout=ms),
        lambda: state.recv(ms),
        lambda: task.join(ms),
    ]
    for wait in waits:
        with pytest.raises(error, match="number of ms"):
            wait()
    assert (len(h.timers), len(h.tasks), len(queue), len(task._joiners)) == (0, 1, 0, 0)
    ch.send("still works")
    assert task.join() == "still works"


def test_who_is_handed_something_before_it_parks_gets_it_whatever_its_timeout(h):
    me = h.me()
    for timeout in 0, float("nan"):
        me.value = "handed over"
        h.ready.append(me)
        assert h.park(me, _Taken(), timeout) == "handed over"


class _Taken:
    """What a waiter is parked on that was taken out of there already."""

    def forget(self, waiter):
        return False

    def describe(self, waiter):
        return "nothing"


@pytest.mark.parametrize("ms", [-5, float("inf"), 10**400])
def test_a_negative_timeout_and_an_infinite_one_are_for_ever(h, ms):
    ch = h.channel()
    with pytest.raises(Stop, match="deadlock"):
        ch.recv(ms)
    h.spawn(ch.send, 1)
    assert ch.recv(ms) == 1


def test_an_infinite_sleep_is_no_hope_that_anything_happens(h):
    with pytest.raises(Stop, match=r"deadlock.*sleep of inf ms"):
        h.sleep(float("inf"))


def test_spawn_later_runs_later_and_not_at_all_once_cancelled(h):
    seen = []
    task = h.spawn_later(1, lambda *args, **kwargs: seen.append((args, kwargs)), 1, b=2)
    never = h.spawn_later(1, seen.append, "never")
    never.cancel()
    run(h)
    assert seen == []
    task.join()
    assert seen == [((1,), {"b": 2})]
    assert len(h.timers) == 0


# -- cancel


def test_a_task_cancelled_before_it_starts_never_runs(h):
    seen = []
    task = h.spawn(seen.append, 1)
    task.cancel()
    with pytest.raises(Cancelled):
        task.join()
    assert seen == []


def test_a_parked_task_is_cancelled_where_it_waits(h, caplog):
    ch, seen = h.channel(), []

    def work():
        try:
            ch.recv()
        finally:
            seen.append("cleaned up")

    task = h.spawn(work)
    run(h)
    task.cancel()
    with pytest.raises(Cancelled, match="work"):
        task.join()
    assert seen == ["cleaned up"]
    assert not caplog.records
    with pytest.raises(Timeout):
        ch.send(1, timeout=0)


def test_what_was_handed_over_before_the_cancel_is_not_lost(h):
    ch, got = h.channel(), []

    def work():
        while True:
            got.append(ch.recv())

    task = h.spawn(work)
    run(h)
    ch.send("handed over")
    task.cancel()
    run(h)
    assert got == ["handed over"]
    assert task.done


def test_what_was_taken_from_a_sender_before_its_cancel_counts_as_sent(h):
    ch, sent = h.channel(), []
    task = h.spawn(lambda: (sent.append(ch.send(1)), ch.send(2)))
    run(h)
    assert ch.recv() == 1
    task.cancel()
    run(h)
    assert sent == [None]
    assert task.done
    with pytest.raises(Timeout):
        ch.recv(timeout=0)


def test_a_task_that_cancels_itself_is_cancelled_where_it_waits_next(h):
    seen, tasks = [], []

    def work():
        tasks[0].cancel()
        seen.append("goes on")
        h.sleep(0)
        seen.append("not here")

    tasks.append(h.spawn(work))
    with pytest.raises(Cancelled):
        tasks[0].join()
    assert seen == ["goes on"]


def test_cancelling_a_task_that_is_done_does_nothing(h):
    task = h.spawn(lambda: 1)
    task.join()
    task.cancel()
    h.interrupt(task, ValueError())
    assert task.pending is None
    run(h)
    assert task.join() == 1


def test_a_joiner_may_be_cancelled_and_the_task_goes_on(h):
    ch = h.pipe()
    task = h.spawn(ch.recv)
    joiner = h.spawn(task.join)
    run(h)
    joiner.cancel()
    run(h)
    assert joiner.done
    ch.send(1)
    assert task.join() == 1


def test_an_item_does_not_stay_in_the_slot_of_a_sender_that_gave_up(h):
    class Item:
        pass

    ch, item = h.channel(), Item()
    for ms in 0, 1:
        passing = Item()
        ref = weakref.ref(passing)
        with pytest.raises(Timeout):
            ch.send(passing, timeout=ms)
        del passing
        gc.collect()
        assert ref() is None
    ref = weakref.ref(item)
    task = h.spawn(ch.send, item)
    run(h)
    task.cancel()
    run(h)
    del item
    gc.collect()
    assert ref() is None


def test_an_item_does_not_stay_in_the_slot_of_its_receiver(h):
    class Item:
        pass

    ch, refs = h.channel(), []

    def work():
        refs.append(weakref.ref(ch.recv()))
        h.sleep(60_000)

    h.spawn(work)
    run(h)
    ch.send(Item())
    run(h)
    gc.collect()
    assert [ref() for ref in refs] == [None]


@pytest.mark.parametrize(("before", "woke"), [(-1, []), (0, ["woke"])], ids=["asleep", "woken just before"])
def test_a_sleeper_that_was_woken_before_the_cancel_is_cancelled_where_it_waits_next(h, before, woke):
    seen = []

    def sleeper():
        h.sleep(50)
        seen.append("woke")
        h.sleep(50)
        seen.append("again")

    task = h.spawn(sleeper)
    h.sleep(0)
    # Both timers are due in one batch.
    due = task.waiter.due
    h.timers.at(due + before, task.cancel)
    with mock.patch("vanilla.loop.monotonic", return_value=due + 1):
        h.sleep(0)
    with pytest.raises(Cancelled):
        task.join()
    assert seen == woke
    assert len(h.timers) == 0


def test_what_is_handed_over_while_a_cancelled_task_parks_is_not_lost(h):
    class Generous:
        """It has handed something over before its task is parked, as a select can that fires as it begins to watch."""

        def forget(self, waiter):
            return False

    def work():
        me = h.me()
        me.task.cancel()
        me.value = "kept"
        h.ready.append(me)
        kept.append(h.park(me, Generous()))
        h.sleep(0)

    kept: list = []
    with pytest.raises(Cancelled):
        h.spawn(work).join()
    assert kept == ["kept"]


# -- the loop


def test_two_tasks_at_ping_pong_starve_neither_timers_nor_descriptors(h):
    a, b = h.pipe(), h.pipe()
    stop, counts, fired = [], [0], []
    ours, theirs = socket.socketpair()

    def ping():
        while len(stop) < 2:
            a.send(1)
            b.recv()
            counts[0] += 1

    def pong():
        for item in a.recver:
            b.send(item)

    with ours, theirs:
        h.poll.register(ours.fileno(), lambda events: (stop.append("descriptor"), h.poll.unregister(ours.fileno())))
        h.after(1, lambda: (stop.append("timer"), fired.append(counts[0])))
        theirs.send(b"x")
        h.spawn(pong)
        h.spawn(ping).join(timeout=60_000)
    assert sorted(stop) == ["descriptor", "timer"]


def test_tasks_that_spawn_their_successors_for_ever_starve_no_timer(h):
    stop: list = []

    def work():
        if not stop:
            h.spawn(work)

    h.after(1, lambda: stop.append("timer"))
    h.spawn(work)
    while not stop:
        h.sleep(1)
    assert stop == ["timer"]


def test_whom_a_timer_wakes_runs_before_descriptors_are_polled_again(h, monkeypatch):
    polls, fired = [], []
    wait = h.poll.wait
    monkeypatch.setattr(h.poll, "wait", lambda timeout: polls.append(timeout) or wait(timeout))
    sender, recver = h.queue(1)
    h.after(1, lambda: (fired.append(len(polls)), sender.send("woken")))
    assert recver.recv() == "woken"
    assert fired == [len(polls)]


def test_edges_are_called_once_and_may_ask_for_another(h):
    seen = []
    h.at_edge(lambda: seen.append(1) or h.at_edge(lambda: seen.append(2)))
    run(h)
    run(h)
    assert seen == [1, 2]


def test_a_hook_is_called_at_every_edge_until_it_is_removed(h):
    seen = []
    remove = h.at_every_edge(lambda: seen.append(1))
    run(h)
    assert seen
    remove()
    remove()
    before = len(seen)
    run(h)
    assert len(seen) == before


@pytest.mark.trap("a raising poll handler drops the batch")
@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt])
def test_an_edge_a_timer_or_a_handler_that_raises_does_not_drop_the_others(h, caplog, error):
    seen = []

    def broken(*args):
        raise error("broken")

    pairs = [socket.socketpair() for _ in range(2)]
    for i, (a, b) in enumerate(pairs):
        b.send(b"x")
        h.poll.register(
            a.fileno(),
            lambda events, a=a, i=i: (h.poll.unregister(a.fileno()), seen.append(f"handler {i}"), broken()),
        )
    for i in range(2):
        h.at_edge(lambda i=i: (seen.append(f"edge {i}"), broken()))
        h.after(0, lambda i=i: (seen.append(f"timer {i}"), broken()))
    for _ in range(20):
        try:
            h.sleep(0)
        except KeyboardInterrupt:
            assert error is KeyboardInterrupt
    assert sorted(seen) == ["edge 0", "edge 1", "handler 0", "handler 1", "timer 0", "timer 1"]
    if error is ZeroDivisionError:
        assert caplog.text.count("ZeroDivisionError: broken") == 6
    for a, b in pairs:
        a.close()
        b.close()


@pytest.mark.trap("a raising poll handler drops the batch")
def test_a_handler_that_raises_delays_none_of_those_that_are_ready_with_it(h, monkeypatch, caplog):
    rounds, called, wait = [], [], h.poll.wait
    monkeypatch.setattr(h.poll, "wait", lambda timeout: rounds.append(wait(timeout)) or rounds[-1])

    def broken(events, a):
        h.poll.unregister(a.fileno())
        called.append(len(rounds))
        raise ValueError("broken")

    pairs = [socket.socketpair() for _ in range(3)]
    for a, b in pairs:
        b.send(b"x")
        h.poll.register(a.fileno(), lambda events, a=a: broken(events, a))
    while len(called) < 3:
        h.sleep(0)
    assert called == [called[0]] * 3
    assert caplog.text.count("ValueError: broken") == 3
    for each in itertools.chain(*pairs):
        each.close()


def test_after_calls_once_unless_cancelled(h):
    seen = []
    h.after(1, lambda: seen.append("fired"))
    h.after(1, lambda: seen.append("cancelled")).cancel()
    h.sleep(3)
    assert seen == ["fired"]


def test_a_handler_in_the_loop_must_not_wait(h, caplog):
    ch = h.pipe()
    h.at_edge(lambda: ch.recv())
    h.after(0, lambda: h.sleep(1))
    run(h)
    run(h)
    assert caplog.text.count("RuntimeError: a handler that runs in the hub's loop must not wait") == 2
    h.after(0, lambda: h.spawn(ch.send, "but it may spawn"))
    assert ch.recv() == "but it may spawn"


def test_wait_parks_until_somebody_takes_the_waiter_out(h):
    queue: deque = deque()
    task = h.spawn(h.wait, queue, "something of mine")
    run(h)
    waiter = queue.popleft()
    waiter.value = "woken"
    h.ready.append(waiter)
    assert task.join() == "woken"
    with pytest.raises(Timeout, match="something of mine"):
        h.wait(queue, "something of mine", 1)
    assert not queue


def test_a_task_lost_between_waker_and_waiter_can_still_be_interrupted(h):
    """A ctrl-C can hit the waker after it took the waiter out, and before it made it ready."""
    ch = h.channel()
    task = h.spawn(ch.recv)
    run(h)
    ch.recver._state.recvers.popleft()
    task.cancel()
    with pytest.raises(Cancelled):
        task.join(timeout=5000)


# -- deadlock


@pytest.mark.trap("a deadlock poisons the hub")
def test_a_deadlock_names_who_waits_for_what_and_leaves_the_hub_usable(h):
    a, b, c = h.pipe(), h.channel(), h.router()

    def receiver():
        a.recv()

    def sender():
        c.send(1)

    h.spawn(receiver)
    h.spawn(sender)
    for _ in range(3):
        with pytest.raises(Stop) as raised:
            b.recv()
        text = str(raised.value)
        assert "the main task waits for recv on a channel" in text
        assert "receiver) waits for recv on a pipe" in text
        assert "sender) waits for send on a router" in text
    assert c.recv() == 1
    h.spawn(b.send, 2)
    assert b.recv() == 2


def test_an_end_in_a_cycle_is_dropped_before_a_deadlock_is_called(h):
    sender, recver = h.pipe()
    cycle: list = [sender]
    cycle.append(cycle)
    del sender, cycle
    with pytest.raises(Abandoned):
        recver.recv()


def test_a_pending_timer_is_no_deadlock_and_a_background_descriptor_is_no_hope(h):
    ch = h.pipe()
    a, b = socket.socketpair()
    with a, b:
        h.poll.register(a.fileno(), lambda events: None, background=True)
        with pytest.raises(Timeout):
            ch.recv(timeout=1)
        with pytest.raises(Stop, match="deadlock"):
            ch.recv()
        h.poll.unregister(a.fileno())


# -- ctrl-C in the middle of a wait


@pytest.mark.parametrize("where", ["main", "task"])
def test_a_ctrl_c_between_two_lines_of_a_wait_leaves_nobody_in_line(h, where):
    """At each line of `Runner.line_up` in turn, as a signal handler may raise."""

    def interrupted(line):
        sender, recver = h.channel()
        lines = iter(range(line))

        def trace(frame, event, arg):
            if frame.f_code is not Runner.line_up.__code__:
                return None
            return raises if event == "call" else None

        def raises(frame, event, arg):
            if event == "line" and next(lines, None) is None:
                sys.settrace(None)
                raise KeyboardInterrupt
            return raises

        try:
            sys.settrace(trace)
            try:
                recver.recv(timeout=5)
            finally:
                sys.settrace(None)
        except KeyboardInterrupt:
            with pytest.raises(Timeout):
                sender.send("lost", timeout=0)
            assert h.sleep(0) is None
            with pytest.raises(Timeout):
                recver.recv(timeout=1)
            return True
        except Timeout:
            return False  # there was no such line

    def every_line():
        line = 0
        while interrupted(line):
            line += 1
        return line

    assert (every_line() if where == "main" else h.spawn(every_line).join()) >= 3


# -- ends that a collection drops, whenever and wherever


@pytest.mark.skipif(sys.implementation.name == "pypy", reason="which thread runs finalizers is its own business there")
def test_an_end_that_another_thread_collects_is_noticed_by_the_hub_that_sleeps(h):
    sender, recver = h.pipe()
    cycle: list = [sender]
    cycle.append(cycle)
    collected = threading.Event()

    def collect():
        while not recver._state.recvers:
            time.sleep(0.001)
        gc.collect()
        collected.set()

    gc.disable()
    thread = threading.Thread(target=collect)
    try:
        del sender, cycle
        thread.start()
        with pytest.raises(Abandoned):
            recver.recv(timeout=60_000)
        assert collected.wait(60)
    finally:
        gc.enable()
        thread.join()


def test_a_drop_between_a_tasks_last_look_and_its_parking_ends_what_hangs_on_it(h):
    """The Recver behind `forward` goes just as that is about to wait: a closer closes its source."""
    up, down = h.pipe(), h.pipe()
    up.recver.pipe(down.sender)
    held = [down.recver]

    class Runner:
        def __getattr__(self, name):
            return getattr(h.runner, name)

        def line_up(self, *args):
            held.clear()
            gc.collect()
            return h.runner.line_up(*args)

    up.recver._state.runner = Runner()
    sender = up.sender
    del up, down
    h.sleep(0)
    h.sleep(0)
    assert sender.halted
    assert not h.tasks


# -- stop


def test_stop_raises_in_each_parked_task_in_order(caplog):
    seen = []

    def work(i, ch):
        try:
            ch.recv()
        except Stop:
            seen.append(i)
            raise

    with Hub() as h:
        ch = h.channel()
        tasks = [h.spawn(work, i, ch) for i in range(5)]
        run(h)
    assert seen == [0, 1, 2, 3, 4]
    assert all(task.done for task in tasks)
    assert not h.tasks
    assert not caplog.records


@pytest.mark.trap("stop with pending timers")
def test_stop_ends_tasks_that_have_not_started_and_those_that_sleep():
    seen = []
    with Hub() as h:
        h.spawn_later(60_000, seen.append, 1)
        h.after(60_000, lambda: seen.append(2))
        run(h)
        h.spawn(seen.append, 3)
    assert seen == []
    assert not h.tasks


def test_stop_insists_when_a_task_catches_it():
    with Hub() as h:
        seen = []

        def stubborn():
            for _ in range(3):
                try:
                    h.sleep(60_000)
                except Halt:
                    seen.append("caught")

        h.spawn(stubborn)
        run(h)
    assert seen == ["caught"] * 3


def test_stop_gives_up_on_a_task_that_never_ends(caplog):
    h = Hub()

    def immortal():
        while True:
            try:
                h.sleep(1)
            except Stop:
                pass

    h.spawn(immortal)
    run(h)
    h.stop()
    assert re.search("stop: still there: task .*immortal", caplog.text)


def test_stop_twice_does_nothing_and_a_stopped_hub_says_so():
    h = Hub()
    ch = h.pipe()
    h.stop()
    h.stop()
    for use in (lambda: h.spawn(print), ch.recv, lambda: h.sleep(1), lambda: ch.send(1)):
        with pytest.raises(Stop, match="stopped"):
            use()


def test_a_task_cannot_stop_its_own_hub(h):
    with pytest.raises(RuntimeError, match="cannot stop its own hub"):
        h.spawn(h.stop).join()


def test_closers_are_called_in_reverse_and_may_be_taken_back(caplog):
    seen = []
    with Hub() as h:
        for i in range(3):
            h.onstop(lambda i=i: seen.append(i))
        h.onstop(lambda: 1 / 0)
        never = lambda: seen.append("never")  # noqa: E731
        h.onstop(never)
        h.offstop(never)
        h.offstop(never)
    assert seen == [2, 1, 0]
    assert "ZeroDivisionError" in caplog.text


def test_a_stopped_hub_is_garbage_and_gives_its_descriptor_back():
    before = open_descriptors()
    h = Hub()
    ch = h.channel()
    h.spawn(ch.recv)
    run(h)
    h.stop()
    ref = weakref.ref(h)
    del h, ch
    left = open_descriptors()  # and it collects what is garbage
    assert ref() is None
    assert left == before


# -- threads


def in_thread(f):
    """Run *f* in a thread and return what it returned or raised."""
    out: list = []

    def work():
        try:
            out.append(f())
        except BaseException as error:
            out.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    return out[0]


def test_another_thread_can_have_a_hub_of_its_own(h):
    def work():
        with Hub() as mine:
            ch = mine.pipe()
            mine.spawn(ch.send, "there")
            return ch.recv()

    h.spawn(h.sleep, 1)
    assert in_thread(work) == "there"


def test_use_from_another_thread_is_a_clear_error(h):
    ch, full, state = h.pipe(), h.queue(1), h.state()
    full.send(1)
    task = h.spawn(ch.recv)
    for use in (
        h.channel().recv,
        lambda: full.send(2),
        lambda: state.send(1),
        lambda: h.sleep(1),
        lambda: h.after(1, print),
        lambda: h.spawn(print),
        lambda: h.select([h.channel()]),
        lambda: h.thread.call(print),
        task.cancel,
        task.join,
        ch.close,
        h.stop,
    ):
        error = in_thread(use)
        assert isinstance(error, RuntimeError)
        assert "another thread" in str(error)
    ch.send("nothing was touched")
    assert task.join() == "nothing was touched"
    assert state.recver._state.value is EMPTY
    assert len(h.timers) == 0


def test_a_task_of_another_hub_in_another_thread_is_told_too(h):
    ch = h.pipe()

    def work():
        with Hub() as mine:
            return mine.spawn(ch.recv).join()

    error = in_thread(work)
    assert isinstance(error, RuntimeError)
    assert "another thread" in str(error)


def test_two_hubs_in_one_thread_wait_for_their_own(h):
    with Hub() as other:
        ch = other.pipe()
        other.spawn(ch.send, "from the other")
        assert h.spawn(ch.recv).join() == "from the other"


# -- ctrl-C


def test_ctrl_c_in_a_task_reaches_the_main_greenlet(h):
    def work():
        raise KeyboardInterrupt

    task = h.spawn(work)
    with pytest.raises(KeyboardInterrupt):
        h.sleep(60_000)
    assert task.done
    run(h)


class Alarm(BaseException):
    """What no ``except Exception`` catches."""


@pytest.mark.parametrize("error", [KeyboardInterrupt, TimeoutError, Alarm])
def test_what_a_signal_handler_raises_while_the_loop_polls_reaches_the_main_greenlet(h, caplog, error):
    def alarm(signum, frame):
        raise error

    before = signal.signal(signal.SIGALRM, alarm)
    a, b = socket.socketpair()
    try:
        with a, b:
            h.poll.register(a.fileno(), lambda events: None, IN)
            signal.setitimer(signal.ITIMER_REAL, 0.01)
            ch = h.pipe()
            with pytest.raises(error):
                ch.recv()
            h.poll.unregister(a.fileno())
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    h.spawn(ch.send, 1)
    assert ch.recv() == 1
    assert not caplog.records


def test_ctrl_c_while_main_is_handed_something_keeps_it_and_comes_at_the_next_wait(h):
    ch = h.channel()

    def work():
        ch.send("kept")
        raise KeyboardInterrupt

    h.spawn(work)
    assert ch.recv() == "kept"
    with pytest.raises(KeyboardInterrupt):
        ch.recv()


def test_ctrl_c_that_main_has_not_heard_of_comes_out_of_stop():
    h = Hub()
    ch = h.channel()

    def work():
        ch.send("last")
        raise KeyboardInterrupt

    h.spawn(work)
    assert ch.recv() == "last"
    with pytest.raises(KeyboardInterrupt):
        h.stop()


def test_exit_in_a_task_ends_the_program(h):
    h.spawn(sys.exit, 3)
    with pytest.raises(SystemExit) as raised:
        h.sleep(60_000)
    assert raised.value.code == 3


# -- fork

# Python 3.12 warns of a fork beside threads, which pytest's plug-ins may have started.
forks = pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")


def forked(f):
    """Run *f* in a forked child; its exit code is 0 if it returned true."""
    pid = os.fork()
    if not pid:
        code = 1
        try:
            code = 0 if f() else 2
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def refused(use):
    try:
        use()
    except Forked:
        return True
    return False


@forks
def test_a_forked_child_is_refused_its_parents_hub_and_can_make_its_own(h):
    ch = h.pipe()
    h.spawn(ch.send, 1)
    run(h)

    def child():
        uses = [lambda: h.sleep(0), lambda: h.spawn(print), h.pipe().recv, lambda: h.spawn_later(1, print)]
        with Hub() as mine:
            own = mine.pipe()
            mine.spawn(own.send, 1)
            return all(map(refused, uses)) and own.recv() == 1

    assert forked(child) == 0
    assert ch.recv() == 1


@forks
def test_a_task_that_forks_is_refused_in_the_child_and_does_not_come_back_to_its_loop(h):
    edges: list = []
    checked: list = []

    def work(ch):
        pid = os.fork()
        if not pid:
            h.at_edge(lambda: edges.append("the child ran the parent's edges"))
            checked.extend(map(refused, [ch.recv, lambda: h.sleep(0), ch.recv]))
            return None  # to the main task, which is told that this is not its process
        return pid

    parent = os.getpid()
    task = h.spawn(work, h.pipe())
    try:
        pid = task.join()
    except Forked:
        assert os.getpid() != parent
        os._exit(0 if checked == [True] * 3 and not edges else 3)
    except BaseException:
        if os.getpid() != parent:
            os._exit(4)
        raise
    if os.getpid() != parent:
        os._exit(5)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


@forks
def test_dropping_an_end_in_a_forked_child_closes_nothing_of_the_parents(h):
    sender, recver = h.pipe()
    closed = []
    recver.onclose(lambda: closed.append(1))
    ends = [sender, recver]
    del sender, recver

    def child():
        ends.clear()
        gc.collect()
        h.stop()
        return not closed

    assert forked(child) == 0
    assert not ends[0].halted


def test_closed_is_what_a_task_sees_of_a_channel_closed_by_another(h):
    ch = h.pipe()
    h.spawn(ch.close)
    with pytest.raises(Closed):
        ch.recv()


def test_many_tasks_spawned_at_once_do_not_use_up_the_recursion_limit(h):
    """Each starts where the one before it parks; a greenlet begins at the depth of whoever starts it."""
    ch = h.channel()
    tasks = [h.spawn(ch.recv) for _ in range(5_000)]
    h.sleep(0)
    assert not any(task.done for task in tasks)
    for i in range(5_000):
        ch.send(i)
    assert [task.join() for task in tasks] == list(range(5_000))


def test_an_interruption_between_timers_or_edges_leaves_the_others_to_the_next_tick(h, monkeypatch):
    """CPython runs a signal's handler where a function begins."""
    guard, armed, woken = h.guard, [True], []

    def interrupted(f, *args):
        if armed and armed.pop():
            raise KeyboardInterrupt
        guard(f, *args)

    for number in range(3):
        h.spawn(lambda number: h.sleep(5) or woken.append(number), number)
    h.sleep(0)
    monkeypatch.setattr(h, "guard", interrupted)
    with pytest.raises(KeyboardInterrupt):
        h.sleep(1_000)
    h.sleep(20)
    assert woken == [0, 1, 2]
    for number in range(3):
        h.at_edge(partial(woken.append, number))
    armed.append(True)
    with pytest.raises(KeyboardInterrupt):
        h.sleep(1_000)
    h.sleep(0)
    assert sorted(woken) == [0, 0, 1, 1, 2, 2]

"""Pipes between threads: nothing is lost, nobody sleeps on, and what ends here is heard there."""

from __future__ import annotations

import gc
import os
import signal
import sys
import threading
import time
from collections import Counter
from contextlib import contextmanager

import pytest
from descriptors import open_descriptors
from hypothesis import given, settings
from hypothesis import strategies as st

import vanilla
from vanilla.bell import LOCK, Bell
from vanilla.crossing import Crossing
from vanilla.waker import Waker

PATIENCE = 60


@contextmanager
def thread(f, *args):
    """Runs *f* meanwhile; what it raises is raised at the end."""
    raised = []

    def run():
        try:
            f(*args)
        except BaseException as error:
            raised.append(error)

    started = threading.Thread(target=run, daemon=True)
    started.start()
    yield started
    started.join(PATIENCE)
    assert not started.is_alive()
    if raised:
        raise raised[0]


def wait_until(done):
    """For what another thread does: there is no event to wait for."""
    deadline = time.monotonic() + PATIENCE
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def waits(sender, count=1):
    """Do *count* stand in the line of those who wait to send?"""
    return len(sender._state.crossing.senders) == count


@pytest.fixture(params=["no hub", "main of a hub", "task of a hub"])
def elsewhere(request):
    """Runs a function in another thread, in each way in which somebody may wait there."""

    def run(f, *args):
        if request.param == "no hub":
            f(*args)
            return
        with vanilla.Hub() as h:
            if request.param == "main of a hub":
                f(*args)
            else:
                h.spawn(f, *args).join()

    return lambda f, *args: thread(run, f, *args)


# -- items


def test_items_cross_in_order(h, elsewhere):
    sender, recver = h.thread.pipe()

    def send():
        for i in range(5000):
            sender.send(i)
        sender.close()

    with elsewhere(send):
        assert list(recver) == list(range(5000))


@pytest.mark.parametrize("item", [None, 0, "", False])
def test_an_empty_item_is_an_item(h, elsewhere, item):
    sender, recver = h.thread.pipe()
    with elsewhere(sender.send, item):
        assert recver.recv() is item


def test_it_serves_within_one_thread_as_well(h):
    sender, recver = h.thread.pipe(1)
    sender.send(1)
    task = h.spawn(sender.send, 2)
    h.sleep(0)
    assert not task.done
    assert (recver.recv(), recver.recv()) == (1, 2)
    task.join()


def test_an_exception_is_raised_at_the_receiver(h, elsewhere):
    sender, recver = h.thread.pipe()
    with elsewhere(sender.send_many, [ValueError("this"), 2]):
        with pytest.raises(ValueError, match="this"):
            recver.recv()
        assert recver.recv() == 2


def test_it_holds_size_items_and_then_a_send_waits_until_one_is_taken(h, elsewhere):
    sender, recver = h.thread.pipe(3)
    sent = []

    def send():
        for i in range(6):
            sender.send(i)
            sent.append(i)

    with elsewhere(send):
        wait_until(lambda: waits(sender))
        assert sent == [0, 1, 2]
        assert recver.recv() == 0
        wait_until(lambda: sent == [0, 1, 2, 3] and waits(sender))
        assert [recver.recv() for _ in range(5)] == [1, 2, 3, 4, 5]


def test_one_item_taken_is_enough_though_the_receiving_thread_does_not_come_back_to_its_hub(h, elsewhere):
    sender, recver = h.thread.pipe(2)
    with elsewhere(sender.send_many, [1, 2, 3]) as other:
        wait_until(lambda: waits(sender))
        assert recver.recv() == 1
        other.join(PATIENCE)
        assert not other.is_alive()


def test_a_pipe_that_holds_nothing_is_refused(h):
    with pytest.raises(ValueError, match="at least 1"):
        h.thread.pipe(0)


def test_many_threads_send_and_each_keeps_its_order(h):
    sender, recver = h.thread.pipe(7)

    def send(number):
        for i in range(500):
            sender.send((number, i))

    got = {number: [] for number in range(8)}
    threads = [threading.Thread(target=send, args=(number,), daemon=True) for number in got]
    for started in threads:
        started.start()
    for _ in range(8 * 500):
        number, i = recver.recv()
        assert len(recver._state.inbox) + len(recver._state.buffer) <= 7
        got[number].append(i)
    assert all(items == list(range(500)) for items in got.values())
    for started in threads:
        started.join(PATIENCE)


def test_many_receivers_are_served_in_the_order_in_which_they_wait(h):
    sender, recver = h.thread.pipe()
    tasks = [h.spawn(recver.recv) for _ in range(5)]
    h.sleep(0)
    with thread(sender.send_many, range(6)):
        assert [task.join() for task in tasks] == [0, 1, 2, 3, 4]
    assert recver.recv() == 5


def test_who_waits_goes_before_who_comes_when_the_item_is_there_already(h):
    sender, recver = h.thread.pipe()
    first = h.spawn(recver.recv)
    h.sleep(0)
    with thread(sender.send_many, [1, 2]) as other:
        other.join(PATIENCE)  # and the loop has had no turn to hand it over
        assert recver.recv() == 2
    assert first.join() == 1


def test_send_many_and_recv_many(h, elsewhere):
    sender, recver = h.thread.pipe(10)

    def send():
        sender.send_many(list(range(1000)))
        sender.send_many(iter(range(1000, 1010)))
        sender.close()

    got = []
    with elsewhere(send), pytest.raises(vanilla.Closed):
        while True:
            items = recver.recv_many(100)
            assert 1 <= len(items) <= 100
            got += items
    assert got == list(range(1010))


def test_a_stream_of_items_is_no_stream_of_wake_ups(h, monkeypatch):
    sender, recver = h.thread.pipe(1000)
    rung = []
    bell = h.thread.bell
    wake = type(bell._waker).wake
    monkeypatch.setattr(type(bell._waker), "wake", lambda waker: (rung.append(1), wake(waker)))
    with thread(sender.send_many, range(1000)) as other:
        task = h.spawn(lambda: [recver.recv() for _ in range(1000)])
        h.sleep(0)
        other.join(PATIENCE)
        assert task.join() == list(range(1000))
    assert len(rung) <= 10


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 5), st.lists(st.integers(0, 3), max_size=40))
def test_nothing_is_lost_or_doubled_whatever_the_threads_do(size, pauses):
    """Some senders poll, some wait, some with a timeout that may strike at any moment."""
    with vanilla.Hub() as h:
        sender, recver = h.thread.pipe(size)
        sent = [Counter() for _ in range(3)]

        def send(number):
            for i, pause in enumerate(pauses):
                try:
                    sender.send((number, i), [-1, 0, 0.05, 1][(pause + number) % 4])
                    sent[number][number, i] += 1
                except vanilla.Timeout:
                    pass

        def send_in_hub(number):
            with vanilla.Hub():
                send(number)

        def send_all():
            with thread(send, 0), thread(send_in_hub, 1), thread(send_in_hub, 2):
                pass
            sender.close()

        with thread(send_all):
            got = Counter(recver)
        assert got == sum(sent, Counter())


# -- waiting


@pytest.mark.parametrize("timeout", [0, 0.5])
def test_a_send_to_a_full_pipe_times_out_and_was_not_sent(h, elsewhere, timeout):
    sender, recver = h.thread.pipe(1)
    sender.send(1)
    with pytest.raises(vanilla.Timeout), elsewhere(sender.send, 2, timeout):
        pass
    assert waits(sender, 0)
    assert recver.recv() == 1
    with pytest.raises(vanilla.Timeout):
        recver.recv(0)


def test_what_is_no_time_is_told(h, elsewhere):
    sender, _recver = h.thread.pipe(1)
    sender.send(1)
    with pytest.raises(ValueError, match="NaN"), elsewhere(sender.send, 2, float("nan")):
        pass
    assert waits(sender, 0)


def test_to_wait_for_infinity_is_to_wait_for_ever(h, elsewhere):
    sender, recver = h.thread.pipe(1)
    sender.send(1)
    with elsewhere(sender.send, 2, float("inf")):
        wait_until(lambda: waits(sender))
        assert (recver.recv(), recver.recv()) == (1, 2)


def test_a_task_that_waits_to_send_does_not_hold_up_its_hub(h):
    sender, recver = h.thread.pipe(1)
    sender.send(0)
    beats = threading.Event()

    def run():
        with vanilla.Hub() as other:
            other.after(1, beats.set)
            sender.send(1)  # in no task: the hub of this thread goes on all the same

    with thread(run):
        assert beats.wait(PATIENCE)
        assert (recver.recv(), recver.recv()) == (0, 1)


def test_a_recv_times_out_and_loses_nothing(h):
    sender, recver = h.thread.pipe()
    with pytest.raises(vanilla.Timeout):
        recver.recv(1)
    assert h.poll.live == 0
    with thread(sender.send, 1):
        assert recver.recv() == 1


def test_a_task_that_is_cancelled_where_it_waits_to_send_has_not_sent(h):
    sender, recver = h.thread.pipe(1)
    sender.send(1)

    def run():
        with vanilla.Hub() as other:
            task = other.spawn(sender.send, 2)
            other.sleep(0)
            task.cancel()
            with pytest.raises(vanilla.Cancelled):
                task.join()
            assert other.poll.live == 0

    with thread(run):
        pass
    assert recver.recv() == 1
    with pytest.raises(vanilla.Timeout):
        recver.recv(0)


def test_a_task_whose_item_was_taken_just_before_it_is_cancelled_has_sent_and_goes_on(h):
    sender, recver = h.thread.pipe(1)
    sender.send(1)
    full, taken = threading.Event(), threading.Event()
    went_on = []

    def run():
        with vanilla.Hub() as other:

            def send():
                sender.send(2)
                went_on.append(True)
                other.sleep(PATIENCE * 1000)

            task = other.spawn(send)
            other.sleep(0)
            full.set()
            taken.wait(PATIENCE)  # this hub's loop has not heard of it
            task.cancel()
            with pytest.raises(vanilla.Cancelled):
                task.join()

    with thread(run):
        full.wait(PATIENCE)
        assert recver.recv() == 1
        taken.set()
    assert recver.recv() == 2
    assert went_on == [True]


def test_a_timeout_that_strikes_when_the_item_was_taken_does_not_say_that_it_was_not_sent(h):
    sender, recver = h.thread.pipe(1)
    sender.send(1)
    full, taken = threading.Event(), threading.Event()

    def run():
        with vanilla.Hub() as other:
            task = other.spawn(sender.send, 2, 5)
            other.sleep(0)
            full.set()
            taken.wait(PATIENCE)
            time.sleep(0.01)  # its time is over, and the bell has been rung: both come in one tick
            task.join()

    with thread(run):
        full.wait(PATIENCE)
        assert recver.recv() == 1
        taken.set()
    assert recver.recv() == 2


def test_a_handler_may_send_but_not_wait(h):
    sender, recver = h.thread.pipe(1)
    raised = []

    def handler():
        sender.send(1)
        try:
            sender.send(2)
        except RuntimeError as error:
            raised.append(str(error))

    h.after(0, handler)
    assert recver.recv() == 1
    h.sleep(1)
    h.after(0, lambda: (sender.send(1), handler()))
    h.sleep(5)
    assert raised and "must not wait" in raised[0]
    assert waits(sender, 0)


def test_only_its_own_thread_may_receive(h):
    _, recver = h.thread.pipe()
    with pytest.raises(RuntimeError, match="another thread"), thread(recver.recv):
        pass
    assert h.poll.live == 0


# -- select


def test_select_on_its_recver(h):
    sender, recver = h.thread.pipe()
    other = h.channel()
    with thread(sender.send, 1):
        assert h.select([other.recver, recver]) == (recver, 1)
    assert h.poll.live == 0
    sender.close()
    with pytest.raises(vanilla.Closed) as raised:
        h.select([other.recver, recver])
    assert raised.value.end is recver


def test_a_select_that_ends_otherwise_leaves_nothing_behind(h):
    sender, recver = h.thread.pipe()
    other = h.queue(1)
    h.spawn_later(1, other.send, 1)
    assert h.select([other.recver, recver]) == (other.recver, 1)
    assert h.poll.live == 0 and not recver._state.recvers
    with pytest.raises(vanilla.Timeout):
        h.select([recver], 1)
    with thread(sender.send, 2):
        assert recver.recv() == 2


def test_select_on_its_sender_in_another_thread(h):
    sender, recver = h.thread.pipe(1)
    sender.send(1)
    ready = []
    begun = threading.Event()

    def run():
        with vanilla.Hub() as other:
            with pytest.raises(vanilla.Timeout):
                other.select([sender], 0)
            with pytest.raises(vanilla.Timeout):
                other.select([sender], 1)
            assert waits(sender, 0)
            begun.set()
            quiet = other.channel()
            ready.append(other.select([sender, quiet.recver]))
            sender.send(2, 0)
            with pytest.raises(vanilla.Closed) as raised:
                other.select([sender])
            assert raised.value.end is sender
            assert other.poll.live == 0

    with thread(run):
        wait_until(lambda: begun.is_set() and waits(sender))
        assert recver.recv() == 1
        wait_until(lambda: ready and waits(sender))
        recver.close()
    assert recver.recv() == 2
    assert ready == [(sender, None)]


# -- the end


def test_what_was_sent_before_the_end_can_be_received(h, elsewhere):
    sender, recver = h.thread.pipe()

    def send():
        sender.send(1)
        sender.close()
        with pytest.raises(vanilla.Closed):
            sender.send(2)

    with elsewhere(send):
        assert recver.recv() == 1
        with pytest.raises(vanilla.Closed):
            recver.recv()
    assert sender.halted and recver.halted
    sender.close()
    recver.close()


@pytest.mark.parametrize("end", ["closed", "dropped", "stopped"])
def test_the_end_of_the_recver_is_told_to_who_waits_to_send(elsewhere, end):
    with vanilla.Hub() as h:
        sender, recver = h.thread.pipe(1)
        sender.send(1)
        with pytest.raises(vanilla.Abandoned if end == "dropped" else vanilla.Closed), elsewhere(sender.send, 2):
            wait_until(lambda: waits(sender))
            if end == "closed":
                recver.close()
            elif end == "stopped":
                h.stop()
            else:
                del recver
                gc.collect()


@pytest.mark.parametrize("end", ["closed", "dropped"])
def test_the_end_of_the_sender_is_told_to_who_waits_to_receive(h, elsewhere, end):
    sender, recver = h.thread.pipe()
    task = h.spawn(recver.recv)
    h.sleep(0)
    box = [sender]
    del sender

    def finish():
        if end == "closed":
            box[0].close()
        box.clear()
        gc.collect()

    with elsewhere(finish), pytest.raises(vanilla.Closed if end == "closed" else vanilla.Abandoned):
        task.join()


def test_the_recver_may_be_dropped_in_any_thread(h):
    sender, recver = h.thread.pipe(1)
    sender.send(0)
    box = [recver]
    del recver

    def drop():
        box.clear()
        gc.collect()

    with thread(drop):
        pass
    with pytest.raises(vanilla.Abandoned):
        sender.send(1)
    h.sleep(0)
    assert not h.thread.bell.crossings


def test_an_end_may_be_closed_in_the_middle_of_a_send_by_the_thread_that_sends(h):
    """The garbage collector, or a signal handler, may run while the lock is held."""
    sender, recver = h.thread.pipe(1)
    crossing = recver._state

    class Closing(type(crossing.senders)):
        def __len__(self):
            sender.close()
            return 0

    crossing.senders = Closing()
    with pytest.raises(vanilla.Closed):
        sender.send(1)
    with pytest.raises(vanilla.Closed):
        recver.recv()


def test_closers_of_both_ends_are_called_each_in_its_own_hub(h):
    sender, recver = h.thread.pipe()
    main = threading.get_ident()
    called = {}
    registered = threading.Event()
    recver.onclose(lambda: called.__setitem__("recver", threading.get_ident()))

    def run():
        sender.onclose(lambda: called.__setitem__("in no hub", threading.get_ident()))
        with vanilla.Hub() as other:
            over = other.channel(1)

            def closer():
                called["sender"] = threading.get_ident()
                over.send(True)

            sender.onclose(closer)
            registered.set()
            over.recv(PATIENCE * 1000)
        called["expected"] = threading.get_ident()

    with thread(run):
        registered.wait(PATIENCE)

        def in_a_third():
            sender.close()
            called["third"] = threading.get_ident()

        with thread(in_a_third):
            with pytest.raises(vanilla.Closed):
                recver.recv()
    h.sleep(1)
    assert called["recver"] == main
    assert called["sender"] == called["expected"]
    assert called["in no hub"] == called["third"]
    recver.onclose(lambda: called.__setitem__("late", True))
    assert called["late"]


def test_a_closer_that_raises_is_logged_and_ends_nothing_else(h, caplog):
    sender, recver = h.thread.pipe()
    called = []

    def run():
        sender.onclose(lambda: 1 / 0)
        sender.onclose(lambda: called.append(1))
        sender.close()

    with thread(run), pytest.raises(vanilla.Closed):
        recver.recv()
    h.sleep(0)
    assert called == [1]
    assert "ZeroDivisionError" in caplog.text


def test_a_pipe_into_a_thread_pipe_and_out_of_one(h):
    sender, recver = h.thread.pipe()

    def run():
        with vanilla.Hub() as other:
            source = other.queue(3)
            source.send_many([1, 2, 3])
            source.sender.close()
            source.pipe(sender)
            other.sleep(10)

    with thread(run):
        doubled = recver.map(lambda x: x * 2)
        assert [doubled.recv() for _ in range(3)] == [2, 4, 6]


class Meanwhile:
    """A hub's runner, while whose `me` or `line_up` begins something else happens."""

    def __init__(self, crossing, name, f):
        self.runner, self.name, self.f = crossing.runner, name, f
        crossing.runner = self

    def __getattr__(self, name):
        if name == self.name:
            self.name = None
            self.f()
        return getattr(self.runner, name)


def test_what_comes_just_before_its_receiver_parks_is_not_missed(h):
    sender, recver = h.thread.pipe()
    Meanwhile(recver._state, "me", lambda: sender.send(1))
    assert recver.recv(PATIENCE * 1000) == 1
    Meanwhile(recver._state, "me", sender.close)
    with pytest.raises(vanilla.Closed):
        recver.recv(PATIENCE * 1000)


def test_an_end_that_the_garbage_collector_drops_just_before_a_receiver_parks_is_told(h):
    sender, recver = h.thread.pipe()
    box = [sender]
    del sender
    Meanwhile(recver._state, "line_up", lambda: (box.clear(), gc.collect()))
    with pytest.raises(vanilla.Abandoned):
        recver.recv(PATIENCE * 1000)


def test_an_end_that_comes_just_before_a_sender_waits_is_told(h, monkeypatch):
    sender, recver = h.thread.pipe(1)
    sender.send(1)
    monkeypatch.setattr("vanilla.crossing.hub_here", recver.close)
    with pytest.raises(vanilla.Closed):
        sender.send(2, PATIENCE * 1000)


def test_in_the_hubs_own_thread_closers_are_called_when_it_is_closed(h):
    sender, recver = h.thread.pipe()
    called = []
    recver.onclose(lambda: called.append(1))
    sender.close()
    assert called == [1]


# -- deadlocks


def test_to_wait_for_another_thread_is_no_deadlock_and_to_wait_for_nobody_is(h):
    sender, recver = h.thread.pipe()
    go = threading.Event()

    def send():
        go.wait(PATIENCE)
        sender.send(1)

    with thread(send):
        h.after(20, go.set)  # after that timer only the thread is left to wake the hub
        assert recver.recv() == 1
    with pytest.raises(vanilla.Stop, match="deadlock"):
        h.router().recv()


def test_to_wait_for_room_in_another_threads_pipe_is_no_deadlock(h):
    sender, recver = h.thread.pipe(1)
    sender.send(1)

    def run():
        with vanilla.Hub():
            sender.send(2)

    with thread(run):
        wait_until(lambda: waits(sender))
        assert (recver.recv(), recver.recv()) == (1, 2)


def test_to_wait_for_room_that_only_this_hub_could_make_is_a_deadlock(h):
    sender, recver = h.thread.pipe(1)
    sender.send(1)
    with pytest.raises(vanilla.Stop, match="send to a thread pipe"):
        sender.send(2)
    assert recver.recv() == 1


# -- the hub's end, and fork


def test_the_end_of_a_hub_whose_task_waits_to_send(h):
    sender, _recver = h.thread.pipe(1)
    sender.send(1)

    def run():
        with vanilla.Hub() as other:
            task = other.spawn(sender.send, 2)
            other.sleep(0)
        with pytest.raises(vanilla.Stop):
            task.join()

    with thread(run):
        pass
    assert waits(sender, 0)


def test_a_hub_leaves_no_descriptor_behind():
    before = open_descriptors()
    with vanilla.Hub() as h:
        pairs = [h.thread.pipe() for _ in range(10)]
        assert open_descriptors() < before + 10
    assert open_descriptors() == before
    with pytest.raises(vanilla.Closed):
        pairs[0].send(1)
    with pytest.raises(vanilla.Stop):
        h.thread.pipe()


@pytest.mark.skipif(sys.implementation.name != "cpython", reason="reference counts")
def test_no_cycle_is_left_for_the_garbage_collector(h):
    def use():
        sender, recver = h.thread.pipe(1)
        sender.send(1)
        with pytest.raises(vanilla.Timeout), thread(sender.send, 2, 1):
            pass
        task = h.spawn(sender.send, 3)
        assert recver.recv() == 1
        task.join()
        recver.close()
        with pytest.raises(vanilla.Closed), thread(sender.send, 4):
            pass

    use()
    h.sleep(1)
    gc.collect()
    gc.disable()
    try:
        sender, recver = h.thread.pipe(1)
        sender.send(1)
        weak = [vanilla.core.weakref.ref(end._state) for end in (sender, recver)]
        crossing = recver._state
        task = h.spawn(sender.send, 2)
        assert recver.recv() == 1
        task.join()
        assert not crossing.halt
        del sender
        assert crossing.halt is vanilla.Abandoned
        del recver, crossing
        h.sleep(0)
        assert [ref() for ref in weak] == [None, None]
    finally:
        gc.enable()


def test_a_forked_child_is_told_and_the_parent_goes_on(h):
    sender, recver = h.thread.pipe()
    stop = threading.Event()

    def send():
        while not stop.is_set():  # so that the fork may strike while the lock is held
            try:
                sender.send(0, 1)
            except vanilla.Timeout:
                pass

    with thread(send):
        recver.recv()
        for _ in range(20):
            pid = os.fork()
            if pid == 0:
                code = 1
                try:
                    sender.send(1)
                except vanilla.Forked:
                    code = 0
                finally:
                    os._exit(code)
            recver.recv_many(100)
            assert os.waitpid(pid, 0)[1] == 0
        stop.set()


def test_a_fork_waits_for_who_has_the_lock(h):
    sender, _recver = h.thread.pipe()
    held = threading.Event()

    def hold():
        with LOCK:
            held.set()
            time.sleep(0.02)

    with thread(hold):
        held.wait(PATIENCE)
        pid = os.fork()
        if pid == 0:
            signal.alarm(10)  # its default ends the process
            try:
                sender.send(1)
            except vanilla.Forked:
                os._exit(0)
            finally:
                os._exit(1)
        assert os.waitpid(pid, 0)[1] == 0


def test_what_was_sent_before_the_end_is_not_overtaken_by_it_when_many_are_received(h, monkeypatch):
    sender, recver = h.thread.pipe()
    arrive = Crossing.arrive

    def then_send(crossing):
        monkeypatch.undo()
        arrive(crossing)
        with thread(lambda: (sender.send("last"), sender.close())):
            pass

    monkeypatch.setattr(Crossing, "arrive", then_send)
    assert recver.recv_many(5) == ["last"]


@pytest.mark.parametrize("culprit", [(Bell, "ring"), (Waker, "wake")])
def test_a_ctrl_c_in_the_middle_of_a_send_does_not_keep_the_next_from_waking(h, monkeypatch, culprit):
    def interrupted(*args):
        monkeypatch.undo()
        raise KeyboardInterrupt

    sender, recver = h.thread.pipe()
    first = h.spawn(recver.recv)
    h.sleep(0)

    def send():
        monkeypatch.setattr(*culprit, interrupted)
        with pytest.raises(KeyboardInterrupt):
            sender.send("one")
        sender.send("two")

    with thread(send):
        assert first.join(PATIENCE * 1000) == "one"
    assert recver.recv(PATIENCE * 1000) == "two"

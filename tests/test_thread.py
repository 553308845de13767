"""Calls in threads: the hub goes on, the caller hears, the thread survives."""

from __future__ import annotations

import gc
import os
import threading
import time

import pytest

import vanilla
from vanilla.thread import Workers


def open_descriptors() -> int:
    gc.collect()
    return len(os.listdir("/proc/self/fd"))


def wait_until(done, what):
    """For what another thread does: there is no event to wait for."""
    deadline = time.monotonic() + 30
    while not done():
        assert time.monotonic() < deadline, what
        time.sleep(0.001)


def test_a_call_gives_its_result(h):
    def add(a, b):
        return a + b

    recver = h.thread.call(add, 2, 3)
    assert recver.recv() == 5
    with pytest.raises(vanilla.Closed):
        recver.recv()


@pytest.mark.parametrize("result", [None, 0, "", False])
def test_an_empty_result_is_a_result(h, result):
    assert h.thread.call(lambda: result).recv() is result


def test_it_runs_in_another_thread_and_the_hub_goes_on(h):
    event = threading.Event()

    def block():
        event.wait(60)
        return threading.current_thread()

    recver = h.thread.call(block)
    for _ in range(5):
        h.sleep(1)
    with pytest.raises(vanilla.Timeout):
        recver.recv(1)
    event.set()
    assert recver.recv() is not threading.current_thread()


@pytest.mark.parametrize("kind", [ValueError, SystemExit, KeyboardInterrupt, BaseException, StopIteration])
def test_what_a_call_raises_is_raised_at_its_caller_and_the_thread_goes_on(h, kind):
    workers = Workers(h, size=1)

    def fail():
        raise kind("this")

    for _ in range(2):
        with pytest.raises(kind, match="this"):
            workers.call(fail).recv()
        assert workers.call(lambda: "fine").recv() == "fine"
    assert workers._threads == 1


def test_calls_go_beside_each_other(h):
    barrier = threading.Barrier(4, timeout=60)
    calls = [h.thread.call(barrier.wait) for _ in range(4)]
    assert sorted(call.recv() for call in calls) == [0, 1, 2, 3]


def test_the_number_of_threads_is_bounded(h):
    workers = Workers(h, size=2)
    event = threading.Event()
    running = []

    def block(i):
        running.append(i)
        event.wait(60)
        return i

    calls = [workers.call(block, i) for i in range(6)]
    wait_until(lambda: len(running) == 2, "two calls run")
    assert workers._threads == 2
    event.set()
    assert [call.recv() for call in calls] == list(range(6))


def test_a_thread_is_used_again(h):
    workers = Workers(h)
    threads = set()
    for _ in range(5):
        threads.add(workers.call(threading.current_thread).recv())
        wait_until(lambda: workers._waiting == 1, "the thread is idle")
    assert len(threads) == 1


def test_an_idle_thread_ends(h):
    workers = Workers(h, idle=0.01)
    thread = workers.call(threading.current_thread).recv()
    thread.join(30)
    assert not thread.is_alive()
    assert workers._threads == 0
    assert workers.call(lambda: "again").recv() == "again"


def test_a_wait_for_a_thread_is_no_deadlock_and_an_idle_thread_is(h):
    event = threading.Event()
    recver = h.thread.call(event.wait, 60)
    h.after(20, event.set)  # after that timer only the thread is left to wake the hub
    assert recver.recv() is True
    with pytest.raises(vanilla.Stop, match="deadlock"):
        h.router().recv()


def test_a_thread_wakes_a_hub_that_sleeps(h):
    started = time.monotonic()
    task = h.spawn(h.sleep, 60_000)
    assert h.thread.call(time.sleep, 0.01).recv() is None
    assert time.monotonic() - started < 30
    task.cancel()


def test_a_caller_that_gave_up_harms_nobody(h):
    event = threading.Event()
    recver = h.thread.call(event.wait, 60)
    recver.close()
    event.set()
    assert h.thread.call(lambda: "next").recv() == "next"
    while h.poll.live:
        h.sleep(1)


def test_many_calls_at_once(h):
    gather = h.router()
    for i in range(100):
        h.thread.call(lambda i=i: i).pipe(gather)
    assert sorted(gather.recv() for _ in range(100)) == list(range(100))


def test_the_end_of_the_hub_ends_its_threads_and_descriptors():
    before = open_descriptors()
    event = threading.Event()
    with vanilla.Hub() as h:
        idle = h.thread.call(threading.current_thread).recv()
        task = h.spawn(h.thread.call(event.wait, 60).recv)
        h.sleep(0)
        service = h.thread
    with pytest.raises(vanilla.Stop):
        task.join()
    with pytest.raises(vanilla.Stop):
        service.call(int)
    assert open_descriptors() == before
    event.set()  # its outcome is for nobody
    idle.join(30)
    assert not idle.is_alive()
    assert open_descriptors() == before


def test_a_call_holds_nothing_when_it_is_over(h):
    class Big:
        pass

    freed = threading.Event()
    big = Big()
    finalizer = vanilla.core.weakref.finalize(big, freed.set)
    workers = Workers(h)
    workers.call(id, big).recv()
    del big

    def is_freed():
        gc.collect()
        return freed.is_set()

    wait_until(is_freed, "the argument is freed")
    assert not finalizer.alive

"""Calls in threads: the hub goes on, the caller hears, the thread survives."""

from __future__ import annotations

import gc
import os
import threading
import time

import pytest

import vanilla
from vanilla.workers import Workers


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


@pytest.mark.trap("an exception kills a pooled thread")
@pytest.mark.parametrize("kind", [ValueError, SystemExit, KeyboardInterrupt, BaseException, StopIteration])
def test_what_a_call_raises_is_raised_at_its_caller_and_the_thread_goes_on(h, kind):
    workers = Workers(h.thread.bell, size=1)

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
    workers = Workers(h.thread.bell, size=2)
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
    workers = Workers(h.thread.bell)
    threads = set()
    for _ in range(5):
        threads.add(workers.call(threading.current_thread).recv())
        wait_until(lambda: workers._waiting == 1, "the thread is idle")
    assert len(threads) == 1


def test_an_idle_thread_ends(h):
    workers = Workers(h.thread.bell, idle=0.01)
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
    workers = Workers(h.thread.bell)
    workers.call(id, big).recv()
    del big

    def is_freed():
        gc.collect()
        return freed.is_set()

    wait_until(is_freed, "the argument is freed")
    assert not finalizer.alive


# -- pools


def test_results_come_as_they_are_done(h):
    first, second = threading.Event(), threading.Event()

    def wait_for(before, after, x):
        before.wait(60)
        after.set()
        return x

    gather = h.router()
    with h.thread.pool(2) as pool:
        pool.call(wait_for, second, threading.Event(), "last").pipe(gather)
        pool.call(wait_for, first, second, "second").pipe(gather)
        pool.call(lambda: "waits for a thread").pipe(gather)
        first.set()
        assert gather.recv() == "second"
        assert {gather.recv(), gather.recv()} == {"last", "waits for a thread"}


def test_a_pool_without_threads_is_refused(h):
    with pytest.raises(ValueError, match="at least 1"):
        h.thread.pool(0)


class Odd(Exception):
    """Cannot be made again from its arguments, nor shown."""

    def __init__(self, one, two):
        super().__init__(one)

    def __str__(self):
        raise RuntimeError("no")

    __repr__ = __str__


@pytest.mark.trap("an exception kills a pooled thread")
@pytest.mark.parametrize(
    "error", [Odd(1, 2), GeneratorExit(), vanilla.Cancelled(), vanilla.Closed("mine"), ValueError()], ids=type
)
def test_whatever_a_call_raises_comes_as_it_is_and_its_thread_goes_on(h, error):
    pool = h.thread.pool(1)

    def fail():
        raise error

    for _ in range(3):
        with pytest.raises(type(error)) as raised:
            pool.call(fail).recv()
        assert raised.value is error
    assert pool.call(lambda: "fine").recv() == "fine"
    assert pool._threads == 1


def test_a_closed_pool_does_what_it_was_called_for_and_then_its_threads_end(h):
    event = threading.Event()
    with h.thread.pool(1) as pool:
        calls = [pool.call(event.wait, 60), pool.call(threading.current_thread)]
    with pytest.raises(vanilla.Closed, match="was closed"):
        pool.call(int)
    pool.close()
    event.set()
    assert calls[0].recv() is True
    thread = calls[1].recv()
    thread.join(30)
    assert not thread.is_alive()
    assert pool._stop not in h._closers
    assert h.poll.live == 0


def test_at_the_end_of_the_hub_calls_that_have_not_begun_never_do():
    event, begun = threading.Event(), threading.Event()
    ran = []

    def block():
        begun.set()
        event.wait(60)
        return threading.current_thread()

    with vanilla.Hub() as h:
        pool = h.thread.pool(1)
        calls = [pool.call(block), pool.call(ran.append, 1)]
        task = h.spawn(calls[1].recv)
        begun.wait(60)
        (worker,) = [thread for thread in threading.enumerate() if thread.name == "vanilla worker"][-1:]
        h.sleep(0)
    event.set()
    worker.join(30)
    assert not worker.is_alive()
    assert ran == []
    with pytest.raises(vanilla.Stop):
        task.join()
    with pytest.raises(vanilla.Stop):
        pool.call(int)


def test_without_a_thread_to_be_had_the_caller_is_told_and_later_calls_go(h, monkeypatch):
    pool = h.thread.pool(2)

    def start(thread):
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", start)
        with pytest.raises(RuntimeError, match="can't start"):
            pool.call(int)
        assert h.poll.live == 0
    assert pool.call(lambda: 1).recv() == 1
    monkeypatch.setattr(threading.Thread, "start", start)
    assert [call.recv() for call in [pool.call(lambda i=i: i) for i in range(5)]] == list(range(5))


def test_a_forked_child_is_told(h):
    pool = h.thread.pool(1)
    assert pool.call(int).recv() == 0
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            pool.call(int)
        except vanilla.Forked:
            code = 0
        finally:
            os._exit(code)
    assert os.waitpid(pid, 0)[1] == 0
    assert pool.call(int).recv() == 0


# -- wrap


class Database:
    def __init__(self):
        self.looked = []
        self.posts = Collection()

    @property
    def slow(self):
        self.looked.append(threading.current_thread())
        return self.posts


class Collection:
    def find(self, *args, **kwargs):
        return threading.current_thread(), args, kwargs


def test_methods_of_what_is_wrapped_run_in_the_pool(h):
    pool = h.thread.pool(1)
    thread, args, kwargs = pool.wrap(Database()).posts.find({"a": 1}, limit=2).recv()
    assert thread is not threading.current_thread()
    assert (args, kwargs) == (({"a": 1},), {"limit": 2})
    assert pool.wrap(max)(1, 2).recv() == 2


def test_attributes_are_looked_up_in_the_pool_and_not_before(h):
    database = Database()
    proxy = h.thread.pool(1).wrap(database)
    find = proxy.slow.find
    missing = proxy.there.is_.none
    assert database.looked == []
    assert find().recv()[0] is database.looked[0]
    with pytest.raises(AttributeError, match="there"):
        missing().recv()
    with pytest.raises(TypeError):
        proxy.posts().recv()


def test_a_proxy_has_no_private_names_and_cannot_be_set(h):
    proxy = h.thread.pool(1).wrap(Database())
    for name in "_find", "__iter__", "__wrapped__", "_":
        with pytest.raises(AttributeError, match="no private names"):
            getattr(proxy, name)
    with pytest.raises(AttributeError):
        proxy.posts = 1
    with pytest.raises(TypeError):
        iter(proxy)
    assert repr(proxy.posts.find) == "<Proxy of Database.posts.find>"


def test_a_ctrl_c_in_the_middle_of_a_call_does_not_spoil_the_count_of_what_is_waited_for(h, monkeypatch):
    put = Workers._put

    def interrupted(pool, call):
        monkeypatch.undo()
        put(pool, call)
        raise KeyboardInterrupt

    with h.thread.pool(1) as pool:
        live = h.poll.live
        monkeypatch.setattr(Workers, "_put", interrupted)
        with pytest.raises(KeyboardInterrupt):
            pool.call(abs, -1)
        assert pool.call(abs, -2).recv() == 2
        assert h.poll.live == live

"""Pools of tasks."""

from __future__ import annotations

import contextvars
import gc
import logging
import sys

import pytest
from actors import LONG, Actor, run
from hypothesis import given, settings
from hypothesis import strategies as st

import vanilla
from vanilla import Abandoned, Cancelled, Closed, Stop, Timeout
from vanilla.job import Job, Places
from vanilla.poolmap import Mapping
from vanilla.taskpool import TaskPool

request = contextvars.ContextVar("request", default="none")


# -- call


def test_call_gives_what_the_function_returns(h):
    assert h.pool(1).call(pow, 2, 5, mod=7).recv() == 4


def test_call_raises_what_the_function_raises_and_does_not_log_it(h, caplog):
    pool = h.pool(1)
    recver = pool.call(int, "x")
    with pytest.raises(ValueError):
        recver.recv()
    assert caplog.text == ""
    assert pool.call(abs, -1).recv() == 1


def test_at_most_so_many_run_and_callers_wait_their_turn(h):
    pool, running, most, begun = h.pool(2), 0, 0, []

    def work(i):
        nonlocal running, most
        begun.append(i)
        running += 1
        most = max(most, running)
        h.sleep(1)
        running -= 1

    callers = [h.spawn(pool.call, work, i) for i in range(6)]
    run(h)
    assert begun == [0, 1]
    assert not callers[2].done
    for caller in callers:
        caller.join()
    pool.join()
    assert begun == [0, 1, 2, 3, 4, 5]
    assert most == 2


def test_a_call_has_its_callers_context(h):
    pool = h.pool(1)

    def caller(name):
        request.set(name)
        return pool.call(request.get).recv()

    tasks = [h.spawn(caller, name) for name in "abc"]
    assert [task.join() for task in tasks] == ["a", "b", "c"]


def test_a_call_whose_recver_was_dropped_is_made_and_what_it_raises_is_logged(h, caplog):
    done = []

    def work(x):
        done.append(x)
        return 1 / x

    with h.pool(1) as pool:
        for x in 1, 0:
            pool.call(work, x).close()
    assert done == [1, 0]
    assert "work raised" in caplog.text
    assert "ZeroDivisionError" in caplog.text


def test_a_cancelled_caller_takes_no_place(h):
    pool, gate, seen = h.pool(1), h.event(), []
    pool.call(gate.wait)
    callers = [h.spawn(pool.call, seen.append, i) for i in range(2)]
    run(h)
    callers[0].cancel()
    gate.set()
    run(h)
    pool.join(timeout=1000)
    assert seen == [1]
    with pytest.raises(Cancelled):
        callers[0].join()


def test_a_place_that_was_handed_to_a_cancelled_caller_is_used(h):
    pool, gate, seen, actor = h.pool(1), h.event(), [], Actor(h)
    blocked = pool.call(gate.wait)
    actor.do(lambda: pool.call(seen.append, 1) and None)
    tasks = list(h.tasks)
    gate.set()
    h.spawn(actor.task.cancel)  # in the tick in which the place is handed over
    run(h)
    assert blocked.recv() is None
    pool.join(timeout=1000)
    assert seen == [1]
    assert actor.heard == ["cancelled"]
    assert tasks


def test_a_deadlock_names_those_who_are_busy(h):
    pool = h.pool(2)

    def stuck():
        h.event().wait()

    kept = [pool.call(stuck), pool.call(stuck)]
    with pytest.raises(
        Stop, match=r"the main task waits for a place in a pool of 2 that is busy with task 1 \(.*stuck\), task 2"
    ):
        pool.call(stuck)
    with pytest.raises(Stop, match=r"the main task waits for join of a pool of 2 that is busy with task 1"):
        pool.join()
    with pytest.raises(Stop, match=r"the main task waits for recv on a call of .*stuck"):
        kept[0].recv()


def test_a_pool_of_no_tasks_is_refused(h):
    with pytest.raises(ValueError):
        h.pool(0)


@pytest.mark.parametrize("ending", [KeyboardInterrupt, SystemExit])
def test_a_ctrl_c_in_a_call_goes_to_the_main_task_and_the_reader_hears_of_it(h, ending):
    pool, outcome = h.pool(1), []

    def work():
        raise ending

    recver = pool.call(work)

    def read():
        try:
            recver.recv()
        except RuntimeError as error:
            outcome.append(str(error))

    h.spawn(read)
    with pytest.raises(ending):
        h.sleep(1000)
    run(h)
    assert "goes to the main task" in outcome[0]
    assert pool.call(abs, -1).recv() == 1


def test_a_task_cancelled_in_a_call_raises_at_the_reader(h):
    pool, tasks = h.pool(1), []

    def work():
        tasks.extend(task for task in h.tasks if "work" in str(task))
        h.sleep(LONG)

    recver = pool.call(work)
    run(h)
    tasks[0].cancel()
    with pytest.raises(Cancelled):
        recver.recv()
    pool.join(timeout=0)


# -- join, close


def test_join_waits_until_nothing_runs(h):
    pool, done = h.pool(2), []
    pool.join(timeout=0)
    for i in range(5):
        h.spawn(pool.call, lambda i=i: (h.sleep(1), done.append(i)))
    run(h)
    with pytest.raises(Timeout, match="join of a pool of 2"):
        pool.join(timeout=0)
    pool.join()
    assert done == [0, 1, 2, 3, 4]


def test_join_does_not_return_between_two_calls_of_a_pool_of_one(h):
    pool, done = h.pool(1), []
    for i in range(3):
        h.spawn(pool.call, done.append, i)
    h.sleep(0)
    pool.call(done.append, 3)
    pool.join()
    assert done == [0, 1, 2, 3]


def test_a_task_of_the_pool_cannot_join_it(h):
    pool = h.pool(1)
    with pytest.raises(RuntimeError, match="is one of this pool's"):
        pool.call(pool.join).recv()


def test_close_refuses_calls_and_those_who_wait_to_make_one(h):
    pool, gate, actor = h.pool(1), h.event(), Actor(h)
    running = pool.call(lambda: gate.wait() or "done")

    def call():
        try:
            pool.call(abs, -1)
        except Closed:
            return "closed"
        return "called"

    actor.do(call)
    pool.close()
    pool.close()
    run(h)
    assert actor.heard == ["closed"]
    with pytest.raises(Closed, match="cannot call"):
        pool.call(abs, -1)
    with pytest.raises(Closed, match="cannot map"):
        pool.map(abs, [1])
    gate.set()
    assert running.recv() == "done"


def test_with_closes_and_joins(h):
    done = []
    with h.pool(2) as pool:
        for i in range(4):
            pool.call(lambda i=i: (h.sleep(1), done.append(i)))
    assert done == [0, 1, 2, 3]
    with pytest.raises(Closed):
        pool.call(abs, 1)


# -- map


@pytest.mark.parametrize("ordered", [True, False])
def test_map_keeps_the_order_unless_told(h, ordered):
    gates = [h.event() for _ in range(3)]
    results = h.pool(3).map(lambda i: gates[i].wait() or i, range(3), ordered)
    for i in 2, 0, 1:
        run(h)
        gates[i].set()
    assert list(results) == ([0, 1, 2] if ordered else [2, 0, 1])


@pytest.mark.parametrize("ordered", [True, False])
def test_map_of_nothing_is_nothing(h, ordered):
    assert list(h.pool(2).map(abs, [], ordered)) == []


@pytest.mark.parametrize("ordered", [True, False])
def test_what_the_function_raises_comes_in_the_place_of_that_result_and_the_others_go_on(h, ordered, caplog):
    results = h.pool(1).map(lambda x: 6 / x, [1, 0, 2], ordered)
    assert results.recv() == 6
    with pytest.raises(ZeroDivisionError):
        results.recv()
    assert results.recv() == 3
    with pytest.raises(Closed):
        results.recv()
    assert caplog.text == ""


def broken_items():
    yield 1
    yield 2
    raise LookupError("no more")


@pytest.mark.parametrize("ordered", [True, False])
def test_what_items_raises_comes_last(h, ordered):
    def slow(x):
        h.sleep(1)
        return x

    results = h.pool(5).map(slow, broken_items(), ordered)
    assert [results.recv(), results.recv()] == [1, 2]
    with pytest.raises(LookupError, match="no more"):
        results.recv()
    with pytest.raises(Closed):
        results.recv()


def test_what_cannot_be_iterated_is_the_callers_error(h):
    with pytest.raises(TypeError):
        h.pool(1).map(abs, 5)


@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("error", [StopIteration, Closed, Abandoned])
def test_an_error_that_would_end_the_readers_loop_comes_as_another(h, ordered, error):
    def work(x):
        if x == 2:
            raise error("oh")
        return x

    results = h.pool(1).map(work, [1, 2, 3], ordered)
    seen = []
    with pytest.raises(RuntimeError, match="raised") as raised:
        for result in results:
            seen.append(result)
    assert type(raised.value.__cause__) is error
    assert seen + list(results) == [1, 3]


@pytest.mark.parametrize("pair", [True, False])
def test_items_may_come_from_a_recver_or_its_pair(h, pair):
    ch = h.channel()
    results = h.pool(2).map(lambda x: x * x, ch if pair else ch.recver)
    for i in range(4):
        ch.send(i)
        assert results.recv() == i * i
    ch.close()
    with pytest.raises(Closed, match="this map of"):
        results.recv()


@pytest.mark.parametrize("ordered", [True, False])
def test_an_exception_that_comes_through_a_recver_is_one_of_the_items(h, ordered):
    ch = h.channel(3)
    ch.send_many([1, ValueError("sent"), 3])
    results = h.pool(1).map(abs, ch.recver, ordered)
    assert results.recv() == 1
    with pytest.raises(ValueError, match="sent"):
        results.recv()
    assert results.recv() == 3


@pytest.mark.parametrize("ordered", [True, False])
def test_no_more_items_are_taken_ahead_of_the_reader_than_the_pool_has_tasks(h, ordered):
    taken = []

    def items():
        for i in range(100):
            taken.append(i)
            yield i

    results = h.pool(3).map(abs, items(), ordered)
    for received in range(10):
        run(h)
        assert len(taken) == received + 3
        results.recv()


def test_a_slow_first_item_does_not_let_others_run_far_ahead(h):
    gate, taken = h.event(), []

    def work(i):
        taken.append(i)
        if i == 0:
            gate.wait()
        return i

    results = h.pool(3).map(work, range(100))
    run(h)
    assert taken == [0, 1, 2]
    gate.set()
    assert results.recv() == 0


def test_results_that_wait_for_their_reader_keep_no_place(h):
    pool = h.pool(2)
    results = pool.map(abs, range(10))
    run(h)
    pool.join(timeout=0)
    assert pool.call(abs, -5).recv() == 5
    assert list(results) == list(range(10))


def test_a_map_shares_the_pools_tasks_with_others(h):
    pool, running, most = h.pool(2), 0, 0

    def work(i):
        nonlocal running, most
        running += 1
        most = max(most, running)
        h.sleep(1)
        running -= 1
        return i

    maps = [pool.map(work, range(5)) for _ in range(3)]
    tasks = [h.spawn(list, results) for results in maps]
    assert [task.join() for task in tasks] == [list(range(5))] * 3
    assert most == 2


@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("drop", [True, False])
def test_a_reader_that_goes_away_ends_the_tasks_of_a_map(h, ordered, drop):
    if drop and sys.implementation.name != "cpython":
        pytest.skip("counts no references")
    begun, ended, pool = [], [], h.pool(2)

    def work(i):
        begun.append(i)
        try:
            if i:
                h.sleep(LONG)
        finally:
            ended.append(i)

    results = pool.map(work, range(100), ordered)
    assert results.recv() is None
    run(h)
    assert begun == [0, 1, 2]
    if not drop:
        results.close()
    gc.disable()
    try:
        del results
        run(h)
    finally:
        gc.enable()
    assert sorted(ended) == [0, 1, 2]
    assert not h.tasks
    pool.join(timeout=0)
    assert pool.call(abs, -1).recv() == 1


@pytest.mark.parametrize("where", ["place", "item", "result", "start"])
def test_a_reader_may_go_away_wherever_the_map_waits(h, where):
    pool, gate, begun = h.pool(1), h.event(), []
    ch = h.channel()
    if where == "place":
        blocked = pool.call(gate.wait)
    results = pool.map(begun.append, ch.recver if where == "item" else [1, 2, 3])
    if where != "start":
        run(h)
    results.close()
    run(h)
    gate.set()
    if where == "place":
        blocked.recv()
    pool.join(timeout=1000)
    run(h)
    assert not h.tasks
    assert begun == ([1] if where == "result" else [])
    assert pool.call(abs, -1).recv() == 1


def test_a_job_that_has_not_begun_when_the_reader_goes_away_never_does_and_keeps_no_place(h):
    pool, begun = h.pool(1), []
    results = pool.map(begun.append, [1, 2])
    mapping = next(task for task in h.tasks if "_feed" in str(task))
    begin = Places.begin
    withdrawn = []

    def struck(places, job):
        begin(places, job)
        job.cancel()
        withdrawn.append(job)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Places, "begin", struck)
        results.recv()
    assert withdrawn[0].withdrawn
    assert begun == []
    assert mapping is not None
    results.close()
    run(h)
    pool.join(timeout=0)


def test_what_is_raised_after_the_reader_has_gone_is_logged(h, caplog):
    def work(i):
        try:
            h.sleep(LONG)
        finally:
            raise ValueError("at the end")

    results = h.pool(1).map(work, [1])
    run(h)
    with caplog.at_level(logging.ERROR):
        results.close()
        run(h)
    assert "at the end" in caplog.text


def test_a_map_that_has_begun_goes_on_when_the_pool_is_closed(h):
    with h.pool(2) as pool:
        results = pool.map(abs, range(10))
    assert list(results) == list(range(10))


def test_a_map_that_waits_for_a_place_goes_on_when_the_pool_is_closed(h):
    pool, gate = h.pool(1), h.event()
    blocked = pool.call(gate.wait)
    results = pool.map(abs, [-1, -2])
    run(h)
    pool.close()
    gate.set()
    assert list(results) == [1, 2]
    assert blocked.recv() is None


def test_no_item_is_taken_for_a_reader_that_goes_as_it_takes_the_one_before(h):
    taken = []
    results = h.pool(1).map(abs, (taken.append(i) or i for i in range(9)))
    run(h)
    results.recv()
    results.close()
    run(h)
    assert taken == [0]


def test_a_place_that_comes_as_the_reader_goes_is_given_back(h):
    pool, gate, begun = h.pool(1), h.event(), []
    results = pool.map(begun.append, [1])
    blocked = pool.call(lambda: gate.wait() or results.close())
    run(h)
    gate.set()
    blocked.recv()
    pool.join(timeout=1000)
    run(h)
    assert begun == []
    assert not h.tasks


def test_a_place_whose_task_cannot_be_made_is_given_back(h, monkeypatch):
    pool = h.pool(1)

    def struck(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(type(h), "spawn", struck)
        with pytest.raises(KeyboardInterrupt):
            pool.call(abs, 1)
    pool.join(timeout=0)
    assert pool.call(abs, -1).recv() == 1


def test_a_feeder_that_is_cancelled_is_no_end_to_the_reader(h):
    ch = h.channel()
    results = h.pool(1).map(abs, ch.recver)
    run(h)
    next(task for task in h.tasks if "_feed" in str(task)).cancel()
    with pytest.raises(RuntimeError, match="Cancelled has ended a map before its last item"):
        results.recv()


def test_several_tasks_may_read_one_map(h):
    results = h.pool(2).map(abs, range(10))
    readers = [h.spawn(list, results) for _ in range(3)]
    assert sorted(result for reader in readers for result in reader.join()) == list(range(10))


def test_a_maps_tasks_have_the_context_of_who_made_it(h):
    request.set("mine")
    results = h.pool(2).map(lambda _: request.get(), range(3))
    request.set("none")
    assert list(results) == ["mine"] * 3


def test_the_hubs_end_ends_a_map_in_silence(caplog):
    with vanilla.Hub() as hub:
        pool = hub.pool(2)
        results = pool.map(hub.sleep, [LONG] * 5)
        run(hub)
    assert not hub.tasks
    assert caplog.text == ""
    assert results


@pytest.mark.skipif(sys.implementation.name != "cpython", reason="counts no references")
def test_a_pool_leaves_no_cycles(h):
    def use():
        with h.pool(2) as pool:
            pool.call(abs, -1).recv()
            with pytest.raises(ValueError):
                pool.call(int, "x").recv()
            for ordered in True, False:
                assert list(pool.map(abs, [1, 2, 3], ordered)) == [1, 2, 3]
                assert pool.map(abs, [1, 2, 3], ordered).recv() == 1
                results = pool.map(int, ["x", "1"], ordered)
                with pytest.raises(ValueError):
                    results.recv()
                assert list(results) == [1]
        run(h)

    def count():
        return sum(isinstance(thing, (Job, Mapping, Places, TaskPool)) for thing in gc.get_objects())

    use()
    gc.collect()
    gc.disable()
    try:
        before = count()
        use()
        assert count() == before
    finally:
        gc.enable()


@settings(deadline=None, max_examples=100)
@given(
    size=st.integers(1, 4),
    naps=st.lists(st.sampled_from([None, 0, 0, 1, "error"]), max_size=12),
    ordered=st.booleans(),
    read=st.integers(0, 14),
    broken=st.booleans(),
)
def test_a_map_gives_each_result_once_and_keeps_its_bounds(size, naps, ordered, read, broken):
    with vanilla.Hub() as h:
        running = taken = received = 0

        def items():
            nonlocal taken
            for i, nap in enumerate(naps):
                taken += 1
                assert taken <= received + size + 1  # the reader has one in hand that it has not counted
                yield i, nap
            if broken:
                raise LookupError(-1)

        def work(item):
            nonlocal running
            running += 1
            try:
                assert running <= size
                i, nap = item
                if nap == "error":
                    raise KeyError(i)
                if nap is not None:
                    h.sleep(nap)
                return i
            finally:
                running -= 1

        seen = []
        with h.pool(size) as pool:
            results = pool.map(work, items(), ordered)
            while received < read:
                try:
                    seen.append(results.recv())
                except LookupError as error:
                    seen.append(error.args[0])
                except Closed:
                    break
                received += 1
            results.close()
        run(h)
        assert not h.tasks
        expected = [*range(len(naps)), *([-1] if broken else [])]
        if ordered:
            assert seen == expected[:read]
        else:
            assert len(seen) == len(set(seen)) == min(read, len(expected))
            assert not broken or -1 not in seen[:-1] or read > len(expected)

"""What the Hub has beside its channels: value, producer, consumer, trigger, and the errors of what runs between two."""

from __future__ import annotations

import gc
import logging
import weakref

import pytest

from vanilla import Abandoned, Closed, Hub, RemoteError, Timeout


def run(h):
    """Let every task run until it waits."""
    h.sleep(0)
    h.sleep(0)


class Boom(Exception):
    pass


def boom(*args):
    raise Boom(*args)


# -- value


def test_a_value_is_read_by_many_whoever_comes_first(h):
    value = h.value()
    early = [h.spawn(value.recv) for _ in range(3)]
    run(h)
    assert not any(task.done for task in early)
    value.send(0)
    assert [task.join() for task in early] == [0, 0, 0]
    assert value.recv(timeout=0) == 0
    assert h.select([value]) == (value, 0)


def test_a_value_is_set_once(h):
    value = h.value()
    value.send("first")
    with pytest.raises(Closed, match="set already"):
        value.send("second")
    with pytest.raises(Closed):
        h.select([value.sender])
    assert value.recv() == "first"
    value.close()
    assert value.recv() == "first"


def test_a_value_that_is_closed_or_dropped_before_it_is_set_ends_its_readers(h):
    value = h.value()
    task = h.spawn(value.recv)
    run(h)
    value.close()
    with pytest.raises(Closed):
        task.join()
    sender, recver = h.value()
    del sender
    gc.collect()
    with pytest.raises(Abandoned):
        recver.recv()


def test_an_exception_as_a_value_is_raised_at_every_reader(h):
    value = h.value()
    value.send(Boom("here"))
    for _ in range(3):
        with pytest.raises(Boom, match="here"):
            value.recv()


def test_a_value_that_is_not_set_times_out(h):
    value = h.value()
    with pytest.raises(Timeout, match="value"):
        value.recv(timeout=1)


# -- producer and consumer


def test_what_a_producer_raises_is_raised_at_its_receiver_behind_what_it_has_sent(h):
    def produce(sender):
        sender.send(1)
        boom("there")

    recver = h.producer(produce)
    assert recver.recv() == 1
    with pytest.raises(Boom, match="there"):
        recver.recv()
    with pytest.raises(Closed):
        recver.recv()


def test_what_a_stage_raises_is_raised_at_its_receiver(h):
    def stage(recver, sender):
        sender.send(recver.recv())
        boom("in the stage")

    sender, recver = h.pipe()
    out = recver.pipe(stage)
    h.spawn(sender.send, 1)
    assert out.recv() == 1
    with pytest.raises(Boom, match="in the stage"):
        out.recv()
    run(h)
    assert sender.halted


def test_what_a_producer_raises_that_nobody_hears_is_logged(h, caplog):
    def produce(sender):
        try:
            sender.send(1)
        finally:
            boom("unheard")

    recver = h.producer(produce)
    run(h)
    recver.close()
    run(h)
    assert "unheard" in caplog.text


def test_an_end_that_a_failed_producer_had_counts_as_dropped(h):
    inner = h.pipe()

    def produce(sender, dropped=[inner.sender]):  # noqa: B006
        held = dropped.pop()
        assert held
        boom()

    recver, task = h.producer(produce), h.spawn(inner.recver.recv)
    inner = None
    with pytest.raises(Boom):
        recver.recv()
    gc.collect()
    with pytest.raises(Abandoned):
        task.join()


def test_a_consumer_is_called_with_each_item_and_survives_what_it_raises(h, caplog):
    seen = []

    def consume(item):
        seen.append(item)
        if item == 1:
            boom("at one")

    sender = h.consumer(consume)
    for i in range(3):
        sender.send(i)
    run(h)
    assert seen == [0, 1, 2]
    assert "at one" in caplog.text
    sender.close()


# -- trigger


def test_a_trigger_has_its_function_run_soon_and_never_waits(h):
    runs = []
    go = h.trigger(lambda: runs.append(1))
    go.trigger()
    assert runs == []
    run(h)
    assert runs == [1]


def test_triggers_before_the_function_has_begun_count_as_one_those_while_it_runs_as_one_more(h):
    runs, gate = [], h.pipe()

    def slow():
        runs.append(1)
        gate.recv()

    go = h.trigger(slow)
    for _ in range(5):
        go.trigger()
    run(h)
    assert len(runs) == 1
    for _ in range(5):
        go.trigger()
    gate.send(None)
    run(h)
    assert len(runs) == 2
    gate.send(None)
    run(h)
    assert len(runs) == 2


def test_a_triggers_function_may_raise(h, caplog):
    go = h.trigger(boom)
    for _ in range(2):
        go.trigger()
        run(h)
    assert caplog.text.count("boom raised") == 2


def test_a_trigger_that_is_closed_or_dropped_runs_what_was_triggered_and_ends(h):
    runs = []

    def count():
        runs.append(1)

    gone = weakref.ref(count)
    go = h.trigger(count)
    go.trigger()
    go.close()
    with pytest.raises(Closed):
        go.trigger()
    run(h)
    other = h.trigger(count)
    other.trigger()
    del other, count
    gc.collect()
    run(h)
    assert runs == [1, 1]
    assert not h.tasks
    gc.collect()
    assert gone() is None


# -- onerror


def test_a_hook_hears_of_every_exception_that_would_only_be_logged(h, caplog):
    heard = []
    h.onerror(lambda what, error: heard.append((what, str(error))))
    task = h.spawn(boom, "task")
    run(h)
    sender = h.consumer(boom)
    sender.send("consumer")
    h.after(0, lambda: boom("timer"))
    h.at_edge(lambda: boom("edge"))
    h.sleep(1)
    assert [text for _, text in heard] == ["task", "consumer", "edge", "timer"]
    assert heard[0][0] is task
    assert heard[1][0] is boom
    assert all(text in caplog.text for text in ("task", "consumer", "timer", "edge"))


def test_a_hook_that_is_taken_back_hears_nothing_and_one_that_raises_disturbs_nobody(h, caplog):
    heard = []
    h.onerror(boom)
    remove = h.onerror(lambda what, error: heard.append(error))
    h.spawn(boom, 1)
    run(h)
    assert len(heard) == 1
    assert "a hook for errors" in caplog.text
    remove()
    remove()
    h.spawn(boom, 2)
    run(h)
    assert len(heard) == 1


def test_a_task_that_the_hub_stops_is_no_error(caplog):
    heard = []
    with Hub() as h:
        h.onerror(lambda what, error: heard.append(error))
        h.spawn(h.sleep, 10_000)
        run(h)
    assert heard == []
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


def test_a_hook_hears_of_what_remote_consumers_and_servers_raise(h):
    heard = []
    h.onerror(lambda what, error: heard.append((what, str(error))))
    with h.broker.listen("tcp://127.0.0.1:0") as broker, h.client.connect(broker.urls[0]) as remote:
        remote.push("jobs").send("job")
        task = remote.pull("jobs").consume(boom)
        while not heard:
            h.sleep(1)
        task.cancel()
        remote.router("service").consume(boom)
        with pytest.raises(RemoteError):
            remote.dealer("service").call("request", wait=True).recv()
    assert heard == [(boom, "job"), (boom, "request")]


# -- serialize


def test_serialized_calls_run_one_at_a_time_in_their_order_and_each_gets_its_own(h):
    running, order = [], []

    @h.serialize
    def double(n, *, fail=False):
        """Doubles."""
        running.append(n)
        order.append(n)
        assert len(running) == 1
        h.sleep(0)
        running.remove(n)
        if fail:
            boom(n)
        return 2 * n

    tasks = [h.spawn(double, n, fail=n == 2) for n in range(5)]
    assert [task.join() for task in tasks if task is not tasks[2]] == [0, 2, 6, 8]
    with pytest.raises(Boom):
        tasks[2].join()
    assert order == [0, 1, 2, 3, 4]
    assert (double.__name__, double.__doc__) == ("double", "Doubles.")


def test_a_serialized_call_that_is_cancelled_while_it_waits_is_never_made(h):
    made = []

    @h.serialize
    def work(n):
        made.append(n)
        h.sleep(1)

    first, second, third = (h.spawn(work, n) for n in range(3))
    run(h)
    second.cancel()
    third.join()
    assert made == [0, 2]
    assert first.done


def test_a_ctrl_c_in_a_hook_is_one(h):
    def hook(what, error):
        raise KeyboardInterrupt

    h.onerror(hook)
    with pytest.raises(KeyboardInterrupt):
        h.at_edge(lambda: 1 / 0)
        h.sleep(1_000)

"""Channels: what is promised of pipe, queue, dealer, router, channel and state, of their ends and of select."""

from __future__ import annotations

import gc
import itertools
import socket
import struct
import sys
import traceback
import weakref
from collections import deque
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vanilla import Abandoned, Busy, Cancelled, Closed, ConnectionLost, Halt, Hub, Recver, Timeout
from vanilla.channel import Channel

KINDS = ["pipe", "queue", "dealer", "router", "channel", "buffered"]
FALSY = [0, None, "", False, [], 0.0]


def make(h, kind):
    return {"queue": lambda: h.queue(2), "buffered": lambda: h.channel(2)}.get(kind, lambda: getattr(h, kind)())()


def run(h):
    """Let every task run until it waits."""
    h.sleep(0)
    h.sleep(0)


def run_ready(h):
    """Let those run who are ready, without a turn of the loop."""
    for _ in range(2):
        turn = h.pipe()
        h.spawn(turn.send, None)
        turn.recv()


# -- one message


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_sent_is_received_whoever_comes_first(h, kind):
    ch = make(h, kind)
    task = h.spawn(ch.send, 1)
    assert ch.recv() == 1
    task.join()
    task = h.spawn(ch.recv)
    run(h)
    ch.send(2)
    assert task.join() == 2


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("item", FALSY)
def test_an_item_may_be_false(h, kind, item):
    ch = make(h, kind)
    h.spawn(ch.send, item)
    got = ch.recv()
    assert got == item
    assert type(got) is type(item)


@pytest.mark.parametrize("kind", KINDS)
def test_messages_of_one_sender_keep_their_order(h, kind):
    ch = make(h, kind)
    h.spawn(lambda: [ch.send(i) for i in range(50)] and ch.close())
    assert list(ch.recver) == list(range(50))


def test_a_rendezvous_holds_its_sender_until_the_item_is_taken(h):
    ch = h.pipe()
    task = h.spawn(ch.send, 1)
    run(h)
    assert not task.done
    ch.recv()
    run(h)
    assert task.done


def test_a_full_queue_blocks_its_sender(h):
    ch = h.queue(2)
    task = h.spawn(lambda: [ch.send(i) for i in range(3)])
    run(h)
    assert not task.done
    assert ch.recv() == 0
    run(h)
    assert task.done
    assert [ch.recv(), ch.recv()] == [1, 2]


def test_room_for_one_lets_one_sender_go(h):
    ch = h.channel(1)
    tasks = [h.spawn(ch.send, i) for i in range(4)]
    run(h)
    assert ch.recv() == 0
    run(h)
    assert [task.done for task in tasks] == [True, True, False, False]


def test_a_queue_must_hold_something():
    with Hub() as h, pytest.raises(ValueError, match="pipe or channel"):
        h.queue(0)


def test_a_channel_of_minus_one_is_unbuffered(h):
    with pytest.raises(Timeout):
        h.channel(-1).send(1, timeout=0)


@pytest.mark.trap("waiters out of order")
def test_a_dealer_serves_who_waits_longest(h):
    ch = h.dealer()
    tasks = [h.spawn(ch.recv) for _ in range(3)]
    run(h)
    for i in range(3):
        ch.send(i)
    assert [task.join() for task in tasks] == [0, 1, 2]


@pytest.mark.trap("waiters out of order")
def test_a_router_takes_from_who_waits_longest(h):
    ch = h.router()
    for i in range(3):
        h.spawn(ch.send, i)
    run(h)
    assert [ch.recv() for _ in range(3)] == [0, 1, 2]


@pytest.mark.trap("a second waiter")
@pytest.mark.parametrize("kind", ["pipe", "queue", "router"])
def test_a_second_waiting_receiver_is_an_error_where_there_is_one(h, kind):
    ch = make(h, kind)
    first = h.spawn(ch.recv)
    run(h)
    with pytest.raises(Busy, match=r"h\.dealer"):
        ch.recv()
    ch.send("for the first")
    assert first.join() == "for the first"


@pytest.mark.trap("a second waiter")
@pytest.mark.parametrize("kind", ["pipe", "dealer"])
def test_a_second_waiting_sender_is_an_error_where_there_is_one(h, kind):
    ch = make(h, kind)
    h.spawn(ch.send, 1)
    run(h)
    with pytest.raises(Busy, match=r"h\.router"):
        ch.send(2)
    assert ch.recv() == 1


# -- timeouts


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("ms", [0, 1])
def test_a_recv_that_times_out_loses_nothing(h, kind, ms):
    ch = make(h, kind)
    with pytest.raises(Timeout):
        ch.recv(timeout=ms)
    h.spawn(ch.send, 1)
    assert ch.recv() == 1


@pytest.mark.parametrize("ms", [0, 1])
def test_a_send_that_times_out_was_not_sent(h, ms):
    ch = h.queue(1)
    ch.send(1)
    with pytest.raises(Timeout, match="send on a queue"):
        ch.send(2, timeout=ms)
    assert ch.recv() == 1
    with pytest.raises(Timeout):
        ch.recv(timeout=0)


def test_timeout_zero_takes_what_is_there(h):
    ch = h.channel()
    h.spawn(ch.send, 1)
    run(h)
    assert ch.recv(timeout=0) == 1
    h.spawn(ch.recv)
    run(h)
    ch.send(2, timeout=0)


def test_an_answered_call_leaves_no_timer_behind(h):
    ch = h.channel()
    for i in range(10):
        h.spawn(ch.send, i, 1000)
        ch.recv(timeout=2000)
        task = h.spawn(ch.recv, 3000)
        h.sleep(0)
        ch.send(i, timeout=1000)
        task.join(timeout=1000)
        h.spawn(ch.send, i)
        h.select([ch], timeout=1000)
    assert len(h.timers) == 0


@pytest.mark.parametrize("wait", ["recv", "select"])
def test_what_is_handed_over_at_the_very_moment_of_the_timeout_arrives(h, wait):
    ch = h.queue(1)
    task = h.spawn(ch.recv if wait == "recv" else lambda timeout: h.select([ch], timeout)[1], 5)
    run(h)
    # Both timers are due in one batch, the hand-over just before the timeout.
    waiter = next(iter(h.tasks)).waiter
    h.timers.at(waiter.due - 1, lambda: ch.send("just in time"))
    with mock.patch("vanilla.loop.monotonic", return_value=waiter.due + 1):
        h.sleep(0)
    assert task.join() == "just in time"
    assert len(h.timers) == 0


@pytest.mark.parametrize("wait", ["recv", "select"])
def test_what_comes_after_the_timeout_in_one_batch_goes_to_the_next(h, wait):
    ch = h.queue(1)
    task = h.spawn(ch.recv if wait == "recv" else lambda timeout: h.select([ch], timeout)[1], 5)
    run(h)
    waiter = next(iter(h.tasks)).waiter
    h.timers.at(waiter.due, lambda: ch.send("too late"))
    with mock.patch("vanilla.loop.monotonic", return_value=waiter.due + 1):
        h.sleep(0)
    with pytest.raises(Timeout):
        task.join()
    assert ch.recv(timeout=0) == "too late"


# -- the end


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("end", ["sender", "recver"])
def test_close_is_idempotent_and_ends_both_sides(h, kind, end):
    ch = make(h, kind)
    getattr(ch, end).close()
    getattr(ch, end).close()
    ch.close()
    with pytest.raises(Closed, match="cannot send"):
        ch.send(1)
    with pytest.raises(Closed, match="cannot receive"):
        ch.recv()
    with pytest.raises(Closed):
        ch.recv(timeout=0)
    assert ch.sender.halted


@pytest.mark.trap("closing with parked waiters")
@pytest.mark.parametrize("kind", ["dealer", "channel", "buffered"])
def test_close_wakes_all_who_wait_to_receive(h, kind):
    ch = make(h, kind)
    tasks = [h.spawn(ch.recv) for _ in range(3)] + [h.spawn(h.select, [ch])]
    run(h)
    ch.close()
    for task in tasks:
        with pytest.raises(Closed):
            task.join()


@pytest.mark.trap("closing with parked waiters")
@pytest.mark.parametrize("kind", ["router", "channel", "buffered"])
def test_close_wakes_all_who_wait_to_send(h, kind):
    ch = make(h, kind)
    accepted = 2 if kind == "buffered" else 0
    tasks = [h.spawn(ch.send, i) for i in range(5)] + [h.spawn(h.select, [ch.sender])]
    run(h)
    ch.close()
    for task in tasks[accepted:]:
        with pytest.raises(Closed):
            task.join()


def test_what_is_buffered_can_be_received_after_close(h):
    ch = h.queue(3)
    for i in range(3):
        ch.send(i)
    ch.close()
    assert list(ch.recver) == [0, 1, 2]


def test_a_with_block_closes(h):
    ch = h.pipe()
    with ch.sender:
        pass
    with pytest.raises(Closed):
        ch.recv()
    with h.pipe() as pair:
        pass
    assert pair.recver.halted


@pytest.mark.parametrize("kind", KINDS)
def test_dropping_the_recver_abandons_the_sender(h, kind):
    sender, recver = make(h, kind)
    del recver
    gc.collect()
    with pytest.raises(Abandoned):
        sender.send(1)


@pytest.mark.parametrize("kind", KINDS)
def test_dropping_the_sender_abandons_who_waits(h, kind):
    sender, recver = make(h, kind)
    task = h.spawn(recver.recv)
    run(h)
    del sender
    gc.collect()
    with pytest.raises(Abandoned, match="lost its other end"):
        task.join()


def test_the_buffer_is_drained_before_abandoned(h):
    sender, recver = h.queue(2)
    sender.send(1)
    sender.send(2)
    del sender
    gc.collect()
    assert [recver.recv(), recver.recv()] == [1, 2]
    with pytest.raises(Abandoned):
        recver.recv()


def test_an_end_is_dropped_with_the_task_that_held_it(h):
    sender, recver = h.pipe()

    def work(sender):
        sender.send(1)

    h.spawn(work, sender)
    del sender
    assert recver.recv() == 1
    with pytest.raises(Abandoned):
        recver.recv()


@pytest.mark.parametrize("how", ["raised", "cancelled", "timeout caught", "closed caught", "exception item caught"])
def test_no_cycle_keeps_an_end_of_a_task_that_is_over(h, how):
    """Were there one, the other end would hear of it only at the next collection."""
    sender, recver = h.pipe()
    other = h.queue(1)
    if how == "closed caught":
        other.close()
    if how == "exception item caught":
        other.send(ValueError("an item"))

    def work(held):
        try:
            other.recv(timeout=1 if how == "timeout caught" else -1)
        except (Timeout, Halt, ValueError):
            pass
        if how == "raised":
            raise RuntimeError("over")

    task = h.spawn(work, sender)
    dropped = weakref.ref(sender)
    del sender
    run(h)
    gc.disable()
    try:
        if how == "raised":
            other.send("go on")
        if how == "cancelled":
            task.cancel()
        try:
            task.join()
        except (RuntimeError, Cancelled):
            pass
        if sys.implementation.name == "cpython":  # PyPy counts no references
            assert dropped() is None
    finally:
        gc.enable()
    with pytest.raises(Abandoned):
        recver.recv()


def test_an_item_is_not_kept_alive_by_those_who_passed_it_on(h):
    class Item:
        pass

    ch, out = h.pipe(), h.pipe()
    seen = []
    ch.recver.pipe(out.sender)
    out.consume(lambda item: seen.append(weakref.ref(item)))
    ch.send(Item())
    run(h)
    gc.collect()
    assert [ref() for ref in seen] == [None]


def test_an_iteration_keeps_no_item_alive_while_it_waits(h):
    class Item:
        pass

    ch, seen = h.pipe(), []

    def work():
        for item in ch.recver:
            seen.append(weakref.ref(item))
            del item

    h.spawn(work)
    ch.send(Item())
    run(h)
    gc.collect()
    assert [ref() for ref in seen] == [None]


def test_one_who_parks_just_as_the_end_is_dropped_is_woken_too(h):
    ch = h.pipe()
    state = ch.recver._state
    # as if a collection had struck between the last look at the channel and the parking
    state.abandon_by_sender()
    with pytest.raises(Abandoned):
        h.line_up(state.recvers, state)


def test_onclose_is_called_once_and_at_once_if_it_is_too_late(h):
    called = []
    ch = h.pipe()
    ch.onclose(lambda: called.append("waited"))
    ch.close()
    ch.close()
    ch.sender.onclose(lambda: called.append("late"))
    assert called == ["waited", "late"]


def test_onclose_passes_arguments_on(h):
    called = []
    for end in h.pipe(), h.pipe().recver, h.queue(1).sender, h.state(1).sender, h.broadcast().subscribe():
        end.onclose(called.append, end)
        end.onclose(lambda *args: called.append(args), 1, 2)
        end.close()
        end.onclose(called.append, "late")
        assert called == [end, (1, 2), "late"]
        called.clear()


def test_onclose_is_called_when_an_end_is_dropped(h):
    called = []
    sender, recver = h.pipe()
    recver.onclose(lambda: called.append(1))
    del sender
    gc.collect()
    assert called == []  # nobody is called from within a collection
    h.sleep(0)
    assert called == [1]


def test_a_closer_that_raises_keeps_the_others_from_nothing(h, caplog):
    called = []
    ch = h.pipe()
    ch.onclose(lambda: 1 / 0)
    ch.onclose(lambda: called.append(1))
    ch.close()
    assert called == [1]
    assert "ZeroDivisionError" in caplog.text


def test_an_end_says_what_it_is(h):
    ch = h.queue(1)
    assert repr(ch.sender) == "<Sender of a queue>"
    ch.close()
    assert repr(ch) == "<Pair <Sender of a queue (ended)> <Recver of a queue (ended)>>"
    assert ch.sender.hub is h


# -- exceptions as items


@pytest.mark.trap("an exception kills a queue")
@pytest.mark.parametrize("kind", KINDS)
def test_an_exception_that_is_sent_is_raised_at_the_receiver(h, kind):
    ch = make(h, kind)
    h.spawn(ch.send, ValueError("sent"))
    with pytest.raises(ValueError, match="sent"):
        ch.recv()
    h.spawn(ch.send, "next")
    assert ch.recv() == "next"


@pytest.mark.parametrize("kind", KINDS)
def test_only_an_exception_is_raised_whatever_types_came_before(h, kind):
    ch = make(h, kind)
    sent = [1, 2, ValueError("a"), ValueError("b"), None, ValueError("c"), ValueError, "x", 3, KeyError("d"), KeyError]
    h.spawn(lambda: [ch.send(item) for item in sent])
    got = []
    for _ in sent:
        try:
            got.append(("returned", ch.recv()))
        except Exception as error:
            got.append(("raised", error))
    assert got == [("raised" if isinstance(item, Exception) else "returned", item) for item in sent]


def test_an_exception_goes_through_a_chain_and_ends_none_of_it(h):
    ch, out = h.queue(5), h.queue(5)
    for item in 1, ValueError("passed on"), 2:
        ch.send(item)
    ch.recver.pipe(lambda up, down: [down.send(up._take()) for _ in range(3)]).pipe(out.sender)
    assert out.recv() == 1
    with pytest.raises(ValueError, match="passed on"):
        out.recv()
    assert out.recv() == 2


def test_iteration_goes_on_after_an_exception(h):
    ch = h.queue(3)
    for item in 1, ValueError(), 2:
        ch.send(item)
    ch.close()
    items = iter(ch.recver)
    assert next(items) == 1
    with pytest.raises(ValueError):
        next(items)
    assert list(items) == [2]


# -- forwarding


def test_pipe_to_a_sender_forwards_and_closes_it_at_the_end(h):
    a, b = h.queue(3), h.queue(3)
    assert a.recver.pipe(b.sender) is None
    a.send(1)
    assert b.recv() == 1
    a.close()
    with pytest.raises(Closed):
        b.recv()


def test_pipe_to_a_pair_returns_its_recver(h):
    a, b = h.pipe(), h.pipe()
    assert a.recver.pipe(b) is b.recver
    h.spawn(a.send, 1)
    assert b.recv() == 1


def test_many_piped_to_one_router_leave_it_open(h):
    gather = h.router()
    for i in range(3):
        ch = h.queue(1)
        ch.send(i)
        ch.sender.close()
        ch.recver.pipe(gather)
    assert sorted(gather.recv() for _ in range(3)) == [0, 1, 2]
    run(h)
    assert not gather.recver.halted


def test_pipe_through_a_callable_filters(h):
    ch = h.pipe()

    def odd(upstream, downstream):
        for item in upstream:
            if item % 2:
                downstream.send(item)

    out = ch.pipe(odd)
    h.spawn(lambda: [ch.send(i) for i in range(6)] and ch.sender.close())
    assert list(out.recver) == [1, 3, 5]
    assert out.sender is ch.sender


def test_a_chain_of_stages_ends_when_its_last_recver_is_dropped(h):
    sender, recver = h.pipe()
    out = recver.map(abs).map(abs)
    del recver
    run(h)
    del out
    gc.collect()
    run(h)
    with pytest.raises(Halt):
        sender.send(1)


def test_a_chain_of_stages_ends_when_its_sender_is_dropped(h):
    sender, recver = h.pipe()
    out = recver.map(abs).map(abs)
    del sender, recver
    gc.collect()
    with pytest.raises(Halt):
        out.recv()


def test_map_applies_and_raises_at_the_receiver_and_goes_on(h):
    ch = h.queue(5)
    for item in 1, 0, ValueError("sent"), 2:
        ch.send(item)
    out = ch.map(lambda x: 2 / x)
    assert out.recv() == 2
    with pytest.raises(ZeroDivisionError):
        out.recv()
    with pytest.raises(ValueError, match="sent"):
        out.recv()
    assert out.recv() == 1


@pytest.mark.trap("a raising consume hangs senders")
def test_consume_logs_what_raises_and_goes_on(h, caplog):
    ch, seen = h.queue(5), []

    def work(item):
        seen.append(item)
        if item == 1:
            raise RuntimeError("bad item")

    task = ch.consume(work)
    for item in 1, ValueError("sent"), 2:
        ch.send(item)
    ch.close()
    task.join()
    assert seen == [1, 2]
    assert "bad item" in caplog.text
    assert "ValueError: sent" in caplog.text


def test_consume_can_be_a_decorator(h):
    ch, seen = h.pipe(), []

    @ch.consume
    def _(item):
        seen.append(item)

    ch.send(1)
    run(h)
    assert seen == [1]


def test_a_producer_ends_with_its_function_and_with_its_receiver(h, caplog):
    recver = h.producer(lambda sender: [sender.send(i) for i in range(3)])
    assert list(recver) == [0, 1, 2]
    endless = h.producer(lambda sender: [sender.send(i) for i in itertools.count()])
    assert [endless.recv(), endless.recv()] == [0, 1]
    del endless
    gc.collect()
    run(h)
    assert not h.tasks
    assert not caplog.records


def test_a_pulse_comes_again_and_again_until_it_is_dropped(h):
    pulse = h.pulse(1, "tick")
    assert [pulse.recv(timeout=5000) for _ in range(3)] == ["tick"] * 3
    pulse.close()
    h.sleep(2)
    run(h)
    assert not h.tasks


# -- state


def test_a_state_is_read_again_and_again_and_keeps_the_last(h):
    state = h.state(1)
    assert [state.recv(), state.recv()] == [1, 1]
    state.send(2)
    state.send(3)
    assert state.recv() == 3


@pytest.mark.parametrize("item", FALSY)
def test_a_state_may_hold_what_is_false(h, item):
    assert h.state(item).recv() == item


@pytest.mark.trap("a state with two waiters")
def test_everybody_who_waits_for_a_state_gets_it(h):
    state = h.state()
    tasks = [h.spawn(state.recv), h.spawn(state.recv), h.spawn(lambda: h.select([state])[1])]
    run(h)
    state.send("set")
    assert [task.join() for task in tasks] == ["set"] * 3


def test_a_state_that_is_cleared_waits_for_the_next_value(h):
    state = h.state(1)
    state.clear()
    with pytest.raises(Timeout, match="recv on a state"):
        state.recv(timeout=0)
    with pytest.raises(Timeout):
        state.recv(timeout=1)
    state.sender.send(2)
    assert state.recv() == 2


def test_only_a_state_can_be_cleared(h):
    with pytest.raises(TypeError, match="this is a pipe"):
        h.pipe().clear()


def test_a_closed_state_keeps_its_value(h):
    state, empty = h.state(1), h.state()
    waiting = h.spawn(empty.recv)
    run(h)
    state.close()
    empty.close()
    assert state.recv() == 1
    with pytest.raises(Closed):
        state.send(2)
    for failed in empty.recv, waiting.join:
        with pytest.raises(Closed):
            failed()


def test_an_exception_in_a_state_is_raised_at_each_reader_with_a_traceback_of_its_own(h):
    state = h.state(ValueError("broken"))
    depths = []
    for _ in range(3):
        with pytest.raises(ValueError) as raised:
            state.recv()
        depths.append(len(traceback.extract_tb(raised.tb)))
    assert depths[0] == depths[2]


# -- select


@pytest.mark.trap("select of a false item")
@pytest.mark.parametrize("item", FALSY)
def test_select_returns_the_end_and_an_item_that_may_be_false(h, item):
    a, b = h.pipe(), h.queue(1)
    b.send(item)
    assert h.select([a.recver, b.recver]) == (b.recver, item)
    task = h.spawn(h.select, [a.recver, b.recver])
    run(h)
    a.send(item)
    assert task.join() == (a.recver, item)


def test_select_of_a_pair_returns_the_pair(h):
    a = h.queue(1)
    a.send(1)
    assert h.select([a]) == (a, 1)


@pytest.mark.trap("select starves later ends")
def test_select_does_not_starve_the_later_ends(h):
    ends = [h.queue(100) for _ in range(3)]
    for end in ends:
        end.send_many(range(100))
    assert {h.select(ends)[0] for _ in range(100)} == set(ends)


@pytest.mark.trap("select starves later ends")
def test_selects_of_tasks_that_take_turns_starve_none_of_their_ends(h):
    heard = [set(), set()]

    def work(number, mine, other):
        ends = [h.queue(100) for _ in range(2)]
        for end in ends:
            end.send_many(range(100))
        for _ in range(100):
            mine.recv()
            heard[number].add(ends.index(h.select(ends)[0]))
            other.send(True)

    one, two = h.queue(1), h.queue(1)
    tasks = [h.spawn(work, 0, one, two), h.spawn(work, 1, two, one)]
    one.send(True)
    for task in tasks:
        task.join()
    assert heard == [{0, 1}, {0, 1}]


def test_a_send_passes_by_any_number_of_selects_that_may_come_again(h):
    jobs, own = h.queue(1), h.channel()

    def work():
        h.select([jobs] * (sys.getrecursionlimit() + 100) + [own])
        assert len(jobs.sender._state.recvers) > sys.getrecursionlimit()  # the tick's edge has not come
        jobs.send("job")
        return jobs.recv()

    task = h.spawn(work)
    run(h)
    own.send(True)
    assert task.join() == "job"


def test_a_select_on_both_ends_of_a_channel_loses_neither_when_a_receiver_came_and_went(h):
    channel, other, gate = h.channel(), h.queue(1), h.channel()
    ends = [channel.recver, channel.sender, other]

    def work():
        assert h.select(ends) == (other, 1)
        recver = h.spawn(channel.recv)
        h.spawn(gate.send, True)
        gate.recv()  # by now the receiver waits
        recver.cancel()
        return h.select(ends)

    task = h.spawn(work)
    run(h)
    other.send(1)
    run(h)
    channel.send("item", timeout=0)
    assert task.join() == (channel.recver, "item")


def test_select_waits_for_ends_in_any_sequence(h):
    a, b = h.queue(1), h.queue(1)
    h.spawn(b.send, 1)
    assert h.select(deque([a, b])) == (b, 1)


def test_select_takes_from_one_end_only(h):
    a, b = h.queue(1), h.queue(1)
    task = h.spawn(h.select, [a, b])
    run(h)
    a.send(1)
    b.send(2)
    assert task.join() == (a, 1)
    assert b.recv(timeout=0) == 2


def test_select_on_a_sender_is_ready_when_a_receiver_waits_or_there_is_room(h):
    a, b = h.pipe(), h.queue(1)
    assert h.select([a.sender, b.sender]) == (b.sender, None)
    b.send(1)
    task = h.spawn(h.select, [a.sender, b.sender])
    run(h)
    assert not task.done
    received = h.spawn(a.recv)
    assert task.join() == (a.sender, None)
    a.send(2, timeout=0)
    assert received.join() == 2


def test_select_on_a_sender_wakes_when_the_buffer_has_room_again(h):
    ch = h.queue(1)
    ch.send(1)
    task = h.spawn(h.select, [ch.sender])
    run(h)
    ch.recv()
    assert task.join() == (ch.sender, None)


def test_a_poll_for_an_item_does_not_wake_a_select_on_the_sender(h):
    ch = h.pipe()
    task = h.spawn(h.select, [ch.sender])
    run(h)
    with pytest.raises(Timeout):
        ch.recv(timeout=0)
    run(h)
    assert not task.done


def test_select_with_senders_and_receivers_in_two_tasks_meets(h):
    ch = h.channel()

    def send():
        end, _ = h.select([ch.sender])
        end.send("met")

    h.spawn(send)
    assert h.select([ch.recver]) == (ch.recver, "met")


def test_select_raises_an_exception_that_was_sent(h):
    ch = h.queue(1)
    ch.send(ValueError("there"))
    with pytest.raises(ValueError, match="there"):
        h.select([ch])
    task = h.spawn(h.select, [ch])
    run(h)
    ch.send(ValueError("waited for"))
    with pytest.raises(ValueError, match="waited for"):
        task.join()


@pytest.mark.parametrize("early", [True, False])
@pytest.mark.parametrize("end", ["sender", "recver"])
def test_select_names_the_end_that_has_ended(h, early, end):
    a, b = h.pipe(), h.pipe()
    ends = [getattr(a, end), getattr(b, end)]
    if early:
        b.close()
    task = h.spawn(h.select, ends)
    run(h)
    b.close()
    with pytest.raises(Closed) as raised:
        task.join()
    assert raised.value.end is ends[1]


@pytest.mark.parametrize("ms", [0, 1])
def test_a_select_that_times_out_leaves_nothing_behind(h, ms):
    a, b = h.pipe(), h.pipe()
    with pytest.raises(Timeout, match="select"):
        h.select([a.recver, b.sender], timeout=ms)
    run(h)
    assert not a.recver._state.recvers
    assert not b.sender._state.senders
    assert len(h.timers) == 0


def test_select_of_nothing_is_an_error(h):
    with pytest.raises(ValueError, match="at least one"):
        h.select([])


def test_selects_and_receivers_on_one_channel_are_served_in_order(h):
    ch, order = h.channel(), []
    for i in range(6):
        if i % 2:
            h.spawn(lambda i=i: order.append((i, ch.recv())))
        else:
            h.spawn(lambda i=i: order.append((i, h.select([ch])[1])))
        run(h)
    for i in range(6):
        ch.send(i)
    run(h)
    assert order == [(i, i) for i in range(6)]


def test_both_ends_of_one_channel_in_one_select_do_not_meet_themselves(h):
    ch = h.channel()
    for ends in [ch.sender, ch.recver], [ch.recver, ch.sender]:
        with pytest.raises(Timeout):
            h.select(ends, timeout=1)
        task = h.spawn(h.select, ends)
        run(h)
        ch.send(1)
        assert task.join() == (ch.recver, 1)
        task = h.spawn(h.select, ends)
        run(h)
        received = h.spawn(ch.recv)
        assert task.join() == (ch.sender, None)
        ch.send(2)
        assert received.join() == 2


def test_one_end_twice_in_one_select_gets_one_item(h):
    ch = h.queue(2)
    task = h.spawn(h.select, [ch, ch])
    run(h)
    ch.send(1)
    ch.send(2)
    assert task.join() == (ch, 1)
    assert ch.recv() == 2


def test_a_cancelled_select_is_withdrawn_everywhere(h):
    a, b = h.channel(), h.channel()
    task = h.spawn(h.select, [a, b])
    run(h)
    task.cancel()
    with pytest.raises(Cancelled):
        task.join()
    with pytest.raises(Timeout):
        a.send(1, timeout=0)
    with pytest.raises(Timeout):
        b.send(1, timeout=0)


# -- a select that comes again, see `vanilla.selection`


def count_watches(monkeypatch):
    """The ends that selects have gone to stand with, or looked at, from now on."""
    seen = []
    for name in "watch_recv", "take_nowait":
        method = getattr(Channel, name)

        def counted(self, *args, method=method):
            seen.append(self)
            return method(self, *args)

        monkeypatch.setattr(Channel, name, counted)
    return seen


def test_a_select_that_comes_again_looks_only_at_ends_that_have_something_to_tell(h, monkeypatch):
    chs = [h.channel() for _ in range(100)]
    seen = count_watches(monkeypatch)

    def consume():
        return [h.select([*chs])[1] for _ in range(50)]

    task = h.spawn(consume)
    run(h)
    before = len(seen)
    for i in range(50):
        chs[i * 37 % 100].send(i)
        run_ready(h)
    assert task.join() == list(range(50))
    assert before >= 100
    assert len(seen) - before < 50 * 4


def test_a_select_over_many_ends_of_which_one_is_always_ready_looks_at_few(h, monkeypatch):
    chs = [h.queue(1) for _ in range(100)]
    for i in range(10):
        chs[i * 37 % 100].send(i)
        assert h.select(chs)[1] == i
    seen = count_watches(monkeypatch)
    for i in range(50):
        chs[i * 37 % 100].send(i)
        assert h.select(chs)[1] == i
    assert len(seen) < 50 * 4


@pytest.mark.parametrize("capacity", [0, 1])
def test_a_select_that_may_come_again_takes_nothing_meanwhile(h, capacity):
    a, b = h.channel(capacity), h.channel()
    h.spawn(b.send, 1)
    assert h.select([a, b]) == (b, 1)
    assert a.recver._state.recvers  # it stands there still
    if capacity:
        a.send("kept", timeout=0)
    else:
        with pytest.raises(Timeout):
            a.send("lost", timeout=0)
        with pytest.raises(Timeout):
            h.select([a.sender], timeout=0)
        sent = h.spawn(a.send, "kept")
        run(h)
        assert not sent.done
    assert h.select([a, b]) == (a, "kept")


def test_a_select_on_a_sender_that_may_come_again_leaves_the_turn_to_others(h):
    a, b = h.channel(), h.queue(1)
    task = h.spawn(h.select, [a.sender, b.recver])
    run_ready(h)
    b.send(1)
    assert task.join() == (b.recver, 1)
    other = h.spawn(h.select, [a.sender])
    run_ready(h)
    received = h.spawn(a.recv)
    assert other.join() == (a.sender, None)
    a.send("met", timeout=0)
    assert received.join() == "met"


def test_a_select_on_a_sender_hears_of_a_select_that_waits_again(h):
    a, b = h.channel(), h.channel()
    receiver = h.spawn(lambda: [h.select([a, b])[1] for _ in range(2)])
    run_ready(h)
    sender = h.spawn(h.select, [a.sender])  # the receiver's select waits on a: ready at once
    assert sender.join() == (a.sender, None)
    b.send(1)
    again = h.spawn(lambda: h.select([a.sender]) and a.send(2, timeout=0))
    assert receiver.join() == [1, 2]
    again.join()


def test_an_end_that_is_dropped_after_a_select_is_noticed_by_the_edge(h):
    b = h.queue(1)
    sender, recver = h.pipe()
    h.spawn(b.send, 1)
    h.select([recver, b])  # not in an assert, which would keep the list
    task = h.spawn(sender.send, 1)
    run_ready(h)
    assert not task.done
    del recver
    run(h)
    gc.collect()
    with pytest.raises(Abandoned):
        task.join()


def test_a_select_may_change_its_ends_each_time(h):
    chs = [h.channel() for _ in range(20)]
    for i in range(20):
        h.spawn(chs[i].send, i)
        assert h.select(chs[i:]) == (chs[i], i)
    run(h)
    assert not any(ch.recver._state.recvers for ch in chs)


def test_a_list_of_ends_that_is_changed_in_place_is_another_select(h):
    a, b, ends = h.channel(), h.channel(), []
    h.spawn(a.send, 1)
    ends.append(a)
    assert h.select(ends) == (a, 1)
    ends[0] = b
    h.spawn(a.send, 2)
    h.spawn(b.send, 3)
    assert h.select(ends) == (b, 3)
    assert a.recv() == 2


def test_a_select_on_a_sender_that_waits_already_hears_of_one_that_comes_again(h):
    a, b, gate = h.channel(), h.channel(), h.pipe()

    def receive():
        first = h.select([a, b])
        gate.recv()
        return first, h.select([a, b])

    receiver = h.spawn(receive)
    run_ready(h)
    a.send(1)
    run_ready(h)
    sender = h.spawn(lambda: h.select([a.sender]) and a.send(2, timeout=0))
    run_ready(h)
    gate.send(None)
    assert receiver.join() == ((a, 1), (a, 2))
    sender.join()


def test_in_a_select_that_comes_again_ends_of_all_kinds_have_their_turn(h):
    state, queues = h.state("last"), [h.queue(100) for _ in range(9)]
    for queue in queues:
        queue.send_many(range(100))
    ends = [state, *queues]
    heard = [h.select(ends)[0] for _ in range(100)]
    assert heard.count(state) > 5
    assert min(map(heard.count, queues)) > 1


@pytest.mark.parametrize("start", [0, 1])
def test_an_end_that_ends_while_another_is_asked_is_told_of_each_time(h, start, monkeypatch):
    a, b, state = h.channel(), h.channel(), h.state()

    class Closes(Recver):
        """Has other tasks run when it is asked, as a stream does."""

        def _try(self):
            if closes[0]:
                a.close()
            return super()._try()

    closes, ends = [False], [a, b, Closes(state.sender._state)]
    h.spawn(b.send, 1)
    assert h.select(ends) == (b, 1)
    closes[0] = True
    monkeypatch.setattr("vanilla.selection.getrandbits", lambda bits: start)
    for _ in range(3):
        with pytest.raises(Closed) as raised:
            h.select(ends)
        assert raised.value.end is a


@settings(max_examples=200, deadline=None)
@given(
    capacities=st.lists(st.integers(0, 2), min_size=2, max_size=12),
    ops=st.lists(
        st.tuples(st.sampled_from(["send", "take", "both", "poll", "run", "edge"]), st.integers(0, 11)), max_size=60
    ),
)
def test_selects_that_come_again_deliver_each_item_once_and_in_order(capacities, ops):
    with Hub() as h:
        chs = [h.channel(capacity) for capacity in capacities]
        sent: dict = {ch: [] for ch in chs}
        received: dict = {ch: [] for ch in chs}
        orders = [h.queue(1000) for _ in range(3)]

        def take(order):
            """A task that selects over all, when told."""
            for timeout, ends in order.recver:
                try:
                    end, item = h.select(ends, timeout)
                except Timeout:
                    continue
                ch = next(ch for ch in chs if end in (ch, ch.sender))
                if end is ch:
                    received[ch].append(item)
                else:
                    try:
                        ch.send(len(sent[ch]), timeout=0)
                    except Timeout:  # the receiver whom this select was told of has gone, or taken something else
                        continue
                    sent[ch].append(len(sent[ch]))

        def send(ch):
            serial = len(sent[ch])
            sent[ch].append(serial)
            ch.send(serial)

        for order in orders:
            h.spawn(take, order)
        run(h)
        for op, n in ops:
            ch = chs[n % len(chs)]
            if op == "send":
                h.spawn(send, ch)
            elif op == "run":
                run_ready(h)
            elif op == "edge":
                run(h)
            else:
                senders = [ch.sender for ch in chs] if op == "both" else []
                orders[n % 3].send((0 if op == "poll" else -1, [*chs, *senders]))
        run(h)
        for ch in chs:
            while ch.sender._state.senders or ch.sender._state.buffer:
                try:
                    received[ch].append(ch.recv(timeout=0))
                except Timeout:
                    break
                run(h)
            assert sorted(received[ch]) == sent[ch], (received[ch], sent[ch])
            assert not (ch.recver._state.recvers and ch.recver._state.buffer)


# -- any sequence of operations

OPS = st.one_of(
    st.tuples(st.just("send"), st.integers(0, 2), st.sampled_from([-1, 0, 1, 2])),
    st.tuples(st.just("recv"), st.integers(0, 2), st.sampled_from([-1, 0, 1, 2])),
    st.tuples(st.just("select"), st.integers(0, 2), st.sampled_from([-1, 0, 1, 2])),
    st.tuples(st.just("select both"), st.integers(0, 2), st.sampled_from([-1, 0, 1, 2])),
    st.tuples(st.just("cancel"), st.integers(0, 5), st.just(0)),
    st.tuples(st.just("run"), st.just(0), st.just(0)),
    st.tuples(st.just("pass"), st.integers(1, 3), st.just(0)),
    st.tuples(st.just("close"), st.just(0), st.just(0)),
)


class Model:
    """A channel under test, three tasks that send and three that receive, and what each of them saw."""

    def __init__(self, h, capacity):
        self.h = h
        self.ch = h.channel(capacity)
        self.serials = itertools.count()
        self.accepted: dict = {i: [] for i in range(3)}
        self.received: dict = {i: [] for i in range(3)}
        self.work = {(kind, i): h.queue(1000) for kind in ("send", "recv") for i in range(3)}
        self.tasks = [h.spawn(self.worker, i, queue.recver) for (_, i), queue in self.work.items()]

    def worker(self, i, orders):
        while True:
            try:
                op, timeout = orders.recv()
                getattr(self, op.replace(" ", "_"))(i, timeout)
            except (Timeout, Halt, Cancelled):
                if orders.halted:
                    return

    def send(self, i, timeout):
        item = i, next(self.serials)
        self.ch.send(item, timeout)
        self.accepted[i].append(item)

    def recv(self, i, timeout):
        self.received[i].append(self.ch.recv(timeout))

    def select(self, i, timeout):
        self.received[i].append(self.h.select([self.ch.recver], timeout)[1])

    def select_both(self, i, timeout):
        end, item = self.h.select([self.ch.sender, self.ch.recver], timeout)
        if end is self.ch.recver:
            self.received[i].append(item)

    def finish(self):
        for queue in self.work.values():
            queue.close()
        self.ch.close()
        run(self.h)
        return list(self.ch.recver)


@settings(max_examples=300, deadline=None)
@given(capacity=st.integers(0, 3), ops=st.lists(OPS, max_size=40))
def test_any_sequence_delivers_each_accepted_item_once_and_in_order(capacity, ops):
    clock = mock.Mock(return_value=1000.0)
    with mock.patch("vanilla.loop.monotonic", clock), mock.patch("vanilla.task.monotonic", clock), Hub() as h:
        model = Model(h, capacity)
        state = model.ch.sender._state
        for op, n, timeout in ops:
            if op == "run":
                run(h)
            elif op == "pass":
                clock.return_value += n / 1000
                run(h)
            elif op == "cancel":
                model.tasks[n].cancel()
            elif op == "close":
                model.ch.close()
            else:
                model.work["send" if op == "send" else "recv", n].send((op, timeout))
            assert len(state.buffer) <= capacity
            assert not (state.recvers and state.buffer)
        run(h)
        left = model.finish()
        assert not state.recvers
        assert not state.senders
        assert all(task.done for task in model.tasks)
        assert len(h.timers) == 0
        accepted = [item for items in model.accepted.values() for item in items]
        received = [item for items in model.received.values() for item in items] + left
        assert sorted(received) == sorted(accepted)
        for items in (*model.received.values(), left):  # what one receiver got of one sender is in order
            for sender in range(3):
                serials = [serial for i, serial in items if i == sender]
                assert serials == sorted(serials)


def test_a_select_whose_look_at_a_stream_lets_others_have_their_turn_misses_nothing(h):
    """A task that sends a lot to a stream gives others a turn when it next looks there: in the middle of its select."""
    server = h.tcp.listen()
    server.consume(lambda conn: [None for _ in conn.recver])
    conn, jobs, done = h.tcp.connect(server.port), h.channel(10), []

    def work():
        while True:
            job = h.select([jobs, conn.recver])[1]
            done.append(job)
            for _ in range(16):
                conn.send(b"a line of the answer\n")

    h.spawn(work)
    for number in range(5):
        jobs.send(number)
        h.sleep(5)
    assert done == [0, 1, 2, 3, 4]


def test_a_lost_connection_is_raised_at_who_reads_what_is_piped_from_it(h):
    server = h.tcp.listen()
    with socket.create_connection(("127.0.0.1", server.port)) as far:
        conn = server.recv()
        far.sendall(b"half of it")
        far.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        out = conn.recver.pipe(h.queue(5))
        assert next(out) == b"half of it"
    with pytest.raises(ConnectionLost):
        list(out)
    with pytest.raises(Closed):
        out.recv()


def test_one_lost_connection_of_many_that_are_piped_to_one_receiver_is_logged(h, caplog):
    gather, server = h.router(), h.tcp.listen()
    with socket.create_connection(("127.0.0.1", server.port)) as far:
        conn = server.recv()
        far.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        conn.recver.pipe(gather.sender)
    h.spawn_later(20, gather.send, "another")
    assert gather.recv(timeout=10_000) == "another"
    assert "ConnectionLost" in caplog.text


@pytest.fixture
def cancelled(h):
    """A task that was cancelled: to join it raises `Cancelled`, though nobody else was."""
    task = h.spawn(h.sleep, 60_000)
    h.sleep(0)
    task.cancel()
    h.sleep(0)
    assert task.done
    return task


def test_a_cancelled_task_that_is_joined_in_a_map_ends_no_map(h, cancelled):
    ch = h.queue(5)
    for item in range(3):
        ch.send(item)
    ch.close()
    out = ch.map(lambda item: cancelled.join() if item == 1 else item)
    assert out.recv() == 0
    with pytest.raises(Cancelled):
        out.recv()
    assert list(out.recver) == [2]


def test_a_cancelled_task_that_is_joined_ends_no_consumer_no_schedule_and_no_loop(h, cancelled, caplog):
    ch, seen = h.queue(5), []
    consumer = ch.consume(lambda item: seen.append(item) or cancelled.join())
    schedule = h.every(1, cancelled.join)
    pair = h.pipe()
    pair.sender.onclose(cancelled.join)
    h.at_edge(cancelled.join)
    pair.recver.close()
    for item in 1, 2:
        ch.send(item)
    h.sleep(20)
    assert seen == [1, 2] and not consumer.done
    assert schedule.failed > 1
    assert "the next item goes on" in caplog.text and "the next run comes" in caplog.text
    with pytest.raises(Timeout):
        h.channel().recv(timeout=1)
    consumer.cancel()
    with pytest.raises(Cancelled):
        consumer.join()


def test_an_error_that_is_raised_elsewhere_does_not_end_the_generator_that_made_it(h):
    """Its traceback has the generator's frame, which goes on."""

    def read():
        for number in range(4):
            try:
                yield 1 // (number - 1)
            except ZeroDivisionError as error:
                yield error

    def work(item):
        if isinstance(item, Exception):
            raise item

    seen = []
    for item in read():
        seen.append(item)
        h.spawn(work, item)
        h.sleep(0)
    assert [seen[0], *seen[2:]] == [-1, 1, 0]

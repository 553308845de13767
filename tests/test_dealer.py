"""The caller's half: replies find their calls, streams go as far as they are read, and nothing outlives its call."""

from __future__ import annotations

import gc
import os
import sys
import time
import weakref

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from peers import PATIENCE, Peer, accounts, until

import vanilla
from vanilla.client.dealer import CallState
from vanilla.client.link import OUTPUT_BYTES
from vanilla.exception import Refused
from vanilla.protocol.connection import Event
from vanilla.protocol.errors import BadMessage
from vanilla.protocol.frames import PART, PONG, REPLY, pack_control, pack_head


@pytest.fixture
def broker(h):
    with h.broker.listen("tcp://127.0.0.1:0") as broker:
        yield broker


@pytest.fixture
def sums(near):
    return near.dealer("sums")


@pytest.fixture
def echo(h, far):
    """Answers with what it was asked."""
    return far.router("sums").consume(lambda item: item)


@pytest.fixture
def server(h, far, near):
    """A router that is there."""
    router = far.router("sums")
    far.ping()
    return router


def ask(server, dealer, *items, **options):
    """Ask and receive at the other side: [(reply, request), ...]."""
    replies = [dealer.call(item, **options) for item in items]
    return [(reply, server.recv(timeout=PATIENCE)) for reply in replies]


def test_a_reply_comes_to_its_call(echo, sums):
    assert sums.call([1, {"a": b"b"}]).recv(timeout=PATIENCE) == [1, {"a": b"b"}]


def test_many_calls_are_answered_in_any_order(server, sums):
    asked = ask(server, sums, *range(100))
    for _, request in reversed(asked):
        request.reply(request.item * 2)
    assert [reply.recv(timeout=PATIENCE) for reply, _ in asked] == [2 * i for i in range(100)]


KINDS = {
    "few bytes": (lambda i: b"%d" % i, {}),
    "many bytes": (lambda i: b"%d" % i + bytes(70_000), {}),
    "a list": (lambda i: [i, "x"], {}),
    "with a deadline": (lambda i: b"%d" % i, {"deadline": PATIENCE}),
}


@settings(max_examples=40, deadline=None)
@given(st.lists(st.sampled_from([*KINDS, "cancelled", "dropped", "a turn"]), max_size=80))
def test_calls_of_all_kinds_in_any_mixture_get_their_own_answers(kinds):
    with vanilla.Hub() as h, h.broker.listen("tcp://127.0.0.1:0") as broker:
        with h.client.connect(broker.urls[0]) as near, h.client.connect(broker.urls[0]) as far:
            far.router("sums").consume(lambda item: item)
            sums = near.dealer("sums")
            sums.call(0, wait=True).recv(timeout=PATIENCE)
            asked = []
            for i, kind in enumerate(kinds):
                if kind == "a turn":
                    h.sleep(0)
                elif kind == "cancelled":
                    sums.call(b"%d" % i).close()
                elif kind == "dropped":
                    sums.call(b"%d" % i)
                else:
                    make, options = KINDS[kind]
                    asked.append((make(i), sums.call(make(i), **options)))
            assert all(reply.recv(timeout=PATIENCE) == item for item, reply in asked)
            until(h, lambda: not sums._state.calls and not sums._state.asked)


def test_calls_that_have_not_left_end_with_the_connection(server, sums, near):
    sums.call(b"1")
    replies = [sums.call(b"%d" % i) for i in range(20)]
    assert sums._state.asked
    near._link.sock.close()
    near._link.lost("a test")
    for reply in replies:
        with pytest.raises(vanilla.ConnectionLost):
            reply.recv(timeout=PATIENCE)


def test_more_calls_than_the_queue_holds_wait_and_are_all_answered(h):
    with h.broker.listen("tcp://127.0.0.1:0", capacity=10) as broker, h.client.connect(broker.urls[0]) as near:
        near.router("sums").consume(lambda item: item)
        sums = near.dealer("sums")
        replies = [sums.call(i, wait=True) for i in range(1_000)]
        assert [reply.recv(timeout=PATIENCE) for reply in replies] == list(range(1_000))


def test_a_call_from_the_connection_that_serves(h, near):
    near.router("sums").consume(lambda item: item + 1)
    assert near.dealer("sums").call(1, wait=True).recv(timeout=PATIENCE) == 2


def test_without_a_server_a_call_fails_at_once_or_waits(h, sums, far):
    with pytest.raises(vanilla.RemoteError) as raised:
        sums.call(1).recv(timeout=PATIENCE)
    assert (raised.value.code, raised.value.by_broker) == ("NO_SERVICE", True)
    reply = sums.call(2, wait=True)
    with pytest.raises(vanilla.Timeout):
        reply.recv(timeout=0)
    far.router("sums").consume(lambda item: item)
    assert reply.recv(timeout=PATIENCE) == 2


@pytest.fixture
def left(monkeypatch):
    """How many calls each frame had."""
    counts, put_frame = [], CallState._put_frame
    monkeypatch.setattr(
        CallState, "_put_frame", lambda self, *frame: counts.append(frame[0]) or put_frame(self, *frame)
    )
    return counts


@pytest.fixture
def clock(monkeypatch):
    """What callers and servers take for the time: a list of one."""
    now = [time.monotonic()]
    for module in "push", "dealer", "pull", "request", "router":
        monkeypatch.setattr(f"vanilla.client.{module}.monotonic", lambda: now[0])
    return now


def answered(h, server, dealer, left):
    """Four replies, which have come, and most of them together."""
    pairs = ask(server, dealer, *range(4))
    for _, request in pairs:
        request.reply(request.item)
    replies = [reply for reply, _ in pairs]
    until(h, lambda: all(reply._state.halt for reply in replies))
    left.clear()
    return replies


def test_calls_that_are_made_while_answers_are_gathered_leave_together(h, server, sums, left, clock):
    more = []
    for number, reply in enumerate(answered(h, server, sums, left)):
        assert left == []
        assert reply.recv(timeout=0) == number
        more.append(sums.call(b"bytes" if number % 2 else "others"))
    h.sleep(0)
    assert sum(left) == 4 and left[0] >= 3  # of which the last need not wait
    for _ in more:
        server.recv(timeout=PATIENCE).reply(None)
    assert [reply.recv(timeout=PATIENCE) for reply in more] == [None] * 4


@pytest.mark.parametrize("end", [lambda replies: replies[-1].recv(timeout=0), lambda replies: replies.pop()])
def test_a_call_leaves_at_once_when_the_last_answer_was_received_or_dropped(h, server, sums, left, end):
    replies = answered(h, server, sums, left)
    end(replies)
    gc.collect()
    sums.call(0)
    assert left == [1]


def test_calls_that_are_made_in_a_long_gathering_leave_a_ms_behind_the_answers(h, server, sums, left, clock):
    replies = answered(h, server, sums, left)
    replies[0].recv(timeout=0)
    sums.call(1)
    clock[0] += 0.0009
    sums.call(2)
    assert left == []
    clock[0] += 0.0002
    sums.call(3)
    assert left == [3]


def test_a_call_leaves_at_once_a_ms_behind_answers_that_are_not_received(h, server, sums, left, clock):
    replies = answered(h, server, sums, left)
    clock[0] += 0.0011
    sums.call(1)
    assert left == [1]
    assert [reply.recv(timeout=0) for reply in replies] == [0, 1, 2, 3]


def test_a_call_that_waits_for_others_leaves_when_its_answer_is_polled_for(h, server, sums, left, clock):
    """Without a turn of the loop, which would be a tick's edge."""
    replies = answered(h, server, sums, left)
    replies[0].recv(timeout=0)
    reply = sums.call(4)
    assert left == []
    with pytest.raises(vanilla.Timeout):
        reply.recv(timeout=0)
    assert left == [1]


def test_calls_of_tasks_that_were_answered_together_leave_together(h, server, sums, left, clock):
    def twice(item):
        assert sums.call(item).recv(timeout=PATIENCE) == item
        assert sums.call(item).recv(timeout=PATIENCE) == item

    tasks = [h.spawn(twice, number) for number in range(20)]
    requests = [server.recv(timeout=PATIENCE) for _ in tasks]
    left.clear()
    for request in requests:
        request.reply(request.item)
    for _ in tasks:
        request = server.recv(timeout=PATIENCE)
        request.reply(request.item)
    for task in tasks:
        task.join()
    assert left == [20]


def test_a_call_leaves_at_once_though_an_answer_that_came_alone_is_not_received(h, server, sums, left):
    ((reply, request),) = ask(server, sums, 0)
    request.reply(0)
    until(h, lambda: reply._state.halt)
    sums.call(1)
    assert left == [1, 1]


def test_whoever_wants_to_know_hears_of_an_answer_that_nobody_waits_for(h, server, sums):
    ((reply, request),) = ask(server, sums, 0)
    told = []
    reply.onclose(told.append, "it has come")
    request.reply(0)
    until(h, lambda: told == ["it has come"])
    assert reply.recv(timeout=0) == 0


def test_options_of_one_call_do_not_leak_into_the_next_of_its_batch(h, server, sums):
    sums.call(0).close()  # what follows shares a batch
    replies = [
        sums.call(1),
        sums.call(2, trace=True),
        sums.call(3, deadline=60_000),
        sums.call(4, deadline=60_000),
        sums.call(5),
    ]
    requests = {}
    while len(requests) < 5:
        request = server.recv(timeout=PATIENCE)
        if request.item:
            requests[request.item] = request
    assert [requests[i].trace for i in range(1, 6)] == [False, True, False, False, False]
    assert [requests[i].deadline is not None for i in range(1, 6)] == [False, False, True, True, False]
    assert 0 < requests[3].deadline <= 60_000
    assert len(replies) == 5


# -- waiting


def test_a_timeout_of_recv_is_not_the_end_of_the_call(server, sums):
    ((reply, request),) = ask(server, sums, 1)
    for timeout in 0, 1:
        with pytest.raises(vanilla.Timeout):
            reply.recv(timeout=timeout)
    request.reply("late")
    assert reply.recv(timeout=PATIENCE) == "late"
    with pytest.raises(vanilla.Closed):
        reply.recv(timeout=0)


def test_polling_looks_at_the_socket(server, sums, far, near):
    ((reply, request),) = ask(server, sums, 1)
    request.reply("!")
    far.ping()  # the broker has it
    sock, near._link.sock = near._link.sock, None  # the loop is not to read it first
    far.ping()
    near._link.sock = sock
    assert reply.recv(timeout=0) == "!"


def test_select_takes_whichever_is_answered_first(h, server, sums):
    asked = ask(server, sums, "a", "b", "c")
    replies = [reply for reply, _ in asked]
    asked[1][1].reply("B")
    assert h.select(replies, PATIENCE) == (replies[1], "B")
    asked[2][1].fail("NO", "no")
    with pytest.raises(vanilla.RemoteError):
        h.select([replies[0], replies[2]], PATIENCE)
    asked[0][1].reply("A")
    assert h.select(replies[:1], PATIENCE) == (replies[0], "A")


def test_a_call_that_finds_no_room_waits_as_long_as_it_is_told(h):
    with h.broker.listen("tcp://127.0.0.1:0", capacity=4) as broker, h.client.connect(broker.urls[0]) as near:
        sums = near.dealer("sums")
        replies = []
        with pytest.raises(vanilla.Timeout):
            for i in range(100):
                replies.append(sums.call(i, timeout=0 if i > 3 else -1, wait=True))
                h.sleep(1)
        with pytest.raises(vanilla.Timeout):
            sums.call("x", timeout=5, wait=True)
        near.router("sums").consume(lambda item: item)
        assert [reply.recv(timeout=PATIENCE) for reply in replies] == list(range(len(replies)))


def test_a_call_does_not_wait_for_room_beyond_its_deadline(h):
    with h.broker.listen("tcp://127.0.0.1:0", capacity=1) as broker, h.client.connect(broker.urls[0]) as near:
        sums = near.dealer("sums")
        first = sums.call(1, wait=True)
        with pytest.raises(vanilla.Timeout):
            sums.call(2, deadline=20, wait=True)
        assert accounts(broker).accepted == 1
        first.close()


# -- the end of a call


def test_a_deadline_is_a_timeout_here_and_the_server_is_told(h, server, sums):
    ((reply, request),) = ask(server, sums, 1, deadline=300)
    told = []
    request.oncancel(lambda: told.append(1))
    assert request.deadline <= 300
    with pytest.raises(vanilla.Timeout, match="deadline"):
        reply.recv(timeout=PATIENCE)
    until(h, lambda: told)
    assert request.cancelled
    assert request.deadline == 0
    request.reply("late")
    ((reply, request),) = ask(server, sums, 2)
    request.reply("next")
    assert reply.recv(timeout=PATIENCE) == "next"


def test_a_queued_call_that_is_overdue_never_reaches_a_server(h, broker, server, sums):
    reply = sums.call("old", deadline=5)
    with pytest.raises(vanilla.Timeout):
        reply.recv(timeout=PATIENCE)
    until(h, lambda: accounts(broker).dropped == 1)
    later = sums.call("new")
    request = server.recv(timeout=PATIENCE)
    assert request.item == "new"
    request.reply(1)
    assert later.recv(timeout=PATIENCE) == 1


def test_close_cancels(h, broker, server, sums):
    (first, one), (second, two) = ask(server, sums, 1, 2)
    queued = sums.call(3)
    first.close()
    queued.close()
    until(h, lambda: one.cancelled and accounts(broker).dropped == 2)
    assert not two.cancelled
    one.reply("late")
    two.reply("!")
    assert second.recv(timeout=PATIENCE) == "!"
    for reply in first, queued:
        with pytest.raises(vanilla.Closed):
            reply.recv(timeout=0)


def test_a_call_that_is_cancelled_before_it_leaves_is_cancelled(h, broker, server, sums):
    sums.call(0)
    replies = [sums.call(i) for i in range(1, 100)]
    for reply in replies:
        reply.close()
    until(h, lambda: accounts(broker).accepted == 100 and accounts(broker).ready_n + accounts(broker).flight_n == 1)


def test_a_reply_that_is_dropped_was_a_call_nevertheless(h, broker, server, sums):
    got = []
    server.consume(got.append)
    for i in range(10):
        sums.call(i)
    gc.collect()
    until(h, lambda: got == list(range(10)) and not sums._state.calls)
    assert (accounts(broker).acknowledged, accounts(broker).dropped) == (10, 0)


def test_a_dropped_call_leaves_no_timer(h, echo, sums):
    states = []
    for i in range(10):
        reply = sums.call(i, deadline=3_600_000)
        states.append(weakref.ref(reply._state))
        del reply
    until(h, lambda: not sums._state.calls)
    gc.collect()
    assert [state for state in states if state() is not None] == []


@pytest.mark.skipif(not hasattr(sys, "getrefcount"), reason="it has no reference counts")
def test_replies_and_requests_die_by_reference_count(h, server, sums):
    gc.collect()
    gc.disable()
    try:
        ((reply, request),) = ask(server, sums, 1, deadline=60_000)
        request.reply("!")
        assert reply.recv(timeout=PATIENCE) == "!"
        ends = weakref.ref(reply), weakref.ref(reply._state)
        number, state = request._number, request._state
        del reply, request
        assert [end() for end in ends] == [None, None]
        assert number not in state.open
        ((reply, request),) = ask(server, sums, 1)
        stream = request.stream()
        task = h.spawn(stream.send, 1)
        assert reply.recv(timeout=PATIENCE) == 1
        task.join()
        stream.close()
        assert list(reply) == []
        del task
        ends = weakref.ref(reply), weakref.ref(reply._state), weakref.ref(stream), weakref.ref(stream._state)
        del reply, request, stream
        h.sleep(1)
        assert [end() for end in ends] == [None] * 4
    finally:
        gc.enable()


def test_a_dealer_that_is_closed_ends_what_is_outstanding(h, broker, server, sums):
    ((reply, request),) = ask(server, sums, 1)
    sums.close()
    sums.close()
    with pytest.raises(vanilla.Closed):
        reply.recv(timeout=PATIENCE)
    with pytest.raises(vanilla.Closed):
        sums.call(2)
    until(h, lambda: request.cancelled)


def test_two_dealers_of_one_connection_share_a_channel_until_both_are_closed(h, broker, near, echo, sums):
    other = near.dealer("sums")
    sums.close()
    assert other.call(1).recv(timeout=PATIENCE) == 1
    assert len(accounts(broker).pushers) == 1
    other.close()
    until(h, lambda: not accounts(broker).pushers)
    assert near.dealer("sums").call(2).recv(timeout=PATIENCE) == 2


def test_a_dealer_that_is_dropped_leaves_when_its_last_call_is_answered(h, broker, near, server):
    reply = near.dealer("sums").call(1)
    request = server.recv(timeout=PATIENCE)
    gc.collect()
    h.sleep(1)
    request.reply("!")
    assert reply.recv(timeout=PATIENCE) == "!"
    until(h, lambda: not accounts(broker).pushers)


def test_asking_for_methods_leaves_nothing_at_the_broker(h, broker, near, far):
    task = far.serve("calc", object())
    near.methods("calc", timeout=-1)
    gc.collect()
    until(h, lambda: not accounts(broker, "calc").pushers)
    task.cancel()


# -- what goes wrong


def test_an_error_has_the_remote_code_type_text_and_trace(server, sums):
    ((reply, request),) = ask(server, sums, 1)
    request.fail("ODD", "it is odd", "OddError", "Traceback ...")
    with pytest.raises(vanilla.RemoteError, match="ODD: OddError: it is odd") as raised:
        reply.recv(timeout=PATIENCE)
    error = raised.value
    said = error.code, error.text, error.type, error.trace, error.by_broker
    assert said == ("ODD", "it is odd", "OddError", "Traceback ...", False)


@pytest.mark.parametrize("how", ["close", "lose", "drop"])
def test_a_server_that_goes_is_peer_lost_for_what_it_had(sums, far, how):
    router = far.router("sums")
    far.ping()
    ((reply, request),) = ask(router, sums, 1)
    if how == "close":
        router.close()
    elif how == "lose":
        far._link.sock.shutdown(2)
    else:
        del router
        gc.collect()
    with pytest.raises(vanilla.RemoteError) as raised:
        reply.recv(timeout=PATIENCE)
    assert (raised.value.code, raised.value.by_broker) == ("PEER_LOST", True)
    assert request.item == 1


def test_a_lost_connection_is_the_end_of_all_its_calls(h, connect):
    near, far = connect(reconnect=False), connect(reconnect=False)
    server, sums = far.router("sums"), near.dealer("sums")
    far.ping()
    asked = ask(server, sums, 1, 2)
    near._link.sock.shutdown(2)
    for reply, _ in asked:
        with pytest.raises(vanilla.ConnectionLost):
            reply.recv(timeout=PATIENCE)
    with pytest.raises(vanilla.ConnectionLost):
        sums.call(3)
    until(h, lambda: asked[0][1].cancelled)
    asked[0][1].reply("late")
    far._link.sock.shutdown(2)
    with pytest.raises(vanilla.ConnectionLost):
        server.recv(timeout=PATIENCE)
    with pytest.raises(vanilla.ConnectionLost):
        asked[1][1].reply("!")


def test_closing_the_connection_ends_its_calls(near, server, sums):
    ((reply, _),) = ask(server, sums, 1)
    near.close()
    with pytest.raises(vanilla.Closed):
        reply.recv(timeout=PATIENCE)


def test_an_endpoint_of_another_kind_is_refused(h, near, far, sums):
    jobs = near.push("jobs")
    near.ping()
    with pytest.raises(Refused, match="MISMATCH"):
        far.dealer("jobs").call(1).recv(timeout=PATIENCE)
    with pytest.raises(Refused, match="MISMATCH"):
        far.router("jobs").recv(timeout=PATIENCE)
    jobs.close()


@pytest.mark.parametrize("item", [{1, 2}, 1 << 64, "\ud800", ValueError("no"), b"x" * (2 << 20), lambda: None])
def test_what_cannot_be_asked_is_said_here_and_spoils_nothing(echo, sums, item):
    before = sums.call("before")
    with pytest.raises((TypeError, ValueError)):
        sums.call(item)
    after = sums.call("after")
    assert [before.recv(timeout=PATIENCE), after.recv(timeout=PATIENCE)] == ["before", "after"]


@pytest.mark.parametrize("deadline", [-1, float("nan"), float("inf"), 1 << 60])
def test_a_deadline_is_a_number_of_ms(sums, deadline):
    with pytest.raises(ValueError, match="deadline"):
        sums.call(1, deadline=deadline)


LIST_AS_KEY = b"\x81\x91\x01\x02"


def test_a_reply_that_python_cannot_hold_spoils_no_other(h, broker, sums):
    peer = Peer(h, broker.urls[0])
    peer.open(1, "serve", "sums")
    peer.credit(1)
    peer.status()
    replies = [sums.call(i) for i in range(3)]
    got = 0
    while got < 3:
        got += len(peer.delivery()[3])
    peer.send(pack_head(REPLY, 1, 0, 3, 2 + len(LIST_AS_KEY)) + b"\x01" + LIST_AS_KEY + b"\x03")
    assert [replies[i].recv(timeout=PATIENCE) for i in (0, 2)] == [1, 3]
    with pytest.raises(vanilla.RemoteError, match="UNDECODABLE"):
        replies[1].recv(timeout=PATIENCE)
    peer.close()


def test_a_forked_childs_calls_are_told_so(h, server, sums):
    ((reply, request),) = ask(server, sums, 1)
    pid = os.fork()
    if not pid:
        status = 1
        try:
            sums.call(2)
        except vanilla.Forked:
            status = 0
        finally:
            os._exit(status)
    assert os.waitpid(pid, 0)[1] == 0
    request.reply("!")
    assert reply.recv(timeout=PATIENCE) == "!"


def test_what_ctrl_c_interrupts_is_no_end_for_others(h, server, sums):
    ((reply, request),) = ask(server, sums, 1)
    h.spawn(h.interrupt_main, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        reply.recv(timeout=PATIENCE)
    request.reply("!")
    assert reply.recv(timeout=PATIENCE) == "!"


# -- streams


def test_a_stream_is_iterated(server, sums, h):
    ((reply, request),) = ask(server, sums, 1)

    def answer():
        with request.stream() as stream:
            for i in range(1_000):
                stream.send(i)

    h.spawn(answer)
    assert list(reply) == list(range(1_000))


@pytest.mark.parametrize("size", [1, 1_000, 100_000, 900_000])
def test_a_reader_that_stops_halts_the_stream_and_goes_on_later(h, server, sums, size):
    ((reply, request),) = ask(server, sums, 1)
    sent = []

    def answer():
        with request.stream() as stream:
            for i in range(20_000_000 // max(size, 1_000)):
                stream.send(bytes([i % 256]) * size)
                sent.append(i)

    task = h.spawn(answer)
    for i in range(5):
        assert reply.recv(timeout=PATIENCE) == bytes([i]) * size
    last = -1
    while last != len(sent):
        last = len(sent)
        h.sleep(50)
    assert not task.done
    assert (len(sent) - 5) * size < 4_000_000
    count = 5
    for item in reply:
        assert item == bytes([count % 256]) * size
        count += 1
    assert count == 20_000_000 // max(size, 1_000)
    task.join(timeout=PATIENCE)


def test_nothing_of_a_stream_comes_before_somebody_receives(h, server, sums):
    ((reply, request),) = ask(server, sums, 1)
    stream = request.stream()
    with pytest.raises(vanilla.Timeout):
        stream.send("early", timeout=20)
    task = h.spawn(stream.send, "x")
    assert reply.recv(timeout=PATIENCE) == "x"
    task.join(timeout=PATIENCE)
    stream.close()
    with pytest.raises(vanilla.Closed):
        reply.recv(timeout=PATIENCE)


@pytest.mark.parametrize("how", ["close", "drop"])
def test_a_stream_that_its_reader_leaves_is_closed_at_its_server(h, server, sums, how):
    ((reply, request),) = ask(server, sums, 1)
    stream = request.stream()
    task = h.spawn(stream.send, "x")
    assert reply.recv(timeout=PATIENCE) == "x"
    task.join()
    if how == "close":
        reply.close()
    else:
        reply = None
        gc.collect()
    with pytest.raises(vanilla.Closed):
        for _ in range(1_000):
            stream.send("y", timeout=PATIENCE)
    assert request.cancelled
    assert not sums._state.calls


def test_a_dropped_call_that_is_answered_by_a_stream_stops_it(h, server, sums):
    reply = sums.call(1)
    request = server.recv(timeout=PATIENCE)
    del reply
    gc.collect()
    with pytest.raises(vanilla.Closed), request.stream() as stream:
        stream.send("x", timeout=PATIENCE)


def test_a_stream_may_fail_after_some_items(h, server, sums):
    ((reply, request),) = ask(server, sums, 1)

    def answer():
        stream = request.stream()
        stream.send("a")
        request.fail("BROKEN", "off")

    h.spawn(answer)
    assert reply.recv(timeout=PATIENCE) == "a"
    with pytest.raises(vanilla.RemoteError, match="BROKEN"):
        reply.recv(timeout=PATIENCE)
    with pytest.raises(vanilla.Closed):
        reply.recv(timeout=PATIENCE)


def test_many_streams_at_a_time_keep_their_items_apart(h, far, sums):
    def items(n):
        return ([n, i] for i in range(50))

    router = far.router("sums")

    def serve():
        for request in router:
            h.spawn(answer, request)

    def answer(request):
        with request.stream() as stream:
            for item in items(request.item):
                stream.send(item)

    h.spawn(serve)
    replies = [sums.call(n, wait=True) for n in range(20)]
    tasks = [h.spawn(list, reply) for reply in replies]
    assert [task.join(timeout=PATIENCE) for task in tasks] == [list(items(n)) for n in range(20)]


def test_a_deadline_ends_a_stream_in_the_middle(h, server, sums):
    ((reply, request),) = ask(server, sums, 1, deadline=100)
    stream = request.stream()
    h.spawn(stream.send, "x")
    assert reply.recv(timeout=PATIENCE) == "x"
    with pytest.raises(vanilla.Timeout, match="deadline"):
        reply.recv(timeout=PATIENCE)
    with pytest.raises(vanilla.Closed):
        while True:
            stream.send("y", timeout=PATIENCE)


def test_a_stream_goes_on_when_a_look_at_the_socket_has_made_room(h, far, server, sums):
    ((reply, request),) = ask(server, sums, 1)
    stream = request.stream()
    task = h.spawn(stream.send, "first")
    assert reply.recv(timeout=PATIENCE) == "first"
    task.join()
    receiving = h.spawn(reply.recv, PATIENCE)
    far.ping()  # its credit is here
    pong = pack_control(PONG)
    far._link.put(pong * (OUTPUT_BYTES // len(pong) + 1))
    assert far._link.full
    stream.send("second", timeout=PATIENCE)
    assert receiving.join(timeout=PATIENCE) == "second"


@pytest.mark.parametrize(
    ("array", "items"), [(b"\xdd\0\0\0\2\xcf" + bytes(8) + b"\xa1x", ["x"]), (b"\xdd\0\0\0\0", None)]
)
def test_a_part_has_an_index_in_any_form_and_is_never_without(h, array, items):
    with h.broker.listen("tcp://127.0.0.1:0") as broker, h.client.connect(broker.urls[0]) as remote:
        dealer = remote.dealer("sums")
        reply = dealer.call(1, wait=True)
        state = dealer._state
        state.flush()
        part = Event(PART, state.id, reply._state.number, array[4], memoryview(bytearray(array)))
        if items is None:
            with pytest.raises(BadMessage):
                state.frames[PART](state, part)
        else:
            state.frames[PART](state, part)
            assert reply.recv(timeout=PATIENCE) == items[0]
            assert reply._state.arrived_b == 2


def test_a_broker_that_ends_a_stream_by_a_reply_spoils_no_order(h):
    with h.broker.listen("tcp://127.0.0.1:0") as broker, h.client.connect(broker.urls[0]) as remote:
        dealer = remote.dealer("sums")
        reply = dealer.call(1, wait=True)
        state = dealer._state
        state.flush()
        number = reply._state.number
        for kind, array in (PART, b"\xdd\0\0\0\2\0\1"), (REPLY, b"\xdd\0\0\0\1\2"):
            event = Event(kind, state.id, number, array[4], memoryview(bytearray(array)))
            state.frames[kind](state, event)
        assert list(reply) == [1, 2]

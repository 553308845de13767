"""The server's half: each request is answered once, by whoever has it, or its caller hears why not."""

from __future__ import annotations

import gc
import logging
import time
from functools import partial
from unittest import mock

import pytest
from peers import PATIENCE, Peer, accounts, until

import vanilla
from vanilla.client.batch import BATCH_BYTES
from vanilla.client.router import TEXT_CHARACTERS, TRACE_CHARACTERS, RouterState, _clipped
from vanilla.protocol.frames import DATA, FAIL, HELLO_LIMIT, pack_head


@pytest.fixture
def broker(h):
    with h.broker.listen("tcp://127.0.0.1:0") as broker:
        yield broker


@pytest.fixture
def sums(near):
    return near.dealer("sums")


@pytest.fixture
def router(far):
    return far.router("sums")


def failure(reply):
    """The error that *reply* ends with."""
    with pytest.raises(vanilla.RemoteError) as raised:
        reply.recv(timeout=PATIENCE)
    return raised.value


def request_of(h, router, dealer, item=None, **options):
    """A call, and its request at *router*."""
    reply = dealer.call(item, wait=True, **options)
    return reply, router.recv(timeout=PATIENCE)


def test_iterating_a_router_gives_requests(h, far, sums):
    replies = [sums.call(i, wait=True) for i in range(3)]
    for request in far.router("sums"):
        request.reply(request.item + 1)
        if request.item == 2:
            break
    assert [reply.recv(timeout=PATIENCE) for reply in replies] == [1, 2, 3]


def test_only_the_first_answer_counts(h, far, sums):
    router = far.router("sums")
    reply, request = request_of(h, router, sums)
    request.reply("first")
    request.reply("second")
    request.fail("THIRD")
    with pytest.raises(vanilla.Closed):
        request.stream()
    assert request.settled
    assert reply.recv(timeout=PATIENCE) == "first"
    reply, request = request_of(h, router, sums)
    request.fail("FIRST")
    request.reply("second")
    assert failure(reply).code == "FIRST"


def test_a_stream_is_an_answer_too(h, router, sums):
    reply, request = request_of(h, router, sums)
    stream = request.stream()
    request.reply("too late")
    task = h.spawn(stream.send, "item")
    assert reply.recv(timeout=PATIENCE) == "item"
    task.join()
    stream.close()
    assert list(reply) == []


@pytest.fixture
def busy(h, far, sums, monkeypatch):
    """A router that has several requests at hand, in an hour that does not pass; and their replies."""
    now = time.monotonic() + 1
    for module in "pull", "request", "router":
        monkeypatch.setattr(f"vanilla.client.{module}.monotonic", lambda: now)
    router = far.router("sums", prefetch=20)
    replies = [sums.call(number, wait=True) for number in range(10)]
    first = router.recv(timeout=PATIENCE)
    until(h, lambda: router._state.arrived == 10)
    first.reply(first.item)
    return router, replies


def test_short_answers_that_follow_each_other_leave_together(h, busy, monkeypatch):
    router, replies = busy
    put, counts = RouterState._put, []
    monkeypatch.setattr(RouterState, "_put", lambda self, *frame: counts.append(frame[1]) or put(self, *frame))
    slow = mock.Mock(side_effect=router._state._answer)
    monkeypatch.setattr(RouterState, "_answer", slow)
    for _ in replies[1:]:
        request = router.recv(timeout=0)
        request.reply(b"%d" % request.item)
        request.reply(b"again")
    assert [reply.recv(timeout=PATIENCE) for reply in replies] == [0, *(b"%d" % number for number in range(1, 10))]
    assert counts == [9]
    assert slow.call_count == 2  # for the first and the last
    assert router._state.slack == router._state._replied_b == 0


def test_answers_that_fill_a_batch_leave_before_all_are_there(busy):
    router, replies = busy
    state, sizes = router._state, (1023, 1024, BATCH_BYTES - (4 << 10), 1023, 1023, 1023)
    for size in sizes:
        router.recv(timeout=0).reply(bytes(size))
        at_hand = sum(len(reply) if isinstance(reply, bytes) else reply.size for _, reply in state.replies)
        assert at_hand <= state._replied_b + state._given - state.slack < BATCH_BYTES
    assert len(state.replies) < len(sizes)  # the others have left
    assert [len(reply.recv(timeout=PATIENCE)) for reply in replies[1:7]] == [*sizes]


def test_what_is_registered_between_two_short_answers_is_minded(h, busy):
    router, replies = busy
    told = []
    for number in range(1, 10):
        request = router.recv(timeout=0)
        if number == 3:
            request.oncancel(partial(told.append, number))
        if number == 5:
            stream = request.stream()
        request.reply(b"%d" % number)
        assert router._state.oncancel == {}
    h.sleep(0)  # what was said of it, if anything was, has left
    stream.close()
    assert [list(reply) for number, reply in enumerate(replies) if number in (4, 5, 6)] == [[b"4"], [], [b"6"]]
    assert told == []


def test_an_answer_by_who_hears_of_the_loss_of_its_connection_is_forgotten_with_it(busy, far):
    """On the next connection its number may be another's."""
    router, _ = busy
    one, other = router.recv(timeout=0), router.recv(timeout=0)
    one.oncancel(lambda: other.reply(b"too late"))
    far._link.lost("by this test")
    assert one.settled and other.settled
    assert router._state.replies == [] and router._state.slack == router._state._replied_b == 0


def test_a_dropped_request_is_no_reply_for_its_caller(h, far, sums):
    router = far.router("sums")
    reply, request = request_of(h, router, sums)
    del request
    gc.collect()
    error = failure(reply)
    assert (error.code, error.by_broker) == ("NO_REPLY", False)


def test_a_dropped_stream_is_no_reply_for_its_caller(h, router, sums):
    reply, request = request_of(h, router, sums)
    stream = request.stream()
    task = h.spawn(stream.send, "item")
    assert reply.recv(timeout=PATIENCE) == "item"
    task.join()
    del stream, task
    gc.collect()
    assert failure(reply).code == "NO_REPLY"


def test_a_request_that_is_dropped_when_its_connection_is_gone_is_nobodys_error(h, far, sums, caplog):
    router = far.router("sums")
    reply, request = request_of(h, router, sums)
    stream = request_of(h, router, sums)[1].stream()
    del request, stream
    far._link.lost("gone")
    gc.collect()
    h.sleep(1)
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []
    assert failure(reply).code in ("NO_REPLY", "PEER_LOST")


def test_a_stream_whose_block_raises_has_no_end_but_an_error(h, router, sums):
    reply, request = request_of(h, router, sums)

    def work():
        with pytest.raises(ZeroDivisionError), request.stream() as stream:
            stream.send("item")
            1 / 0  # noqa: B018

    task = h.spawn(work)
    assert reply.recv(timeout=PATIENCE) == "item"
    error = failure(reply)
    assert (error.code, error.type, error.text) == ("RAISED", "ZeroDivisionError", "division by zero")
    task.join(timeout=PATIENCE)


# -- consume


def test_consume_replies_with_what_f_returns_and_goes_on_after_errors(h, far, sums, caplog):
    def f(item):
        if item == 1:
            raise KeyError("one")
        return item

    task = far.router("sums").consume(f)
    replies = [sums.call(i, wait=True) for i in range(3)]
    assert replies[0].recv(timeout=PATIENCE) == 0
    error = failure(replies[1])
    assert (error.code, error.type, error.text, error.trace) == ("RAISED", "KeyError", "'one'", "")
    assert replies[2].recv(timeout=PATIENCE) == 2
    assert "KeyError" in caplog.text
    task.cancel()


def test_a_traceback_comes_only_if_it_is_asked_for(h, far, sums):
    def culprit(item):
        raise ValueError(item)

    far.router("sums").consume(culprit)
    asked, other = sums.call("x", trace=True, wait=True), sums.call("y", wait=True)
    assert "in culprit" in failure(asked).trace
    assert failure(other).trace == ""


@pytest.mark.parametrize("error", [vanilla.ConnectionLost("it"), vanilla.Closed("it"), vanilla.Timeout("it")])
def test_what_f_raises_of_ours_is_its_own_error_and_ends_nothing(h, far, sums, error):
    def f(item):
        if item:
            raise error
        return "fine"

    far.router("sums").consume(f)
    said = failure(sums.call(1, wait=True))
    assert (said.code, said.type) == ("RAISED", type(error).__name__)
    assert sums.call(0).recv(timeout=PATIENCE) == "fine"


def test_an_error_whose_text_is_no_unicode_or_raises_is_told_nevertheless(far, sums, caplog):
    caplog.set_level(logging.CRITICAL, "vanilla")  # what a test has logged must be Unicode

    class Odd(Exception):
        def __str__(self):
            raise RuntimeError("no text")

    def f(item):
        raise Odd if item else OSError("no file \udcff\udcfe")

    far.router("sums").consume(f)
    assert "udcff" in failure(sums.call(0, wait=True)).text
    assert "RuntimeError" in failure(sums.call(1)).text


def test_a_long_error_is_cut_whatever_the_frame_limit(h):
    for limit in (HELLO_LIMIT, 1 << 20):
        with h.broker.listen("tcp://127.0.0.1:0", frame_bytes=limit) as broker:
            with h.client.connect(broker.urls[0]) as remote:
                router = remote.router("sums")
                reply, request = request_of(h, router, remote.dealer("sums"))
                request.fail("\U0001f600" * 64, "ä" * 100_000, "T" * 5_000, "\U0001f600" * 100_000)
                error = failure(reply)
                assert 100 < len(error.text) <= TEXT_CHARACTERS
                assert 100 < len(error.trace) <= TRACE_CHARACTERS
                assert set(error.text) == {"ä"}


def test_clipped_text_is_whole_characters():
    assert _clipped("aä", 2) == "a"
    assert _clipped("äb", 2, last=True) == "b"
    assert _clipped("a\udcff", 100) == "a\\udcff"


@pytest.mark.parametrize("code", ["", "x" * 65, "a\nb", "\ud800"])
def test_a_code_is_short_printable_text(h, router, sums, code):
    reply, request = request_of(h, router, sums)
    with pytest.raises(ValueError, match="code"):
        request.fail(code)
    request.fail("x" * 64)
    assert failure(reply).code == "x" * 64


def test_cancelled_requests_are_not_worked_at(h, far, sums):
    done = []
    go = h.channel()

    def work(item):
        done.append(item)
        go.recv()

    far.router("sums", prefetch=10).consume(work)
    replies = [sums.call(i, wait=True) for i in range(4)]
    until(h, lambda: done == [0])
    for reply in replies[1:3]:
        reply.close()
    sums.call(9).close()
    far.ping()
    h.sleep(20)
    go.send(None)
    until(h, lambda: done == [0, 3])
    go.send(None)
    assert replies[3].recv(timeout=PATIENCE) is None


# -- replies that cannot be sent


@pytest.mark.parametrize("item", [{1}, 1 << 64, ValueError(), b"x" * (1 << 20), "\ud800"])
def test_a_reply_that_cannot_be_sent_is_said_here_and_the_request_can_still_fail(h, router, sums, item):
    reply, request = request_of(h, router, sums)
    with pytest.raises((TypeError, ValueError)):
        request.reply(item)
    assert not request.settled
    request.fail("TOO_MUCH")
    assert failure(reply).code == "TOO_MUCH"


def test_the_largest_reply_gets_through(h, far, router, sums):
    reply, request = request_of(h, router, sums)
    most = far.message_limit - 5
    with pytest.raises(ValueError, match="too big"):
        request.reply(b"x" * (most + 1))
    request.reply(b"x" * most)
    assert len(reply.recv(timeout=PATIENCE)) == most


def test_many_replies_fit_into_the_smallest_frames(h):
    with h.broker.listen("tcp://127.0.0.1:0", frame_bytes=HELLO_LIMIT) as broker:
        with h.client.connect(broker.urls[0]) as near, h.client.connect(broker.urls[0]) as far:
            router, sums = far.router("sums", prefetch=500), near.dealer("sums")
            replies = [sums.call(i, wait=True) for i in range(500)]
            for _ in range(500):
                request = router.recv(timeout=PATIENCE)
                request.reply(b"x" * 14)
            for reply in replies:
                assert reply.recv(timeout=PATIENCE) == b"x" * 14
            assert not far._link.ended


def test_a_request_that_python_cannot_hold_fails_and_spoils_no_other(h, broker, far):
    peer = Peer(h, broker.urls[0])
    peer.open(1, "call", "sums")
    peer.want(1, n=10, b=100)
    peer.status()
    router = far.router("sums", prefetch=10)
    far.ping()
    peer.send(pack_head(DATA, 1, 0, 3, 5) + b"\x01" + b"\x81\x90\x01" + b"\x03")
    requests = [router.recv(timeout=PATIENCE) for _ in range(2)]
    assert [request.item for request in requests] == [1, 3]
    kind, _, seq, fields = peer.answer()
    assert (kind, seq, fields["code"]) == (FAIL, 1, "UNDECODABLE")
    for request in requests:
        request.reply("!")
    assert [peer.answer()[2:] for _ in range(2)] == [[0, ["!"]], [2, ["!"]]]
    peer.close()


# -- who gets what


def test_what_nobody_receives_goes_to_another_server(h, connect, far, sums):
    idle = far.router("sums")
    with pytest.raises(vanilla.Timeout):
        idle.recv(timeout=0)
    far.ping()
    reply = sums.call(1)
    busy = connect().router("sums")
    request = busy.recv(timeout=PATIENCE)  # after 100 ms
    request.reply("!")
    assert reply.recv(timeout=PATIENCE) == "!"


def test_closing_a_router_gives_back_what_was_not_received(h, broker, connect, far, sums):
    router = far.router("sums", prefetch=10)
    replies = [sums.call(i, wait=True) for i in range(3)]
    first = router.recv(timeout=PATIENCE)
    until(h, lambda: accounts(broker).flight_n == 3)
    other = connect().router("sums")
    other.hub.spawn(router.close)
    got = [other.recv(timeout=PATIENCE) for _ in range(2)]
    assert [request.item for request in got] == [1, 2]
    for request in got:
        request.reply(request.item)
    assert failure(replies[0]).code == "PEER_LOST"
    assert [reply.recv(timeout=PATIENCE) for reply in replies[1:]] == [1, 2]
    assert first.cancelled
    with pytest.raises(vanilla.Closed):
        first.reply("late")


def test_a_busy_server_is_not_given_more(h, connect, sums):
    done = {"slow": 0, "fast": 0}
    go = h.channel()

    def slow(item):
        done["slow"] += 1
        go.recv()

    def fast(item):
        done["fast"] += 1

    connect().router("sums").consume(slow)
    replies = [sums.call(i, wait=True) for i in range(50)]
    until(h, lambda: done["slow"] == 1)
    connect().router("sums").consume(fast)
    until(h, lambda: done["fast"] >= 49 - done["slow"])
    assert done["slow"] == 1
    go.send(None)
    assert len([reply.recv(timeout=PATIENCE) for reply in replies]) == 50


def test_a_deadline_counts_from_when_the_request_came(h, far, sums):
    router = far.router("sums", prefetch=10)
    replies = [sums.call(i, deadline=60_000, wait=True) for i in range(2)]
    router.recv(timeout=PATIENCE)
    left = router.recv(timeout=PATIENCE)
    h.sleep(30)
    assert left.deadline <= 59_970
    assert len(replies) == 2


def test_an_identity_is_on_the_brokers_word(h, broker, far, sums):
    router = far.router("sums")
    _, request = request_of(h, router, sums)
    assert request.identity == ""
    for session in broker.sessions:
        session.identity = "alice"
    _, request = request_of(h, router, sums)
    assert request.identity == "alice"

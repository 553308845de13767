"""Readiness of descriptors."""

from __future__ import annotations

import os
import socket

import pytest

from vanilla.poll import GONE, IN, OUT, Poll


@pytest.fixture
def poll():
    poll = Poll()
    yield poll
    poll.close()


@pytest.fixture
def pair():
    a, b = socket.socketpair()
    with a, b:
        yield a, b


def run(poll, timeout=0):
    for fd, events in poll.wait(timeout):
        handler = poll.handlers.get(fd)
        if handler is not None:
            handler(events)


def test_a_handler_hears_of_what_it_asked_for(poll, pair):
    heard = []
    poll.register(pair[0].fileno(), heard.append)
    run(poll)
    assert heard == []
    pair[1].send(b"x")
    run(poll)
    assert heard == [IN]


def test_readiness_is_level_triggered(poll, pair):
    heard = []
    poll.register(pair[0].fileno(), heard.append)
    pair[1].send(b"x")
    run(poll)
    run(poll)
    assert heard == [IN, IN]


def test_interest_can_be_changed_and_suspended(poll, pair):
    heard = []
    poll.register(pair[0].fileno(), heard.append)
    pair[1].send(b"x")
    poll.modify(pair[0].fileno(), 0)
    run(poll)
    assert heard == []
    poll.modify(pair[0].fileno(), IN | OUT)
    run(poll)
    assert heard == [IN | OUT]


def test_a_peer_that_is_gone_is_reported_without_being_asked_for(poll, pair):
    heard = []
    poll.register(pair[0].fileno(), heard.append, events=0)
    pair[1].close()
    run(poll)
    assert heard[0] & GONE


def test_a_handler_unregistered_earlier_in_the_batch_is_not_called(poll, pair):
    a, b = pair
    heard = []

    def only(me, other):
        def handler(events):
            heard.append(me)
            poll.unregister(other.fileno())

        return handler

    poll.register(a.fileno(), only("a", b))
    poll.register(b.fileno(), only("b", a))
    a.send(b"x")
    b.send(b"x")
    batch = poll.wait(0)
    assert len(batch) == 2
    for fd, events in batch:
        handler = poll.handlers.get(fd)
        if handler is not None:
            handler(events)
    assert len(heard) == 1


def test_registering_twice_is_an_error_and_keeps_the_first(poll, pair):
    heard = []
    poll.register(pair[0].fileno(), heard.append)
    with pytest.raises(FileExistsError):
        poll.register(pair[0].fileno(), print)
    assert poll.live == 1
    pair[1].send(b"x")
    run(poll)
    assert heard == [IN]


def test_unregistering_twice_does_nothing(poll, pair):
    poll.register(pair[0].fileno(), print)
    poll.unregister(pair[0].fileno())
    poll.unregister(pair[0].fileno())
    assert poll.live == 0


def test_live_counts_what_may_wake_somebody(poll, pair):
    poll.register(pair[0].fileno(), print)
    poll.register(pair[1].fileno(), print, background=True)
    assert poll.live == 1
    poll.unregister(pair[1].fileno())
    assert poll.live == 1
    poll.unregister(pair[0].fileno())
    assert poll.live == 0


def test_closing_gives_the_descriptor_back(pair):
    before = set(os.listdir("/proc/self/fd"))
    poll = Poll()
    poll.register(pair[0].fileno(), print)
    poll.close()
    poll.close()
    assert set(os.listdir("/proc/self/fd")) == before
    assert poll.live == 0
    poll.unregister(pair[0].fileno())


def test_what_a_ctrl_c_has_left_without_a_handler_does_not_keep_the_loop_busy(h, pair):
    a, b = pair
    h.poll.register(a.fileno(), print, background=True)
    del h.poll.handlers[a.fileno()]  # as `unregister` does first
    b.send(b"x")
    h.sleep(0)
    h.sleep(0)
    assert h.poll.wait(0) == []

"""One suite for pipe, queue and channel, wherever the other end is: on the Hub, over a Unix socket, TCP, TLS.

What holds for all of them comes first; then, a row each, where local and remote differ (docs/design.md has the table).
"""

from __future__ import annotations

import gc

import pytest
from lossy import between
from peers import PATIENCE, let_end, until

import vanilla
from vanilla.exception import Refused

SHAPES = {"pipe": ("pipe", ()), "queue": ("queue", (3,)), "channel": ("channel", ()), "channel of 3": ("channel", (3,))}
EMPTY = ["pipe", "channel"]
FULL = ["queue", "channel of 3"]
SINGLE = ["pipe", "queue"]


class Local:
    def __init__(self, h):
        self.h = h

    def __call__(self, shape, name="a"):
        method, sizes = SHAPES[shape]
        return getattr(self.h, method)(*sizes)


class Remote:
    """The Sender over one connection, the Recver over another."""

    def __init__(self, h, url, files, **options):
        self.h = h
        self.broker = h.broker.listen(url, **options)
        self.files = files
        self.near = self.connect()
        self.far = self.connect()

    def connect(self):
        return self.h.client.connect(self.broker.urls[0], **self.files)

    def pair(self, remote, shape, name="a"):
        method, sizes = SHAPES[shape]
        return getattr(remote, method)(name, *sizes)

    def __call__(self, shape, name="a"):
        return vanilla.Pair(self.pair(self.near, shape, name).sender, self.pair(self.far, shape, name).recver)

    def close(self):
        for endpoint in self.broker.endpoints.values():
            assert endpoint.balance == 0
        self.near.close()
        self.far.close()
        self.broker.close()


def remote(kind, h, tmp_path, certs):
    if kind == "lossy":
        kind = between(h)
    if kind == "tls":
        return Remote(h, "tls://127.0.0.1:0", {"ca": certs.ca}, tls_cert=certs.server)
    return Remote(h, f"{kind}://127.0.0.1:0" if kind in ("tcp", "udp") else f"unix://{tmp_path}/broker.sock", {})


@pytest.fixture(params=["local", "unix", "tcp", "udp", "lossy", "tls"])
def place(request, h, tmp_path, certs):
    if request.param == "local":
        yield Local(h)
        return
    place = remote(request.param, h, tmp_path, certs)
    yield place
    place.close()


@pytest.fixture(params=["unix", "tcp", "udp", "lossy", "tls"])
def remote_place(request, h, tmp_path, certs):
    place = remote(request.param, h, tmp_path, certs)
    yield place
    place.close()


shapes = pytest.mark.parametrize("shape", SHAPES)
empty = pytest.mark.parametrize("shape", EMPTY)
full = pytest.mark.parametrize("shape", FULL)
single = pytest.mark.parametrize("shape", SINGLE)


# -- the same everywhere


@shapes
def test_items_arrive_in_order(h, place, shape):
    sender, recver = place(shape)
    task = h.spawn(lambda: [sender.send(i) for i in range(200)])
    assert [recver.recv(timeout=PATIENCE) for _ in range(200)] == [*range(200)]
    task.join(timeout=PATIENCE)


@shapes
def test_many_at_a_call_arrive_as_singly(h, place, shape):
    sender, recver = place(shape)
    task = h.spawn(sender.send_many, [*range(100)])
    found = []
    while len(found) < 100:
        found += recver.recv_many(7, timeout=PATIENCE)
    assert found == [*range(100)]
    task.join(timeout=PATIENCE)


@shapes
def test_large_items_pass(h, place, shape):
    sender, recver = place(shape)
    for item in b"x" * 500_000, "y" * 500_000:
        task = h.spawn(sender.send, item)
        assert recver.recv(timeout=PATIENCE) == item
        task.join(timeout=PATIENCE)


@empty
def test_a_send_returns_when_the_item_was_taken(h, place, shape):
    sender, recver = place(shape)
    task = h.spawn(sender.send, "item")
    h.sleep(30)
    assert not task.done
    assert recver.recv(timeout=PATIENCE) == "item"
    task.join(timeout=PATIENCE)


@empty
def test_without_a_receiver_a_timeout_means_not_sent(h, place, shape):
    sender, recver = place(shape)
    with pytest.raises(vanilla.Timeout):
        sender.send("not sent", timeout=30)
    with pytest.raises(vanilla.Timeout):
        sender.send("nor this", timeout=0)
    with pytest.raises(vanilla.Timeout):
        recver.recv(timeout=30)
    task = h.spawn(sender.send, "sent")
    assert recver.recv(timeout=PATIENCE) == "sent"
    task.join(timeout=PATIENCE)


@empty
def test_a_cancelled_send_was_not_sent(h, place, shape):
    sender, recver = place(shape)
    task = h.spawn(sender.send, "cancelled")
    h.sleep(20)
    task.cancel()
    with pytest.raises(vanilla.Cancelled):
        task.join(timeout=PATIENCE)
    task = h.spawn(sender.send, "next")
    assert recver.recv(timeout=PATIENCE) == "next"
    task.join(timeout=PATIENCE)


@empty
def test_a_recv_that_timed_out_takes_nothing(h, place, shape):
    sender, recver = place(shape)
    with pytest.raises(vanilla.Timeout):
        recver.recv(timeout=20)
    task = h.spawn(sender.send, "later")
    h.sleep(300)
    assert not task.done
    assert recver.recv(timeout=PATIENCE) == "later"
    task.join(timeout=PATIENCE)


@full
def test_it_holds_as_many_as_it_was_made_for(h, place, shape):
    sender, recver = place(shape)
    for i in range(3):
        sender.send(i, timeout=PATIENCE)
    with pytest.raises(vanilla.Timeout):
        sender.send("no room", timeout=50)
    assert [recver.recv(timeout=PATIENCE) for _ in range(3)] == [0, 1, 2]
    sender.send("room", timeout=PATIENCE)
    assert recver.recv(timeout=PATIENCE) == "room"


@single
def test_closing_the_sender_ends_the_receiver_once_it_is_drained(h, place, shape):
    sender, recver = place(shape)
    task = h.spawn(recver.recv_many, 2) if shape == "pipe" else None
    sender.send("last", timeout=PATIENCE)
    sender.close()
    assert task.join(timeout=PATIENCE) if task else recver.recv(timeout=PATIENCE)
    with pytest.raises(vanilla.Closed):
        recver.recv(timeout=PATIENCE)
    assert list(recver) == []


@single
def test_closing_the_sender_wakes_a_receiver_that_waits(h, place, shape):
    sender, recver = place(shape)
    task = h.spawn(recver.recv)
    sender.send("claims it", timeout=PATIENCE)
    task.join(timeout=PATIENCE)
    closed = []
    recver.onclose(lambda: closed.append(True))
    task = h.spawn(recver.recv)
    h.sleep(20)
    sender.close()
    with pytest.raises(vanilla.Closed):
        task.join(timeout=PATIENCE)
    until(h, lambda: closed)
    assert closed == [True]


@single
def test_closing_the_receiver_ends_the_sender(h, place, shape):
    sender, recver = place(shape)
    task = h.spawn(sender.send, "first")
    assert recver.recv(timeout=PATIENCE) == "first"
    task.join(timeout=PATIENCE)
    recver.close()
    until(h, lambda: sender.halted)
    with pytest.raises(vanilla.Closed):
        sender.send("too late", timeout=PATIENCE)


def test_closing_the_receiver_wakes_a_sender_that_waits(h, place):
    sender, recver = place("pipe")
    task = h.spawn(sender.send, "first")
    recver.recv(timeout=PATIENCE)
    task.join(timeout=PATIENCE)
    task = h.spawn(sender.send, "never taken")
    h.sleep(20)
    recver.close()
    with pytest.raises(vanilla.Closed):
        task.join(timeout=PATIENCE)


@single
def test_iteration_ends_with_the_sender(h, place, shape):
    sender, recver = place(shape)

    def produce():
        with sender:
            for i in range(10):
                sender.send(i)

    h.spawn(produce)
    assert list(recver) == [*range(10)]


@single
def test_pipe_moves_items_and_the_end(h, place, shape):
    source, middle, (sender, recver) = h.pipe(), place(shape), h.pipe()
    source.recver.pipe(middle.sender)
    middle.recver.pipe(sender)

    def produce():
        for i in range(5):
            source.send(i)
        source.sender.close()

    h.spawn(produce)
    assert list(recver) == [*range(5)]


@single
def test_a_second_task_at_an_end_that_is_made_for_one_is_busy(h, place, shape):
    pair = place(shape)
    h.spawn(pair.recv)
    h.sleep(20)
    with pytest.raises(vanilla.Busy):
        pair.recv()


def test_a_second_task_that_sends_to_a_pipe_is_busy(h, place):
    sender, recver = place("pipe")
    task = h.spawn(sender.send, 1)
    h.sleep(20)
    with pytest.raises(vanilla.Busy):
        sender.send(2)
    assert recver.recv(timeout=PATIENCE) == 1
    task.join(timeout=PATIENCE)


@shapes
def test_map_and_consume(h, place, shape, caplog):
    sender, recver = place(shape)
    got = h.channel(10)

    def work(item):
        if item == 0:
            raise ValueError("bad item")
        got.send(item)

    recver.map(lambda item: item * 2).consume(work)
    task = h.spawn(sender.send_many, [1, 0, 2])
    assert [got.recv(timeout=PATIENCE) for _ in range(2)] == [2, 4]
    task.join(timeout=PATIENCE)
    assert "bad item" in caplog.text


@shapes
def test_select_takes_from_the_end_that_is_ready(h, place, shape):
    (sender, recver), (_, quiet) = place(shape), place(shape, "quiet")
    h.spawn_later(20, sender.send, "item")
    assert h.select([quiet, recver], timeout=PATIENCE) == (recver, "item")


@empty
def test_select_on_a_sender_is_ready_when_a_receiver_waits(h, place, shape):
    sender, recver = place(shape)
    with pytest.raises(vanilla.Timeout):
        h.select([sender], timeout=30)
    task = h.spawn(recver.recv)
    assert h.select([sender], timeout=PATIENCE) == (sender, None)
    sender.send("at once", timeout=PATIENCE)
    assert task.join(timeout=PATIENCE) == "at once"


def test_a_queue_holds_at_least_one(h, place):
    with pytest.raises(ValueError, match="at least 1"):
        (place.h if isinstance(place, Local) else place.near).queue(*["q"] * (not isinstance(place, Local)), 0)


# -- where local and remote differ: close


@pytest.mark.parametrize("shape", ["channel", "channel of 3"])
def test_closing_an_end_of_a_remote_channel_only_detaches_it(h, remote_place, shape):
    sender, recver = remote_place(shape)
    other = remote_place.pair(remote_place.near, shape).sender
    last = remote_place.pair(remote_place.far, shape).recver
    for one in (sender, other):
        task = h.spawn(one.send, "item")
        assert recver.recv(timeout=PATIENCE) == "item"
        task.join(timeout=PATIENCE)
        one.close()
    third = remote_place.pair(remote_place.near, shape).sender
    recver.close()
    task = h.spawn(third.send, "goes on")
    assert last.recv(timeout=PATIENCE) == "goes on"
    task.join(timeout=PATIENCE)


def test_what_was_sent_stays_for_the_next_receiver_of_a_remote_queue(h, remote_place):
    sender, recver = remote_place("queue")
    sender.send_many([1, 2, 3])
    assert recver.recv(timeout=PATIENCE) == 1
    recver.close()
    until(h, lambda: sender.halted)
    again = remote_place.pair(remote_place.far, "queue").recver
    assert [again.recv(timeout=PATIENCE) for _ in range(2)] == [2, 3]


def test_the_end_waits_for_a_receiver_that_comes_later(h, remote_place):
    sender, recver = remote_place("queue")
    sender.send_many([1, 2, 3])
    sender.close()
    assert list(recver) == [1, 2, 3]


# -- dropping an end, and claiming it


@single
def test_a_dropped_end_is_free_again_and_the_other_goes_on(h, remote_place, shape):
    sender, recver = remote_place(shape)
    for number in range(3):
        task = h.spawn(sender.send, number)
        assert recver.recv(timeout=PATIENCE) == number
        task.join(timeout=PATIENCE)
        task = None
        if number % 2:
            del recver
            gc.collect()
            until(h, lambda: not remote_place.broker.endpoints["a"].pullers)
            recver = remote_place.pair(remote_place.far, shape).recver
        else:
            del sender
            gc.collect()
            until(h, lambda: not remote_place.broker.endpoints["a"].pushers)
            sender = remote_place.pair(remote_place.near, shape).sender
    assert not sender.halted and not recver.halted


@single
def test_an_end_is_claimed_at_its_first_use_and_taken_then(h, remote_place, shape):
    sender, recver = remote_place(shape)
    other = remote_place(shape)
    task = h.spawn(sender.send, 1)
    assert recver.recv(timeout=PATIENCE) == 1
    task.join(timeout=PATIENCE)
    with pytest.raises(Refused, match="TAKEN"):
        other.sender.send(2, timeout=PATIENCE)
    with pytest.raises(Refused, match="TAKEN"):
        other.recver.recv(timeout=PATIENCE)
    task = h.spawn(sender.send, 3)
    assert recver.recv(timeout=PATIENCE) == 3
    task.join(timeout=PATIENCE)


@single
def test_an_end_whose_connection_is_lost_is_free_again_and_the_other_goes_on(h, remote_place, shape):
    one, two = remote_place.connect(), remote_place.connect()
    recver = remote_place.pair(remote_place.far, shape).recver
    for remote in (one, two):
        sender = remote_place.pair(remote, shape).sender
        task = h.spawn(sender.send, "item")
        assert recver.recv(timeout=PATIENCE) == "item"
        task.join(timeout=PATIENCE)
        remote.close()
        until(h, lambda: not remote_place.broker.endpoints["a"].pushers)
    assert not recver.halted


def test_a_remote_end_is_of_one_shape_and_size(h, remote_place):
    sender = remote_place("queue").sender
    sender.send(1, timeout=PATIENCE)
    far = remote_place.far
    for pair in far.queue("a", 4), far.channel("a", 3), far.pipe("a"), far.channel("a"):
        with pytest.raises(Refused, match="MISMATCH"):
            pair.recv(timeout=PATIENCE)
    with pytest.raises(Refused, match="MISMATCH"):
        far.pull("a").recv(timeout=PATIENCE)
    far.push("work").send(1)
    with pytest.raises(Refused, match="MISMATCH"):
        far.queue("work", 3).recv(timeout=PATIENCE)


def test_a_queue_larger_than_the_broker_allows_is_refused(h, remote_place):
    with pytest.raises(Refused, match="100000"):
        remote_place.near.queue("a", 100_001).send(1, timeout=PATIENCE)


# -- a rendezvous: on timeout the broker decides


@empty
def test_an_item_that_nobody_took_is_withdrawn(h, remote_place, shape):
    """The receiver's recv has timed out, its credit stands: the item comes, goes back, and is withdrawn."""
    sender, recver = remote_place(shape)
    with pytest.raises(vanilla.Timeout):
        recver.recv(timeout=20)
    with pytest.raises(vanilla.Timeout, match="nobody took it"):
        sender.send("withdrawn", timeout=50)
    assert remote_place.broker.endpoints["a"].dropped == 1
    task = h.spawn(sender.send, "next")
    assert recver.recv(timeout=PATIENCE) == "next"
    task.join(timeout=PATIENCE)


@empty
def test_an_item_that_was_delivered_is_sent_whatever_the_timeout(h, remote_place, shape):
    sender, recver = remote_place(shape)
    with pytest.raises(vanilla.Timeout):
        recver.recv(timeout=20)

    def send():
        while True:
            h.select([sender], timeout=PATIENCE)
            try:
                sender.send("delivered", timeout=1)
                return
            except vanilla.Timeout as error:
                if "nobody took it" in str(error):
                    raise
                # The process stood still for 100 ms, and what is not used in that time goes back.

    task = h.spawn(send)
    until(h, lambda: remote_place.broker.endpoints["a"].flight_n)
    assert recver.recv(timeout=PATIENCE) == "delivered"
    task.join(timeout=PATIENCE)


def test_a_receiver_gets_the_item_of_whichever_sender_waits(h, remote_place):
    """Credit that one sender asked for and did not use goes to another."""
    first, recver = remote_place("channel")
    second = remote_place.pair(remote_place.near, "channel").sender
    with pytest.raises(vanilla.Timeout):
        first.send("gives up", timeout=30)
    task = h.spawn(second.send, "waits")
    assert recver.recv(timeout=PATIENCE) == "waits"
    task.join(timeout=PATIENCE)


# -- what can be sent


@shapes
def test_what_cannot_be_sent_takes_nothing_with_it(h, remote_place, shape):
    sender, recver = remote_place(shape)
    with pytest.raises(TypeError, match="exception"):
        sender.send(ValueError("no"))
    with pytest.raises(TypeError):
        sender.send({1, 2})
    task = h.spawn(sender.send, (1, 2))
    assert recver.recv(timeout=PATIENCE) == [1, 2]
    task.join(timeout=PATIENCE)


@shapes
def test_when_the_broker_goes_everybody_hears_it(h, remote_place, shape):
    sender, recver = remote_place(shape)
    task = h.spawn(sender.send, 1)
    assert recver.recv(timeout=PATIENCE) == 1
    task.join(timeout=PATIENCE)
    task = h.spawn(recver.recv)
    h.sleep(10)
    let_end(remote_place.near, remote_place.far)
    remote_place.broker.close()
    with pytest.raises(vanilla.ConnectionLost):
        task.join(timeout=PATIENCE)
    with pytest.raises(vanilla.ConnectionLost):
        for _ in range(5):
            sender.send(2, timeout=PATIENCE)
            h.sleep(10)

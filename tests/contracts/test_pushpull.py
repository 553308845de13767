"""One suite for push and pull, wherever the other end is: a local channel, a Unix socket, TCP, TLS.

The idea to protect: the same code works on ``h.channel(n)`` and on a broker's endpoint. Where they are meant to differ
(DESIGN 5, and the table in docs/design.md), a test at the end says so, a row each.
"""

from __future__ import annotations

import pytest
from lossy import between

import vanilla

CAPACITY = 4
#: No test waits longer than this for something that it expects, in ms.
PATIENCE = 10_000


class Local:
    """Both ends of an ``h.channel``."""

    remote = False

    def __init__(self, h):
        self.h = h
        self.channels = {}

    def __call__(self, name="jobs"):
        if name not in self.channels:
            self.channels[name] = self.h.channel(CAPACITY)
        return self.channels[name]


class Remote:
    """Ends of a broker's endpoint, each over a connection of its own."""

    remote = True

    def __init__(self, h, url, files=None, **options):
        self.broker = h.broker.listen(url, capacity=CAPACITY, **options)
        self.near = h.client.connect(self.broker.urls[0], **(files or {}))
        self.far = h.client.connect(self.broker.urls[0], **(files or {}))

    def __call__(self, name="jobs"):
        return vanilla.Pair(self.near.push(name), self.far.pull(name))


def make(h, kind, tmp_path, certs):
    """The place of a kind, which makes pairs of a Sender and a Recver of the work queue of a name."""
    if kind == "local":
        yield Local(h)
        return
    if kind == "lossy":
        kind = between(h)
    if kind == "tls":
        place = Remote(h, "tls://127.0.0.1:0", {"ca": certs.ca}, tls_cert=certs.server)
    else:
        place = Remote(h, f"{kind}://127.0.0.1:0" if kind in ("tcp", "udp") else f"unix://{tmp_path}/broker.sock")
    yield place
    place.near.close()
    place.far.close()
    place.broker.close()


@pytest.fixture(params=["local", "unix", "tcp", "udp", "lossy", "tls"])
def place(request, h, tmp_path, certs):
    yield from make(h, request.param, tmp_path, certs)


@pytest.fixture(params=["unix", "tcp", "udp", "lossy", "tls"])
def remote_place(request, h, tmp_path, certs):
    yield from make(h, request.param, tmp_path, certs)


@pytest.fixture
def local_place(h, tmp_path, certs):
    yield from make(h, "local", tmp_path, certs)


ITEMS = [
    None,
    True,
    False,
    0,
    -1,
    2**64 - 1,
    -(2**63),
    1.5,
    "",
    "ä",
    b"",
    b"\0\xff",
    [],
    [1, [2]],
    {},
    {"a": {"b": [None]}},
]


def test_items_arrive_as_they_were_sent_and_in_order(h, place):
    sender, recver = place()
    task = h.spawn(lambda: [sender.send(item) for item in ITEMS])
    assert [recver.recv(timeout=PATIENCE) for _ in ITEMS] == ITEMS
    task.join()


def receive(recver, count, most=1000):
    """*count* items, as they come by `recv_many`."""
    found = []
    while len(found) < count:
        some = recver.recv_many(min(most, count - len(found)), timeout=PATIENCE)
        assert 1 <= len(some) <= min(most, count - len(found))
        found += some
    return found


@pytest.mark.parametrize("kind", [list, tuple, iter], ids=["list", "tuple", "iterator"])
@pytest.mark.parametrize("most", [1, 3, 1000])
def test_many_at_a_call_arrive_as_singly(h, place, kind, most):
    sender, recver = place()
    items = [*ITEMS, *range(500), "x" * 50_000, b"y" * 50_000, *range(500)]
    task = h.spawn(sender.send_many, kind(items))
    assert receive(recver, len(items), most) == items
    task.join()


def test_many_and_single_calls_keep_their_order(h, place):
    sender, recver = place()

    def produce():
        for number in range(0, 100, 10):
            sender.send(number)
            sender.send_many([*range(number + 1, number + 9)])
            sender.send(number + 9)

    task = h.spawn(produce)
    found = []
    while len(found) < 100:
        found.append(recver.recv(timeout=PATIENCE))
        if len(found) < 100:
            found += recver.recv_many(7, timeout=PATIENCE)
    assert found == list(range(100))
    task.join()


def test_a_timeout_of_send_many_says_how_many_were_sent(h, place):
    sender, recver = place()
    sender.send("first")
    with pytest.raises(vanilla.Timeout) as caught:
        sender.send_many([*range(100)], timeout=50)
    assert caught.value.sent == CAPACITY - 1
    assert receive(recver, CAPACITY) == ["first", *range(CAPACITY - 1)]


def test_recv_many_waits_for_one_item_and_no_longer(h, place):
    sender, recver = place()
    task = h.spawn(recver.recv_many, 10)
    h.sleep(10)
    sender.send("one")
    assert task.join() == ["one"]


def test_recv_many_of_nothing_is_a_timeout_that_loses_nothing(h, place):
    sender, recver = place()
    for timeout in (0, 10):
        with pytest.raises(vanilla.Timeout):
            recver.recv_many(10, timeout=timeout)
    sender.send("later")
    assert receive(recver, 1) == ["later"]


def test_recv_many_receives_one_or_more(h, place):
    _, recver = place()
    for most in (0, -1):
        with pytest.raises(ValueError, match="one item or more"):
            recver.recv_many(most)


@pytest.mark.parametrize("most", [1.5, float("nan"), "3", None])
def test_a_wrong_number_of_items_takes_none(h, place, most):
    sender, recver = place()
    sender.send_many([1, 2, 3])
    with pytest.raises(TypeError):
        recver.recv_many(most, timeout=PATIENCE)
    assert receive(recver, 3) == [1, 2, 3]


def test_what_the_iterable_of_send_many_raises_comes_out_behind_what_it_gave(h, place):
    sender, recver = place()

    def gives_two():
        yield 1
        yield 2
        raise KeyError("no third")

    with pytest.raises(KeyError) as caught:
        sender.send_many(gives_two())
    assert caught.value.sent == 2
    assert receive(recver, 2) == [1, 2]


def test_send_many_on_a_closed_end_is_closed(h, place):
    sender, _ = place()
    sender.close()
    for items in [1, 2], [1], iter([1, 2]):
        with pytest.raises(vanilla.Closed) as caught:
            sender.send_many(items)
        assert caught.value.sent == 0


def test_nothing_at_all_may_be_sent(h, place):
    sender, recver = place()
    sender.send_many([])
    sender.send("next")
    assert receive(recver, 1) == ["next"]


def test_false_items_are_items_in_select_too(h, place):
    sender, recver = place()
    for item in (None, 0, "", False, b""):
        sender.send(item)
        end, got = h.select([recver], timeout=PATIENCE)
        assert end is recver
        assert (got, type(got)) == (item, type(item))


def test_many_items_arrive_in_order(h, place):
    sender, recver = place()
    task = h.spawn(lambda: [sender.send(b"%d" % i) for i in range(5_000)])
    assert [recver.recv(timeout=PATIENCE) for _ in range(5_000)] == [b"%d" % i for i in range(5_000)]
    task.join()


def test_ends_are_a_sender_and_a_recver(place):
    sender, recver = place()
    assert isinstance(sender, vanilla.Sender)
    assert isinstance(recver, vanilla.Recver)


def fill(h, sender, timeout=200):
    """Send until the queue is full; how many it took."""
    count = 0
    while True:
        try:
            sender.send(count, timeout=timeout)
        except vanilla.Timeout:
            return count
        count += 1


def test_a_full_queue_blocks_its_sender_and_a_timeout_means_not_sent(h, place):
    sender, recver = place()
    assert fill(h, sender) == CAPACITY
    assert [recver.recv(timeout=PATIENCE) for _ in range(CAPACITY)] == list(range(CAPACITY))
    with pytest.raises(vanilla.Timeout):
        recver.recv(timeout=150)


def test_a_blocked_sender_goes_on_when_there_is_room(h, place):
    sender, recver = place()
    fill(h, sender)
    task = h.spawn(sender.send, "last")
    h.sleep(20)
    assert not task.done
    assert recver.recv(timeout=PATIENCE) == 0
    task.join(timeout=PATIENCE)
    assert [recver.recv(timeout=PATIENCE) for _ in range(CAPACITY)] == [1, 2, 3, "last"]


def test_blocked_senders_go_on_in_their_order(h, place):
    sender, recver = place()
    fill(h, sender)
    tasks = [h.spawn(sender.send, f"waiter {i}") for i in range(3)]
    got = [recver.recv(timeout=PATIENCE) for _ in range(CAPACITY + 3)]
    assert got == [0, 1, 2, 3, "waiter 0", "waiter 1", "waiter 2"]
    for task in tasks:
        task.join(timeout=PATIENCE)


def test_a_recv_waits_for_its_item(h, place):
    sender, recver = place()
    task = h.spawn(recver.recv)
    h.sleep(20)
    assert not task.done
    sender.send("now")
    assert task.join(timeout=PATIENCE) == "now"


def test_a_recv_that_times_out_has_taken_nothing(h, place):
    sender, recver = place()
    with pytest.raises(vanilla.Timeout):
        recver.recv(timeout=20)
    sender.send("later")
    assert recver.recv(timeout=PATIENCE) == "later"


def test_a_recv_of_timeout_0_takes_what_is_there(h, place):
    sender, recver = place()
    with pytest.raises(vanilla.Timeout):
        recver.recv(timeout=0)
    sender.send(1)
    got = []
    while not got:  # a remote one asks, and has it some time later, without a turn of the loop
        try:
            got.append(recver.recv(timeout=0))
        except vanilla.Timeout:
            if place.remote:
                h.sleep(1)
    assert got == [1]


@pytest.mark.parametrize(("ms", "error"), [(float("nan"), ValueError), ("5", TypeError), (None, TypeError)])
def test_a_timeout_that_is_no_time_is_refused_where_it_would_wait(h, place, ms, error):
    sender, recver = place()
    for wait in lambda: recver.recv(timeout=ms), lambda: h.select([recver], timeout=ms):
        with pytest.raises(error, match="number of ms"):
            wait()
    count = fill(h, sender)
    for wait in lambda: sender.send("not sent", timeout=ms), lambda: h.select([sender], timeout=ms):
        with pytest.raises(error, match="number of ms"):
            wait()
    assert [recver.recv(timeout=PATIENCE) for _ in range(count)] == [*range(count)]
    with pytest.raises(vanilla.Timeout):
        recver.recv(timeout=0)


def test_an_infinite_timeout_is_for_ever(h, place):
    sender, recver = place()
    task = h.spawn(recver.recv, float("inf"))
    h.sleep(1)
    sender.send(1, float("inf"))
    assert task.join(float("inf")) == 1


def test_a_cancelled_recv_takes_nothing(h, place):
    sender, recver = place()
    task = h.spawn(recver.recv)
    h.sleep(20)
    task.cancel()
    with pytest.raises(vanilla.Cancelled):
        task.join(timeout=PATIENCE)
    sender.send("kept")
    assert recver.recv(timeout=PATIENCE) == "kept"


def test_a_cancelled_send_was_not_sent(h, place):
    sender, recver = place()
    fill(h, sender)
    task = h.spawn(sender.send, "cancelled")
    h.sleep(20)
    task.cancel()
    with pytest.raises(vanilla.Cancelled):
        task.join(timeout=PATIENCE)
    assert [recver.recv(timeout=PATIENCE) for _ in range(CAPACITY)] == [0, 1, 2, 3]
    with pytest.raises(vanilla.Timeout):
        recver.recv(timeout=150)


def test_receivers_share_the_items_and_each_goes_to_one(h, place):
    sender, one = place()
    two = place().recver
    got = h.channel(20)
    for recver in (one, two):
        h.spawn(lambda recver=recver: [got.send(recver.recv()) for _ in range(10)])
    h.sleep(20)
    for i in range(20):
        sender.send(i)
    assert sorted(got.recv(timeout=PATIENCE) for _ in range(20)) == list(range(20))


def test_select_finds_the_ready_end_among_several(h, place):
    (_, quiet), (sender, recver) = place("quiet"), place("jobs")
    h.spawn_later(20, sender.send, "item")
    assert h.select([quiet, recver], timeout=PATIENCE) == (recver, "item")
    with pytest.raises(vanilla.Timeout):
        h.select([quiet, recver], timeout=20)


def test_select_on_a_sender_is_ready_while_there_is_room(h, place):
    sender, recver = place()
    for i in range(CAPACITY):
        assert h.select([sender], timeout=PATIENCE) == (sender, None)
        sender.send(i)
    with pytest.raises(vanilla.Timeout):
        h.select([sender], timeout=50)
    task = h.spawn(h.select, [sender])
    h.sleep(20)
    recver.recv(timeout=PATIENCE)
    assert task.join(timeout=PATIENCE) == (sender, None)


def test_pipe_joins_a_remote_and_a_local_end(h, place):
    sender, recver = place()
    local = h.channel(10)
    recver.pipe(local.sender)
    sender.send("through")
    assert local.recv(timeout=PATIENCE) == "through"
    source = h.channel(10)
    source.recver.pipe(sender)
    source.send("back")
    assert local.recv(timeout=PATIENCE) == "back"


def test_map(h, place):
    sender, recver = place()
    lengths = recver.map(len)
    sender.send("four")
    assert lengths.recv(timeout=PATIENCE) == 4


def test_consume_goes_on_after_an_error(h, place, caplog):
    sender, recver = place()
    got = h.channel(10)

    def work(item):
        if item == "bad":
            raise ValueError("bad item")
        got.send(item)

    task = recver.consume(work)
    for item in ("a", "bad", "b"):
        sender.send(item)
    assert [got.recv(timeout=PATIENCE) for _ in range(2)] == ["a", "b"]
    assert "bad item" in caplog.text
    assert not task.done


def test_iteration_ends_when_its_end_is_closed(h, place):
    sender, recver = place()
    got = []

    def work():
        for item in recver:
            got.append(item)

    task = h.spawn(work)
    sender.send(1)
    while not got:
        h.sleep(1)
    recver.close()
    task.join(timeout=PATIENCE)
    assert got == [1]


def test_a_closed_end_says_so(h, place):
    sender, recver = place()
    recver.close()
    with pytest.raises(vanilla.Closed):
        recver.recv()
    sender.close()
    with pytest.raises(vanilla.Closed):
        sender.send(1)
    sender.close()
    recver.close()
    assert sender.halted
    assert recver.halted


def test_closing_wakes_who_waits(h, place):
    _, recver = place()
    task = h.spawn(recver.recv)
    h.sleep(20)
    recver.close()
    with pytest.raises(vanilla.Closed):
        task.join(timeout=PATIENCE)


def test_onclose_is_called_once_and_at_once_if_closed(h, place):
    for end in place():
        called = []
        end.onclose(called.append, 1)
        end.close()
        end.close()
        assert called == [1]
        end.onclose(called.append, 2)
        assert called == [1, 2]


def test_with_closes(h, place):
    sender, recver = place()
    with recver, sender:
        sender.send(1)
        assert recver.recv(timeout=PATIENCE) == 1
    assert sender.halted
    assert recver.halted


def test_an_end_is_said_to_be_what_it_is(h, place):
    sender, recver = place()
    assert "Sender" in repr(sender)
    assert "Recver" in repr(recver)


# -- where local and remote differ


def test_close_locally_ends_the_channel(h, local_place):
    sender, recver = local_place()
    sender.close()
    with pytest.raises(vanilla.Closed):
        recver.recv()


def test_close_remotely_detaches_this_handle_only(h, remote_place):
    sender, recver = remote_place()
    other = remote_place.near.push("jobs")
    sender.send(1)
    sender.close()
    other.send(2)
    assert [recver.recv(timeout=PATIENCE) for _ in range(2)] == [1, 2]


def test_an_exception_is_raised_at_a_local_receiver(h, local_place):
    sender, recver = local_place()
    sender.send(ValueError("sent"))
    with pytest.raises(ValueError, match="sent"):
        recver.recv()


def test_an_exception_cannot_be_sent_to_a_remote_one(h, remote_place):
    sender, recver = remote_place()
    with pytest.raises(TypeError, match="exception"):
        sender.send(ValueError("no"))
    sender.send("goes on")
    assert recver.recv(timeout=PATIENCE) == "goes on"


def test_tuples_and_sets_stay_what_they_are_locally(h, local_place):
    sender, recver = local_place()
    for item in ((1, 2), {1, 2}):
        sender.send(item)
        assert recver.recv() == item


def test_tuples_arrive_as_lists_and_sets_are_refused_remotely(h, remote_place):
    sender, recver = remote_place()
    sender.send((1, 2))
    with pytest.raises(TypeError):
        sender.send({1, 2})
    sender.send("next")
    assert [recver.recv(timeout=PATIENCE) for _ in range(2)] == [[1, 2], "next"]


def test_dropping_a_local_end_abandons_the_other(h, local_place):
    sender, recver = h.channel(CAPACITY)
    sender.send("buffered")
    del sender
    import gc

    gc.collect()
    assert recver.recv() == "buffered"
    with pytest.raises(vanilla.Abandoned):
        recver.recv()


def test_dropping_a_remote_end_detaches_it_and_never_abandons(h, remote_place):
    sender, recver = remote_place()
    sender.send("kept")
    del sender
    import gc

    gc.collect()
    assert recver.recv(timeout=PATIENCE) == "kept"
    with pytest.raises(vanilla.Timeout):
        recver.recv(timeout=50)
    remote_place.near.push("jobs").send("more")
    assert recver.recv(timeout=PATIENCE) == "more"


def test_a_local_sender_is_ready_in_select_when_a_receiver_waits(h, local_place):
    sender, recver = h.channel()
    with pytest.raises(vanilla.Timeout):
        h.select([sender], timeout=20)
    h.spawn_later(20, recver.recv)
    assert h.select([sender], timeout=PATIENCE) == (sender, None)


def test_a_remote_sender_is_ready_in_select_when_there_is_credit_whoever_receives(h, remote_place):
    sender = remote_place.near.push("jobs")
    assert h.select([sender], timeout=PATIENCE) == (sender, None)
    fill(h, sender)
    with pytest.raises(vanilla.Timeout):
        h.select([sender], timeout=50)


def test_the_capacity_of_a_local_queue_is_its_channels_and_what_is_received_makes_room(h, local_place):
    for capacity in (1, 7):
        sender, recver = h.channel(capacity)
        assert fill(h, sender, timeout=0) == capacity
        recver.recv()
        assert fill(h, sender, timeout=0) == 1


def test_the_capacity_of_a_remote_queue_is_its_endpoints_whoever_sends(h, remote_place):
    assert fill(h, remote_place.near.push("jobs")) == CAPACITY
    assert fill(h, remote_place.far.push("jobs")) == 0
    assert fill(h, remote_place.far.push("others")) == CAPACITY


def test_what_is_in_flight_to_consumers_takes_no_room_of_a_remote_queue(h, remote_place):
    sender = remote_place.near.push("jobs")
    recver = remote_place.far.pull("jobs", ack=True)
    sender.send("held")
    delivery = recver.recv(timeout=PATIENCE)
    sent = 1 + fill(h, sender)
    (jobs,) = remote_place.near.status()["endpoints"]
    assert (delivery.item, jobs["ready"], jobs["in_flight"]) == ("held", CAPACITY, sent - CAPACITY)
    assert sent > CAPACITY


@pytest.mark.parametrize("place_of_bad", [0, 1, 50, 99])
def test_what_cannot_be_packed_takes_nothing_of_its_list_with_it(h, remote_place, place_of_bad):
    sender, recver = remote_place()
    items = [b"good"] * 100
    items[place_of_bad] = object()
    task = h.spawn(lambda: receive(recver, place_of_bad + 1))
    with pytest.raises(TypeError) as caught:
        sender.send_many(items)
    assert caught.value.sent == place_of_bad
    sender.send("goes on")
    assert task.join() == [b"good"] * place_of_bad + ["goes on"]


def test_an_exception_among_many_is_raised_when_its_turn_comes(h, local_place):
    sender, recver = local_place()
    sender.send_many([1, 2, KeyError("sent"), 3])
    assert recver.recv_many(10) == [1, 2]
    with pytest.raises(KeyError, match="sent"):
        recver.recv_many(10)
    assert recver.recv_many(10) == [3]


def test_one_of_many_is_as_any(h, local_place):
    sender, recver = local_place()
    sender.send_many([KeyError("sent")])
    sender.send_many(["last"])
    with pytest.raises(KeyError, match="sent"):
        recver.recv_many(1)
    assert recver.recv_many(1) == ["last"]
    with pytest.raises(vanilla.Timeout):
        recver.recv_many(1, timeout=0)


def test_a_list_of_one_for_which_there_is_no_room_is_a_timeout_that_says_so(h, local_place):
    sender, _ = local_place()
    with pytest.raises(vanilla.Timeout) as caught:
        for _ in range(100_000):
            sender.send_many(["more"], timeout=1)
    assert caught.value.sent == 0


@pytest.mark.parametrize("capacity", [0, 1, 2, 10])
def test_recv_many_takes_nothing_behind_an_exception(h, capacity):
    sender, recver = h.channel(capacity)
    items = [1, KeyError("sent"), 3, 4]
    tasks = [h.spawn(sender.send, item) for item in items]
    h.sleep(10)
    assert recver.recv_many(10) == [1]
    h.sleep(10)
    assert sum(task.done for task in tasks) == min(1 + capacity, 4)
    with pytest.raises(KeyError):
        recver.recv_many(10)
    assert receive(recver, 2) == [3, 4]


def test_recv_many_with_ack_gives_deliveries_to_settle_one_by_one(h, remote_place):
    sender = remote_place.near.push("jobs")
    recver = remote_place.far.pull("jobs", ack=True)
    task = h.spawn(sender.send_many, [*range(20)])
    found = []
    while len(found) < 20:
        for delivery in recver.recv_many(5, timeout=PATIENCE):
            found.append(delivery.item)
            delivery.ack()
    task.join()
    assert found == list(range(20))
    status = {e["name"]: e for e in remote_place.far.status()["endpoints"]}
    assert status["jobs"]["ready"] == 0

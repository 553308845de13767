"""One suite for a broadcast, wherever its subscribers are: on the Hub, over a Unix socket, TCP, TLS."""

from __future__ import annotations

import gc

import pytest
from lossy import between
from peers import PATIENCE, until

import vanilla


class Local:
    remote = False

    def __init__(self, h):
        self.broadcasts = {}
        self.h = h

    def __call__(self, name="e"):
        """The broadcast as a publisher and as a subscriber has it."""
        broadcast = self.broadcasts.setdefault(name, self.h.broadcast())
        return broadcast, broadcast

    def subscribers(self, name="e"):
        return len(self.broadcasts[name]._fan.feeds)

    def settle(self):
        pass


class Remote:
    remote = True

    def __init__(self, h, url, files, **options):
        self.broker = h.broker.listen(url, **options)
        self.near = h.client.connect(self.broker.urls[0], **files)
        self.far = h.client.connect(self.broker.urls[0], **files)

    def __call__(self, name="e"):
        return self.near.broadcast(name), self.far.broadcast(name)

    def subscribers(self, name="e"):
        return len(self.broker.endpoints[name].pullers) if name in self.broker.endpoints else 0

    def settle(self):
        """What was asked for has reached the broker."""
        self.far.ping()


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
    for endpoint in place.broker.endpoints.values():
        assert endpoint.balance == 0
    place.near.close()
    place.far.close()
    place.broker.close()


def receive(recver, count):
    return [recver.recv(timeout=PATIENCE) for _ in range(count)]


def test_everybody_who_subscribes_gets_everything_in_order(h, place):
    news, far = place()
    subscribers = [far.subscribe() for _ in range(3)]
    place.settle()
    items = [None, 1, "two", b"three", {"four": [4.0]}, *range(1000)]
    for item in items:
        news.send(item)
    assert [receive(recver, len(items)) for recver in subscribers] == [items] * 3
    assert [recver.missed for recver in subscribers] == [0, 0, 0]


def test_many_at_a_call_arrive_as_singly(h, place):
    news, far = place()
    recver = far.subscribe()
    place.settle()
    news.send_many([*range(5000)])
    found = []
    while len(found) < 5000:
        found += recver.recv_many(700, timeout=PATIENCE)
    assert found == [*range(5000)]


def test_what_was_sent_before_one_subscribed_is_not_received(h, place):
    news, far = place()
    news.send("before")
    if place.remote:
        news.sync(timeout=PATIENCE)
    recver = far.subscribe()
    place.settle()
    news.send("after")
    assert recver.recv(timeout=PATIENCE) == "after"
    assert recver.missed == 0


@pytest.mark.trap("a slow subscriber blocks all")
def test_who_is_too_far_behind_misses_items_and_is_told_how_many(h, place):
    news, far = place()
    slow, fast = far.subscribe(size=10), far.subscribe()
    place.settle()
    for number in range(100):
        news.send(number)
        assert fast.recv(timeout=PATIENCE) == number
    assert receive(slow, 10) == [*range(10)]
    until(h, lambda: slow.missed == 90)
    news.send("goes on")
    assert slow.recv(timeout=PATIENCE) == "goes on"
    assert (slow.missed, fast.missed) == (90, 0)


def test_nobody_has_to_subscribe(h, place):
    news, _ = place()
    for _ in range(10_000):
        news.send("to nobody")
    if place.remote:
        news.sync(timeout=PATIENCE)
        assert place.near.status()["endpoints"][0]["dropped"] == 10_000


def test_a_subscriber_that_closes_gets_no_more_and_the_others_go_on(h, place):
    news, far = place()
    one, two = far.subscribe(), far.subscribe()
    place.settle()
    one.close()
    one.close()
    with pytest.raises(vanilla.Closed):
        one.recv()
    place.settle()
    assert place.subscribers() == 1
    news.send("on")
    assert two.recv(timeout=PATIENCE) == "on"


def test_a_subscriber_that_is_dropped_is_gone(h, place):
    _, far = place()
    one, two = far.subscribe(), far.subscribe()
    place.settle()
    del one
    gc.collect()
    until(h, lambda: place.subscribers() == 1)
    assert not two.halted


@pytest.mark.trap("an abandoned subscriber ends the fan-out")
def test_a_subscriber_that_is_dropped_ends_nothing_for_the_others(h, place):
    news, far = place()
    one, two, three = (far.subscribe() for _ in range(3))
    place.settle()
    waiting = [h.spawn(recver.recv) for recver in (one, three)]
    h.sleep(0)
    del two
    gc.collect()
    for item in "a", "b":
        news.send(item)
    assert [task.join(timeout=PATIENCE) for task in waiting] == ["a", "a"]
    assert receive(one, 1) + receive(three, 1) == ["b", "b"]


def test_connect_sends_what_comes_from_a_recver(h, place):
    news, far = place()
    recver = far.subscribe()
    place.settle()
    for _ in range(2):
        source = h.pipe()
        news.connect(source.recver)
        source.send("item")
        source.sender.close()
        assert recver.recv(timeout=PATIENCE) == "item"


def test_select_map_and_consume(h, place):
    news, far = place()
    one, two = far.subscribe(), far.subscribe()
    quiet = h.channel()
    place.settle()
    got = h.channel(10)
    two.map(lambda item: item * 2).consume(got.send)
    assert h.select([news.sender], timeout=PATIENCE) == (news.sender, None)
    news.send(4)
    assert h.select([quiet, one], timeout=PATIENCE) == (one, 4)
    assert got.recv(timeout=PATIENCE) == 8


def test_a_closed_broadcast_says_so(h, place):
    news, _ = place()
    news.send(1)
    news.close()
    news.close()
    with pytest.raises(vanilla.Closed):
        news.sender.send(2)


@pytest.mark.parametrize("size", [0, -1])
def test_a_subscriber_takes_one_item_at_least(h, place, size):
    _, far = place()
    with pytest.raises(ValueError, match="at least 1"):
        far.subscribe(size=size)


# -- where local and remote differ


def test_closing_a_local_broadcast_ends_its_subscribers_once_drained(h):
    news = h.broadcast()
    recver = news.subscribe()
    with news:
        news.send("last")
    assert list(recver) == ["last"]
    with pytest.raises(vanilla.Closed):
        news.subscribe()


def test_onempty_is_called_when_the_last_local_subscriber_has_gone(h):
    news = h.broadcast()
    called = []
    news.onempty(called.append, True)
    one, two = news.subscribe(), news.subscribe()
    one.close()
    assert not called
    del two
    gc.collect()
    h.sleep(0)
    assert called == [True]


def test_closing_a_remote_publisher_leaves_the_others(h, tmp_path):
    with h.broker.listen("tcp://127.0.0.1:0") as broker, h.client.connect(broker.urls[0], reconnect=False) as remote:
        recver = remote.broadcast("e").subscribe()
        for _ in range(2):
            with remote.broadcast("e") as news:
                news.send("item")
            assert recver.recv(timeout=PATIENCE) == "item"
        assert not recver.halted
        broker.close()
        with pytest.raises(vanilla.ConnectionLost):
            recver.recv(timeout=PATIENCE)


def test_a_subscriber_of_a_window_takes_so_many_bytes(h):
    with h.broker.listen("tcp://127.0.0.1:0") as broker, h.client.connect(broker.urls[0]) as remote:
        news = remote.broadcast("e")
        recver = news.subscribe(window=1000)
        for number in range(20):
            news.send(bytes([number]) * 300)
        news.sync(timeout=PATIENCE)
        assert [item[0] for item in receive(recver, 4)] == [0, 1, 2, 3]
        until(h, lambda: recver.missed == 16)

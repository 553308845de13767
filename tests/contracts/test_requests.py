"""One suite for requests and replies, wherever the other end is: over a Unix socket and TCP, in one connection and in
two."""

from __future__ import annotations

import pytest
from lossy import between
from test_pushpull import ITEMS, PATIENCE

import vanilla


@pytest.fixture(params=["unix", "tcp", "udp", "lossy"])
def broker(request, h, tmp_path):
    kind = between(h) if request.param == "lossy" else request.param
    url = f"{kind}://127.0.0.1:0" if kind in ("tcp", "udp") else f"unix://{tmp_path}/broker.sock"
    with h.broker.listen(url) as broker:
        yield broker


@pytest.fixture(params=["one", "two"])
def ends(request, broker, connect):
    """The dealer and the router of a service."""
    near = connect()
    far = near if request.param == "one" else connect()
    return near.dealer("sums"), far.router("sums")


def test_items_arrive_as_they_were_sent_both_ways(ends):
    dealer, router = ends
    task = router.consume(lambda item: item)
    replies = [dealer.call(item, wait=True) for item in ITEMS]
    assert [reply.recv(timeout=PATIENCE) for reply in replies] == ITEMS
    task.cancel()


@pytest.mark.parametrize("size", [0, 1, 5_000, 40_000, 300_000, 1_000_000])
def test_items_of_any_size_arrive_both_ways_and_in_streams(h, ends, size):
    dealer, router = ends
    body = bytes(range(256)) * (size // 256) + bytes(size % 256)

    def answer(request):
        if request.item == "stream":
            with request.stream() as stream:
                for _ in range(5):
                    stream.send(body)
        else:
            request.reply(request.item)

    task = h.spawn(lambda: [answer(request) for request in router])
    assert dealer.call(body, wait=True).recv(timeout=PATIENCE) == body
    assert list(dealer.call("stream")) == [body] * 5
    task.cancel()


def test_a_thousand_calls_in_a_thousand_tasks(h, ends):
    dealer, router = ends
    task = router.consume(lambda item: -item)
    calls = [h.spawn(lambda i=i: dealer.call(i, wait=True).recv(timeout=PATIENCE)) for i in range(1_000)]
    assert [call.join(timeout=PATIENCE) for call in calls] == [-i for i in range(1_000)]
    task.cancel()


def test_errors_are_raised_where_the_answer_is_received(ends):
    dealer, router = ends
    reply = dealer.call(1, wait=True)
    router.recv(timeout=PATIENCE).fail("NO", "not today")
    with pytest.raises(vanilla.RemoteError, match="NO: not today"):
        reply.recv(timeout=PATIENCE)


def test_a_router_that_is_closed_fails_what_it_had(ends):
    dealer, router = ends
    reply = dealer.call(1, wait=True)
    request = router.recv(timeout=PATIENCE)
    router.close()
    with pytest.raises(vanilla.RemoteError, match="PEER_LOST"):
        reply.recv(timeout=PATIENCE)
    assert request.cancelled


def test_served_methods_are_called(broker, connect):
    class Calculator:
        def add(self, a, b):
            return a + b

        def count(self, n):
            yield from range(n)

    task = connect().serve("calc", Calculator())
    calc = connect().wrap("calc", wait=True)
    assert calc.add(1, 2).recv(timeout=PATIENCE) == 3
    assert list(calc.count(3)) == [0, 1, 2]
    task.cancel()

"""Sessions over UDP whose way is cut and heals, and whose addresses change, again and again, while datagrams are lost,
doubled and late: none of it is more than a delay. All in one process; test_paths.py has the same between namespaces."""

from __future__ import annotations

import random

import pytest
from checker import judge
from fleet import LONG, until
from journal import CONFIRMED, DONE, SEND
from lossy import Proxy

JOBS, EVENTS = (20_000, 60) if LONG else (1_000, 6)


@pytest.fixture
def broker(h):
    with h.broker.listen("udp://127.0.0.1:0") as broker:
        yield broker


def produce(remote, book):
    out = remote.push("jobs")
    for number in range(JOBS):
        book.note(SEND, "p", ("p", number))
        out.send(["p", number])
        if number % 50 == 49:
            out.sync()
            book.note(CONFIRMED, "p", ("p", number))


def work(remote, book):
    for number, delivery in enumerate(remote.pull("jobs", ack=True), 1):
        book.got("w", delivery)
        book.note(DONE, "w", delivery.item)
        delivery.ack()
        if number == JOBS:
            return


def test_a_way_that_is_cut_and_addresses_that_change_are_no_more_than_a_delay(h, broker, book, tell):
    seed = random.randrange(1 << 32)
    dice = random.Random(seed)
    proxy = Proxy(h, broker.urls[0], seed=seed)
    connect = h.client.connect
    with connect(proxy.url, reconnect=False) as near, connect(proxy.url, reconnect=False) as far:
        tasks = [h.spawn(produce, near, book), h.spawn(work, far, book)]
        for number in range(EVENTS):
            goal = 2 * JOBS * (number + 1) // EVENTS
            until(h, lambda goal=goal: len(book.events) >= goal)
            if number % 2:
                proxy.cut = True
                h.sleep(dice.randrange(20, 300))
                proxy.cut = False
            else:
                proxy.move()
                for remote in near, far:  # whoever says nothing is found by its next PING, after up to 15 s
                    remote.ping()
        for task in tasks:
            task.join()
        sessions = broker.listeners[0][0].sessions.values()
        moved = sum(session.transport.counters.moves for session in sessions)
    proxy.close()
    verdict = judge(book.events)
    tell(f"cut and moved {EVENTS} times, {proxy.lost:,} of {proxy.passed:,} datagrams lost, seed {seed}: {verdict}")
    assert verdict.faults == {}
    assert verdict.confirmed == verdict.done == JOBS
    assert verdict.redeliveries == 0
    assert moved >= EVENTS  # both sessions, at every other event

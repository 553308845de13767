"""Connections that are slow, torn into single bytes, without confirms, or cut at every byte: what was confirmed has
arrived, what was taken is not lost, and what comes twice says so."""

from __future__ import annotations

import pytest
from checker import judge
from cutting import JOBS, Book, cuts, finish, sizes
from journal import CONFIRMED, DONE, SEND
from peers import until
from proxy import Plan, Proxy

import vanilla
from vanilla.protocol.frames import ACK


def produce(h, url, book, who):
    with h.client.connect(url, linger=1_000, reconnect=False) as remote:
        out = remote.push("jobs")
        for number in range(JOBS):
            book.note(SEND, who, (who, number))
            out.send([who, number])
            out.sync()
            book.note(CONFIRMED, who, (who, number))


def work(h, url, book, who):
    with h.client.connect(url, linger=1_000, reconnect=False) as remote:
        jobs = remote.pull("jobs", ack=True)
        for _ in range(JOBS):
            delivery = jobs.recv()
            book.got(who, delivery)
            book.note(DONE, who, delivery.item)
            delivery.ack()


def run(h, broker, session, plans):
    """A session a plan; how many were cut before they were through."""
    lost = 0
    with Proxy(broker.urls[0], *plans) as proxy:
        for number in range(len(plans)):
            try:
                session(proxy.url, f"n{number}")
            except vanilla.ConnectionLost:
                lost += 1
            until(h, lambda number=number: len(proxy.history) > number)
    return lost


def test_what_a_producer_saw_confirmed_has_arrived_wherever_it_is_cut(h, broker, direct, book, tell):
    plans = list(cuts(*sizes(h, broker, lambda url: produce(h, url, Book(), "whole"))))
    finish(h, broker, direct, Book(), "d")
    lost = run(h, broker, lambda url, who: produce(h, url, book, who), plans)
    finish(h, broker, direct, book, "d")
    verdict = judge(book.events)
    tell(f"producer cut at {len(plans)} places, {lost} times before it was through: {verdict}")
    assert lost > len(plans) // 2
    assert verdict.faults == {}
    assert verdict.redeliveries == 0
    assert verdict.confirmed <= verdict.done <= verdict.sent


def test_what_a_worker_took_comes_again_and_says_so_wherever_it_is_cut(h, broker, direct, book, tell):
    out = direct.push("jobs")

    def feed(who):
        for number in range(JOBS):
            book.note(SEND, who, (who, number))
            out.send([who, number])
        out.sync()
        book.note(CONFIRMED, who, (who, JOBS - 1))

    def session(url, who):
        feed(who)
        try:
            work(h, url, book, who)
        finally:
            finish(h, broker, direct, book, "d")

    def whole(url):
        feed("whole")
        work(h, url, book, "whole")

    plans = list(cuts(*sizes(h, broker, whole)))
    lost = run(h, broker, session, plans)
    finish(h, broker, direct, book, "d")
    verdict = judge(book.events)
    tell(f"worker cut at {len(plans)} places, {lost} times before it was through: {verdict}")
    assert lost > len(plans) // 2
    assert verdict.faults == {}
    assert verdict.confirmed == verdict.done == verdict.sent
    assert verdict.marked > 0


def test_a_connection_that_is_slow_and_torn_into_single_bytes_is_as_good_as_any(h, broker, direct, book, tell):
    with Proxy(broker.urls[0], Plan(delay=10, piece=1)) as proxy:
        produce(h, proxy.url, book, "p")
        work(h, proxy.url, book, "w")
        until(h, lambda: "jobs" not in broker.endpoints)  # the last acknowledgement is through
    verdict = judge(book.events)
    tell(f"20 ms more a round trip, in single bytes: {verdict}")
    assert verdict.faults == {}
    assert verdict.confirmed == verdict.done == JOBS
    assert verdict.redeliveries == 0


def test_a_producer_without_confirms_knows_so_and_nothing_is_lost_or_repeated(h, broker, direct, book):
    with Proxy(broker.urls[0], Plan(drop=frozenset([ACK]))) as proxy:
        remote = h.client.connect(proxy.url, linger=0, reconnect=False)
        out = remote.push("jobs")
        for number in range(JOBS):
            book.note(SEND, "p", ("p", number))
            out.send(["p", number])
        until(h, lambda: direct.status()["broker"]["accepted"] == JOBS)
        with pytest.raises(vanilla.Timeout):
            out.sync(timeout=0)
        assert out.unconfirmed == JOBS
        proxy.cut()
        with pytest.raises(vanilla.ConnectionLost):
            out.sync()
        remote.close()
    finish(h, broker, direct, book, "d")
    verdict = judge(book.events)
    assert verdict.faults == {}
    assert (verdict.confirmed, verdict.done, verdict.redeliveries) == (0, JOBS, 0)


@pytest.mark.parametrize("ack", [False, True], ids=["received", "acknowledged"])
def test_a_fast_worker_far_away_does_not_get_its_jobs_one_by_one(h, broker, direct, ack):
    jobs = direct.push("jobs")
    jobs.send_many(range(5_000))
    jobs.sync()
    with Proxy(broker.urls[0], Plan(delay=10)) as proxy, h.client.connect(proxy.url) as far:
        worker = far.pull("jobs", ack=ack)
        for number in range(5_000):
            item = worker.recv()
            if ack:
                item.ack()
            assert number == (item.item if ack else item)
            if number == 2_000:  # there is more, and so many round trips would take 40 s
                assert worker._state.window.size >= 64

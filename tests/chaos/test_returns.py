"""Clients that lose their broker come back by themselves and go on: nothing is lost but what only the broker's memory
held, nothing comes twice in silence, and thousands return without a stampede."""

from __future__ import annotations

import random
import signal
import time
from contextlib import ExitStack

import programs
import pytest
from checker import judge, milliseconds
from cutting import JOBS, Book, cuts, finish, sizes
from fleet import LONG, done, empty, exhume, fleet, memory, mib, until
from journal import CONFIRMED, DONE, SEND, count
from proxy import Plan, Proxy

import vanilla
from vanilla.protocol.frames import ACK

#: Pauses before connecting again, in ms: no test is to wait for long.
BACKOFF = (1, 20)


def connect(h, url):
    """A connection that comes back; the first may be cut before it is one."""
    while True:
        try:
            return h.client.connect(url, backoff=BACKOFF)
        except vanilla.ConnectionLost:
            pass


def produce(h, url, book, who):
    with connect(h, url) as remote:
        out = remote.push("jobs")
        for number in range(JOBS):
            book.note(SEND, who, (who, number))
            out.send([who, number])
            out.sync(timeout=programs.PATIENCE * 1000)
            book.note(CONFIRMED, who, (who, number))


def test_a_producer_that_is_cut_anywhere_goes_on_and_each_job_arrives_once(h, broker, direct, book, tell):
    plans = list(cuts(*sizes(h, broker, lambda url: produce(h, url, Book(), "whole"))))
    finish(h, broker, direct, Book(), "d")
    returned = 0
    for number, plan in enumerate(plans):
        with Proxy(broker.urls[0], plan, Plan()) as proxy:
            produce(h, proxy.url, book, f"n{number}")
        returned += len(proxy.history) - 1
    finish(h, broker, direct, book, "d")
    verdict = judge(book.events)
    tell(f"producer cut at {len(plans)} places, back {returned} times: {verdict}")
    assert returned > len(plans) // 2
    assert verdict.faults == {}
    assert verdict.confirmed == verdict.done == verdict.sent == len(plans) * JOBS
    assert verdict.redeliveries == 0


def test_a_worker_that_is_cut_anywhere_goes_on_and_what_comes_twice_says_so(h, broker, direct, book, tell):
    out = direct.push("jobs")

    def session(url, who):
        with connect(h, url) as remote:
            jobs = remote.pull("jobs", ack=True)
            task = h.spawn(work, jobs, who)
            for number in range(JOBS):
                book.note(SEND, who, (who, number))
                out.send([who, number])
            out.sync()
            book.note(CONFIRMED, who, (who, JOBS - 1))
            until(h, lambda: broker.endpoints["jobs"].empty, 1)
            jobs.close()
            task.join()

    def work(jobs, who):
        for delivery in jobs:
            book.got(who, delivery)
            book.note(DONE, who, delivery.item)
            delivery.ack()

    plans = list(cuts(*sizes(h, broker, lambda url: session(url, "whole"))))
    returned = 0
    for number, plan in enumerate(plans):
        with Proxy(broker.urls[0], plan, Plan()) as proxy:
            session(proxy.url, f"n{number}")
        returned += len(proxy.history) - 1
    verdict = judge(book.events)
    tell(f"worker cut at {len(plans)} places, back {returned} times: {verdict}")
    assert returned > len(plans) // 2
    assert verdict.faults == {}
    assert verdict.confirmed == verdict.done == verdict.sent
    assert verdict.marked > 0


def test_what_was_accepted_and_never_confirmed_is_sent_again_and_taken_once(h, broker, direct, book):
    with Proxy(broker.urls[0], Plan(drop=frozenset([ACK])), Plan()) as proxy, connect(h, proxy.url) as remote:
        out = remote.push("jobs")
        for number in range(100):
            book.note(SEND, "p", ("p", number))
            out.send(["p", number])
        until(h, lambda: direct.status()["broker"]["accepted"] == 100, 1)
        with pytest.raises(vanilla.Timeout):
            out.sync(timeout=0)
        proxy.cut()
        out.sync(timeout=programs.PATIENCE * 1000)
        book.note(CONFIRMED, "p", ("p", 99))
    finish(h, broker, direct, book, "d")
    verdict = judge(book.events)
    assert verdict.faults == {}
    assert (verdict.confirmed, verdict.done, verdict.redeliveries) == (100, 100, 0)
    assert direct.status()["broker"]["accepted"] == 100


def test_a_fleet_whose_network_fails_all_the_time_does_every_job(h, journals, tell):
    jobs, failures = (10_000, 100) if LONG else (1_000, 10)
    seed = random.randrange(1 << 32)
    dice = random.Random(seed)
    with ExitStack() as stack:
        url, broker = stack.enter_context(programs.broker())
        remote = stack.enter_context(h.client.connect(url))
        proxies = [stack.enter_context(Proxy(url, Plan(delay=1), Plan(delay=1, reset=True))) for _ in range(2)]
        crew = stack.enter_context(fleet(journals))
        near, far = (proxy.url for proxy in proxies)
        for number in range(2):
            crew.start("worker", f"w{number}", url=far, name="jobs", seconds=0.001)
        producers = [crew.start("producer", f"p{n}", url=near, name="jobs", jobs=jobs // 2) for n in range(2)]
        for _ in range(failures):
            goal = min(done(remote) + dice.randrange(2 * jobs // failures), jobs * 9 // 10)
            until(h, lambda goal=goal: done(remote) >= goal, 1)
            dice.choice(proxies).cut()
        until(h, lambda: all(producer.status == 0 for producer in producers) and empty(remote, "jobs"))
        exhume(remote, "jobs", journals)
        verdict = judge(crew.events())
        tell(f"network fails {failures} times, seed {seed}: {verdict}; broker {mib(memory(broker.pid))}")
        assert verdict.faults == {}
        assert verdict.confirmed == jobs


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL], ids=["told-to-end", "killed"])
def test_a_fleet_goes_on_when_its_broker_has_been_started_again(h, journals, tell, how):
    jobs = 5_000 if LONG else 1_000
    with fleet(journals) as crew:
        with programs.broker("--capacity", "100", "--drain", "60000") as (url, broker):
            for number in range(2):
                crew.start("worker", f"w{number}", url=url, name="jobs", seconds=0.001)
            producers = [crew.start("producer", f"p{n}", url=url, name="jobs", jobs=jobs // 2) for n in range(2)]
            until(h, lambda: count(journals, DONE) > jobs // 4)
            broker.send_signal(how)
            broker.wait(programs.PATIENCE)
            ended = time.monotonic_ns()
        with programs.broker(listen=url), h.client.connect(url) as remote:
            until(h, lambda: all(producer.status == 0 for producer in producers))
            until(h, lambda: empty(remote, "jobs"))
            exhume(remote, "jobs", journals)
        events = crew.events()
        verdict = judge(events)
        sent = {event.job: event.at for event in events if event.what == SEND}
        tell(f"broker started again after {how.name}: {verdict}")
        assert verdict.confirmed == jobs
        assert set(verdict.faults) <= ({"lost"} if how == signal.SIGKILL else set())
        assert verdict.done + len(verdict.lost) == jobs
        assert all(sent[job] < ended for job in verdict.lost)  # they were in the memory of the one that ended


def test_thousands_of_clients_return_to_a_broker_that_was_started_again(h, journals, tell):
    clients = 5_000 if LONG else 200
    with fleet(journals) as crew:
        with programs.broker() as (url, broker):
            crowd = crew.start("crowd", "crowd", url=url, name="jobs", clients=clients)
            until(h, lambda: count(journals, "ready") == 1)
            broker.terminate()
            broker.wait(programs.PATIENCE)
        with programs.broker(listen=url) as (url, broker), h.client.connect(url) as remote:
            crew.start("worker", "w", url=url, name="jobs")
            until(h, lambda: crowd.status == 0, 50)
            until(h, lambda: empty(remote, "jobs"))
            refused = remote.status()["broker"]["refused"]
            most = memory(broker.pid)
        events = crew.events()
    verdict = judge(events)
    back = [event.at for event in events if event.what == "back"]
    waits = [at - back[0] for at in back]
    busiest = max(sum(at <= other < at + 100_000_000 for other in back) for at in back[:: max(clients // 100, 1)])
    tell(
        f"{clients} clients: back within {milliseconds(waits, 50)} (p50), {milliseconds(waits, 99)} (p99) of the first,"
        f" {busiest} in the busiest 100 ms, refused {refused or 'none'}; {verdict}; broker {mib(most)}"
    )
    assert len(back) == clients
    assert verdict.faults == {}
    assert verdict.confirmed == verdict.done == clients
    # All are in one process, so some say hello too late, are refused, and try again. A stampede would feed itself.
    assert sum(refused.values()) < clients

"""Processes that stand still, by SIGSTOP or because they compute: what is theirs stays theirs, and all others go on."""

from __future__ import annotations

import signal

import programs
import pytest
from checker import judge
from fleet import LONG, done, empty, endpoint, fleet, memory, mib, stop_at_work, until
from journal import DONE, GOT, count

JOBS = 600


@pytest.mark.parametrize("lease", [None, 10_000 if LONG else 500])
def test_a_broker_that_stands_still_costs_time_and_nothing_else(h, journals, tell, lease):
    seconds = 60 if LONG else 1
    with programs.broker() as (url, broker), h.client.connect(url) as remote, fleet(journals) as crew:
        work = {"url": url, "name": "jobs", "seconds": 0.001, "lease": lease, "reconnect": False}
        workers = [crew.start("worker", f"w{n}", **work) for n in range(2)]
        producers = [crew.start("producer", f"p{n}", url=url, name="jobs", jobs=JOBS // 2) for n in range(2)]
        until(h, lambda: done(remote) >= JOBS // 4)
        broker.send_signal(signal.SIGSTOP)
        h.sleep(seconds * 1000)
        broker.send_signal(signal.SIGCONT)
        until(h, lambda: all(producer.status == 0 for producer in producers) and empty(remote, "jobs"))
        verdict = judge(crew.events())
        tell(f"broker stopped for {seconds} s, lease {lease} ms: {verdict}; broker {mib(memory(broker.pid))}")
        assert verdict.faults == {}
        assert verdict.confirmed == verdict.done == JOBS
        # A lease of half a second may be over for another reason: a machine that is busy with other things.
        assert verdict.redeliveries == 0 or (lease and not LONG)
        assert [worker.status for worker in workers] == [None, None]


def test_a_worker_that_stands_still_keeps_its_jobs_and_others_do_the_rest(h, journals, tell):
    seconds = 60 if LONG else 1
    with programs.broker() as (url, broker), h.client.connect(url) as remote, fleet(journals) as crew:
        still = crew.start("worker", "still", url=url, name="jobs", seconds=0.01, reconnect=False)
        jobs = crew.start("producer", "p", url=url, name="jobs", jobs=JOBS)
        until(h, lambda: endpoint(remote, "jobs").get("ready", 0) > 0 and count(journals, GOT) > 0)
        stop_at_work(h, remote, still, "jobs")
        crew.start("worker", "other", url=url, name="jobs")
        until(h, lambda: jobs.status == 0 and endpoint(remote, "jobs")["ready"] == 0)
        h.sleep(seconds * 1000)
        kept = endpoint(remote, "jobs")["in_flight"]
        still.signal(signal.SIGCONT)
        until(h, lambda: empty(remote, "jobs"))
        verdict = judge(crew.events())
        tell(f"worker stopped for {seconds} s with {kept} jobs: {verdict}; broker {mib(memory(broker.pid))}")
        assert kept > 0
        assert all_done_once(verdict)
        assert still.status is None


def test_a_worker_that_computes_keeps_its_connection_and_its_job(h, journals, tell):
    seconds = 60 if LONG else 1
    with programs.broker() as (url, _), h.client.connect(url) as remote, fleet(journals) as crew:
        computing = crew.start("worker", "computing", url=url, name="jobs", seconds=seconds, reconnect=False)
        jobs = crew.start("producer", "p", url=url, name="jobs", jobs=JOBS)
        until(h, lambda: count(journals, GOT) > 0)
        crew.start("worker", "other", url=url, name="jobs")
        until(h, lambda: jobs.status == 0 and empty(remote, "jobs"), seconds * 5)
        events = crew.events()
        verdict = judge(events)
        longest = max(event.at for event in events if event.who == "computing" and event.what == DONE)
        others = [event.at for event in events if event.who == "other" and event.what == DONE and event.at < longest]
        tell(f"worker computes for {seconds} s, {len(others)} jobs done by another: {verdict}")
        assert all_done_once(verdict)
        assert computing.status is None


def all_done_once(verdict):
    return not verdict.faults and verdict.confirmed == verdict.done == JOBS and verdict.redeliveries == 0

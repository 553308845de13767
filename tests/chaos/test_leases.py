"""Workers that are silent for longer than their leases: others do their jobs, once, and what they say later harms
nothing."""

from __future__ import annotations

import signal

import programs
from checker import judge
from fleet import LONG, empty, endpoint, fleet, memory, mib, stop_at_work, until
from journal import GOT, read

#: For a worker that is then stopped, and for it alone when it goes on.
JOBS, MORE = 300, 10
#: What it takes it a job, in seconds, so that it is surely stopped in the midst of them.
SLOW = 0.02
#: In ms.
LEASE = 300


def begun(journals, producer):
    """Has a worker got a job of this producer?"""
    return any(event.what == GOT and event.job[0] == producer for event in read(journals))


def test_jobs_of_a_worker_that_is_stopped_beyond_its_lease_are_done_by_another(h, journals, tell):
    rounds = 10 if LONG else 1
    patient = "--max-attempts", "1000"  # on a busy machine a lease may be over for another reason, often
    with programs.broker(*patient) as (url, broker), h.client.connect(url) as remote, fleet(journals) as crew:
        still = crew.start("worker", "still", url=url, name="jobs", seconds=SLOW, lease=LEASE, reconnect=False)
        for number in range(rounds):
            jobs = crew.start("producer", f"p{number}", url=url, name="jobs", jobs=JOBS)
            until(h, lambda n=number: begun(journals, f"p{n}") and endpoint(remote, "jobs")["ready"] > 0, 1)
            stop_at_work(h, remote, still, "jobs")
            other = crew.start("worker", f"other{number}", url=url, name="jobs", lease=LEASE)
            until(h, lambda jobs=jobs: jobs.status == 0 and empty(remote, "jobs"))
            other.kill()
            still.signal(signal.SIGCONT)
            more = crew.start("producer", f"q{number}", url=url, name="jobs", jobs=MORE)
            until(h, lambda more=more: more.status == 0 and empty(remote, "jobs"))
        verdict = judge(crew.events())
        tell(f"worker stopped {rounds} times beyond its lease: {verdict}; broker {mib(memory(broker.pid))}")
        assert verdict.faults == {}
        assert verdict.confirmed == verdict.done == rounds * (JOBS + MORE)
        assert verdict.redeliveries >= rounds
        assert still.status is None  # it did the rest of each round, by the same connection

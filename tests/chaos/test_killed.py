"""Workers that are killed at random: nothing that was confirmed is lost, and what comes twice says so."""

from __future__ import annotations

import random

import programs
from checker import judge
from fleet import LONG, done, empty, exhume, fleet, memory, mib, until

#: In ms: a worker that is killed is found out by the end of its connection, not by this.
LEASE = 60_000


def test_no_job_is_lost_though_workers_are_killed_all_the_time(h, journals, tell):
    jobs, kills, workers = (10_000, 200, 4) if LONG else (1_500, 15, 3)
    seed = random.randrange(1 << 32)
    dice = random.Random(seed)
    with programs.broker() as (url, broker), h.client.connect(url) as remote, fleet(journals) as crew:
        busy = [
            crew.start("worker", f"w{number}", url=url, name="jobs", seconds=0.001, lease=LEASE)
            for number in range(workers)
        ]
        producers = [crew.start("producer", f"p{n}", url=url, name="jobs", jobs=jobs // 2) for n in range(2)]
        for number in range(kills):
            goal = min(done(remote) + dice.randrange(2 * jobs // kills), jobs * 9 // 10)
            until(h, lambda goal=goal: done(remote) >= goal, 1)
            victim = dice.randrange(workers)
            busy[victim].kill()
            busy[victim] = crew.start(
                "worker", f"w{workers + number}", url=url, name="jobs", seconds=0.001, lease=LEASE
            )
        until(h, lambda: all(producer.status == 0 for producer in producers))
        until(h, lambda: empty(remote, "jobs"))
        exhume(remote, "jobs", journals)
        verdict = judge(crew.events())
        tell(f"{kills} workers killed, seed {seed}: {verdict}; broker {mib(memory(broker.pid))}")
        assert verdict.faults == {}
        assert verdict.confirmed == jobs
        assert verdict.redeliveries > 0

"""What the processes of `prefetch` do: our broker, and workers that take jobs of some length.

    python jobs.py PARENT broker FLAG ...                says "listening on ADDRESS"
    python jobs.py PARENT worker ADDRESS MS PREFETCH     says "ready"; hears when to begin; then, for each line that it
                                                         hears, says when the jobs were done: "last", how many and the
                                                         last, or "each", each of them

PARENT is the process without which this one is not to live. A job takes MS milliseconds: one of under a millisecond
computes, a longer one waits, and blocks its process. It is acknowledged when it is done. Times are seconds of
CLOCK_MONOTONIC; what is said of jobs is JSON.
"""

from __future__ import annotations

import sys
import time
from typing import Any

from load import broker, heard
from worker import end_with_the_parent, say

import vanilla
from vanilla.memory import keep_freed_memory

ENDPOINT = "jobs"
#: Shorter jobs compute, in seconds.
WAITS = 0.001


def work(seconds: float) -> None:
    """A job."""
    if seconds >= WAITS:
        time.sleep(seconds)
        return
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        pass


def take(jobs: Any, seconds: float, ends: list[float]) -> None:
    """A task: do jobs for ever, and note when each is done."""
    for job in jobs:
        with job:
            work(seconds)
        ends.append(time.monotonic())


def worker(address: str, ms: str, prefetch: str) -> None:
    with vanilla.Hub() as hub, hub.client.connect(address) as remote:
        jobs = remote.pull(ENDPOINT, ack=True, prefetch=int(prefetch))
        remote.ping()  # the endpoint is open
        say("ready")
        hub.sleep(max(float(heard(hub)) - time.monotonic(), 0) * 1000)
        ends: list[float] = []
        hub.spawn(take, jobs, float(ms) / 1000, ends)
        while question := heard(hub).strip():
            say(ends if question == "each" else [len(ends), ends[-1] if ends else 0.0])


ROLES = {"broker": broker, "worker": worker}

if __name__ == "__main__":
    end_with_the_parent(int(sys.argv[1]))
    keep_freed_memory()
    ROLES[sys.argv[2]](*sys.argv[3:])

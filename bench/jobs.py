"""What the processes of `prefetch` do: our broker, and workers that take jobs of some length.

    python jobs.py PARENT broker FLAG ...                says "listening on ADDRESS"
    python jobs.py PARENT worker ADDRESS MS PREFETCH     says "ready"; hears when to begin; then, for each line that it
                                                         hears, says when the jobs were done: "last", how many, when
                                                         the last was, and how long it worked at them; or "each", when
                                                         each was

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


class Taker:
    """Does jobs for ever, as a task.

    ``ends`` are when each was done, ``busy`` is how long they took themselves, in seconds.
    """

    def __init__(self) -> None:
        self.ends: list[float] = []
        self.busy = 0.0

    def take(self, jobs: Any, seconds: float) -> None:
        for job in jobs:
            begin = time.monotonic()
            with job:
                work(seconds)
            end = time.monotonic()
            self.busy += end - begin
            self.ends.append(end)

    def answer(self, question: str) -> list[float]:
        """What is said (see above)."""
        if question == "each":
            return self.ends
        return [len(self.ends), self.ends[-1] if self.ends else 0.0, self.busy]


def worker(address: str, ms: str, prefetch: str) -> None:
    with vanilla.Hub() as hub, hub.client.connect(address) as remote:
        jobs = remote.pull(ENDPOINT, ack=True, prefetch=int(prefetch))
        remote.ping()  # the endpoint is open
        say("ready")
        hub.sleep(max(float(heard(hub)) - time.monotonic(), 0) * 1000)
        taker = Taker()
        hub.spawn(taker.take, jobs, float(ms) / 1000)
        while question := heard(hub).strip():
            say(taker.answer(question))


ROLES = {"broker": broker, "worker": worker}

if __name__ == "__main__":
    end_with_the_parent(int(sys.argv[1]))
    keep_freed_memory()
    ROLES[sys.argv[2]](*sys.argv[3:])

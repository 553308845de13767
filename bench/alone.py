"""One measurement of a library in a process of its own, and the turns that the libraries take.

    python alone.py PARENT LIBRARY WHAT ARGUMENTS     says the figures of one of `MEASUREMENTS`; all of it is JSON

PARENT is the process without which this one is not to live.
"""

from __future__ import annotations

import json
import os
import random
import statistics
import subprocess
import sys
import time
from typing import Any, Callable, NoReturn

import memory
import processes
from hubs import NAMES, Library, find
from hubs.library import Calls, Picks, Sleepers
from percentile import percentiles
from worker import end_with_the_parent

#: How long one may take, in seconds.
PATIENCE = 120
#: By how much a sleeper may wake up too early, in seconds.
EARLY = 0.005
#: How long they sleep who are not to wake up, in seconds.
LONG = 600.0

Figures = dict[str, float]


def measure(name: str, what: str, *arguments: Any) -> Figures:
    """One measurement.

    :raises processes.Failed: it came to nothing.
    """
    command = [sys.executable, __file__, str(os.getpid()), name, what, json.dumps(arguments)]
    try:
        ran = subprocess.run(command, capture_output=True, text=True, check=True, timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        raise processes.Failed(f"{name} took longer than {PATIENCE} s") from None
    except subprocess.CalledProcessError as error:
        raise processes.Failed(f"{name}: {(error.stderr.strip().splitlines() or ['no word'])[-1]}") from None
    figures: Figures = json.loads(ran.stdout)
    return figures


def described() -> dict[str, dict[str, Any]]:
    """What a reader must know of each library."""
    return {name: processes.describe(find(name)) for name in NAMES}


def summary(samples: list[Figures]) -> dict[str, Any]:
    """Of rates, as the other rows with rates have it, but without CPU time."""
    rates = [sample["rate"] for sample in samples]
    if not rates:
        return {"rate": None, "low": None, "high": None, "rates": [], "cpu": None}
    return {"rate": statistics.median(rates), "low": min(rates), "high": max(rates), "rates": rates, "cpu": None}


def channel(library: Library, capacity: int, timeout: int, n: int) -> Figures:
    """``rate``, messages a second."""
    return {"rate": library.channel(capacity, timeout, n)}


def sleep(library: Library, n: int, shortest: float, longest: float) -> Figures:
    """Start *n* tasks that sleep, each as long as it did in the last run.

    :return: ``start``, seconds until the last of them slept; ``cpu``, seconds in all; ``late`` and ``latest``, by how
        many seconds half of them and one in a hundred overslept.
    """
    lengths = random.Random(n)
    sleepers = Sleepers([lengths.uniform(shortest, longest) for _ in range(n)])
    library.spawn(1, 1)  # so that all is imported, and its loop has run
    cpu, start = time.process_time(), time.monotonic()
    library.sleep(sleepers)
    late = sorted(sleepers.late)
    if len(late) != n or late[0] < -EARLY:
        raise AssertionError("a task did not wake up, or too early")
    return {
        "start": max(sleepers.begun) - start,
        "cpu": time.process_time() - cpu,
        "late": statistics.median(late),
        "latest": late[n * 99 // 100],
    }


class Crowd(Sleepers):
    """Sleepers of whom none wakes up: when the last of them is about to sleep, it says what memory they take."""

    def __init__(self, n: int) -> None:
        super().__init__([LONG] * n)
        self.before = memory.resident() / 1024

    def begin(self) -> float:
        begun = super().begin()
        if len(self.begun) == len(self.lengths):
            print(json.dumps({"kib": (memory.resident() / 1024 - self.before) / len(self.lengths)}), flush=True)
            os._exit(0)
        return begun


def asleep(library: Library, n: int) -> NoReturn:
    """Start *n* tasks that sleep all at once; say ``kib``, what memory each of them takes, and end this process."""
    library.spawn(1, 1)
    library.sleep(Crowd(n))
    raise AssertionError("not all tasks went to sleep")


def spawn(library: Library, batches: int, size: int) -> Figures:
    """``rate``, tasks a second, of a warm process; ``cpu``, seconds a million of them."""
    library.spawn(1, size)
    cpu, start = time.process_time(), time.perf_counter()
    library.spawn(batches, size)
    seconds = time.perf_counter() - start
    return {"rate": batches * size / seconds, "cpu": (time.process_time() - cpu) / (batches * size) * 1e6}


def threads(library: Library, tasks: int, each: int) -> Figures:
    """*tasks* tasks that each make *each* calls in threads, of a warm process.

    :return: ``rate``, calls a second; ``median`` and ``p99`` of one, in ms; ``cpu``, microseconds for one.
    """
    library.threads(Calls(tasks, 10))
    calls = Calls(tasks, each)
    cpu, start = time.process_time(), time.perf_counter()
    library.threads(calls)
    seconds = time.perf_counter() - start
    if len(calls.waits) != tasks * each:
        raise AssertionError("a call was not answered")
    return {
        "rate": len(calls.waits) / seconds,
        "cpu": (time.process_time() - cpu) / len(calls.waits) * 1e6,
        **percentiles(calls.waits),
    }


def select(library: Library, ends: int, parked: bool, turn: bool, fresh: bool, seconds: float) -> Figures:
    """``rate``, selects a second over so many ends, of twice as many as before until they take *seconds*."""
    count = 50
    while True:
        rate = library.select(Picks(ends, count, parked, turn, fresh))
        if count / rate >= seconds:
            return {"rate": rate}
        count *= 2


class Parked:
    """Counts tasks that are about to wait; with the last it says what memory they take."""

    def __init__(self, n: int) -> None:
        self.n = self.left = n
        self.before = memory.resident() / 1024

    def __call__(self) -> None:
        self.left -= 1
        if not self.left:
            print(json.dumps({"kib": (memory.resident() / 1024 - self.before) / self.n}), flush=True)
            os._exit(0)


def parked(library: Library, n: int) -> NoReturn:
    """Start *n* tasks that wait for a channel; say ``kib``, what memory each of them takes, and end this process."""
    library.spawn(1, 1)
    library.parked(n, Parked(n))
    raise AssertionError("not all tasks wait")


MEASUREMENTS: dict[str, Callable[..., Figures]] = {
    "channel": channel,
    "sleep": sleep,
    "asleep": asleep,
    "spawn": spawn,
    "threads": threads,
    "select": select,
    "parked": parked,
}

if __name__ == "__main__":
    end_with_the_parent(int(sys.argv[1]))
    name, what, arguments = sys.argv[2:]
    print(json.dumps(MEASUREMENTS[what](find(name), *json.loads(arguments))))

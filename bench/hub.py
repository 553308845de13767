"""Messages a second through one channel between two tasks of one hub, beside gevent's compiled queues.

Ours and theirs take turns within one run, and every measurement has a fresh process to itself: what the machine does
besides hits both alike. One measurement is one task that sends N numbers, a call each, and one that receives them, a
call each. No batching, nothing on the wire, nothing to lose.

    python bench/hub.py [rounds]
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Callable

#: work: (capacity, ms that each call may wait, messages a measurement, goal as a multiple of gevent).
WORKS: dict[str, tuple[int, int, int, float]] = {
    "unbuffered": (0, -1, 300_000, 3.0),
    "queue of 100": (100, -1, 1_000_000, 1.0),
    "unbuffered, with a timeout on each call": (0, 5000, 150_000, 2.0),
    "queue of 100, with a timeout on each call": (100, 5000, 500_000, 0.9),
}


def ours(capacity: int, timeout: int, n: int) -> float:
    """Messages a second through a channel of ours."""
    import vanilla

    with vanilla.Hub() as h:
        sender, recver = h.queue(capacity) if capacity else h.channel()
        send, recv = sender.send, recver.recv

        def produce() -> None:
            if timeout < 0:
                for i in range(n):
                    send(i)
            else:
                for i in range(n):
                    send(i, timeout)

        def consume() -> None:
            if timeout < 0:
                for _ in range(n):
                    recv()
            else:
                for _ in range(n):
                    recv(timeout)

        h.spawn(produce)
        consumer = h.spawn(consume)
        start = time.perf_counter()
        consumer.join()
        return n / (time.perf_counter() - start)


def gevents(capacity: int, timeout: int, n: int) -> float:
    """Messages a second through a queue of gevent's."""
    import gevent
    from gevent.queue import Channel, Queue

    queue: Any = Queue(capacity) if capacity else Channel()
    put, get = queue.put, queue.get
    seconds = timeout / 1000

    def produce() -> None:
        if timeout < 0:
            for i in range(n):
                put(i)
        else:
            for i in range(n):
                put(i, True, seconds)

    def consume() -> None:
        if timeout < 0:
            for _ in range(n):
                get()
        else:
            for _ in range(n):
                get(True, seconds)

    gevent.spawn(produce)
    consumer = gevent.spawn(consume)
    start = time.perf_counter()
    consumer.get()
    return n / (time.perf_counter() - start)


SUBJECTS: dict[str, Callable[[int, int, int], float]] = {"vanilla": ours, "gevent": gevents}


def measure(subject: str, work: str) -> float:
    """One measurement, in a process of its own."""
    ran = subprocess.run([sys.executable, __file__, subject, work], capture_output=True, text=True, check=True)
    return float(ran.stdout)


def rows(rounds: int = 5, progress: Callable[[str], object] | None = None) -> list[dict[str, Any]]:
    """Measure everything.

    :param rounds: measurements of each kind, of which the median counts.
    :param progress: called before each measurement with what it is.
    :return: a row for each kind of work: ``work``, ``goal``; ``ours`` and ``theirs``, the medians in messages a second,
        with ``ours_spread`` and ``theirs_spread``, from the least to the most, as a share of the median; ``ratio``;
        ``peer``, its name and version; ``note``. Without gevent, ``theirs``, ``theirs_spread`` and ``ratio`` are None
        and the note says why.
    """
    try:
        peer, note = f"gevent {version('gevent')}", ""
    except PackageNotFoundError:
        peer, note = "gevent", "gevent is not installed"
    found = []
    for work, (_, _, _, goal) in WORKS.items():
        rates: dict[str, list[float]] = {"vanilla": [], "gevent": []}
        for i in range(rounds):
            for subject in ["vanilla"] if note else rates:
                if progress is not None:
                    progress(f"{work}, {subject}, round {i + 1} of {rounds}")
                rates[subject].append(measure(subject, work))
        found.append(row(work, goal, peer, note, rates))
    return found


def row(work: str, goal: float, peer: str, note: str, rates: dict[str, list[float]]) -> dict[str, Any]:
    """What `rows` says of one kind of work."""
    ours, ours_spread = summary(rates["vanilla"])
    theirs, theirs_spread = summary(rates["gevent"]) if rates["gevent"] else (None, None)
    return {
        "work": work,
        "goal": goal,
        "ours": ours,
        "ours_spread": ours_spread,
        "peer": peer,
        "theirs": theirs,
        "theirs_spread": theirs_spread,
        "ratio": None if theirs is None else ours / theirs,
        "note": note,
    }


def summary(rates: list[float]) -> tuple[float, float]:
    """The median, and how far the rates lie apart as a share of it."""
    middle = statistics.median(rates)
    return middle, (max(rates) - min(rates)) / middle


def main(rounds: int = 5) -> None:
    """Print the table."""
    print(f"{'work':<44}{'vanilla':>12}{'gevent':>20}{'ratio':>8}{'goal':>7}")
    for found in rows(rounds, lambda line: print(line, file=sys.stderr)):
        ours = f"{found['ours'] / 1e6:.2f}M ±{found['ours_spread'] / 2:.0%}"
        theirs = found["note"] or f"{found['theirs'] / 1e6:.2f}M ±{found['theirs_spread'] / 2:.0%}"
        ratio = "" if found["ratio"] is None else f"{found['ratio']:.2f}x"
        print(f"{found['work']:<44}{ours:>12}{theirs:>20}{ratio:>8}{found['goal']:>6.1f}x")


if __name__ == "__main__":
    if len(sys.argv) == 3:
        capacity, timeout, n, _ = WORKS[sys.argv[2]]
        print(SUBJECTS[sys.argv[1]](capacity, timeout, n))
    else:
        main(*map(int, sys.argv[1:2]))

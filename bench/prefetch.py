"""What a prefetch that sizes itself brings: a slow worker hoards nothing, and a fast one is not held up.

Ours only. Jobs are messages of 16 B in one queue; workers are processes (`jobs`), and acknowledge each job when it is
done.
"""

from __future__ import annotations

import json
import statistics
import time
from bisect import bisect_right
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable

from jobs import ENDPOINT
from oneway import Settings
from processes import PATIENCE, Failed, Process, describe
from sides.vanilla import Vanilla

import vanilla

JOBS = Path(__file__).with_name("jobs.py")
ROUNDS = 3
#: How long a job of the fast worker takes, and one of the slow, in ms.
FAST, SLOW = 0.01, 1.0
MESSAGES = 20_000
#: How much longer all may take beside a slow worker than without it.
LONGER = 1.15
#: Jobs that are to be split by speed: how long one takes the fast and the slow of two workers, in ms; how many; how far
#: from their speeds the split may be, and what the fast one is to keep of its own.
PACES, SPLIT, OFF, KEPT = (0.1, 1.0), 10_000, 0.1, 0.8
#: Few long jobs: how many, for how many workers, and how long each is, in ms.
FEW, WORKERS, LONG = 20, 2, 100.0
#: How long the jobs of the workers are that are watched, in ms, and how long they are watched, in seconds.
LENGTHS = (0.1, 1.0, 5.0, 20.0)
WATCH = 1.0
#: How much of its own work a worker may hold, in ms.
HELD_MS = 10.0
#: How long before the start it is told, in seconds: all are to begin at once.
SOON = 0.1
#: How often it is looked whether all is done, in ms.
LOOK_MS = 10
#: Between two looks at what a worker holds, in ms, and how long an answer may take that counts, in seconds.
PAUSE_MS, PROMPT = 2, 0.001

#: How many prompt looks there must be.
LOOKS = 20
#: What a quick run does instead, which tells nothing.
QUICK_MESSAGES, QUICK_LONG, QUICK_WATCH = 500, 5.0, 0.3

#: What one measurement found, and a line of a row: the medians of several.
Sample = dict[str, Any]


class Sized(Vanilla):
    """Workers with the prefetch that sizes itself."""

    title = "vanilla, workers"
    guarantee = "a job is acknowledged when it is done"
    batching = "by the library, at the broker's side of the workers; a call a job"
    prefetch = 0
    settings = f"--capacity {MESSAGES:,}"


class Fixed(Sized):
    """Workers with a fixed one."""

    def __init__(self, prefetch: int) -> None:
        self.prefetch = prefetch
        self.title = f"vanilla, prefetch of {prefetch:,}"
        self.settings = f"{Sized.settings}; prefetch={prefetch:,}"


SIDES = {"vanilla": Sized(), "vanilla-1": Fixed(1), "vanilla-1000": Fixed(1_000)}


# -- one measurement


class Site:
    """A broker, workers that wait for the start, and a connection that looks at the queue."""

    def __init__(self, hub: Any, remote: Any, workers: list[Process]) -> None:
        self.hub = hub
        self.remote = remote
        self.push = remote.push(ENDPOINT)
        self.workers = workers

    def fill(self, count: int) -> None:
        """So many jobs wait."""
        self.push.send_many([bytes(16)] * count)
        self.push.sync()

    def start(self) -> float:
        """When the workers begin: soon."""
        begin = time.monotonic() + SOON
        for worker in self.workers:
            worker.say(str(begin))
        return begin

    def look(self) -> dict[str, Any]:
        """What the broker says of the queue."""
        (endpoint,) = self.remote.status()["endpoints"]
        return endpoint  # type: ignore[no-any-return]

    def wait_until_done(self, count: int) -> None:
        """Until so many jobs are acknowledged.

        :raises Failed: they are not in `processes.PATIENCE`.
        """
        deadline = time.monotonic() + PATIENCE
        while (done := self.look()["acknowledged"]) < count:
            if time.monotonic() > deadline:
                raise Failed(f"{done:,} of {count:,} jobs were acknowledged")
            self.hub.sleep(LOOK_MS)

    def ask(self, question: str) -> list[Any]:
        """Each worker (see `jobs`)."""
        for worker in self.workers:
            worker.say(question)
        return [json.loads(worker.hear()) for worker in self.workers]


@contextmanager
def site(paces: tuple[float, ...], prefetch: int) -> Iterator[Site]:
    """With a worker for each of *paces*: how long its jobs take, in ms."""
    with ExitStack() as stack:
        broker = stack.enter_context(Process("the broker", JOBS, "broker", "--capacity", MESSAGES))
        address = broker.hear().partition("listening on ")[2]
        try:
            workers = [
                stack.enter_context(Process(f"the worker of {pace:g} ms", JOBS, "worker", address, pace, prefetch))
                for pace in paces
            ]
            for worker in workers:
                worker.hear()
            hub = stack.enter_context(vanilla.Hub())
            yield Site(hub, stack.enter_context(hub.client.connect(address)), workers)
        except (Failed, vanilla.ConnectionLost):
            broker.check()  # if that has ended, the others could but fail
            raise


def share(paces: tuple[float, ...], count: int, prefetch: int = 0, waiting: bool = False) -> Sample:
    """How long *count* jobs take, until the last is acknowledged, who does how many, and how long each works at them.

    :param waiting: the workers wait when the jobs come, else the jobs do when the workers come.
    :raises Failed: not each job was done, once.
    """
    with site(paces, prefetch) as made:
        if waiting:
            made.start()
            made.hub.sleep(2 * SOON * 1000)
            begin = time.monotonic()
            for _ in range(count):
                made.push.send(bytes(16))
        else:
            made.fill(count)
            begin = made.start()
        made.wait_until_done(count)
        done = made.ask("last")
    split = [jobs for jobs, _, _ in done]
    if sum(split) != count:
        raise Failed(f"{sum(split):,} jobs were done, and {count:,} were sent")
    seconds = max(last for _, last, _ in done) - begin
    return {"seconds": seconds, "split": split, "busy": [busy for _, _, busy in done]}


def split(count: int) -> Sample:
    """What both workers do of *count* jobs, and how fast the fast one does them alone, just before.

    :return: of `share`, and ``alone``, jobs a second.
    """
    alone = count / share(PACES[:1], count)["seconds"]
    return {**share(PACES, count), "alone": alone}


def watch(pace: float, seconds: float) -> Sample:
    """How much a worker holds at most while there is plenty: see `most_held`."""
    delivered = []
    with site((pace,), 0) as made:
        made.fill(MESSAGES)
        end = made.start() + seconds
        while (asked := time.monotonic()) < end or (len(delivered) < LOOKS and asked < end + PATIENCE):
            endpoint = made.look()
            if time.monotonic() - asked < PROMPT:  # else it is not known when that was
                delivered.append((asked, endpoint["acknowledged"] + endpoint["in_flight"]))
            made.hub.sleep(PAUSE_MS)
        (ends,) = made.ask("each")
    return most_held(delivered, ends)


def most_held(delivered: list[tuple[float, int]], ends: list[float]) -> Sample:
    """What of all that a worker was sent it had not begun.

    :param delivered: when, and how many jobs the worker had been sent by then.
    :param ends: when each was done.
    :return: ``held``, how many jobs at most; ``held_ms``, how long those take if each is a median one, for that the
        machine lets a job wait is not known before; ``looks``, how often was looked.
    :raises Failed: too little was seen.
    """
    if len(ends) < 2 or len(delivered) < LOOKS:
        raise Failed(f"{len(ends)} jobs were done, and {len(delivered)} looks at them were prompt")
    held = max(0, *(count - bisect_right(ends, when) - 1 for when, count in delivered))
    job = statistics.median(end - begin for begin, end in zip(ends, ends[1:]))
    return {"held": held, "held_ms": held * job * 1000, "looks": len(delivered)}


# -- the rows


@dataclass(frozen=True)
class Line:
    """A line of a row.

    :ivar measure: once; it is told whether the run is a quick one.
    :ivar goal: what is to hold of its medians and of those of the first line: in words, and does it?
    """

    label: str
    measure: Callable[[bool], Sample]
    rounds: int = ROUNDS
    goal: Callable[[Sample, Sample], tuple[str, bool]] | None = None


@dataclass(frozen=True)
class Work:
    """A row."""

    name: str
    title: str
    lines: tuple[Line, ...]
    sides: tuple[str, ...] = ("vanilla",)

    def measurements(self, settings: Settings) -> int:
        """How often `rows` will call ``settings.progress``."""
        return sum(min(settings.rounds, line.rounds) for line in self.lines)

    def rows(self, settings: Settings) -> list[dict[str, Any]]:
        """Measure it: a list of one row."""
        about = {name: describe(SIDES[name]) for name in self.sides}
        try:
            points = self._points(settings)
        except Failed as error:
            about["vanilla"]["missing"] = f"failed: {error}"
            points = []
        return [{"name": self.name, "kind": "prefetch", "title": self.title, "sides": about, "points": points}]

    def _points(self, settings: Settings) -> list[Sample]:
        samples: list[list[Sample]] = [[] for _ in self.lines]
        for i in range(settings.rounds):
            for line, found in zip(self.lines, samples):
                if i < line.rounds:
                    settings.progress(f"{self.name}: {line.label}, round {i + 1}")
                    found.append(line.measure(settings.quick))
        points = [summary(line, found) for line, found in zip(self.lines, samples)]
        for line, point in zip(self.lines, points):
            point["goal"] = self._goal(line, point, points[0], settings.quick)
        return points

    def _goal(self, line: Line, point: Sample, first: Sample, quick: bool) -> dict[str, Any] | None:
        if line.goal is None:
            return None
        text, met = line.goal(point, first)
        return {"text": text, "met": None if quick else met}


def summary(line: Line, samples: list[Sample]) -> Sample:
    """The median in time, or the most that was held."""
    if "held" in samples[0]:
        return {"label": line.label, **{key: max(each[key] for each in samples) for key in samples[0]}}
    seconds = [each["seconds"] for each in samples]
    return {
        "label": line.label,
        "seconds": statistics.median(seconds),
        "low": min(seconds),
        "high": max(seconds),
        "split": [statistics.median(shares) for shares in zip(*(each["split"] for each in samples))],
        "rounds": samples,
    }


def not_held_up(found: Sample, alone: Sample) -> tuple[str, bool]:
    ratio = found["seconds"] / alone["seconds"]
    return f"{ratio:.2f}x of the fast one alone, at most {LONGER:g}x", ratio <= LONGER


def in_halves(found: Sample, _: Sample) -> tuple[str, bool]:
    even = [FEW // WORKERS] * WORKERS
    return f"{' to '.join(map(str, even))}", all(each["split"] == even for each in found["rounds"])


def not_hoarded(found: Sample, _: Sample) -> tuple[str, bool]:
    return f"at most {HELD_MS:g} ms or one job", found["held_ms"] <= HELD_MS or found["held"] <= 1


def beside(*paces: float, prefetch: int = 0) -> Callable[[bool], Sample]:
    """Workers of these paces share many jobs."""
    return lambda quick: share(paces, QUICK_MESSAGES if quick else MESSAGES, prefetch)


def halves(waiting: bool) -> Callable[[bool], Sample]:
    """Equal workers share few long jobs."""
    return lambda quick: share((QUICK_LONG if quick else LONG,) * WORKERS, FEW, waiting=waiting)


def by_speed(found: Sample, _: Sample) -> tuple[str, bool]:
    off, kept = (statistics.median(f(each) for each in found["rounds"]) for f in (off_speed, kept_speed))
    fast = f"the fast one keeps {kept:.0%} of its own, at least {KEPT:.0%}"
    return f"{off:.1%} off their speeds, at most {OFF:.0%}; {fast}", off <= OFF and kept >= KEPT


def off_speed(found: Sample) -> float:
    """How far what one worker did is from its part by speed, of that; of the one that is further off.

    How fast each is, is how long its jobs took in this very run: what the machine does besides slows down both.
    """
    jobs = found["split"]
    speeds = [done / busy if busy else 0.0 for done, busy in zip(jobs, found["busy"])]
    if not all(speeds):
        return 1.0  # somebody had nothing to do
    return max(abs(done / sum(jobs) * sum(speeds) / speed - 1) for done, speed in zip(jobs, speeds))


def kept_speed(found: Sample) -> float:
    """How fast the fast worker was beside the slow one, of how fast it is alone."""
    speed: float = found["split"][0] / found["seconds"] / found["alone"]
    return speed


def held(pace: float) -> Line:
    """A worker of this pace is watched."""
    return Line(f"jobs of {pace:g} ms", lambda quick: watch(pace, QUICK_WATCH if quick else WATCH), 1, not_hoarded)


WORKS = (
    Work(
        "prefetch-beside",
        f"{MESSAGES:,} jobs: a worker of {FAST * 1000:g} us a job beside one of {SLOW:g} ms",
        (
            Line("the fast one alone", beside(FAST)),
            Line("both", beside(FAST, SLOW), goal=not_held_up),
            Line("both, prefetch of 1", beside(FAST, SLOW, prefetch=1), rounds=1),
            Line("both, prefetch of 1,000", beside(FAST, SLOW, prefetch=1_000), rounds=1),
        ),
        sides=tuple(SIDES),
    ),
    Work(
        "prefetch-even",
        f"{FEW} jobs of {LONG:g} ms, {WORKERS} workers",
        (
            Line("the jobs are there first", halves(waiting=False), goal=in_halves),
            Line("the workers are there first", halves(waiting=True), goal=in_halves),
        ),
    ),
    Work("prefetch-held", "held beside the job in hand, at most", tuple(held(pace) for pace in LENGTHS)),
)

FAST_SLOW = Work(
    "fast-slow",
    f"{SPLIT:,} jobs: a worker of {PACES[0]:g} ms a job and one of {PACES[1]:g} ms",
    (Line("both", lambda quick: split(QUICK_MESSAGES if quick else SPLIT), goal=by_speed),),
)

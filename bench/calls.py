"""The rows of requests and replies: a client calls, a server answers, and a broker is between them, a process each.

Sides take their turns round by round, as in the other rows. A measurement lasts as long for each, however many calls
that is; it starts with fresh processes and warms up.
"""

from __future__ import annotations

import json
import statistics
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import processes
from oneway import Settings, medians
from processes import PATIENCE, Failed, Process
from services import find
from tally import Load
from turns import present, take_turns

PROGRAM = Path(__file__).with_name("callers.py")
#: What has CPU time of its own. Some sides have no broker.
ROLES = ("broker", "client", "server")
#: How long a measurement takes at most, and how long it warms up before, in seconds: more tells no more.
SECONDS = 0.6
WARM_SECONDS = 0.15
QUICK_SECONDS = 0.05

#: What one measurement found.
Sample = dict[str, Any]


def worker(name: str, role: str, load: Load, *address: str) -> Process:
    """One of a side's processes."""
    return Process(f"the {role} of {name}", PROGRAM, name, role, json.dumps(asdict(load)), *address)


def measure(name: str, load: Load) -> Sample:
    """One measurement of one side, with fresh processes.

    :return: ``rate``, calls a second; ``latency``, median and p99 of a call in ms; ``cpu``, for each of `ROLES` that
        there is, its CPU seconds a million calls.
    :raises Failed: a process died or was silent too long, or an answer was wrong.
    """
    with ExitStack() as stack:
        serving: dict[str, Process] = {}
        address: tuple[str, ...] = ()
        try:
            for role in ("broker", "server") if find(name).has_broker else ("server",):
                serving[role] = stack.enter_context(worker(name, role, load, *address))
                said = serving[role].hear().partition("listening on ")[2]
                address = (said,) if said else address
            client = stack.enter_context(worker(name, "client", load, *address))
            client.hear()
            before = {role: process.cpu() for role, process in serving.items()}
            client.say("go")
            found = json.loads(client.hear(PATIENCE + 10 * load.seconds))
        except Failed:
            for process in serving.values():
                process.check()  # if that has ended, the others could but fail
            raise
        cpu = {role: process.cpu() - before[role] for role, process in serving.items()}
    cpu["client"] = found["cpu"]
    return {
        "rate": found["rate"],
        "latency": found["latency"],
        "cpu": {role: cpu[role] / found["calls"] * 1e6 for role in ROLES if role in cpu},
    }


@dataclass(frozen=True)
class Calls:
    """A row.

    :ivar sides: the first is ours, with which the others are compared.
    :ivar goals: for each of the sides that the row is about: one at a time, how much of its median call we may take at
        most; many at a time, how many times as many calls we want to be answered.
    :ivar at_a_time, work, one_core: see `tally.Load`.
    :ivar rounds: at most.
    :ivar unable: sides that cannot do this, and why.
    """

    name: str
    title: str
    sides: tuple[str, ...]
    goals: dict[str, float] = field(default_factory=dict)
    at_a_time: int = 1
    work: str = "echo"
    one_core: bool = False
    rounds: int = 5
    unable: dict[str, str] = field(default_factory=dict)

    def describe(self) -> dict[str, dict[str, Any]]:
        """What a reader must know of each side."""
        about = {name: processes.describe(find(name)) for name in self.sides}
        for name, why in self.unable.items():
            about[name]["missing"] = about[name]["missing"] or why
        return about

    def measurements(self, settings: Settings) -> int:
        """How often `rows` will call ``settings.progress``."""
        return len(present(self.describe())) * min(settings.rounds, self.rounds)

    def load(self, settings: Settings) -> Load:
        """What is measured."""
        seconds, warm = min(settings.seconds, SECONDS), WARM_SECONDS
        if settings.quick:
            seconds = warm = QUICK_SECONDS
        return Load(seconds, warm, self.at_a_time, self.work, self.one_core)

    def rows(self, settings: Settings) -> list[dict[str, Any]]:
        """Measure it: a list of one row."""
        about, load = self.describe(), self.load(settings)
        fewer = Settings(min(settings.rounds, self.rounds), settings.seconds, settings.quick, settings.progress)
        samples = take_turns(self.name, about, fewer, lambda name: measure(name, load))
        row = self.row({name: {**about[name], **summary(samples[name])} for name in about})
        if settings.quick:
            row["met"] = dict.fromkeys(self.goals)  # too few calls to tell
        return [row]

    def row(self, sides: dict[str, dict[str, Any]]) -> dict[str, Any]:
        """What is kept of it."""
        alone = self.at_a_time == 1
        each, key = ("medians", "median") if alone else ("rates", "rate")
        ours = sides[self.sides[0]]
        ratios = {name: ratio(ours, sides[name], each) for name in self.sides[1:]}
        return {
            "name": self.name,
            "kind": "calls-alone" if alone else "calls-many",
            "title": self.title,
            "at_a_time": self.at_a_time,
            "compared": key,
            "sides": sides,
            "ratios": ratios,
            "goals": self.goals,
            "met": {name: met(ratios[name], goal, alone) for name, goal in self.goals.items()},
        }


def met(found: dict[str, float] | None, goal: float, at_most: bool) -> bool | None:
    """Is a goal reached? None if it cannot be told."""
    if found is None:
        return None
    return found["median"] <= goal if at_most else found["median"] >= goal


def summary(samples: list[Sample]) -> dict[str, Any]:
    """Medians: ``rate``, calls a second, with the least, the most and each round's; ``latency`` of a call, median and
    p99 in ms, with ``medians``, those of each round; ``cpu``, seconds a million calls."""
    if not samples:
        return {**rates_of(samples), "latency": None, "medians": []}
    return {
        **rates_of(samples),
        "latency": medians([sample["latency"] for sample in samples]),
        "medians": [sample["latency"]["median"] for sample in samples],
    }


def rates_of(samples: list[Sample]) -> dict[str, Any]:
    """Medians: ``rate``, with the least, the most and each round's, and ``cpu``."""
    if not samples:
        return {"rate": None, "low": None, "high": None, "rates": [], "cpu": None}
    rates = [sample["rate"] for sample in samples]
    return {
        "rate": statistics.median(rates),
        "low": min(rates),
        "high": max(rates),
        "rates": rates,
        "cpu": medians([sample["cpu"] for sample in samples]),
    }


def ratio(ours: dict[str, Any], theirs: dict[str, Any], key: str) -> dict[str, float] | None:
    """Of the medians of the rounds' figures *key*; ``low`` and ``high`` are those of single rounds."""
    each = [a / b for a, b in zip(ours[key], theirs[key])]
    if not each:
        return None
    median = statistics.median(ours[key]) / statistics.median(theirs[key])
    return {"median": median, "low": min(each), "high": max(each)}


def both_ways(name: str, title: str, **options: Any) -> tuple[Calls, ...]:
    """A row where the processes run where the kernel puts them, and one where all share a core."""
    cores = options.pop("goals_of_one_core", options.get("goals", {}))
    return (
        Calls(name, title, **options),
        Calls(f"{name}-core", f"{title}, all on one core", **{**options, "goals": cores}, one_core=True),
    )


# The goals are those of the design.
ROWS = (
    *both_ways(
        "request-alone",
        "request and reply, 16 B, one at a time",
        sides=("vanilla", "vanilla-asleep", "pyzmq", "relay", "redis", "nats", "zerorpc"),
        goals={"pyzmq": 0.65, "relay": 1.8},
    ),
    *both_ways(
        "request-64",
        "request and reply, 16 B, 64 at a time",
        sides=("vanilla", "vanilla-asleep", "pyzmq-dealers", "relay", "redis-batched", "nats", "zerorpc"),
        goals={"pyzmq-dealers": 2.0},
        goals_of_one_core={"pyzmq-dealers": 3.5},
        at_a_time=64,
    ),
    Calls(
        "wrap-alone",
        "a method by name, one at a time",
        sides=("vanilla-wrap", "zerorpc", "pyro5"),
        work="add",
        rounds=3,
    ),
    Calls(
        "wrap-64",
        "a method by name, 64 at a time",
        sides=("vanilla-wrap", "zerorpc", "pyro5"),
        at_a_time=64,
        work="add",
        rounds=3,
        unable={"pyro5": "a proxy has one call at a time"},
    ),
)

#: What it costs a call that nobody can read along.
ENCRYPTED = Calls("tls-request", "TLS, request and reply, 16 B, one at a time", ("vanilla-tls", "vanilla"), rounds=3)

#: What it costs a call that its way is of datagrams.
DATAGRAMS = Calls("udp-request", "UDP, request and reply, 16 B, one at a time", ("udp", "vanilla"), {"vanilla": 1.2})

"""The one-way rows: push -> broker -> pull, three processes, ours and its peers taking turns round by round."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field
from typing import Any, Callable

import processes
from plan import Plan, plan_for
from sides import find
from turns import attempt, present, take_turns

#: A side that no goal is about moves as many messages as the others, unless that would take so many times the asked
#: time. Then it moves as many as it can in the asked time.
TOO_LONG = 3
#: How many it moves at most to find that out.
FEW = 10_000


@dataclass(frozen=True)
class Settings:
    """How much to measure: rounds, of which the median counts; about how many seconds each; quick is for tests only.

    :ivar progress: called before each measurement with what it is.
    :ivar broken: rows that are not there for a fault of the benchmark's own.
    """

    rounds: int
    seconds: float
    quick: bool
    progress: Callable[[str], object]
    broken: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class OneWay:
    """A row.

    :ivar size: of a message, in bytes.
    :ivar rough: messages a second that nobody is much below, for the pilot.
    :ivar goals: for each of the sides that the row is about, how many times as fast we want to be.
    :ivar others: sides to compare with all the same.
    :ivar apart: those of ``goals`` that are too slow to move as many messages as we do.
    :ivar ours: the side that the others are compared with.
    :ivar broker_cpu: what our broker is to take at most, in CPU seconds a million messages.
    :ivar least: messages a second that a side is to reach, whatever the others do.
    """

    name: str
    title: str
    size: int
    rough: int
    goals: dict[str, float]
    others: tuple[str, ...] = ()
    ours: str = "vanilla"
    broker_cpu: float | None = None
    apart: tuple[str, ...] = ()
    least: dict[str, float] = field(default_factory=dict)

    def describe(self) -> dict[str, dict[str, Any]]:
        """What a reader must know of each side."""
        return {name: processes.describe(find(name)) for name in (self.ours, *self.goals, *self.others)}

    def measurements(self, settings: Settings) -> int:
        """How often `rows` will call ``settings.progress``."""
        return len(present(self.describe())) * (settings.rounds + (not settings.quick))

    def rows(self, settings: Settings) -> list[dict[str, Any]]:
        """Measure it: a list of one row."""
        about = self.describe()
        if settings.quick:
            plans = dict.fromkeys(present(about), plan_for(self.size, 1000))
        else:
            plans = self._pilot(about, settings)
        samples = take_turns(
            self.name, about, settings, lambda name: processes.measure(name, plans[name], settings.seconds)
        )
        row = self._row(plans, about, samples)
        if settings.quick:
            row["met"] = dict.fromkeys(self.goals)  # too few messages to tell
            row["broker_cpu"] = None
            row["least"] = {name: {**found, "met": None} for name, found in row["least"].items()}
        return [row]

    def _pilot(self, about: dict[str, Any], settings: Settings) -> dict[str, Plan]:
        """How much to measure of each side.

        Ours and those that a goal is about get the same number of messages: the asked time is between what the fastest
        and the slowest of them take. So do the others, and those that are apart, but for those that would take much
        longer.
        """
        others = {*self.others, *self.apart}
        usual = round(self.rough * min(settings.seconds, 0.3))
        rates: dict[str, float] = {}
        there = present(about)
        for name in there:
            settings.progress(f"{self.name}: {about[name]['title']}, pilot")
            found: list[dict[str, Any]] = []
            plan = plan_for(self.size, min(usual, FEW) if name in others else usual)
            attempt(name, about[name], found, lambda name, plan=plan: processes.measure(name, plan, settings.seconds))
            rates.update((name, sample["rate"]) for sample in found)
        compared = [rate for name, rate in rates.items() if name not in others] or [self.rough]
        same = plan_for(self.size, round(settings.seconds * (min(compared) * max(compared)) ** 0.5))
        most = {name: round(settings.seconds * rate) for name, rate in rates.items() if name in others}
        fewer = {name: plan_for(self.size, n) for name, n in most.items() if n * TOO_LONG < same.messages}
        return {**dict.fromkeys(there, same), **fewer}

    def _row(
        self, plans: dict[str, Plan], about: dict[str, Any], samples: dict[str, list[dict[str, Any]]]
    ) -> dict[str, Any]:
        moved = {name: plan.messages for name, plan in plans.items()}
        sides = {name: {**about[name], **summary(samples.get(name, [])), "messages": moved.get(name)} for name in about}
        ratios = {name: ratio(sides[self.ours], side) for name, side in sides.items() if name != self.ours}
        return {
            "name": self.name,
            "kind": "rate",
            "title": self.title,
            "size": self.size,
            "messages": max(moved.values(), default=None),
            "sides": sides,
            "ratios": ratios,
            "goals": self.goals,
            "met": {
                name: None if (found := ratios[name]) is None else found["median"] >= goal
                for name, goal in self.goals.items()
            },
            "broker_cpu": self._broker_cpu(sides[self.ours]),
            "least": {name: self._least(sides[name], goal) for name, goal in self.least.items()},
        }

    def _least(self, side: dict[str, Any], goal: float) -> dict[str, Any]:
        """The rate that a side is to reach, and whether it does."""
        return {"goal": goal, "met": None if side["rate"] is None else side["rate"] >= goal}

    def _broker_cpu(self, ours: dict[str, Any]) -> dict[str, Any] | None:
        """The goal for our broker's CPU time, and whether it is met."""
        if self.broker_cpu is None:
            return None
        return {"goal": self.broker_cpu, "met": None if not ours["cpu"] else ours["cpu"]["broker"] <= self.broker_cpu}


def summary(samples: list[dict[str, Any]]) -> dict[str, Any]:
    """Medians: ``rate``, with the least, the most and each round's; ``cpu``, seconds a million messages; ``latency``,
    in ms; ``peak``, the most memory, in MiB."""
    if not samples:
        return {"rate": None, "low": None, "high": None, "rates": [], "cpu": None, "latency": None, "peak": None}
    rates = [sample["rate"] for sample in samples]
    return {
        "rate": statistics.median(rates),
        "low": min(rates),
        "high": max(rates),
        "rates": rates,
        "cpu": medians([{role: sample[role] for role in processes.ROLES} for sample in samples]),
        "latency": medians([sample["latency"] for sample in samples]),
        "peak": medians([sample["peak"] for sample in samples]),
    }


def medians(samples: list[dict[str, float]]) -> dict[str, float]:
    """Of each figure in *samples*."""
    return {key: statistics.median(sample[key] for sample in samples) for key in samples[0]}


def ratio(ours: dict[str, Any], theirs: dict[str, Any]) -> dict[str, float] | None:
    """Of the medians; ``low`` and ``high`` are those of single rounds."""
    if not ours["rates"] or not theirs["rates"]:
        return None
    each = [a / b for a, b in zip(ours["rates"], theirs["rates"])]
    return {"median": ours["rate"] / theirs["rate"], "low": min(each), "high": max(each)}

"""The row of very many tasks that all sleep at once, beside other libraries."""

from __future__ import annotations

import statistics
from dataclasses import replace
from typing import Any

import alone
from cells import span
from oneway import Settings
from turns import present, take_turns

TASKS = 100_000
QUICK_TASKS = 1_000
#: How many sleep all at once when their memory is looked at.
CROWD = 20_000
QUICK_CROWD = 1_000
#: How long each sleeps, in seconds: a random time in between, the same in all runs.
SHORTEST, LONGEST = 0.1, 1.1
#: One measurement takes seconds, whatever is asked for; so there are no more rounds than these.
ROUNDS = 3
OURS = "vanilla"

HEAD = (
    "work",
    "side",
    "all started after, s",
    "lowest–highest",
    "CPU, s",
    "KiB a task, of 20,000 asleep",
    "overslept, ms: median / p99",
    "vanilla takes",
)


def measurements(settings: Settings) -> int:
    """How often `rows` will call ``settings.progress``."""
    return len(present(alone.described())) * min(settings.rounds, ROUNDS)


def rows(settings: Settings) -> list[dict[str, Any]]:
    """Measure it: a list of one row."""
    about = alone.described()
    tasks, crowd = (QUICK_TASKS, QUICK_CROWD) if settings.quick else (TASKS, CROWD)
    title = f"{tasks:,} tasks that sleep"
    fewer = replace(settings, rounds=min(settings.rounds, ROUNDS))
    samples = take_turns(title, about, fewer, lambda name: measure(name, tasks, crowd))
    sides = {name: {**about[name], "figures": summary(samples[name]), "rounds": samples[name]} for name in about}
    return [{"name": "tasks-sleep", "kind": "sleepers", "title": title, "tasks": tasks, "sides": sides}]


def measure(name: str, tasks: int, crowd: int) -> alone.Figures:
    """One measurement of all, in two processes."""
    return {**alone.measure(name, "sleep", tasks, SHORTEST, LONGEST), **alone.measure(name, "asleep", crowd)}


def summary(samples: list[alone.Figures]) -> alone.Figures | None:
    """Medians, and of ``start`` the ``low`` and the ``high``."""
    if not samples:
        return None
    starts = [sample["start"] for sample in samples]
    medians = {key: statistics.median(sample[key] for sample in samples) for key in samples[0]}
    return {**medians, "low": min(starts), "high": max(starts)}


def lines_of(row: dict[str, Any]) -> list[list[str]]:
    """A line for each side of a row."""
    ours = row["sides"][OURS]["figures"]
    return [
        [row["title"] if name == OURS else "", side["title"], *cells(side, ours)] for name, side in row["sides"].items()
    ]


def cells(side: dict[str, Any], ours: alone.Figures | None) -> list[str]:
    """What was measured of one side, or why nothing was."""
    found = side["figures"]
    if found is None:
        return [side["missing"], "", "", "", "", ""]
    compared = ours is not None and found is not ours
    return [
        f"{found['start']:.2f}",
        span(found["low"], found["high"], "{:.2f}".format),
        f"{found['cpu']:.2f}",
        f"{found['kib']:.1f}",
        f"{found['late'] * 1000:.0f} / {found['latest'] * 1000:.0f}",
        f"{ours['cpu'] / found['cpu']:.2f}x the CPU time, {ours['kib'] / found['kib']:.2f}x the memory"
        if compared
        else "",
    ]

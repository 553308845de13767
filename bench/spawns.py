"""The row of tasks that are started, return at once and are waited for, beside other libraries."""

from __future__ import annotations

import statistics
from typing import Any

import alone
from cells import rate, span
from oneway import Settings, ratio
from rates import compared
from turns import present, take_turns

#: How many are waited for together.
BATCH = 1_000
BATCHES = 50
QUICK_BATCHES = 2
OURS = "vanilla"

HEAD = ("work", "side", "tasks/s", "lowest–highest", "CPU us a task", "vanilla is")


def measurements(settings: Settings) -> int:
    """How often `rows` will call ``settings.progress``."""
    return len(present(alone.described())) * settings.rounds


def rows(settings: Settings) -> list[dict[str, Any]]:
    """Measure it: a list of one row."""
    about = alone.described()
    batches = QUICK_BATCHES if settings.quick else BATCHES
    title = f"tasks that return at once, {BATCH:,} at a time"
    samples = take_turns(title, about, settings, lambda name: alone.measure(name, "spawn", batches, BATCH))
    sides = {name: {**about[name], **summary(samples[name])} for name in about}
    ratios = {name: ratio(sides[OURS], sides[name]) for name in about if name != OURS}
    return [{"name": "tasks-spawn", "kind": "spawns", "title": title, "sides": sides, "ratios": ratios}]


def summary(samples: list[alone.Figures]) -> dict[str, Any]:
    """That of the rates, and ``cpu``, microseconds of CPU time a task."""
    cpu = statistics.median(sample["cpu"] for sample in samples) if samples else None
    return {**alone.summary(samples), "cpu": cpu}


def lines_of(row: dict[str, Any]) -> list[list[str]]:
    """A line for each side of a row."""
    return [
        [
            row["title"] if name == OURS else "",
            side["title"],
            side["missing"] or rate(side["rate"]),
            span(side["low"], side["high"], rate),
            "" if side["cpu"] is None else f"{side['cpu']:.1f}",
            compared(row["ratios"].get(name)),
        ]
        for name, side in row["sides"].items()
    ]

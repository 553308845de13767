"""The rows of calls that run in a thread while the tasks of the hub go on, beside other libraries."""

from __future__ import annotations

import statistics
from typing import Any

import alone
from cells import ms, rate, span
from oneway import Settings, ratio
from rates import compared
from turns import present, take_turns

#: How many calls are under way -> what that is called, and how many calls one measurement makes.
WORKS = {1: ("one at a time", 10_000), 64: ("64 at a time", 25_600)}
QUICK = 100
OURS = "vanilla"

HEAD = ("work", "side", "calls/s", "lowest–highest", "ms a call: median / p99", "CPU us a call", "vanilla is")


def measurements(settings: Settings) -> int:
    """How often `rows` will call ``settings.progress``."""
    return len(present(alone.described())) * len(WORKS) * settings.rounds


def rows(settings: Settings) -> list[dict[str, Any]]:
    """Measure them all."""
    return [row(tasks, settings) for tasks in WORKS]


def row(tasks: int, settings: Settings) -> dict[str, Any]:
    """Measure so many calls at a time."""
    about = alone.described()
    what, calls = WORKS[tasks]
    title = f"calls in threads, {what}"
    each = max(calls // (QUICK if settings.quick else 1) // tasks, 1)
    samples = take_turns(title, about, settings, lambda name: alone.measure(name, "threads", tasks, each))
    sides = {name: {**about[name], **summary(samples[name])} for name in about}
    ratios = {name: ratio(sides[OURS], side) for name, side in sides.items() if name != OURS}
    return {"name": "threads", "kind": "threads", "title": title, "sides": sides, "ratios": ratios}


def summary(samples: list[alone.Figures]) -> dict[str, Any]:
    """That of the rates; the medians of ``cpu``, in microseconds a call, and of the ``latency``, in ms."""
    if not samples:
        return {**alone.summary(samples), "latency": None}
    cpu, *waits = (statistics.median(sample[key] for sample in samples) for key in ("cpu", "median", "p99"))
    return {**alone.summary(samples), "cpu": cpu, "latency": dict(zip(("median", "p99"), waits))}


def lines_of(row: dict[str, Any]) -> list[list[str]]:
    """A line for each side of a row."""
    return [
        [
            row["title"] if name == OURS else "",
            side["title"],
            side["missing"] or rate(side["rate"]),
            span(side["low"], side["high"], rate),
            f"{ms(side['latency']['median'])} / {ms(side['latency']['p99'])}" if side["latency"] else "",
            "" if side["cpu"] is None else f"{side['cpu']:.1f}",
            compared(row["ratios"].get(name)),
        ]
        for name, side in row["sides"].items()
    ]

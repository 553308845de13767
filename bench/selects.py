"""The rows of a task that waits for one of several ends, again and again, beside other libraries.

Each is measured over a few ends and over many: what counts is how much dearer the many are.
"""

from __future__ import annotations

import statistics
from dataclasses import replace
from typing import Any, NamedTuple

import alone
from cells import rate, span, verdict
from oneway import Settings, ratio
from rates import compared
from turns import present, take_turns


class Work(NamedTuple):
    """*parked*, *turn*, *fresh*: see `hubs.library.Picks`."""

    title: str
    parked: bool
    turn: bool
    fresh: bool


WORKS = (
    Work("one is ready", False, False, False),
    Work("waits each time", True, False, False),
    Work("waits each time, a fresh list", True, False, True),
    Work("waits each time, and for the loop in between", True, True, False),
)
FEW, MANY = 2, 100
#: One over many ends takes so many times as long as one over few, at most.
GOAL = 3.0
#: How long a measurement takes at least, in seconds, and how many there are at most.
SECONDS, QUICK_SECONDS = 0.25, 0.0
ROUNDS = 5
OURS = "vanilla"

HEAD = ("work", "side", f"over {FEW} ends/s", f"over {MANY} ends/s", "lowest–highest", "takes", "goal", "vanilla is")


def measure(name: str, work: Work, seconds: float) -> alone.Figures:
    """One measurement of both, in processes of their own: ``few`` and ``many``, selects a second, and ``takes``, how
    many times as long one over many ends takes."""
    few, many = (alone.measure(name, "select", ends, *work[1:], seconds)["rate"] for ends in (FEW, MANY))
    return {"few": few, "many": many, "takes": few / many}


def measurements(settings: Settings) -> int:
    """How often `rows` will call ``settings.progress``."""
    return len(present(alone.described())) * len(WORKS) * min(settings.rounds, ROUNDS)


def rows(settings: Settings) -> list[dict[str, Any]]:
    """Measure them all."""
    return [row(work, replace(settings, rounds=min(settings.rounds, ROUNDS))) for work in WORKS]


def row(work: Work, settings: Settings) -> dict[str, Any]:
    """Measure one kind of work."""
    about = alone.described()
    title = f"select, {work.title}"
    seconds = QUICK_SECONDS if settings.quick else SECONDS
    samples = take_turns(title, about, settings, lambda name: measure(name, work, seconds))
    sides = {name: {**about[name], **summary(samples[name])} for name in about}
    takes = sides[OURS]["takes"]
    return {
        "name": "select",
        "kind": "select",
        "title": title,
        "sides": sides,
        "ratios": {name: ratio(sides[OURS], side) for name, side in sides.items() if name != OURS},
        "goal": GOAL,
        "met": None if takes is None or settings.quick else takes <= GOAL,
    }


def summary(samples: list[alone.Figures]) -> dict[str, Any]:
    """``rate``, over many ends, with the least, the most and each round's; the medians of ``few`` and ``takes``."""
    rates = [sample["many"] for sample in samples]
    if not rates:
        return {"rate": None, "low": None, "high": None, "rates": [], "few": None, "takes": None}
    return {
        "rate": statistics.median(rates),
        "low": min(rates),
        "high": max(rates),
        "rates": rates,
        "few": statistics.median(sample["few"] for sample in samples),
        "takes": statistics.median(sample["takes"] for sample in samples),
    }


def lines_of(row: dict[str, Any]) -> list[list[str]]:
    """A line for each side of a row."""
    return [
        [
            row["title"] if name == OURS else "",
            side["title"],
            side["missing"] or rate(side["few"]),
            rate(side["rate"]),
            span(side["low"], side["high"], rate),
            "" if side["takes"] is None else f"{side['takes']:.1f}x",
            f"{row['goal']:g}x at most{verdict(row['met'])}" if name == OURS and not side["missing"] else "",
            compared(row["ratios"].get(name)),
        ]
        for name, side in row["sides"].items()
    ]

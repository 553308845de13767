"""The latency of a message that has the way to itself: one of 256 bytes each millisecond, from send to recv.

Nothing queues at this rate, so it is what the way itself takes: two or three wake-ups, and whatever a side does for one
message. The sides take turns round by round, as in the other rows.
"""

from __future__ import annotations

import statistics
from typing import Any

import processes
from cells import ms, span, verdict
from oneway import Settings, medians
from plan import Plan
from rates import compared
from sides import find
from turns import present, take_turns

OURS = "vanilla"
#: The side that the goal is about.
RIVAL = "pyzmq"
SIDES = (OURS, RIVAL, "redis", "nats", "rabbitmq", "relay", "relay-c")
#: Our median in that of `RIVAL`, at most.
GOAL = 0.65
SIZE = 256
#: From one message to the next, in ns.
PERIOD = 1_000_000
#: How long a round takes, and how long it warms up before, in seconds: more tells no more.
SECONDS = 1.5
WARM_SECONDS = 0.2
QUICK_SECONDS = 0.2

HEAD = (
    "work",
    "side",
    "median, ms",
    "lowest–highest",
    "p99, ms",
    "sent late, ms: p99",
    "CPU s/M: broker / producer / consumer",
    "vanilla takes",
    "goal",
)


def plan_of(settings: Settings) -> Plan:
    """Each message is a block, so each has a stamp."""
    seconds = QUICK_SECONDS if settings.quick else min(settings.seconds, SECONDS)
    warm, timed = (round(each * 1e9 / PERIOD) for each in (WARM_SECONDS, seconds))
    return Plan(SIZE, warm, timed, block=1, period=PERIOD)


def describe() -> dict[str, dict[str, Any]]:
    """What a reader must know of each side."""
    return {name: processes.describe(find(name)) for name in SIDES}


def measurements(settings: Settings) -> int:
    """How often `rows` will call ``settings.progress``."""
    return len(present(describe())) * settings.rounds


def rows(settings: Settings) -> list[dict[str, Any]]:
    """Measure it: a list of one row."""
    about, plan = describe(), plan_of(settings)
    samples = take_turns("latency", about, settings, lambda name: processes.measure(name, plan, SECONDS))
    found = row(plan, {name: {**about[name], **summary(samples[name])} for name in about})
    if settings.quick:
        found["met"] = {RIVAL: None}  # too few messages to tell
    return [found]


def row(plan: Plan, sides: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """What is kept of it."""
    ratios = {name: ratio(sides[OURS], side) for name, side in sides.items() if name != OURS}
    rival = ratios[RIVAL]
    return {
        "name": "latency",
        "kind": "latency",
        "title": f"{plan.size} B, one each millisecond",
        "size": plan.size,
        "messages": plan.messages,
        "sides": sides,
        "ratios": ratios,
        "goal": GOAL,
        "met": {RIVAL: None if rival is None else rival["median"] <= GOAL},
    }


def summary(samples: list[dict[str, Any]]) -> dict[str, Any]:
    """Medians: ``latency``, median and p99 of a round, with ``medians``, those of each round; ``late``, in ms as well;
    ``cpu``, seconds a million messages."""
    if not samples:
        return {"latency": None, "medians": [], "late": None, "cpu": None}
    return {
        "latency": medians([sample["latency"] for sample in samples]),
        "medians": [sample["latency"]["median"] for sample in samples],
        "late": medians([sample["late"] for sample in samples]),
        "cpu": medians([{role: sample[role] for role in processes.ROLES} for sample in samples]),
    }


def ratio(ours: dict[str, Any], theirs: dict[str, Any]) -> dict[str, float] | None:
    """Of the medians; ``low`` and ``high`` are those of single rounds."""
    each = [a / b for a, b in zip(ours["medians"], theirs["medians"])]
    if not each:
        return None
    median = statistics.median(ours["medians"]) / statistics.median(theirs["medians"])
    return {"median": median, "low": min(each), "high": max(each)}


def lines_of(row: dict[str, Any]) -> list[list[str]]:
    """A line for each side."""
    return [
        [
            "" if place else row["title"],
            side["title"],
            *figures(side),
            compared(row["ratios"].get(name)),
            goal(row, name),
        ]
        for place, (name, side) in enumerate(row["sides"].items())
    ]


def figures(side: dict[str, Any]) -> list[str]:
    """The cells of what was measured."""
    if side["missing"]:
        return [side["missing"], "", "", "", ""]
    each, cpu = side["medians"], side["cpu"]
    return [
        ms(side["latency"]["median"]),
        span(min(each), max(each), ms),
        ms(side["latency"]["p99"]),
        ms(side["late"]["p99"]),
        " / ".join(f"{cpu[role]:.0f}" for role in processes.ROLES),
    ]


def goal(row: dict[str, Any], name: str) -> str:
    """Held against the rival alone."""
    if name not in row["met"] or row["sides"][name]["missing"]:
        return ""
    return f"{row['goal']:g}x at most{verdict(row['met'][name])}"

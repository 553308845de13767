"""The lines of rows that compare messages a second: a line for each side."""

from __future__ import annotations

from typing import Any

from cells import ms, rate, span, verdict
from processes import ROLES

HEAD = (
    "work",
    "side",
    "msgs/s",
    "lowest–highest",
    "CPU s/M: broker / producer / consumer",
    "latency at that rate, ms: median / p99",
    "peak MiB: broker / producer / consumer",
    "vanilla is",
    "goal",
)


def lines_of(row: dict[str, Any]) -> list[list[str]]:
    """A line for each side of a row."""
    return [
        [
            "" if place else row["title"],
            side["title"],
            side["missing"] or rate(side["rate"]),
            span(side["low"], side["high"], rate),
            cpu(side["cpu"]),
            latency(side.get("latency")),
            peak(side.get("peak")),
            compared(row["ratios"].get(name)),
            goal(row, name),
        ]
        for place, (name, side) in enumerate(row["sides"].items())
    ]


def cpu(used: dict[str, float] | None) -> str:
    return " / ".join(f"{used[role]:.3f}" for role in ROLES) if used else ""


def latency(waits: dict[str, float] | None) -> str:
    return f"{ms(waits['median'])} / {ms(waits['p99'])}" if waits else ""


def peak(most: dict[str, float] | None) -> str:
    return " / ".join(f"{most[role]:.0f}" for role in ROLES) if most else ""


def goal(row: dict[str, Any], name: str) -> str:
    """The goal that is about side *name*, and whether it is met."""
    side = row["sides"][name]
    if side["missing"]:
        return ""
    if name in row["goals"]:
        return f"{row['goals'][name]:g}x{verdict(row['met'][name])}"
    if name in row.get("least", {}):
        found = row["least"][name]
        return f"{rate(found['goal'])}/s{verdict(found['met'])}"
    least = row.get("broker_cpu") if name == next(iter(row["sides"])) else None
    return f"broker {least['goal']:g} s/M{verdict(least['met'])}" if least else ""


def compared(ratio: dict[str, Any] | None) -> str:
    if ratio is None:
        return ""
    between = span(ratio["low"], ratio["high"], "{:.2f}".format)
    return f"{ratio['median']:.2f}x" + (f" ({between})" if between else "")

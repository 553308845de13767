"""The lines of the rows of calls: one for each side.

One at a time what counts is how long a call takes, many at a time how many are answered.
"""

from __future__ import annotations

from typing import Any

from calls import ROLES
from cells import ms, rate, span, verdict
from rates import compared

_CPU = f"CPU s/M: {' / '.join(ROLES)}"
HEAD_ALONE = ("work", "side", "median, ms", "lowest–highest", "p99, ms", "calls/s", _CPU, "vanilla takes", "goal")
HEAD_MANY = ("work", "side", "calls/s", "lowest–highest", "median, ms", "p99, ms", _CPU, "vanilla is", "goal")


def lines_alone(row: dict[str, Any]) -> list[list[str]]:
    """By how long a call takes."""
    return [[*begin, *took(side), rate(side["rate"]), *end] for begin, side, end in parts(row)]


def lines_many(row: dict[str, Any]) -> list[list[str]]:
    """By how many calls are answered."""
    return [[*begin, *answered(side), *end] for begin, side, end in parts(row)]


def parts(row: dict[str, Any]) -> list[tuple[list[str], dict[str, Any], list[str]]]:
    """What a line begins with, the side that it is of, and what it ends with."""
    return [
        (
            ["" if place else row["title"], side["title"]],
            side,
            [cpu(side["cpu"]), compared(row["ratios"].get(name)), goal(row, name)],
        )
        for place, (name, side) in enumerate(row["sides"].items())
    ]


def took(side: dict[str, Any]) -> list[str]:
    """The cells of how long a call takes."""
    if side["missing"]:
        return [side["missing"], "", ""]
    each = side["medians"]
    return [ms(side["latency"]["median"]), span(min(each), max(each), ms), ms(side["latency"]["p99"])]


def answered(side: dict[str, Any]) -> list[str]:
    """The cells of how many are answered, and how long each takes then."""
    if side["missing"]:
        return [side["missing"], "", "", ""]
    waits = side["latency"]
    return [rate(side["rate"]), span(side["low"], side["high"], rate), ms(waits["median"]), ms(waits["p99"])]


def cpu(used: dict[str, float] | None) -> str:
    """Of all processes that there are."""
    return " / ".join(f"{used[role]:.1f}" if role in used else "–" for role in ROLES) if used else ""


def goal(row: dict[str, Any], name: str) -> str:
    """The goal that is about side *name*, and whether it is met."""
    if name not in row["goals"] or row["sides"][name]["missing"]:
        return ""
    at_most = " at most" if row["kind"] == "calls-alone" else ""
    return f"{row['goals'][name]:g}x{at_most}{verdict(row['met'][name])}"

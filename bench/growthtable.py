"""The lines of rows that tell how cost grows: a line for each point, and beside them what is to hold."""

from __future__ import annotations

from itertools import zip_longest
from typing import Any

from cells import figure, span, verdict

HEAD = ("as this grows", "", "broker CPU us/message", "lowest–highest", "messages a frame", "and", "ratio", "bound")


def lines_of(row: dict[str, Any]) -> list[list[str]]:
    """The lines of one row."""
    if not row["points"]:
        return [[row["title"], row["sides"]["vanilla"]["missing"], *[""] * (len(HEAD) - 2)]]
    points = [cells_of(point, row["of"]) for point in row["points"]]
    bounds = [bound_of(each) for each in row["goals"]]
    lines = zip_longest(points, bounds)
    return [
        ["" if place else row["title"], *(point or [""] * (len(HEAD) - 2)), bound or ""]
        for place, (point, bound) in enumerate(lines)
    ]


def cells_of(point: dict[str, Any], of: str) -> list[str]:
    """What is known of a point."""
    return [
        point["label"],
        figure(point["cpu_us"]),
        span(point["low"], point["high"], figure),
        figure(point["per_frame"]),
        besides(point, of),
        f"{point['ratio']:.2f}x",
    ]


def besides(point: dict[str, Any], of: str) -> str:
    """What else is known of it."""
    if "memory" in point:
        return f"fill {figure(point['fill_us'])}, drain {figure(point['drain_us'])}, {point['memory'] / 2**20:.0f} MiB"
    if "split" in point:
        return f"received: {' / '.join(shares(point['served'][-1]))}"
    if of == "bytes a message":
        return f"{figure(point['rate'] * point['x'] / 1e6)} MB/s"
    return ""


def shares(served: list[float]) -> list[str]:
    """
    >>> shares([50, 30, 20])
    ['50%', '30%', '20%']
    """
    return [f"{count / sum(served):.0%}" for count in served]


def bound_of(goal: dict[str, Any]) -> str:
    return f"{goal['value']:.2f}x {goal['what']}, at most {goal['bound']:g}x{verdict(goal['met'])}"

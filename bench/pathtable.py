"""The lines of the rows of an emulated path."""

from __future__ import annotations

from typing import Any

from cells import span, verdict

HEAD = (
    "work",
    "side",
    "MB/s",
    "lowest–highest",
    "of lossless",
    "CPU, of a core: sender / receiver / path",
    "goal",
)
SHARE_HEAD = ("work", "one", "MB/s", "other", "MB/s", "Jain's index", "goal")


def megabytes(rate: float) -> str:
    """
    >>> megabytes(5_678_000), megabytes(45_600)
    ('5.68', '0.046')
    """
    return f"{rate / 1e6:.2f}" if rate >= 1e5 else f"{rate / 1e6:.3f}"


def lines_of(row: dict[str, Any]) -> list[list[str]]:
    """A line for each side of a row."""
    return [
        [
            "" if place else row["title"],
            side["title"],
            side["missing"] or megabytes(side["rate"]),
            "" if side["low"] == side["high"] else span(side["low"], side["high"], megabytes),
            "" if side["kept"] is None else f"{side['kept']:.0%}",
            cpu(side),
            goal(row, name),
        ]
        for place, (name, side) in enumerate(row["sides"].items())
    ]


def cpu(side: dict[str, Any]) -> str:
    """Shares of a core; and whether the path was too slow, so that the figure is about this machine."""
    if not side["cpu"]:
        return ""
    missed = f"; the path missed {side['missed']:.0f} packets" if side["missed"] else ""
    return " / ".join(f"{side['cpu'][role]:.2f}" for role in ("sender", "receiver", "path")) + missed


def goal(row: dict[str, Any], name: str) -> str:
    """The goal that is about side *name*, and whether it is met."""
    if row["sides"][name]["missing"]:
        return ""
    aim, reference = row["goal"], row["reference"]
    if aim and name == aim["side"]:
        return f"{aim['least']:.0%}{verdict(aim['met'])}"
    if name == reference["side"] and reference["ratio"] is not None:
        peer = row["sides"][reference["peer"]]["title"]
        return f"{reference['ratio']:.2f}x of {peer}, at most {reference['apart']:.0%} apart{verdict(reference['met'])}"
    return ""


def lines_of_shares(row: dict[str, Any]) -> list[list[str]]:
    """A line for each pair."""
    lines = []
    for place, point in enumerate(row["points"]):
        one, other = (row["sides"][name]["title"] for name in point["pair"])
        rates = [megabytes(rate) for rate in point["rates"]] or [point["missing"] or "failed", ""]
        index = "" if point["index"] is None else f"{point['index']:.2f}"
        least = f"{point['goal']:g}{verdict(point['met'])}" if point["goal"] else ""
        lines.append(["" if place else row["title"], one, rates[0], other, rates[1], index, least])
    return lines

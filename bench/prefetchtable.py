"""The lines of rows that tell what prefetching does."""

from __future__ import annotations

from typing import Any

from cells import span, verdict

HEAD = ("work", "", "seconds", "lowest–highest", "jobs", "goal")


def lines_of(row: dict[str, Any]) -> list[list[str]]:
    """A line for each point of a row."""
    if not row["points"]:
        return [[row["title"], row["sides"]["vanilla"]["missing"], *[""] * (len(HEAD) - 2)]]
    return [
        [
            "" if place else row["title"],
            point["label"],
            f"{point['seconds']:.2f}" if "seconds" in point else "",
            span(point.get("low"), point.get("high"), "{:.2f}".format),
            jobs(point),
            goal(point["goal"]),
        ]
        for place, point in enumerate(row["points"])
    ]


def jobs(point: dict[str, Any]) -> str:
    """Who did how many, or how many were held."""
    if "held" in point:
        return f"{point['held']}, which take {point['held_ms']:.1f} ms"
    return " / ".join(f"{share:,.0f}" for share in point["split"])


def goal(found: dict[str, Any] | None) -> str:
    if found is None:
        return ""
    return f"{found['text']}{verdict(found['met'])}"

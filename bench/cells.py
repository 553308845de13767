"""What the cells of a table look like, and the table."""

from __future__ import annotations

from typing import Any


def rate(value: float | None) -> str:
    """
    >>> rate(1_234_567), rate(12_345), rate(None)
    ('1.23M', '12.3k', '')
    """
    if value is None:
        return ""
    return f"{value / 1e6:.2f}M" if value >= 1e6 else f"{value / 1e3:.1f}k"


def span(low: float | None, high: float | None, form: Any) -> str:
    return "" if low is None or high is None else f"{form(low)}–{form(high)}"


def table(head: tuple[str, ...], lines: list[list[str]]) -> str:
    """A Markdown table with straight columns, for those who read it in a terminal."""
    grid = [list(head), *lines]
    widths = [max(len(line[i]) for line in grid) for i in range(len(head))]
    grid.insert(1, ["-" * width for width in widths])
    return "".join(f"| {' | '.join(map(str.ljust, line, widths))} |\n" for line in grid)

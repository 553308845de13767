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


def ms(value: float) -> str:
    """
    >>> ms(0.0812), ms(1.934), ms(2134.2)
    ('0.081', '1.93', '2134')
    """
    return f"{value:.3f}" if value < 1 else f"{value:.2f}" if value < 10 else f"{value:.0f}"


def figure(value: float) -> str:
    """Three digits that count.

    >>> figure(0.12345), figure(98.76), figure(19110.664)
    ('0.123', '98.8', '19,100')
    """
    return f"{value:.3g}" if value < 100 else f"{float(f'{value:.3g}'):,.0f}"


def verdict(met: bool | None) -> str:
    """What stands behind a goal; nothing if it cannot be told."""
    return {True: ": met", False: ": not met", None: ""}[met]


def span(low: float | None, high: float | None, form: Any) -> str:
    return "" if low is None or high is None else f"{form(low)}–{form(high)}"


def table(head: tuple[str, ...], lines: list[list[str]]) -> str:
    """A Markdown table with straight columns, for those who read it in a terminal. A column without cells is left out.

    >>> print(table(("a", "b", "c"), [["1", "", "2"], ["3", "", ""]]), end="")
    | a | c |
    | - | - |
    | 1 | 2 |
    | 3 |   |
    """
    kept = [i for i in range(len(head)) if any(line[i] for line in lines)]
    grid = [[line[i] for i in kept] for line in (head, *lines)]
    widths = [max(len(line[i]) for line in grid) for i in range(len(kept))]
    grid.insert(1, ["-" * width for width in widths])
    return "".join(f"| {' | '.join(map(str.ljust, line, widths))} |\n" for line in grid)

"""The tables of docs/benchmarks.md and README.md, from bench/results/latest.json: no figure is typed by hand.

    python bench/table.py            put them into both pages
    python bench/table.py RESULTS    print those of another run

`run` prints the same tables.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from processes import ROLES

LATEST = Path(__file__).with_name("results") / "latest.json"
PAGE = Path(__file__).parents[1] / "docs" / "benchmarks.md"
README = Path(__file__).parents[1] / "README.md"
BEGIN = "<!-- from bench/results/latest.json by bench/table.py -->\n"
END = "<!-- end -->\n"

FIGURES = ("work", "side", "msgs/s", "lowest–highest", "CPU s/M: broker / producer / consumer", "vanilla is", "goal")
SIDES = ("side", "version", "when a process dies", "payload", "batching", "settings")


def render(results: dict[str, Any]) -> str:
    """All of a run, as Markdown that can be read as it stands."""
    about = "; ".join(described(results["about"], results["settings"]))
    figures = table(FIGURES, [line for row in results["rows"] for line in lines_of(row)])
    return f"{about}.\n\n{figures}\n{table(SIDES, sides_of(results['rows']))}"


def short(results: dict[str, Any]) -> str:
    """The figures alone, as the README has them."""
    about = "; ".join(described(results["about"], results["settings"]))
    return f"{about}.\n\n{table(FIGURES, [line for row in results['rows'] for line in lines_of(row)])}"


def described(about: dict[str, Any], settings: dict[str, Any]) -> list[str]:
    """What was run where, in parts of a sentence."""
    return [
        f"{about['date'][:10]}, {about['cpu']}, {about['cores']} cores, {about['memory_gib']} GiB, {about['kernel']}",
        f"{about['python']}, {about['broker']}, commit {about['commit'] or 'unknown'}",
        f"medians of {settings['rounds']} rounds of about {settings['seconds']:g} s"
        + (" (quick: the figures mean nothing)" if settings["quick"] else ""),
        f"load before the run {about['load_before']:.2f}",
    ]


def lines_of(row: dict[str, Any]) -> list[list[str]]:
    """A line for each side of a row."""
    return [
        [
            "" if place else row["title"],
            side["title"],
            side["missing"] or rate(side["rate"]),
            spread(side),
            cpu(side["cpu"]),
            compared(row["ratios"].get(name)),
            goal(row, name) if name in row["met"] and not side["missing"] else "",
        ]
        for place, (name, side) in enumerate(row["sides"].items())
    ]


def spread(side: dict[str, Any]) -> str:
    """The lowest and the highest, or where only that is known, how far they are apart."""
    if side.get("spread") is not None:
        return f"{side['spread']:.0%} apart"
    return span(side["low"], side["high"], rate)


def cpu(used: dict[str, float] | None) -> str:
    return " / ".join(f"{used[role]:.3f}" for role in ROLES) if used else ""


def goal(row: dict[str, Any], name: str) -> str:
    verdicts = {True: ": met", False: ": not met", None: ""}
    return f"{row['goal']:g}x{verdicts[row['met'][name]]}"


def compared(ratio: dict[str, Any] | None) -> str:
    if ratio is None:
        return ""
    between = span(ratio["low"], ratio["high"], "{:.2f}".format)
    return f"{ratio['median']:.2f}x" + (f" ({between})" if between else "")


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


def sides_of(rows: list[dict[str, Any]]) -> list[list[str]]:
    """A line for each side that occurs, however often."""
    found = {}
    for row in rows:
        for side in row["sides"].values():
            line = [side[key] for key in ("title", "version", "guarantee", "payload", "batching", "settings")]
            found[tuple(line)] = line
    return list(found.values())


def table(head: tuple[str, ...], lines: list[list[str]]) -> str:
    """A Markdown table with straight columns, for those who read it in a terminal."""
    grid = [list(head), *lines]
    widths = [max(len(line[i]) for line in grid) for i in range(len(head))]
    grid.insert(1, ["-" * width for width in widths])
    return "".join(f"| {' | '.join(map(str.ljust, line, widths))} |\n" for line in grid)


def in_page(page: str, rendered: str) -> str:
    """The page with its tables replaced."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{rendered}\n{END}{after}"


def main(results: str = "") -> None:
    rendered = render(json.loads(Path(results or LATEST).read_text()))
    if results:
        print(rendered, end="")
    else:
        PAGE.write_text(in_page(PAGE.read_text(), rendered))
        README.write_text(in_page(README.read_text(), short(json.loads(LATEST.read_text()))))


if __name__ == "__main__":
    main(*sys.argv[1:2])

"""The charts of a run, as PNG: a dot for each side of what was measured, a curve for each cost that may grow.

    python bench/charts.py [RESULTS [FOLDER]]    those of a run (latest.json) into a folder (where it lies)

`run` writes them beside the results of a whole run. They have no date in them: the same results give the same files.
"""

from __future__ import annotations

import io
import json
import sys
from functools import partial
from pathlib import Path
from typing import Any, Callable, NamedTuple

from cells import figure, ms, rate
from sides.side import installed

LATEST = Path(__file__).with_name("results") / "latest.json"

DPI = 100
COLORS = 64
WIDTH = 8.0
#: What a line of dots, the rest of such a chart, and a curve take in height. All in inches.
LINE, FRAME, CURVE = 0.2, 0.9, 4.0
OURS, THEIRS, BOUND = "#c0392b", "#44546a", "#999999"


class Dot(NamedTuple):
    """What was measured of one side.

    :ivar values: on the axis; the first is the one that counts, the others are lighter.
    :ivar low, high: of the first, over all rounds, if that is known.
    """

    label: str
    ours: bool
    values: tuple[float, ...]
    low: float | None
    high: float | None


#: Title -> its dots.
Groups = dict[str, list[Dot]]


def write(results: dict[str, Any], folder: Path) -> list[Path]:
    """Draw all that *results* have rows for.

    :return: the files.
    :raises LookupError: matplotlib is not installed.
    """
    installed("matplotlib")
    drawn = {f"{kind}.png": drawing(rows_of(results, row_kind)) for kind, row_kind, drawing in DOTS}
    drawn.update((f"{row['name']}.png", draw_curve(row)) for row in rows_of(results, "growth") if is_curve(row))
    return [save(made, folder / name) for name, made in drawn.items() if made is not None]


def rows_of(results: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    return [row for row in results["rows"] if row["kind"] == kind]


def save(made: Any, path: Path) -> Path:
    """In few colours: files that are kept should be small."""
    from PIL import Image

    pixels = io.BytesIO()
    made.savefig(pixels, format="png", dpi=DPI)
    with Image.open(pixels) as image:
        image.convert("RGB").quantize(COLORS, Image.Quantize.MAXCOVERAGE).save(path, optimize=True)
    return path


def new_figure(height: float) -> tuple[Any, Any]:
    """A figure and its axes; without pyplot, which would look for a screen."""
    from matplotlib.figure import Figure

    made = Figure(figsize=(WIDTH, height), layout="constrained")
    axes = made.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    return made, axes


# -- dots


def draw_rates(rows: list[dict[str, Any]], what: str = "messages") -> Any:
    """How many of *what* a second, of all sides."""
    groups = {
        row["title"]: [
            Dot(side["title"], name.startswith("vanilla"), (side["rate"],), side["low"], side["high"])
            for name, side in row["sides"].items()
            if side["rate"]
        ]
        for row in rows
    }
    return draw_dots(groups, f"{what} a second (median of the rounds, lowest to highest)", rate)


def draw_latencies(rows: list[dict[str, Any]]) -> Any:
    """Milliseconds of all sides, the median and the 99th percentile."""
    groups = {
        row["title"]: [
            Dot(
                side["title"],
                name.startswith("vanilla"),
                (side["latency"]["median"], side["latency"]["p99"]),
                min(side["medians"]),
                max(side["medians"]),
            )
            for name, side in row["sides"].items()
            if side["latency"]
        ]
        for row in rows
    }
    return draw_dots(groups, "milliseconds (median, lowest to highest round; lighter: 99th percentile)", ms)


def draw_dots(groups: Groups, what: str, form: Callable[[float], str]) -> Any:
    """A line for each dot, under the title of its group; None if there are none."""
    groups = {title: dots for title, dots in groups.items() if dots}
    if not groups:
        return None
    lines = sum(1 + len(dots) for dots in groups.values())
    made, axes = new_figure(FRAME + LINE * lines)
    labels = []
    for title, dots in groups.items():
        labels.append(title)
        for dot in dots:
            draw_dot(axes, len(labels), dot)
            labels.append(dot.label)
    axes.set_yticks(range(lines), labels, fontsize=8)
    for label in axes.get_yticklabels():
        if label.get_text() in groups:
            label.set_fontweight("bold")
    axes.set_ylim(lines - 0.5, -0.5)
    log_axis(axes.xaxis, form)
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel(what, fontsize=8)
    return made


def draw_dot(axes: Any, line: int, dot: Dot) -> None:
    color = OURS if dot.ours else THEIRS
    first, *others = dot.values
    ends = None if dot.low is None or dot.high is None else [[max(first - dot.low, 0)], [max(dot.high - first, 0)]]
    axes.errorbar([first], [line], xerr=ends, fmt="o", markersize=4, capsize=2, linewidth=1, color=color)
    axes.plot(others, [line] * len(others), "o", markersize=4, color=color, alpha=0.4)


def log_axis(axis: Any, form: Callable[[float], str]) -> None:
    """Logarithmic, in numbers as people write them."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axis.axes.set(**{f"{axis.axis_name}scale": "log"})
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: form(value)))
    axis.set_minor_formatter(NullFormatter())
    axis.set_tick_params(labelsize=8)
    axis.axes.grid(axis=axis.axis_name, linewidth=0.3)


#: The file without its suffix, the kind of its rows, and what draws them.
DOTS: tuple[tuple[str, str, Callable[[list[dict[str, Any]]], Any]], ...] = (
    ("throughput", "rate", draw_rates),
    ("latency", "latency", draw_latencies),
    ("calls-alone", "calls-alone", draw_latencies),
    ("calls-many", "calls-many", partial(draw_rates, what="calls")),
    ("broadcast", "broadcast", partial(draw_rates, what="delivered messages")),
    ("select", "select", partial(draw_rates, what="selects over 100 ends")),
    ("threads", "threads", partial(draw_rates, what="calls in threads")),
    ("echo", "echo", partial(draw_rates, what="requests")),
)


# -- curves


def is_curve(row: dict[str, Any]) -> bool:
    """Two points are none."""
    return len(row["points"]) > 2


def draw_curve(row: dict[str, Any]) -> Any:
    """What a message costs, and what it may cost: the first goal's bound."""
    made, axes = new_figure(CURVE)
    points = row["points"]
    where, costs = [point["x"] for point in points], [point["cpu_us"] for point in points]
    ends = [[max(cost - point["low"], 0) for cost, point in zip(costs, points)]]
    ends.append([max(point["high"] - cost, 0) for cost, point in zip(costs, points)])
    axes.errorbar(where, costs, yerr=ends, fmt="o-", markersize=4, capsize=2, linewidth=1, color=OURS, label="measured")
    bound = row["goals"][0]
    most = [bound["bound"] * point["cpu_us"] / point["ratio"] for point in points]
    axes.plot(where, most, "--", linewidth=1, color=BOUND, label=f"{bound['bound']:g}x {bound['what']}")
    log_axis(axes.xaxis, lambda value: "")
    log_axis(axes.yaxis, figure)
    axes.set_xticks(where, [point["label"] for point in points])
    axes.set_ylim(min(costs) / 3, max(*costs, *most) * 2)
    axes.set_xlabel(row["title"], fontsize=8)
    axes.set_ylabel("broker CPU, microseconds a message", fontsize=8)
    axes.legend(fontsize=8, frameon=False)
    return made


def main(results: str = "", folder: str = "") -> None:
    source = Path(results or LATEST)
    try:
        written = write(json.loads(source.read_text()), Path(folder or source.parent))
    except (KeyError, OSError, ValueError, TypeError) as error:
        raise SystemExit(f"no charts of {source}: {error}") from None
    except LookupError as error:
        raise SystemExit(f"no charts: {error}") from None
    print(*written, sep="\n")


if __name__ == "__main__":
    main(*sys.argv[1:3])

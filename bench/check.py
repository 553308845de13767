"""Has it got slower? What a message takes today, beside a stored run (``make bench-check``).

    python bench/check.py [--store]

Counts instructions by perf or valgrind, which do not depend on what else the machine does, and system calls by strace;
CPU time where nothing counts instructions. Exits with 1 if something takes over a tenth more, and names it; with 2 if
nothing can be compared, and says why.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import count
from cells import table
from count import MEASURES, Figures, Measure
from machine import cpu_model
from progress import Progress
from works import WORKS

from vanilla.protocol.scan import KIND

STORED = Path(__file__).with_name("results") / "check.json"
STORE = "make bench-check STORE=1"
#: After a reason why nothing can be compared.
ADVICE = f"Store one from here: {STORE}; with older code checked out, if that is what to compare with."


class Comparison(NamedTuple):
    """Of one measure: ``lines`` for a table; each work that takes more or less, with how much; what one run lacks."""

    lines: list[list[str]]
    slower: dict[str, float]
    faster: dict[str, float]
    new: list[str]
    gone: list[str]


def compare(measure: Measure, then: Figures, now: Figures) -> Comparison:
    """Only what is in both is compared."""
    changes = {name: change(measure, then[name], figure) for name, figure in now.items() if name in then}
    slower = {name: by for name, by in changes.items() if 1 + by > measure.tolerance}
    faster = {name: by for name, by in changes.items() if 1 - by > measure.tolerance}
    verdicts = {**dict.fromkeys(slower, "slower"), **dict.fromkeys(faster, "faster")}
    lines = [
        [
            name,
            format(then[name], measure.form) if name in then else "",
            format(figure, measure.form),
            percent(changes[name]) if name in changes else "",
            verdicts.get(name, ""),
        ]
        for name, figure in now.items()
    ]
    new, gone = [name for name in now if name not in then], [name for name in then if name not in now]
    return Comparison(lines, slower, faster, new, gone)


def change(measure: Measure, then: float, now: float) -> float:
    """How much more it takes, as a share of what it took; 0 if the difference is nothing."""
    if abs(now - then) <= measure.least:
        return 0.0
    return now / then - 1 if then > 0 else float("inf")


def percent(change: float) -> str:
    """
    >>> percent(0.123), percent(-0.0001), percent(float("inf"))
    ('+12.3%', '0.0%', '+inf%')
    """
    return f"{change:+.1%}" if abs(change) >= 0.0005 else "0.0%"


def report(name: str, found: Comparison) -> str:
    """A table, and in words what matters."""
    unit = f"{MEASURES[name].unit} a message"
    text = table((f"{unit}, by {name}", "stored", "now", "change", ""), found.lines)
    for verdict, works in ("slower", found.slower), ("faster", found.faster):
        text += "".join(f"{verdict}: {work}: {percent(by)} {unit}\n" for work, by in works.items())
    if found.faster:
        text += f"if it is to stay as fast, store this run: {STORE}\n"
    if found.new:
        text += f"not compared, for the stored run lacks it ({STORE}): {', '.join(found.new)}\n"
    if found.gone:
        text += f"in the stored run, and no longer measured: {', '.join(found.gone)}\n"
    return text


def about(measures: list[str]) -> dict[str, str]:
    """What must be the same for figures to be comparable."""
    build = " ".join(sys.version.split())  # two builds of one version differ
    same = {
        "python": f"{platform.python_implementation()} {build}",
        "architecture": platform.machine(),
        "libc": " ".join(platform.libc_ver()),
        "scanner": KIND,
        **{package: version(package) for package in ("greenlet", "msgpack")},
    }
    if any(MEASURES[name].alone for name in measures):
        same["cpu"] = cpu_model()
    return same


def refusal(stored: dict[str, Any] | None, usable: list[str], here: dict[str, str]) -> str:
    """Why *stored* cannot be compared with a run of today; empty if it can.

    :param usable: those of its measures that work here.
    :param here: `about` of today.
    """
    if stored is None:
        return f"there is no stored run: {STORE}"
    unusable = [name for name in stored["figures"] if name not in usable]
    if unusable:
        return f"the stored run was measured by what does not work here: {', '.join(unusable)}. {ADVICE}"
    others = [
        f"{key} {was}, and here it is {here.get(key)}" for key, was in stored["about"].items() if was != here.get(key)
    ]
    return f"the stored run was made with {'; '.join(others)}. {ADVICE}" if others else ""


def measure(names: list[str], works: dict[str, int]) -> dict[str, Figures]:
    """Figures by each of the measures *names*."""
    progress = Progress()
    progress.total = sum(count.processes(MEASURES[name], works) for name in names)
    try:
        return {name: count.figures(MEASURES[name], works, progress) for name in names}
    finally:
        progress.end()


def load() -> dict[str, Any] | None:
    """The stored run, if there is one.

    :raises ValueError: what is stored is none.
    """
    if not STORED.exists():
        return None
    stored = json.loads(STORED.read_text())
    if not isinstance(stored, dict) or not all(isinstance(stored.get(key), dict) for key in ("about", "figures")):
        raise ValueError("it lacks what was measured, or where")
    if not stored["figures"] or not MEASURES.keys() >= stored["figures"].keys():
        raise ValueError(f"it has figures by {', '.join(stored['figures']) or 'nothing'}")
    return stored


def keep(figures: dict[str, Figures]) -> None:
    """Store a run."""
    rounded = {name: {work: round(figure, 4) for work, figure in each.items()} for name, each in figures.items()}
    STORED.write_text(json.dumps({"about": about(list(figures)), "figures": rounded}, indent=1) + "\n")


def main() -> int:
    """The program."""
    p = argparse.ArgumentParser(description="Compare what a message takes with a stored run.")
    p.add_argument("--store", action="store_true", help="keep this run to compare later ones with")
    args = p.parse_args()
    try:
        stored = None if args.store else load()
    except ValueError as error:
        print(f"{STORED} is no stored run: {error}. {ADVICE}")
        return 2
    names = count.best() if args.store else count.usable(stored["figures"]) if stored else []
    why = "" if args.store else refusal(stored, names, about(names))
    if why:
        print(why)
        return 2
    try:
        figures = measure(names, {name: work.messages for name, work in WORKS.items()})
    except count.Failed as error:
        print(error)
        return 2
    if args.store:
        keep(figures)
        stored = load()
    assert stored is not None
    found = {name: compare(MEASURES[name], stored["figures"][name], each) for name, each in figures.items()}
    print("\n".join(report(name, each) for name, each in found.items()), end="")
    return 1 if any(each.slower for each in found.values()) else 0


if __name__ == "__main__":
    try:
        raise SystemExit(main())
    except KeyboardInterrupt:
        raise SystemExit("\ninterrupted: nothing was kept") from None

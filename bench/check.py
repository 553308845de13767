"""Has it got slower? The CPU time of today's code for each message, beside a stored run of the same machine.

    python bench/check.py [--store] [--rounds N]

CPU time and not the clock, so that what else the machine does counts little; and the least of several rounds, because
noise only ever adds. Exits with 1 if something takes over a tenth more, and names it.
"""

from __future__ import annotations

import argparse
import json
import resource
from pathlib import Path
from typing import Any

import hub
import machine
import processes
from cells import table
from plan import plan_for
from progress import Progress
from run import ONE_WAY

STORED = Path(__file__).with_name("results") / "check.json"
#: How much more is slower; 1 is no more.
TOLERANCE = 1.1
#: How often all is measured again before something is called slower.
RETRIES = 2
#: Seconds that one measurement takes, about.
SECONDS = 1.0

#: What is measured -> CPU microseconds a message.
Figures = dict[str, float]


def measure(rounds: int, share: float = 1.0) -> Figures:
    """The least of *rounds* rounds of each; *share* of the messages, for tests."""
    figures: Figures = {}
    progress = Progress()
    progress.total = rounds * (len(ONE_WAY) + len(hub.WORKS))
    for number in range(rounds):
        for row in ONE_WAY:
            progress(f"{row.title}, round {number + 1} of {rounds}")
            plan = plan_for(row.size, round(row.rough * SECONDS * share))
            sample = processes.measure(row.ours, plan, SECONDS)
            _keep_least(figures, {f"{row.title}: {role}": sample[role] for role in processes.ROLES})
        for name, work in hub.WORKS.items():
            progress(f"hub: {name}, round {number + 1} of {rounds}")
            before = _children()
            hub.measure("vanilla", name, work.messages)
            _keep_least(figures, {f"hub: {name}": (_children() - before) / work.messages * 1e6})
    progress.end()
    return figures


def _keep_least(figures: Figures, sample: Figures) -> None:
    for name, figure in sample.items():
        figures[name] = min(figure, figures.get(name, figure))


def _children() -> float:
    """CPU seconds of all child processes that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def compare(then: Figures, now: Figures) -> tuple[str, list[str]]:
    """A table, and the names of what has got slower. What one of them lacks is not compared."""
    lines, slower = [], []
    for name, figure in now.items():
        before = then.get(name)
        ratio = figure / before if before else 1.0
        if ratio > TOLERANCE:
            slower.append(name)
        verdict = "slower" if ratio > TOLERANCE else "faster" if ratio * TOLERANCE < 1 else ""
        lines.append([name, f"{before:.3f}" if before else "", f"{figure:.3f}", f"{ratio:.2f}x", verdict])
    return table(("CPU us a message", "stored", "now", "", ""), lines), slower


def about() -> dict[str, Any]:
    """What must be the same for figures to be comparable."""
    found = machine.describe()
    return {key: found[key] for key in ("cpu", "cores", "python")}


def main() -> int:
    """The program."""
    p = argparse.ArgumentParser(description="Compare CPU time a message with a stored run.")
    p.add_argument("--store", action="store_true", help="keep this run to compare later ones with")
    p.add_argument("--rounds", type=int, default=5, help="measurements of each, of which the least counts (default 5)")
    args = p.parse_args()
    stored = json.loads(STORED.read_text()) if STORED.exists() else {"about": about(), "figures": {}}
    if stored["about"] != about() and not args.store:
        print(f"the stored run is of another machine ({stored['about']}): run it once with --store")
        return 1
    figures = measure(args.rounds)
    text, slower = compare(stored["figures"], figures)
    for _ in range(RETRIES if not args.store else 0):
        if not slower:
            break
        _keep_least(figures, measure(args.rounds))
        text, slower = compare(stored["figures"], figures)
    print(text, end="")
    if args.store:
        STORED.write_text(json.dumps({"about": about(), "figures": figures}, indent=1) + "\n")
        return 0
    for name in slower:
        print(f"slower than the stored run by over {TOLERANCE - 1:.0%}: {name}")
    return 1 if slower else 0


if __name__ == "__main__":
    raise SystemExit(main())

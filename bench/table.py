"""The tables of docs/benchmarks.md and README.md, from bench/results/latest.json: no figure is typed by hand.

    python bench/table.py            put them into both pages
    python bench/table.py RESULTS    print those of another run

`run` prints the same tables.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Callable, NamedTuple

import broadcast
import callstable
import connections
import copies
import echoes
import growthtable
import kept
import latency
import pathtable
import prefetchtable
import rates
import selects
import sleepers
import spawns
import stuck
import threadcalls
from cells import table

LATEST = Path(__file__).with_name("results") / "latest.json"
PAGE = Path(__file__).parents[1] / "docs" / "benchmarks.md"
README = Path(__file__).parents[1] / "README.md"
#: What stands in the page: the last run, rows that ran by themselves (UDP, the Hub's services), and rows of before.
RUNS = (LATEST, *(LATEST.with_name(name) for name in ("udp.json", "services.json", "earlier.json")))
BEGIN = "<!-- from bench/results/{} by bench/table.py -->\n"
END = "<!-- end -->\n"


class Layout(NamedTuple):
    """How the rows of one kind are shown.

    :ivar title: stands above the table.
    :ivar lines: the lines of a row.
    :ivar in_readme: are they shown there too?
    """

    title: str
    head: tuple[str, ...]
    lines: Callable[[dict[str, Any]], list[list[str]]]
    in_readme: bool = False


#: The ``kind`` of a row -> its layout, in the order of the page.
LAYOUTS = {
    "rate": Layout("Throughput", rates.HEAD, rates.lines_of, in_readme=True),
    "latency": Layout("Latency", latency.HEAD, latency.lines_of),
    "calls-alone": Layout("Calls, one at a time", callstable.HEAD_ALONE, callstable.lines_alone, in_readme=True),
    "calls-many": Layout("Calls, many at a time", callstable.HEAD_MANY, callstable.lines_many, in_readme=True),
    "path": Layout("A path that loses packets", pathtable.HEAD, pathtable.lines_of),
    "share": Layout("A path that is shared", pathtable.SHARE_HEAD, pathtable.lines_of_shares),
    "stuck": Layout("A server that hangs", stuck.HEAD, stuck.lines_of),
    "broadcast": Layout("Broadcasts", broadcast.HEAD, broadcast.lines_of),
    "connections": Layout("Connections", connections.HEAD, connections.lines_of),
    "growth": Layout("How cost grows", growthtable.HEAD, growthtable.lines_of),
    "prefetch": Layout("Prefetch", prefetchtable.HEAD, prefetchtable.lines_of),
    "sleepers": Layout("Tasks that sleep", sleepers.HEAD, sleepers.lines_of),
    "spawns": Layout("Tasks that come and go", spawns.HEAD, spawns.lines_of),
    "select": Layout("Waiting for one of several ends", selects.HEAD, selects.lines_of),
    "threads": Layout("Calls in threads", threadcalls.HEAD, threadcalls.lines_of),
    "echo": Layout("An echo server", echoes.HEAD, echoes.lines_of),
    "copy": Layout("A stream copied", copies.HEAD, copies.lines_of),
    "kept": Layout("Memory of what waits", kept.HEAD, kept.lines_of),
}
SIDES = ("side", "version", "when a process dies", "payload", "batching", "settings")


def render(results: dict[str, Any]) -> str:
    """All of a run, as Markdown that can be read as it stands."""
    parts = [*shown(results, LAYOUTS), f"**Sides**\n\n{table(SIDES, sides_of(results['rows']))}"]
    return "\n".join(parts)


def short(results: dict[str, Any]) -> str:
    """The figures that the README has."""
    return "\n".join(shown(results, [kind for kind, layout in LAYOUTS.items() if layout.in_readme]))


def shown(results: dict[str, Any], kinds: Iterable[str]) -> Iterator[str]:
    """What was run where, and a table for each of *kinds* that has rows."""
    yield "; ".join(described(results["about"], results["settings"])) + ".\n"
    for kind in kinds:
        layout = LAYOUTS[kind]
        rows = [row for row in results["rows"] if row["kind"] == kind]
        if rows:
            yield f"**{layout.title}**\n\n{table(layout.head, [line for row in rows for line in layout.lines(row)])}"


def described(about: dict[str, Any], settings: dict[str, Any]) -> list[str]:
    """What was run where, in parts of a sentence."""
    return [
        f"{about['date'][:10]}, {about['cpu']}, {about['cores']} cores, {about['memory_gib']} GiB, {about['kernel']}",
        f"{about['python']}, {about['broker']}, commit {about['commit'] or 'unknown'}",
        f"medians of {settings['rounds']} rounds of about {settings['seconds']:g} s"
        + (" (quick: the figures mean nothing)" if settings["quick"] else ""),
        f"load before the run {about['load_before']:.2f}",
    ]


def sides_of(rows: list[dict[str, Any]]) -> list[list[str]]:
    """A line for each side that occurs, however often."""
    found = {}
    for row in rows:
        for side in row["sides"].values():
            line = [side[key] for key in ("title", "version", "guarantee", "payload", "batching", "settings")]
            found[tuple(line)] = line
    return list(found.values())


def in_page(page: str, rendered: str, name: str = LATEST.name) -> str:
    """The page with its tables of the run *name* replaced."""
    begin = BEGIN.format(name)
    before, _, rest = page.partition(begin)
    _, _, after = rest.partition(END)
    return f"{before}{begin}\n{rendered}\n{END}{after}"


def main(results: str = "") -> None:
    if results:
        print(render(json.loads(Path(results).read_text())), end="")
        return
    for path in RUNS:
        PAGE.write_text(in_page(PAGE.read_text(), render(json.loads(path.read_text())), path.name))
    README.write_text(in_page(README.read_text(), short(json.loads(LATEST.read_text()))))


if __name__ == "__main__":
    main(*sys.argv[1:2])

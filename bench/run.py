"""The benchmarks: ours and its peers, taking turns within one run on one machine (``make bench``).

    python bench/run.py [ROW ...]     ROW: a name that --list shows, or how some begin ("oneway")

Tables go to stdout, all figures to bench/results/DATE-ROWS.json. Those of a whole run go to latest.json beside it too,
and its charts with them.
A peer that is not installed has no figures and its row says so. docs/benchmarks.md says what is measured, and what
cannot be compared.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import traceback
from pathlib import Path
from typing import Any, NoReturn, Protocol

import broadcast
import calls
import charts
import connections
import copies
import echoes
import growth
import hub
import kept
import latency
import machine
import paths
import prefetch
import selects
import sleepers
import spawns
import stuck
import table
import threadcalls
from oneway import OneWay, Settings
from plan import MAP_BYTES
from progress import Progress

RESULTS = Path(__file__).with_name("results")

_OTHERS = ("redis", "redis-batched", "nats", "rabbitmq")
_LEASED_OTHERS = ("rabbitmq-each", "beanstalkd", "beanstalkd-batched", "redis-streams")

# The goals are those of the design. A side with its defaults and one that is set up otherwise have the same.
ONE_WAY = (
    OneWay(
        "oneway-16",
        "one way, 16 B",
        16,
        1_000_000,
        {"pyzmq": 3.0, "pyzmq-hwm": 3.0, "pyzmq-batched": 0.5},
        ("vanilla-asleep", "relay-batches", *_OTHERS),
        broker_cpu=0.04,
    ),
    OneWay(
        "oneway-256",
        "one way, 256 B",
        256,
        700_000,
        {"pyzmq": 2.5, "pyzmq-hwm": 2.5},
        ("pyzmq-batched", "relay-batches", *_OTHERS),
    ),
    OneWay("oneway-4k", "one way, 4 KiB", 4096, 100_000, {"pyzmq": 2.25, "pyzmq-hwm": 2.25}, ("relay-batches",)),
    # Here the raised high water mark would be the default.
    OneWay("oneway-64k", "one way, 64 KiB", 65536, 10_000, {"pyzmq": 1.4, "relay": 0.8}, ("relay-c",)),
    # What most programs send. No goal is about it, so it is held against the best of theirs only.
    OneWay(
        "oneway-map",
        f"one way, a map of {MAP_BYTES} B",
        MAP_BYTES,
        500_000,
        {},
        ("pyzmq-maps", "pyzmq-maps-hwm"),
        ours="vanilla-maps",
    ),
    # What a user can write who has many messages at hand, of either; and never slower than a message a call.
    OneWay(
        "many-16",
        "many at a call, 16 B",
        16,
        4_000_000,
        {"pyzmq-batched": 1.0, "vanilla": 1.0},
        ("vanilla-many-deep",),
        ours="vanilla-many",
    ),
    OneWay("many-256", "many at a call, 256 B", 256, 700_000, {"vanilla": 1.0}, ours="vanilla-many"),
    OneWay("many-4k", "many at a call, 4 KiB", 4096, 100_000, {"vanilla": 1.0}, ours="vanilla-many"),
    OneWay("many-64k", "many at a call, 64 KiB", 65536, 10_000, {"vanilla": 1.0}, ours="vanilla-many"),
)

#: What is acknowledged one by one, or goes to somebody else: ours beside ours without, and those who do the same.
LEASED = tuple(
    OneWay(
        f"leased-{size}",
        f"each acknowledged, {size} B",
        size,
        500_000,
        {"vanilla": 0.6, **dict.fromkeys(_LEASED_OTHERS, 10.0)},
        ours="vanilla-leased",
        apart=_LEASED_OTHERS,
    )
    for size in (16, 256)
)

# What it costs that nobody can read along: the same as without, ours beside ours.
ENCRYPTED = (
    OneWay("tls-oneway-256", "TLS, one way, 256 B", 256, 700_000, {}, ("vanilla",), ours="vanilla-tls"),
    OneWay("tls-oneway-64k", "TLS, one way, 64 KiB", 65536, 5_000, {}, ("vanilla",), ours="vanilla-tls"),
    calls.ENCRYPTED,
)

#: Ours over UDP. What it is held against is the design's, and itself where each message is a datagram.
UDP = (
    OneWay(
        "udp-oneway-64",
        "UDP, one way, 64 B",
        64,
        600_000,
        {"udp-each": 10.0, "udp-each-plain": 10.0},
        ("udp-plain", "vanilla"),
        ours="udp",
        apart=("udp-each", "udp-each-plain"),
        least={"udp": 2e6, "udp-plain": 0.9e6},
    ),
    calls.DATAGRAMS,
)


class Rows(Protocol):
    """Some rows of the table, which are measured together; `hub` is a module of this kind."""

    def rows(self, settings: Settings) -> list[dict[str, Any]]:
        """Measure them."""

    def measurements(self, settings: Settings) -> int:
        """How often `rows` will call ``settings.progress``."""


ROWS: dict[str, Rows] = {
    **{row.name: row for row in (*ONE_WAY, *LEASED)},
    "latency": latency,
    **{row.name: row for row in calls.ROWS},
    "stuck": stuck,
    **{row.name: row for row in broadcast.ROWS},
    **{row.name: row for row in ENCRYPTED},
    **{row.name: row for row in (*UDP, *paths.ROWS)},
    "connections": connections,
    **{curve.name: curve for curve in growth.CURVES},
    **{work.name: work for work in prefetch.WORKS},
    "fast-slow": prefetch.FAST_SLOW,
    "hub": hub,
    "tasks-sleep": sleepers,
    "tasks-spawn": spawns,
    "select": selects,
    "threads": threadcalls,
    "echo": echoes,
    "copy": copies,
    "memory": kept,
}


def count_of(text: str) -> int:
    """
    :raises ValueError: it is no whole number of 1 or more.
    """
    number = int(text)
    if number < 1:
        raise ValueError(text)
    return number


def seconds_of(text: str) -> float:
    """
    :raises ValueError: it is no length of time.
    """
    number = float(text)
    if not 0 < number < float("inf"):
        raise ValueError(text)
    return number


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(description="Measure vanilla beside its peers.")
    p.add_argument("rows", nargs="*", metavar="ROW", help="which rows, or how their names begin (default: all)")
    p.add_argument("--list", action="store_true", help="print the names of the rows")
    p.add_argument("--rounds", type=count_of, help="measurements of each side, of which the median counts (default 5)")
    p.add_argument("--seconds", type=seconds_of, default=2.0, help="about how long each takes (default 2)")
    p.add_argument("--json", type=Path, metavar="PATH", help="where the results go instead of bench/results")
    p.add_argument("--quick", action="store_true", help="a thousand messages, one round, nothing kept: for tests")
    return p


def chosen(words: list[str]) -> list[str]:
    """The rows that *words* name, all if there are none.

    :raises ValueError: a word names none.
    """
    for word in words:
        if not any(named(row, word) for row in ROWS):
            raise ValueError(f"no row is called {word!r}; there are {', '.join(ROWS)}")
    return [row for row in ROWS if not words or any(named(row, word) for word in words)]


def named(row: str, word: str) -> bool:
    """Is *row* meant? A word that is the name of a row means no other."""
    return row == word or (word not in ROWS and row.startswith(f"{word}-"))


def keep(results: dict[str, Any], args: argparse.Namespace) -> None:
    """Write *results* where they belong; a quick run's are kept only where --json says."""
    text = json.dumps(results, indent=1) + "\n"
    if args.json:
        args.json.write_text(text)
    elif not args.quick:
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / f"{results['about']['date'][:10]}-{'-'.join(args.rows) or 'all'}.json").write_text(text)
        if not args.rows:
            (RESULTS / "latest.json").write_text(text)
            draw(results)


def draw(results: dict[str, Any]) -> None:
    """The charts of a whole run; without what it takes, a line that says so."""
    try:
        charts.write(results, RESULTS)
    except LookupError as error:
        print(f"no charts: {error}", file=sys.stderr)


def failures(rows: list[dict[str, Any]]) -> list[str]:
    """What went wrong; a peer that is not installed did not."""
    sides = [(row, side) for row in rows for side in row["sides"].values()]
    return [f"{row['title']}: {side['title']}: {side['missing']}" for row, side in sides if "failed" in side["missing"]]


def end(signum: int, _: object) -> NoReturn:
    """End as after ctrl-C, so that no measured process is left behind."""
    raise SystemExit(128 + signum)


def measure(chosen: list[Rows], args: argparse.Namespace) -> tuple[Settings, list[dict[str, Any]]]:
    """Measure it all, and show how far it is."""
    progress = Progress()
    settings = Settings(args.rounds or (1 if args.quick else 5), args.seconds, args.quick, progress)
    progress.total = sum(each.measurements(settings) for each in chosen)
    rows: list[dict[str, Any]] = []
    for each in chosen:
        try:
            rows += each.rows(settings)
        except Exception:  # a fault of one costs no other its figures
            traceback.print_exc()
            settings.broken.append(str(each))
    progress.end()
    return settings, rows


def main() -> int:
    """The program. Exits with 1 if a measurement failed; a goal that is not met is no failure."""
    p = parser()
    args = p.parse_args()
    if args.list:
        print(*ROWS, sep="\n")
        return 0
    try:
        names = chosen(args.rows)
        if args.json:  # not to be found out after twenty minutes
            args.json.open("a").close()
    except (ValueError, OSError) as error:
        p.error(str(error))
    about = machine.describe()
    settings, rows = measure([ROWS[name] for name in names], args)
    results = {
        "about": about,
        "settings": {"rounds": settings.rounds, "seconds": settings.seconds, "quick": settings.quick},
        "rows": rows,
    }
    keep(results, args)
    print(table.render(results))
    for failure in failures(rows):
        print(failure, file=sys.stderr)
    return 1 if failures(rows) or settings.broken else 0


if __name__ == "__main__":
    for signum in signal.SIGTERM, signal.SIGHUP:
        signal.signal(signum, end)
    try:
        raise SystemExit(main())
    except KeyboardInterrupt:
        raise SystemExit("\ninterrupted: nothing was kept") from None

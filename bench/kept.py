"""The rows of what is there and does nothing: tasks that wait, and connections, beside other libraries.

Memory is what the resident memory of a process grows by, divided by their number. What the kernel has of a connection
is not in it, and is the same for all.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, Callable

import alone
import hubs
import nets
import processes
from cells import span
from netside import FIRST
from oneway import Settings
from processes import Failed, Process
from sides import Side
from turns import present, take_turns

SIDE = Path(__file__).with_name("netside.py")
FAR = Path(__file__).with_name("netfar.py")
TASKS, QUICK_TASKS = 20_000, 1_000
CONNECTIONS, QUICK_CONNECTIONS = 5_000, 100
#: It hardly differs from one to the next.
ROUNDS = 3
OURS = "vanilla"

HEAD = ("work", "side", "KiB each", "lowest–highest", "vanilla takes")

#: The title of a row -> who has a figure there.
TITLES: dict[str, tuple[str, ...]] = {
    "a task that waits for a channel": hubs.NAMES,
    "a connection, nobody receives": ("vanilla", "gevent", "asyncio", "asyncio-streams", "trio", "plain"),
    "a connection, and a task that receives": ("vanilla", "gevent", "asyncio-streams", "trio"),
}
TASK, IDLE, RECEIVE = TITLES


def find(title: str, name: str) -> Side:
    return hubs.find(name) if title == TASK else nets.find(name)


def described(title: str) -> dict[str, dict[str, Any]]:
    """What a reader must know of each side of a row."""
    return {name: processes.describe(find(title, name)) for name in TITLES[title]}


def measure(title: str, name: str, quick: bool) -> alone.Figures:
    """One measurement: ``kib``, for one task or connection."""
    if title == TASK:
        return alone.measure(name, "parked", QUICK_TASKS if quick else TASKS)
    return connections(name, QUICK_CONNECTIONS if quick else CONNECTIONS, title == RECEIVE)


def connections(name: str, count: int, receive: bool) -> alone.Figures:
    """`measure`, of so many connections."""
    with ExitStack() as stack:
        side = stack.enter_context(Process(f"the server of {name}", SIDE, name, "keep", count, int(receive)))
        port = side.hear().rpartition(" ")[2]
        far = stack.enter_context(Process("who connects", FAR, "hold", port, count + FIRST))
        try:
            figures: alone.Figures = json.loads(side.hear())
        except Failed:
            far.check()  # if that has ended, the other could but wait
            raise
    return figures


def measurements(settings: Settings) -> int:
    """How often `rows` will call ``settings.progress``."""
    return sum(len(present(described(title))) for title in TITLES) * min(settings.rounds, ROUNDS)


def rows(settings: Settings) -> list[dict[str, Any]]:
    """Measure them all."""
    return [row(title, replace(settings, rounds=min(settings.rounds, ROUNDS))) for title in TITLES]


def row(title: str, settings: Settings) -> dict[str, Any]:
    about = described(title)
    samples = take_turns(title, about, settings, lambda name: measure(title, name, settings.quick))
    sides = {name: {**about[name], **summary(samples[name])} for name in about}
    return {"name": "memory", "kind": "kept", "title": title, "sides": sides}


def summary(samples: list[alone.Figures]) -> dict[str, Any]:
    """``kib``, with the least and the most."""
    found = [sample["kib"] for sample in samples]
    if not found:
        return {"kib": None, "low": None, "high": None}
    return {"kib": statistics.median(found), "low": min(found), "high": max(found)}


def lines_of(row: dict[str, Any]) -> list[list[str]]:
    """A line for each side of a row."""
    ours = row["sides"][OURS]["kib"]
    form: Callable[[float], str] = "{:.1f}".format
    return [list(cells(row, name, side, ours, form)) for name, side in row["sides"].items()]


def cells(
    row: dict[str, Any], name: str, side: dict[str, Any], ours: Any, form: Callable[[float], str]
) -> Iterator[str]:
    """One of them."""
    yield row["title"] if name == OURS else ""
    yield side["title"]
    yield side["missing"] or form(side["kib"])
    yield span(side["low"], side["high"], form)
    yield f"{ours / side['kib']:.2f}x" if name != OURS and ours and side["kib"] else ""

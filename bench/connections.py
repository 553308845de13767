"""The rows about connections: how fast they are made and closed, and what one takes of memory that does nothing.

A server, and a process that is the crowd of its clients (`crowd`), both started afresh for each measurement.
"""

from __future__ import annotations

import json
import re
import statistics
import time
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Callable

import processes
from cells import rate, span, verdict
from hosts import HOSTS, most_descriptors
from memory import resident
from oneway import Settings
from processes import PATIENCE, Failed, Process
from turns import present, take_turns

HEAD = ("work", "side", "figure", "lowest–highest", "CPU us each: server / client", "goal")

_SERVER = Path(__file__).with_name("hosts.py")
_CLIENT = Path(__file__).with_name("crowd.py")
_OURS = "vanilla"

#: Connections that are made and kept: fewer if a process may not have so many descriptors.
CONNECTIONS = 18_000
#: Pullers of one endpoint, and endpoints of one connection.
PULLERS = ENDPOINTS = 10_000
#: How many of each come before those that count, for tables and caches to get their size.
WARM = 500
#: Descriptors that a process may need for something else.
SPARE = 200
#: How long a server may go on working on what it has answered, in seconds.
SETTLE = 0.1

#: One figure of a measurement: ``value``; where it took time, microseconds of CPU for each: ``server``, ``client``.
Sample = dict[str, float]
#: All of a measurement, by `Figure.key`.
Found = dict[str, Sample]


def kilobytes(value: float | None) -> str:
    return "" if value is None else f"{value / 1000:.2f} kB"


#: How a figure is written, by its unit.
FORMS: dict[str, Callable[[float | None], str]] = {"connections/s": rate, "bytes": kilobytes}


@dataclass(frozen=True)
class Figure:
    """A row: one figure of a measurement.

    :ivar title: with the place of how many there are.
    :ivar key: what `measure` calls it.
    :ivar goal: ours: at least so many a second, or at most so many bytes.
    """

    title: str
    key: str
    unit: str
    goal: float | None = None

    def met(self, value: float | None) -> bool | None:
        """Does *value* reach the goal?"""
        if value is None or self.goal is None:
            return None
        return value <= self.goal if self.unit == "bytes" else value >= self.goal


#: What is measured together, by the name of the work; and how many there are of it.
FIGURES: dict[str, tuple[Figure, ...]] = {
    "idle": (
        Figure("{:,} connections and their hellos, a second", "opened", "connections/s", 20_000),
        Figure("closing them, a second", "closed", "connections/s"),
        Figure("memory of an idle connection", "memory", "bytes", 3_000),
        Figure("the kernel's memory of both its ends", "kernel", "bytes"),
    ),
    "puller": (Figure("memory of each of {:,} pullers of one queue", "memory", "bytes", 5_000),),
    "endpoint": (Figure("memory of each of {:,} idle queues", "memory", "bytes", 3_000),),
}


def counts(settings: Settings) -> dict[str, int]:
    """How many of each work there are."""
    if settings.quick:
        return dict.fromkeys(FIGURES, 100)
    most = most_descriptors() - WARM - SPARE
    return {"idle": min(CONNECTIONS, most), "puller": min(PULLERS, most), "endpoint": ENDPOINTS}


def kernel() -> int:
    """The kernel's own memory, for whatever, in bytes."""
    return kib(Path("/proc/meminfo"), "Slab")


def kib(path: Path, what: str) -> int:
    """The bytes that a line of /proc gives in KiB."""
    found = re.search(rf"^{what}:\s*(\d+) kB$", path.read_text(), re.MULTILINE)
    return int(found[1]) * 1024 if found else 0


def measure(name: str, work: str, count: int) -> Found:
    """One measurement of one side, with fresh processes.

    :raises Failed: a process died or was silent too long, or a connection was not answered.
    """
    with ExitStack() as stack:
        server = stack.enter_context(Process(f"the server of {name}", _SERVER, name, work))
        address = server.hear().partition("listening on ")[2]
        try:
            crowd = stack.enter_context(Process(f"the crowd of {name}", _CLIENT, name, work, address))
            crowd.hear()
            told(crowd, server, "open", min(WARM, count))
            time.sleep(SETTLE)
            memory, slab = resident(server.popen.pid), kernel()
            opened = told(crowd, server, "open", count)
            time.sleep(SETTLE)
            memory, slab = resident(server.popen.pid) - memory, kernel() - slab
            closed = told(crowd, server, "close", count + min(WARM, count))
        except Failed:
            server.check()  # if that has ended, the crowd could but fail
            raise
    return {
        "opened": opened,
        "closed": closed,
        "memory": {"value": memory / count},
        "kernel": {"value": slab / count},
    }


def told(crowd: Process, server: Process, what: str, count: int) -> Sample:
    """Let the *crowd* do *what* with *count* connections: how many a second that were, and CPU microseconds of each."""
    before = server.cpu()
    crowd.say(f"{what} {count}")
    took = json.loads(crowd.hear(PATIENCE))
    cpu = {"server": server.cpu() - before, "client": took["cpu"]}
    return {"value": count / took["seconds"], **{role: used / count * 1e6 for role, used in cpu.items()}}


def measurements(settings: Settings) -> int:
    """How often `rows` will call ``settings.progress``."""
    return sum(len(present(describe(work))) * rounds(work, settings) for work in FIGURES)


def rounds(work: str, settings: Settings) -> int:
    """How often each work is measured: memory alone hardly differs from one time to the next."""
    return settings.rounds if work == "idle" else 1


def describe(work: str) -> dict[str, dict[str, Any]]:
    """What a reader must know of each side; ``missing`` also says why it has nothing of the kind."""
    about = {name: processes.describe(host) for name, host in HOSTS.items()}
    for name, side in about.items():
        try:
            HOSTS[name].words(work, range(1))
        except LookupError as error:
            side["missing"] = side["missing"] or str(error)
    return about


def rows(settings: Settings) -> list[dict[str, Any]]:
    """Measure them all."""
    found = []
    for work, count in counts(settings).items():
        about = describe(work)
        samples = take_turns(
            f"connections, {work}",
            about,
            replace(settings, rounds=rounds(work, settings)),
            lambda name, work=work, count=count: measure(name, work, count),
        )
        found += [row(figure, count, about, samples, settings) for figure in FIGURES[work]]
    return found


def row(
    figure: Figure,
    count: int,
    about: dict[str, dict[str, Any]],
    samples: dict[str, list[Found]],
    settings: Settings,
) -> dict[str, Any]:
    """The row of one figure."""
    sides = {
        name: {**side, **summary([sample[figure.key] for sample in samples.get(name, [])])}
        for name, side in about.items()
    }
    return {
        "name": "connections",
        "kind": "connections",
        "title": figure.title.format(count),
        "unit": figure.unit,
        "count": count,
        "sides": sides,
        "goal": figure.goal,
        "met": {_OURS: None if settings.quick else figure.met(sides[_OURS]["value"])},
    }


def summary(samples: list[Sample]) -> dict[str, Any]:
    """Medians: ``value``, with the least, the most and each round's; ``cpu``, microseconds of a connection."""
    if not samples:
        return {"value": None, "low": None, "high": None, "values": [], "cpu": None}
    median = {key: statistics.median(sample[key] for sample in samples) for key in samples[0]}
    values = [sample["value"] for sample in samples]
    cpu = {role: median[role] for role in ("server", "client")} if "server" in median else None
    return {"value": median["value"], "low": min(values), "high": max(values), "values": values, "cpu": cpu}


def lines_of(row: dict[str, Any]) -> list[list[str]]:
    """A line for each side of a row."""
    form = FORMS[row["unit"]]
    return [
        [
            "" if place else row["title"],
            side["title"],
            side["missing"] or form(side["value"]),
            span(side["low"], side["high"], form) if len(side["values"]) > 1 else "",
            "{server:.1f} / {client:.1f}".format(**side["cpu"]) if side["cpu"] else "",
            goal(row, name),
        ]
        for place, (name, side) in enumerate(row["sides"].items())
    ]


def goal(row: dict[str, Any], name: str) -> str:
    """What ours is held against, and whether it stands."""
    if row["goal"] is None or name not in row["met"]:
        return ""
    return FORMS[row["unit"]](row["goal"]) + verdict(row["met"][name])

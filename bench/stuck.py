"""The row about a server that hangs while another is free: how long calls take then, beside those to a free one alone.

Ours only: of the peers that have several servers for one name, none says who is free.
"""

from __future__ import annotations

import json
import statistics
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import processes
from cells import ms, span, verdict
from oneway import Settings
from processes import PATIENCE, Failed, Process
from services.vanilla import Vanilla
from stuckends import GIVE_UP_MS, LANES, WORK

ENDS = Path(__file__).with_name("stuckends.py")
ROUNDS = 5
#: How long a measurement takes, and how long it warms up before, in seconds.
SECONDS, WARM_SECONDS = 0.7, 0.4
QUICK_SECONDS = 0.3
#: How long it may take until a server hangs, in seconds.
HANGING = PATIENCE
#: How much longer than with one free server alone the 99th percentile may be.
LONGER = 1.15
#: How many calls the one that hangs late answers before it does.
SERVED = 200

HEAD = (
    "work",
    "",
    "median, ms",
    "p99, ms",
    "lowest–highest",
    "calls held",
    "of the free one alone: median / p99",
    "goal",
)

#: What a measurement found, and a line of a row.
Sample = dict[str, Any]


class Servers(Vanilla):
    """The side of this row."""

    title = "vanilla, servers"
    guarantee = "at most once: what a server has that hangs stays with it until its caller cancels, or it is lost"
    batching = f"by the library; a call a request, {LANES} under way besides those that were given up"
    settings = f"{WORK * 1e6:g} us of computing a request; a call is given up after {GIVE_UP_MS} ms"


@dataclass(frozen=True)
class Line:
    """A line of the row.

    :ivar answers: what the second server answers until it hangs; None: there is none.
    :ivar goal: is its 99th percentile held against that of the first line?
    """

    label: str
    answers: int | None
    goal: bool = False


LINES = (
    Line("one free server alone", None),
    Line("beside it one that hangs with its first call", 0, goal=True),
    Line(f"beside it one that hangs after {SERVED} calls", SERVED),
)


def measure(line: Line, quick: bool) -> Sample:
    """Once, with fresh processes.

    :return: what the client says: see `stuckends`.
    :raises Failed: a process died or was silent too long, or none hung that was to.
    """
    seconds, warm = (QUICK_SECONDS, QUICK_SECONDS) if quick else (SECONDS, WARM_SECONDS)
    with ExitStack() as stack:
        broker = stack.enter_context(Process("the broker", ENDS, "broker"))
        address = broker.hear().partition("listening on ")[2]
        try:
            servers = [stack.enter_context(Process("the free server", ENDS, "server", address))]
            if line.answers is not None:
                hangs = Process("the server that hangs", ENDS, "server", address, line.answers)
                servers.append(stack.enter_context(hangs))
            for server in servers:
                server.hear()
            client = stack.enter_context(Process("the client", ENDS, "client", address, warm, seconds))
            client.hear()
            for server in servers[1:]:
                server.hear(HANGING)  # "stuck"
            client.say("count")
            found: Sample = json.loads(client.hear(PATIENCE + 10 * seconds))
        except Failed:
            broker.check()  # if that has ended, the others could but fail
            raise
    return found


def measurements(settings: Settings) -> int:
    """How often `rows` will call ``settings.progress``."""
    return len(LINES) * min(settings.rounds, ROUNDS)


def rows(settings: Settings) -> list[dict[str, Any]]:
    """Measure it: a list of one row."""
    about = {"vanilla": processes.describe(Servers())}
    samples: list[list[Sample]] = [[] for _ in LINES]
    try:
        for number in range(min(settings.rounds, ROUNDS)):
            for line, found in zip(LINES, samples):
                settings.progress(f"stuck: {line.label}, round {number + 1}")
                found.append(measure(line, settings.quick))
        points = [summary(line, found, samples[0], settings.quick) for line, found in zip(LINES, samples)]
    except Failed as error:
        about["vanilla"]["missing"] = f"failed: {error}"
        points = []
    return [
        {
            "name": "stuck",
            "kind": "stuck",
            "title": f"calls of {WORK * 1e6:g} us of work, {LANES} at a time",
            "sides": about,
            "points": points,
        }
    ]


def summary(line: Line, samples: list[Sample], alone: list[Sample], quick: bool) -> Sample:
    """Medians, beside those of *alone*; ``held`` is the most of a round, ``p99s`` are those of each."""
    p99s = [sample["waits"]["p99"] for sample in samples]
    both = [{key: middle(each, key) for key in ("median", "p99")} for each in (samples, alone)]
    found = {
        "label": line.label,
        "latency": both[0],
        "p99s": p99s,
        "calls": [sample["calls"] for sample in samples],
        "held": max(sample["held"] for sample in samples),
        "ratios": None if line.answers is None else {key: both[0][key] / both[1][key] for key in both[0]},
        "goal": None,
    }
    if line.goal:
        found["goal"] = {"bound": LONGER, "met": None if quick else found["ratios"]["p99"] <= LONGER}
    return found


def middle(samples: list[Sample], key: str) -> float:
    """The median of the rounds."""
    return statistics.median(sample["waits"][key] for sample in samples)


def lines_of(row: dict[str, Any]) -> list[list[str]]:
    """A line for each point."""
    if not row["points"]:
        return [[row["title"], row["sides"]["vanilla"]["missing"], *[""] * (len(HEAD) - 2)]]
    return [
        [
            "" if place else row["title"],
            point["label"],
            ms(point["latency"]["median"]),
            ms(point["latency"]["p99"]),
            span(min(point["p99s"]), max(point["p99s"]), ms),
            str(point["held"]),
            "{median:.2f}x / {p99:.2f}x".format(**point["ratios"]) if point["ratios"] else "",
            goal(point["goal"]),
        ]
        for place, point in enumerate(row["points"])
    ]


def goal(found: dict[str, Any] | None) -> str:
    if found is None:
        return ""
    return f"p99 {found['bound']:g}x at most{verdict(found['met'])}"

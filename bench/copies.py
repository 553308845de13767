"""The row of a process that copies a stream from one connection to another, beside other libraries.

Where it comes from and where it goes are processes of their own, plain sockets on the last core; the one that copies
has the others for itself.
"""

from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import processes
from calls import rates_of
from cells import span
from echoes import goal, met
from netfar import BLOCK
from nets import find
from oneway import Settings, ratio
from processes import Failed, Process
from rates import compared
from turns import present, take_turns

SIDE = Path(__file__).with_name("netside.py")
FAR = Path(__file__).with_name("netfar.py")
NAMES = (
    "vanilla",
    "vanilla-pipe",
    "gevent",
    "asyncio",
    "asyncio-buffered",
    "asyncio-streams",
    "trio",
    "plain",
    "plain-into",
)
OURS = "vanilla"
#: As a multiple of each.
GOALS = {"plain": 0.8}
BLOCKS, QUICK_BLOCKS = (1 << 30) // BLOCK, 8
#: One measurement takes a second, whatever is asked for; so there are no more rounds than these.
ROUNDS = 5

HEAD = ("work", "side", "GiB/s", "lowest–highest", "CPU, s a GiB", "vanilla is", "goal")


def measure(name: str, blocks: int) -> dict[str, Any]:
    """One measurement, with fresh processes.

    :return: ``rate``, bytes a second; ``cpu``, the seconds for a GiB of the process that copies.
    :raises Failed: a process died or was silent too long, or a block was not in its place.
    """
    with ExitStack() as stack:
        source = stack.enter_context(Process("the source", FAR, "source", blocks))
        sink = stack.enter_context(Process("the sink", FAR, "sink", blocks))
        ports = [end.hear().rpartition(" ")[2] for end in (source, sink)]
        side = stack.enter_context(Process(f"the copy of {name}", SIDE, name, "copy", *ports))
        try:
            side.hear()
            side.say("go")
            seconds = json.loads(sink.hear())["seconds"]
            used = json.loads(side.hear())["cpu"]
        except Failed:
            side.check()  # if that has ended, the others could but fail
            raise
    return {"rate": blocks * BLOCK / seconds, "cpu": {"copy": used / (blocks * BLOCK) * (1 << 30)}}


def described() -> dict[str, dict[str, Any]]:
    """What a reader must know of each side."""
    return {name: processes.describe(find(name)) for name in NAMES}


def measurements(settings: Settings) -> int:
    """How often `rows` will call ``settings.progress``."""
    return len(present(described())) * min(settings.rounds, ROUNDS)


def rows(settings: Settings) -> list[dict[str, Any]]:
    """Measure it: a list of one row."""
    about = described()
    blocks = QUICK_BLOCKS if settings.quick else BLOCKS
    title = f"copy of {blocks * BLOCK >> 20:,} MiB"
    fewer = Settings(min(settings.rounds, ROUNDS), settings.seconds, settings.quick, settings.progress)
    samples = take_turns(title, about, fewer, lambda name: measure(name, blocks))
    sides = {name: {**about[name], **rates_of(samples[name])} for name in about}
    ratios = {name: ratio(sides[OURS], side) for name, side in sides.items() if name != OURS}
    return [
        {
            "name": "copy",
            "kind": "copy",
            "title": title,
            "sides": sides,
            "ratios": ratios,
            "goals": GOALS,
            "met": met(ratios, GOALS, settings.quick),
        }
    ]


def gib(value: float) -> str:
    """
    >>> gib(1.5 * (1 << 30))
    '1.50'
    """
    return f"{value / (1 << 30):.2f}"


def lines_of(row: dict[str, Any]) -> list[list[str]]:
    """A line for each side of a row."""
    return [
        [
            "" if place else row["title"],
            side["title"],
            side["missing"] or gib(side["rate"]),
            span(side["low"], side["high"], gib),
            f"{side['cpu']['copy']:.2f}" if side["cpu"] else "",
            compared(row["ratios"].get(name)),
            goal(row, name),
        ]
        for place, (name, side) in enumerate(row["sides"].items())
    ]

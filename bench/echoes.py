"""The row of a server that sends back what comes on many connections, beside other libraries.

The server is a process of its own, on the cores that it has for itself; who asks is another, plain sockets on the last
core. It has a question on each connection, and asks again when that is answered.
"""

from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import processes
from calls import rates_of
from cells import rate, span, verdict
from nets import find
from oneway import Settings, ratio
from processes import Failed, Process
from rates import compared
from turns import present, take_turns

SIDE = Path(__file__).with_name("netside.py")
FAR = Path(__file__).with_name("netfar.py")
NAMES = ("vanilla", "gevent", "asyncio", "asyncio-buffered", "asyncio-streams", "trio", "plain")
OURS = "vanilla"
#: As a multiple of each.
GOALS = {"gevent": 1.0}
CONNECTIONS = 100
SIZE = 64
#: How long a measurement takes at most, and how long it warms up before, in seconds.
SECONDS, WARM_SECONDS = 1.0, 0.2
QUICK_SECONDS = 0.02

HEAD = ("work", "side", "requests/s", "lowest–highest", "CPU us a request", "vanilla is", "goal")


def measure(name: str, warm: float, seconds: float) -> dict[str, Any]:
    """One measurement, with fresh processes.

    :return: ``rate``, requests a second; ``cpu``, the server's microseconds for one.
    :raises Failed: a process died or was silent too long, or an answer was not what was asked.
    """
    with ExitStack() as stack:
        server = stack.enter_context(Process(f"the server of {name}", SIDE, name, "echo"))
        port = server.hear().rpartition(" ")[2]
        far = stack.enter_context(Process("who asks", FAR, "ask", port, CONNECTIONS, SIZE))
        try:
            far.hear()
            far.say(str(warm))
            far.hear()
            before = server.cpu()
            far.say(str(seconds))
            found = json.loads(far.hear())
            used = server.cpu() - before
        except Failed:
            server.check()  # if that has ended, the other could but fail
            raise
    return {"rate": found["answered"] / found["seconds"], "cpu": {"server": used / found["answered"] * 1e6}}


def described() -> dict[str, dict[str, Any]]:
    """What a reader must know of each side."""
    return {name: processes.describe(find(name)) for name in NAMES}


def measurements(settings: Settings) -> int:
    """How often `rows` will call ``settings.progress``."""
    return len(present(described())) * settings.rounds


def rows(settings: Settings) -> list[dict[str, Any]]:
    """Measure it: a list of one row."""
    about = described()
    title = f"echo, {CONNECTIONS} connections, {SIZE} B"
    seconds, warm = min(settings.seconds, SECONDS), WARM_SECONDS
    if settings.quick:
        seconds = warm = QUICK_SECONDS
    samples = take_turns(title, about, settings, lambda name: measure(name, warm, seconds))
    sides = {name: {**about[name], **rates_of(samples[name])} for name in about}
    ratios = {name: ratio(sides[OURS], side) for name, side in sides.items() if name != OURS}
    return [
        {
            "name": "echo",
            "kind": "echo",
            "title": title,
            "sides": sides,
            "ratios": ratios,
            "goals": GOALS,
            "met": met(ratios, GOALS, settings.quick),
        }
    ]


def met(ratios: dict[str, Any], goals: dict[str, float], quick: bool) -> dict[str, bool | None]:
    """Which goals are; None: of a quick run, or without figures, it cannot be told."""
    found = {name: ratios[name] for name in goals}
    return {
        name: None if quick or reached is None else reached["median"] >= goals[name] for name, reached in found.items()
    }


def goal(row: dict[str, Any], name: str) -> str:
    """The goal that is about side *name*, and whether it is met."""
    if name not in row["goals"] or row["sides"][name]["missing"]:
        return ""
    return f"{row['goals'][name]:g}x{verdict(row['met'][name])}"


def lines_of(row: dict[str, Any]) -> list[list[str]]:
    """A line for each side of a row."""
    return [
        [
            "" if place else row["title"],
            side["title"],
            side["missing"] or rate(side["rate"]),
            span(side["low"], side["high"], rate),
            f"{side['cpu']['server']:.1f}" if side["cpu"] else "",
            compared(row["ratios"].get(name)),
            goal(row, name),
        ]
        for place, (name, side) in enumerate(row["sides"].items())
    ]

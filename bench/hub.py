"""The rows of messages through one channel between two tasks of one thread, beside what other libraries have for that.

One measurement is one task that sends N numbers, a call each, and one that receives them, a call each, in a process of
its own. No batching, nothing on the wire, nothing to lose.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import alone
from oneway import Settings, ratio
from turns import present, take_turns


class Work(NamedTuple):
    """What the two tasks do.

    :ivar capacity: of the channel.
    :ivar timeout: ms that each call may wait, -1 for ever.
    :ivar messages: in one measurement of the fastest.
    :ivar goal: as a multiple of `RIVAL`.
    """

    capacity: int
    timeout: int
    messages: int
    goal: float


WORKS = {
    "unbuffered": Work(0, -1, 300_000, 3.0),
    "queue of 100": Work(100, -1, 1_000_000, 1.0),
    "unbuffered, with a timeout on each call": Work(0, 5000, 150_000, 2.0),
    "queue of 100, with a timeout on each call": Work(100, 5000, 500_000, 0.9),
}
OURS = "vanilla"
#: The library that the goals are about: it is the only other one where whatever waits is called like any function.
RIVAL = "gevent"
#: By how much less the others do, so that they take no longer.
LESS = {"asyncio": 10, "trio": 20}
#: And a quick run.
QUICK = 100


def messages(name: str, work: str, settings: Settings) -> int:
    """How many one measurement moves."""
    return WORKS[work].messages // LESS.get(name, 1) // (QUICK if settings.quick else 1)


def measure(name: str, work: str, n: int) -> alone.Figures:
    """One measurement, in a process of its own."""
    return alone.measure(name, "channel", WORKS[work].capacity, WORKS[work].timeout, n)


def measurements(settings: Settings) -> int:
    """How often `rows` will call ``settings.progress``."""
    return len(present(alone.described())) * len(WORKS) * settings.rounds


def rows(settings: Settings) -> list[dict[str, Any]]:
    """Measure them all."""
    return [row(work, settings) for work in WORKS]


def row(work: str, settings: Settings) -> dict[str, Any]:
    """Measure one kind of work."""
    about = alone.described()
    moved = {name: messages(name, work, settings) for name in about}
    samples = take_turns(f"hub: {work}", about, settings, lambda name: measure(name, work, moved[name]))
    sides = {name: {**about[name], **alone.summary(samples[name]), "messages": moved[name]} for name in about}
    ratios = {name: ratio(sides[OURS], sides[name]) for name in about if name != OURS}
    goal, reached = WORKS[work].goal, ratios[RIVAL]
    return {
        "name": "hub",
        "kind": "rate",
        "title": f"hub: {work}",
        "size": None,
        "messages": max(moved.values()),
        "sides": sides,
        "ratios": ratios,
        "goals": {RIVAL: goal},
        # of a quick run there are too few messages to tell
        "met": {RIVAL: None if reached is None or settings.quick else reached["median"] >= goal},
    }

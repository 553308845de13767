"""The rows of an emulated path: what comes through where packets are lost, and who gets what of it.

The path is between two network namespaces, and a process of Python is what delays, loses and queues (tests/netpath.py).
So it needs root; without, the rows say so. Sides take their turns, each with fresh processes and a fresh path.
"""

from __future__ import annotations

import json
import statistics
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import emulated
import processes
from flows import find
from oneway import Settings, medians
from plan import now
from processes import PATIENCE, Failed, Process
from turns import attempt, present, take_turns

ENDS = Path(__file__).with_name("pathends.py")
PORT = 8264
#: A round trip of 20 ms; 6 MB/s; a buffer of what is under way at that: all of both directions.
DELAY, RATE = 0.010, 6e6
PATH = {"delay": DELAY, "rate": RATE, "queue": 2 * DELAY * RATE}
PATH_TEXT = f"{2000 * DELAY:.0f} ms, {RATE / 1e6:g} MB/s, a buffer of {PATH['queue'] / 1000:.0f} kB"
#: Nobody gets better by being measured again for five minutes.
ROUNDS = 1
#: How long a flow runs before it counts, and how long it counts, in seconds.
WARM, SECONDS = 2.0, 6.0
#: The same of flows that share a path: they take longer to come to terms.
SHARED_WARM, SHARED_SECONDS = 5.0, 20.0
QUICK_SECONDS = 0.2

LOSSES = (0.0, 0.01, 0.1, 0.2)
OURS, REFERENCE, ITS_PEER = "vanilla-udp", "vanilla-newreno", "aioquic-reno"
SIDES = (OURS, REFERENCE, ITS_PEER, "aioquic-cubic", "vanilla-tcp", "tcp-reno", "tcp-cubic", "tcp-bbr")
#: Of what comes through without loss.
LEAST = {0.01: 0.85, 0.1: 0.6, 0.2: 0.4}
#: How far the reference may be from another implementation of the same.
APART = 0.3

#: Who shares a path, and how fairly they are to: 1 is equal shares, 0.5 one that gets all (Jain, Chiu and Hawe, 1984).
PAIRS = ((OURS, "tcp-cubic"), (OURS, OURS), (OURS, "tcp-bbr"), ("tcp-bbr", "tcp-cubic"), ("tcp-cubic", "tcp-cubic"))
FAIR = 0.9
#: Of these; the others are what fairness is here without us.
GOALS = PAIRS[:2]

#: What a measurement found.
Sample = dict[str, Any]


@dataclass(frozen=True)
class Times:
    """Seconds."""

    warm: float
    count: float


def measure(names: tuple[str, ...], loss: float, times: Times, seed: int) -> list[Sample]:
    """Some flows, which all go the same way over one path.

    :param loss: of packets, either way.
    :return: for each ``rate``, bytes a second that came through to the application; ``cpu``, the share of a core of its
        ``sender`` and its ``receiver`` (with its broker), and of the ``path``; ``missed`` packets by the path.
    :raises Failed: a process died or was silent too long, or what came was not what had been sent.
    """
    with ExitStack() as stack:
        path = stack.enter_context(emulated.Path(**PATH, loss=loss, seed=seed))
        flows = [_Ends(stack, path, name, PORT + place) for place, name in enumerate(names)]
        begin = now() + round(times.warm * 1e9)
        between = [begin, begin + round(times.count * 1e9)]
        before = path.cpu
        for flow in flows:
            flow.start(between)
        found = [flow.figures(times) for flow in flows]
        share = (path.cpu - before) / (times.warm + times.count)
        missed = path.there.counters["missed"] + path.back.counters["missed"]
    for sample in found:
        sample["cpu"]["path"] = share
        sample["missed"] = missed
    return found


class _Ends:
    """The processes of one flow, which are ready when this is made."""

    def __init__(self, stack: ExitStack, path: Any, name: str, port: int) -> None:
        def process(role: str, space: Any) -> Process:
            what = f"the {role} of {name}"
            return stack.enter_context(Process(what, ENDS, space.file, name, role, path.right_address, port))

        self.far: list[Process] = []
        for role in ("broker", "receiver") if find(name).has_broker else ("receiver",):
            self.far.append(process(role, path.right))
            self.far[-1].hear()
        self.sender = process("sender", path.left)
        self.sender.hear()
        self._before = [each.cpu() for each in (self.sender, *self.far)]

    def start(self, between: list[int]) -> None:
        self.far[-1].say(json.dumps(between))
        self.sender.say("go")

    def figures(self, times: Times) -> Sample:
        """When the time is over."""
        try:
            found = json.loads(self.far[-1].hear(PATIENCE + times.warm + times.count))
        except Failed:
            for process in (self.sender, *self.far[:-1]):
                process.check()
            raise
        self.sender.check()
        used = [each.cpu() - before for each, before in zip((self.sender, *self.far), self._before)]
        # The receiver is at its end, and has said what it took.
        used[-1] = found["cpu"]
        total = times.warm + times.count
        return {
            "rate": found["bytes"] / times.count,
            "cpu": {"sender": used[0] / total, "receiver": sum(used[1:]) / total},
        }


def describe(names: tuple[str, ...]) -> dict[str, dict[str, Any]]:
    """What a reader must know of each side; without a path there is none."""
    about = {name: processes.describe(find(name)) for name in names}
    for side in about.values():
        side["missing"] = side["missing"] or emulated.unavailable()
    return about


def times_of(settings: Settings, warm: float, count: float) -> Times:
    return Times(QUICK_SECONDS, QUICK_SECONDS) if settings.quick else Times(warm, count)


class Lossy:
    """What comes through, by how much is lost."""

    name = "udp-path"

    def _losses(self, settings: Settings) -> tuple[float, ...]:
        return LOSSES[:1] if settings.quick else LOSSES

    def measurements(self, settings: Settings) -> int:
        """How often `rows` will call ``settings.progress``."""
        return len(present(describe(SIDES))) * len(self._losses(settings)) * min(settings.rounds, ROUNDS)

    def rows(self, settings: Settings) -> list[dict[str, Any]]:
        """Measure it: a row for each loss."""
        about, times = describe(SIDES), times_of(settings, WARM, SECONDS)
        fewer = Settings(min(settings.rounds, ROUNDS), settings.seconds, settings.quick, settings.progress)
        found: dict[float, dict[str, list[Sample]]] = {}
        for loss in self._losses(settings):
            title = f"{self.name}, {loss:.0%} lost"
            found[loss] = take_turns(
                title, about, fewer, lambda name, loss=loss: measure((name,), loss, times, seed=round(1000 * loss))[0]
            )
        lossless = {name: middle(samples) for name, samples in found[LOSSES[0]].items()}
        return [self._row(loss, samples, about, lossless, settings.quick) for loss, samples in found.items()]

    def _row(
        self,
        loss: float,
        samples: dict[str, list[Sample]],
        about: dict[str, dict[str, Any]],
        lossless: dict[str, float | None],
        quick: bool,
    ) -> dict[str, Any]:
        sides = {name: {**about[name], **summary(samples[name])} for name in about}
        for name, side in sides.items():
            side["kept"] = quotient(side["rate"], lossless[name]) if loss else None
        beside = quotient(sides[REFERENCE]["rate"], sides[ITS_PEER]["rate"])
        least = LEAST.get(loss)
        kept = sides[OURS]["kept"]
        return {
            "name": f"{self.name}-{loss * 100:g}",
            "kind": "path",
            "title": f"{loss:.0%} of packets lost; {PATH_TEXT}",
            "sides": sides,
            "goal": least and {"side": OURS, "least": least, "met": None if kept is None or quick else kept >= least},
            "reference": {
                "side": REFERENCE,
                "peer": ITS_PEER,
                "apart": APART,
                "ratio": beside,
                "met": None if beside is None or quick else abs(beside - 1) <= APART,
            },
        }


class Shared:
    """Who gets what of a path that two flows share."""

    name = "udp-share"

    def measurements(self, settings: Settings) -> int:
        """How often `rows` will call ``settings.progress``."""
        about = describe(SIDES)
        return sum(not any(about[name]["missing"] for name in pair) for pair in self._pairs(settings))

    def _pairs(self, settings: Settings) -> tuple[tuple[str, str], ...]:
        return PAIRS[:1] if settings.quick else PAIRS

    def rows(self, settings: Settings) -> list[dict[str, Any]]:
        """Measure it: a list of one row."""
        about = describe(tuple(dict.fromkeys(name for pair in self._pairs(settings) for name in pair)))
        times = times_of(settings, SHARED_WARM, SHARED_SECONDS)
        points = []
        for pair in self._pairs(settings):
            missing = next((about[name]["missing"] for name in pair if about[name]["missing"]), "")
            samples: list[list[Sample]] = []
            if not missing:
                settings.progress(f"{self.name}: {' beside '.join(about[name]['title'] for name in pair)}")
                attempt(pair[0], about[pair[0]], samples, lambda _, pair=pair: measure(pair, 0.0, times, seed=1))
            points.append(share(pair, samples[0] if samples else [], missing, settings.quick))
        return [
            {
                "name": self.name,
                "kind": "share",
                "title": f"two flows, nothing lost at random; {PATH_TEXT}",
                "sides": about,
                "points": points,
            }
        ]


def middle(samples: list[Sample]) -> float | None:
    """The median rate."""
    return statistics.median(sample["rate"] for sample in samples) if samples else None


def quotient(one: float | None, other: float | None) -> float | None:
    return one / other if one is not None and other else None


def summary(samples: list[Sample]) -> Sample:
    """Medians: ``rate``, with the least, the most and each round's; ``cpu``; ``missed``, the most of a round."""
    rates = [sample["rate"] for sample in samples]
    if not samples:
        return {"rate": None, "low": None, "high": None, "rates": [], "cpu": None, "missed": 0}
    return {
        "rate": middle(samples),
        "low": min(rates),
        "high": max(rates),
        "rates": rates,
        "cpu": medians([sample["cpu"] for sample in samples]),
        "missed": max(sample["missed"] for sample in samples),
    }


def share(pair: tuple[str, ...], samples: list[Sample], missing: str, quick: bool) -> dict[str, Any]:
    """What each got; ``index`` is Jain's."""
    rates = [sample["rate"] for sample in samples]
    index = jain(rates)
    return {
        "pair": list(pair),
        "missing": missing,
        "rates": rates,
        "index": index,
        "goal": FAIR if pair in GOALS else None,
        "met": None if index is None or quick or pair not in GOALS else index >= FAIR,
    }


def jain(rates: list[float]) -> float | None:
    """
    >>> jain([3.0, 3.0]), jain([1.0, 0.0]), jain([])
    (1.0, 0.5, None)
    """
    squares = sum(rate * rate for rate in rates)
    return sum(rates) ** 2 / (len(rates) * squares) if squares else None


ROWS = (Lossy(), Shared())

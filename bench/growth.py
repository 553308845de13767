"""How the broker's cost grows: its CPU time a message where consumers, queues, sizes, producers or depth do.

Ours only, for the question is not who is faster. All messages of a curve travel in batches of one size, as far as
nothing is measured that changes it; how many were in a frame on average is measured and shown. What goes out is counted
as what comes in: a message moved is half a message accepted and half a message delivered.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Callable

from load import Shape
from oneway import Settings
from processes import PATIENCE, Failed, Process, describe
from sides.vanilla import Vanilla

LOAD = Path(__file__).with_name("load.py")
ROUNDS = 3
#: Between the start of the load and the measurement, in seconds: windows and caches have to find their size.
WARM = 0.3
#: How often it is asked whether all has come, in seconds.
LOOK = 0.02
#: Of a quick run: it measures the first points only, with less under way.
QUICK_POINTS = 2
QUICK_SECONDS = 0.1
QUICK = {"ahead": 10, "least": 10_000}

#: Large messages are sent fewer before each flush.
BATCH_BYTES = 8 << 20
#: The size of messages by which a byte is priced.
PROBE = 64 << 10

#: How much more than one to one a message may cost.
MOST = 2.0
#: The same of a deep queue beside a shallow one: nothing, but for what the machine does besides.
NOISE = 1.2
#: How much more the most-served of equal consumers may get than the least-served.
UNEQUAL = 1.2

#: What one measurement found, and one point of a curve: the medians of several.
Sample = dict[str, Any]


@dataclass(frozen=True)
class Point:
    """Where to measure.

    :ivar x: what grows.
    :ivar label: the same for people.
    :ivar loads: the kind (`load.ROLES`) and shape of each process.
    """

    x: int
    label: str
    loads: tuple[tuple[str, Shape], ...]

    @property
    def quick(self) -> Point:
        """One that takes less time, and tells nothing."""
        return replace(self, loads=tuple((kind, replace(shape, **QUICK)) for kind, shape in self.loads))


class Equal(Vanilla):
    """What curves need that are to have batches of one size."""

    title = "vanilla, growth"
    batching = (
        "100 messages a flush, or 256 KiB if that is less; consumers take as many at a time, with a prefetch of that"
    )
    settings = "--capacity 2,000,000, --capacity-bytes and --unsettled-bytes 2 GiB, --max-frame 32 MiB"
    flags = (
        *("--capacity", 2_000_000),
        *("--capacity-bytes", 2 << 30),
        *("--unsettled-bytes", 2 << 30),
        *("--max-frame", 32 << 20),
    )


class Default(Vanilla):
    """What is there without any option."""

    title = "vanilla, 4 to 4"
    batching = "100 messages a flush; consumers take up to as many at a time"
    flags = ()


def measure_load(side: Equal | Default, point: Point, seconds: float) -> Sample:
    """Once, with fresh processes.

    :return: ``cpu_us``, of the broker for a message moved; ``per_frame``, messages a delivery; ``rate``, messages moved
        a second; ``served``, what each process received.
    :raises Failed: a process has ended or was silent too long, or not each message that was sent was received, once.
    """
    with ExitStack() as stack:
        broker = stack.enter_context(Process("the broker", LOAD, "broker", *side.flags))
        address = broker.hear().partition("listening on ")[2]
        try:
            loads = [
                stack.enter_context(Process(f"the {kind}", LOAD, kind, address, shape.text()))
                for kind, shape in point.loads
            ]
            for load in loads:
                load.hear()
            begin = time.monotonic() + WARM
            for load in loads:
                load.say(f"{begin} {begin + seconds}")
            cpu = -_cpu_at(broker, begin) + _cpu_at(broker, begin + seconds)
            figures = [json.loads(load.hear()) for load in loads]
            see_all_come(loads, sum(each["all"] for each in figures))
        except Failed:
            broker.check()  # if that has ended, the others could but fail
            raise
    served = [each["received"] for (kind, _), each in zip(point.loads, figures) if kind != "push"]
    return {**sample(cpu, seconds, figures), "served": served}


def _cpu_at(broker: Process, when: float) -> float:
    time.sleep(max(when - time.monotonic(), 0))
    return broker.cpu()


def see_all_come(loads: list[Process], sent: int) -> None:
    """Wait until as many messages are received as were sent.

    :raises Failed: they are more, or after `processes.PATIENCE` still fewer.
    """
    deadline = time.monotonic() + PATIENCE
    while True:
        for load in loads:
            load.say("?")
        received = sum(int(load.hear()) for load in loads)
        if received == sent:
            return
        if received > sent or time.monotonic() > deadline:
            raise Failed(f"{sent:,} messages were sent and {received:,} received")
        time.sleep(LOOK)


def sample(cpu: float, seconds: float, figures: list[dict[str, float]]) -> Sample:
    """Of what the processes say; *cpu* is the broker's, in seconds."""
    sent, received, frames = (sum(each[key] for each in figures) for key in ("sent", "received", "frames"))
    if not received:
        raise Failed(f"nothing was received in {seconds:g} s")
    moved = (sent + received) / 2
    return {"cpu_us": cpu / moved * 1e6, "per_frame": received / frames, "rate": moved / seconds}


def measure_depth(side: Equal | Default, point: Point, seconds: float) -> Sample:
    """A queue that is filled, then drained.

    :return: as `measure_load`; ``fill_us`` and ``drain_us`` make ``cpu_us``; ``memory``, what the broker's grows by, in
        bytes.
    """
    with ExitStack() as stack:
        broker = stack.enter_context(Process("the broker", LOAD, "broker", *side.flags))
        address = broker.hear().partition("listening on ")[2]
        try:
            ((kind, shape),) = point.loads
            load = Process(f"the {kind}", LOAD, kind, address, shape.text(), broker.popen.pid)
            found = json.loads(stack.enter_context(load).hear())
        except Failed:
            broker.check()
            raise
    fill, drain = (found[key] / found["messages"] * 1e6 for key in ("fill", "drain"))
    return {
        "cpu_us": fill + drain,
        "fill_us": fill,
        "drain_us": drain,
        "per_frame": found["messages"] / found["frames"],
        "memory": found["memory"],
    }


# -- what holds


def first(points: list[Sample], x: int) -> float:
    """What a message costs at the first point: nothing is to depend on *x*."""
    cost: float = points[0]["cpu_us"]
    return cost


def in_proportion(points: list[Sample], x: int) -> float:
    """What a message of *x* bytes would cost if there were nothing but a cost a message, that of one byte, and a cost a
    byte, that of 64 KiB."""
    known = {point["x"]: point["cpu_us"] for point in points}
    least: float = known[1]
    return least + max(known.get(PROBE, least) - least, 0) * x / PROBE


def growth(points: list[Sample]) -> list[float]:
    """How many times what the cheapest point up to it costs each costs: one to one may be the dearest of all."""
    costs = [point["cpu_us"] for point in points]
    return [cost / min(costs[: place + 1]) for place, cost in enumerate(costs)]


def goal(what: str, value: float, bound: float) -> dict[str, Any]:
    return {"what": what, "value": value, "bound": bound, "met": value <= bound}


@dataclass(frozen=True)
class Curve:
    """A row.

    :ivar of: what grows, for a chart's axis.
    :ivar price: what a message would cost if nothing grew: all points, x -> microseconds.
    :ivar beside: what that is, for people.
    :ivar bound: how many times that it may cost.
    :ivar seconds: that each measurement takes.
    """

    name: str
    title: str
    of: str
    points: tuple[Point, ...]
    side: Equal | Default = field(default_factory=Equal)
    measure: Callable[[Any, Point, float], Sample] = measure_load
    price: Callable[[list[Sample], int], float] = first
    beside: str = "of one to one"
    bound: float = MOST
    seconds: float = 0.8

    def measurements(self, settings: Settings) -> int:
        """How often `rows` will call ``settings.progress``."""
        return self._rounds(settings) * len(self._chosen(settings))

    def _rounds(self, settings: Settings) -> int:
        return min(settings.rounds, ROUNDS)

    def _chosen(self, settings: Settings) -> tuple[Point, ...]:
        if settings.quick:
            return tuple(point.quick for point in self.points[:QUICK_POINTS])
        return self.points

    def rows(self, settings: Settings) -> list[dict[str, Any]]:
        """Measure it: a list of one row."""
        about = describe(self.side)
        try:
            points = self._points(settings)
        except Failed as error:
            about["missing"] = f"failed: {error}"
            points = []
        row = self.row(points, about)
        if settings.quick:
            for each in row["goals"]:
                each["met"] = None  # too few messages to tell
        return [row]

    def _points(self, settings: Settings) -> list[Sample]:
        rounds, seconds = self._rounds(settings), QUICK_SECONDS if settings.quick else self.seconds
        samples: dict[Point, list[Sample]] = {point: [] for point in self._chosen(settings)}
        for i in range(rounds):
            for point, found in samples.items():
                settings.progress(f"{self.name}: {point.label}, round {i + 1} of {rounds}")
                found.append(self.measure(self.side, point, seconds))
        return [summary(point, found) for point, found in samples.items()]

    def row(self, points: list[Sample], about: dict[str, Any]) -> dict[str, Any]:
        """What the points say together."""
        for point in points:
            point["ratio"] = point["cpu_us"] / self.price(points, point["x"])
        return {
            "name": self.name,
            "kind": "growth",
            "title": self.title,
            "of": self.of,
            "sides": {"vanilla": about},
            "points": points,
            "goals": list(self._goals(points)) if points else [],
        }

    def _goals(self, points: list[Sample]) -> Iterable[dict[str, Any]]:
        yield goal(self.beside, max(point["ratio"] for point in points), self.bound)
        if self.price is first:
            yield goal("of the cheapest before", max(growth(points)), self.bound)
        splits = [point["split"] for point in points if "split" in point]
        if splits:
            yield goal("most served to least", max(splits), UNEQUAL)


def summary(point: Point, samples: list[Sample]) -> Sample:
    """Medians of *samples*, and how far ``cpu_us`` goes; with several processes that receive, how equally they
    were served."""
    numbers = [key for key in samples[0] if key != "served"]
    found: Sample = {"x": point.x, "label": point.label}
    found.update((key, statistics.median(each[key] for each in samples)) for key in numbers)
    costs = [each["cpu_us"] for each in samples]
    found.update(low=min(costs), high=max(costs), rounds=costs)
    served = [each["served"] for each in samples if len(each.get("served", ())) > 1]
    if served:
        found.update(served=served, split=statistics.median(max(each) / max(min(each), 1) for each in served))
    return found


# -- the curves


def loop(x: int, label: str = "", **shape: int) -> Point:
    """One process, which keeps so much under way."""
    return Point(x, label or f"{x:,}", (("loop", Shape(**shape)),))


def sized(size: int, label: str) -> Point:
    """Messages of *size* bytes: batches of 100, or of `BATCH_BYTES` if those are fewer."""
    batch = max(min(BATCH_BYTES // size, 100), 1)
    return loop(size, label, size=size, batch=batch, prefetch=batch, ahead=8)


def streams(count: int) -> Point:
    """*count* producers and as many consumers, each a process that goes as fast as it can."""
    shape = Shape(prefetch=0)
    return Point(count, f"{count} to {count}", (*[("pull", shape)] * count, *[("push", shape)] * count))


def deep(messages: int) -> Point:
    return Point(messages, f"{messages:,}", (("depth", Shape(ahead=messages // 100)),))


CURVES = (
    # So deep that an equal share of what is ready is a batch, for however many consumers.
    Curve(
        "growth-consumers",
        "consumers of one queue",
        "consumers",
        tuple(loop(n, consumers=n, ahead=4_000) for n in (1, 10, 100, 1_000)),
    ),
    Curve(
        "growth-queues",
        "queues, a producer and a consumer each",
        "queues",
        tuple(loop(n, queues=n, ahead=max(n, 64)) for n in (1, 10, 100, 1_000, 10_000)),
    ),
    Curve(
        "growth-sizes",
        "size of a message",
        "bytes a message",
        (
            sized(1, "1 B"),
            sized(16, "16 B"),
            sized(256, "256 B"),
            sized(4 << 10, "4 KiB"),
            sized(PROBE, "64 KiB"),
            sized(1 << 20, "1 MiB"),
            sized(16 << 20, "16 MiB"),
        ),
        price=in_proportion,
        beside="of 1 B and bytes in proportion",
    ),
    Curve(
        "growth-many",
        "producers and consumers of one queue",
        "of each",
        (streams(1), streams(4)),
        side=Default(),
        seconds=2.0,
    ),
    Curve(
        "growth-depth",
        "depth of a queue that is filled, then drained",
        "messages in the queue",
        tuple(deep(n) for n in (1_000, 10_000, 100_000, 1_000_000)),
        measure=measure_depth,
        beside="of one a thousand deep",
        bound=NOISE,
    ),
)

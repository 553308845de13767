"""The rows of broadcasts: what a publisher says goes to every subscriber.

The broker is a process, the publisher is one, and all subscribers together are one. The publisher is never more than a
window ahead of what the slowest of them has reported (`board`), so nobody misses anything; if one does, the measurement
fails.
"""

from __future__ import annotations

import json
import os
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import board
import processes
from calls import rates_of
from cells import rate, span
from oneway import Settings, ratio
from processes import PATIENCE, Failed, Process
from publishers import SIDES, Shape
from rates import compared
from turns import present, take_turns

PROGRAM = Path(__file__).with_name("publishers.py")
OURS = "vanilla"
ROUNDS = 3
#: How long a measurement takes at most, and how long it warms up before, in seconds.
SECONDS, WARM_SECONDS = 0.5, 0.15
QUICK_SECONDS = 0.05
#: What has CPU time of its own.
ROLES = ("broker", "publisher", "subscribers")

HEAD = (
    "work",
    "side",
    "delivered/s",
    "lowest–highest",
    f"CPU us a delivered message: {' / '.join(ROLES)}",
    "vanilla is",
)


def measure(name: str, size: int, subscribers: int, warm: float, seconds: float) -> dict[str, Any]:
    """One measurement of one side, with fresh processes.

    :return: ``rate``, messages delivered a second; ``cpu``, for each of `ROLES` its microseconds a delivered message.
    :raises Failed: a process died or was silent too long, or a subscriber missed messages.
    """
    descriptor = board.new_board(subscribers)
    shape = Shape(f"/proc/{os.getpid()}/fd/{descriptor}", size, subscribers, warm, seconds)
    described = json.dumps(asdict(shape))
    try:
        with ExitStack() as stack:
            running = {"broker": stack.enter_context(Process(f"the broker of {name}", PROGRAM, name, "broker"))}
            address = running["broker"].hear().partition("listening on ")[2]
            try:
                for role in "subscribers", "publisher":
                    process = Process(f"the {role} of {name}", PROGRAM, name, role, address, described)
                    running[role] = stack.enter_context(process)
                    process.hear()
                before = {role: running[role].cpu() for role in ROLES}
                running["publisher"].say("go")
                found = json.loads(running["publisher"].hear(PATIENCE + 10 * seconds))
                cpu = {role: running[role].cpu() - before[role] for role in ROLES}
            except Failed:
                for process in running.values():
                    process.check()  # if one has ended, those after it could but fail
                raise
    finally:
        os.close(descriptor)
    return {"rate": found["rate"], "cpu": {role: used / found["delivered"] * 1e6 for role, used in cpu.items()}}


@dataclass(frozen=True)
class Broadcast:
    """A row.

    :ivar size: of a message, in bytes.
    """

    size: int
    subscribers: int

    @property
    def name(self) -> str:
        return f"broadcast-{self.size}-{self.subscribers}"

    @property
    def title(self) -> str:
        return f"broadcast, {self.size} B, {self.subscribers} subscriber{'s' if self.subscribers > 1 else ''}"

    def describe(self) -> dict[str, dict[str, Any]]:
        """What a reader must know of each side."""
        return {name: processes.describe(side) for name, side in SIDES.items()}

    def measurements(self, settings: Settings) -> int:
        """How often `rows` will call ``settings.progress``."""
        return len(present(self.describe())) * min(settings.rounds, ROUNDS)

    def rows(self, settings: Settings) -> list[dict[str, Any]]:
        """Measure it: a list of one row."""
        about = self.describe()
        fewer = Settings(min(settings.rounds, ROUNDS), settings.seconds, settings.quick, settings.progress)
        seconds, warm = min(settings.seconds, SECONDS), WARM_SECONDS
        if settings.quick:
            seconds = warm = QUICK_SECONDS
        samples = take_turns(
            self.name, about, fewer, lambda name: measure(name, self.size, self.subscribers, warm, seconds)
        )
        sides = {name: {**about[name], **rates_of(samples[name])} for name in about}
        return [
            {
                "name": self.name,
                "kind": "broadcast",
                "title": self.title,
                "size": self.size,
                "subscribers": self.subscribers,
                "sides": sides,
                "ratios": {name: ratio(sides[OURS], side) for name, side in sides.items() if name != OURS},
            }
        ]


ROWS = tuple(Broadcast(size, subscribers) for size in (16, 256) for subscribers in (1, 10, 100))


def lines_of(row: dict[str, Any]) -> list[list[str]]:
    """A line for each side of a row."""
    return [
        [
            "" if place else row["title"],
            side["title"],
            side["missing"] or rate(side["rate"]),
            span(side["low"], side["high"], rate),
            " / ".join(f"{side['cpu'][role]:.3f}" for role in ROLES) if side["cpu"] else "",
            compared(row["ratios"].get(name)),
        ]
        for place, (name, side) in enumerate(row["sides"].items())
    ]

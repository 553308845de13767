"""What producers and consumers saw, written down as it happens, so that it outlives a process that is killed.

A journal is a file of lines, one an event; each line is one write(2), so all that a process saw before SIGKILL is
there. Times are those of CLOCK_MONOTONIC, which all processes of a machine share.

    AT WHAT WHO PRODUCER NUMBER MARKED ATTEMPTS
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

#: A producer is about to send it.
SEND = "send"
#: A producer knows that it, and all of the producer's before it, are the broker's.
CONFIRMED = "confirmed"
#: A consumer was handed it.
GOT = "got"
#: A consumer has done the work, and is about to acknowledge.
DONE = "done"
#: It was found among the dead letters.
BURIED = "buried"

#: A job: its producer, and its number there. Numbers begin at 0, with no gaps.
Job = tuple[str, int]


class Event(NamedTuple):
    """Something that happened to a job.

    ``at`` is in ns; ``who`` saw it; ``marked`` says whether a delivery had ``redelivered`` set.
    """

    at: int
    what: str
    who: str
    job: Job
    marked: bool = False
    attempts: int = 1


class Journal:
    """What one process writes."""

    def __init__(self, folder: str, who: str) -> None:
        self.who = who
        self._fd = os.open(Path(folder, who), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def note(self, what: str, job: Iterable[object], marked: bool = False, attempts: int = 1) -> None:
        producer, number = job
        line = f"{time.monotonic_ns()} {what} {self.who} {producer} {number} {marked:d} {attempts}\n"
        os.write(self._fd, line.encode())

    def close(self) -> None:
        os.close(self._fd)


def read(folder: Path) -> list[Event]:
    """All journals of *folder*, in the order of time."""
    return sorted((event for path in folder.iterdir() for event in _events(path)), key=lambda event: event.at)


def count(folder: Path, what: str) -> int:
    """How many events of this kind there are so far."""
    return sum(path.read_bytes().count(b" %s " % what.encode()) for path in folder.iterdir())


def _events(path: Path) -> Iterator[Event]:
    for line in path.read_text().splitlines():
        at, what, who, producer, number, marked, attempts = line.split(" ")
        yield Event(int(at), what, who, (producer, int(number)), marked == "1", int(attempts))

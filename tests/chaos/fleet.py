"""The processes of a scenario as its test sees them, and what is common to scenarios."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Callable

import programs
from journal import BURIED, Event, Journal, read

#: Is this the long form? It takes minutes, and nobody is to be held up by it who only runs the tests.
LONG = os.environ.get("CHAOS") == "long"

ACTORS = Path(__file__).with_name("actors.py")


class Actor:
    """A process of the fleet."""

    def __init__(self, fleet: Fleet, pid: int, who: str) -> None:
        self._fleet = fleet
        self.pid = pid
        self.who = who

    def kill(self) -> None:
        """By SIGKILL: it notices nothing."""
        self.signal(signal.SIGKILL)

    def signal(self, number: int) -> None:
        self._fleet.order("signal", self.pid, int(number))

    @property
    def status(self) -> int | None:
        """How it ended, as of `subprocess`."""
        status: int | None = self._fleet.order("status", self.pid)
        return status


class Fleet:
    """Starts actors, and reads their journals.

    :ivar folder: where the journals are.
    """

    def __init__(self, process: subprocess.Popen[bytes], folder: Path) -> None:
        self._process = process
        self.folder = folder

    def order(self, *what: Any) -> Any:
        stdin: Any = self._process.stdin
        stdout: Any = self._process.stdout
        stdin.write(json.dumps(what).encode() + b"\n")
        stdin.flush()
        return json.loads(stdout.readline())

    def start(self, role: str, who: str, **arguments: Any) -> Actor:
        """Start one of the roles of actors.py; *who* is its name, and its journal's."""
        return Actor(self, self.order("start", role, who, arguments), who)

    def events(self) -> list[Event]:
        return read(self.folder)


@contextmanager
def fleet(folder: Path, inside: Callable[[list[str]], list[str]] = list, **env: str) -> Iterator[Fleet]:
    """A fleet whose processes are gone at the end of the block.

    :param inside: what to run so that they run in a network namespace.
    """
    with tempfile.TemporaryFile() as stderr:
        argv = inside([sys.executable, str(ACTORS), str(os.getpid()), str(folder)])
        popen = {"stdin": subprocess.PIPE, "env": programs.environment(**env)}
        with programs.started(argv, stderr, **popen) as process:
            yield Fleet(process, folder)
            assert process.stdin is not None
            process.stdin.close()
            process.wait(programs.PATIENCE)


def endpoint(remote: Any, name: str) -> dict[str, Any]:
    """What the broker says of an endpoint; {} if it is not there."""
    return next((each for each in remote.status()["endpoints"] if each["name"] == name), {})


def done(remote: Any) -> int:
    """How many deliveries were acknowledged so far, of endpoints that are gone as well."""
    count: int = remote.status()["broker"]["acknowledged"]
    return count


def until(h: Any, condition: Any, pause: float = 5) -> None:
    """Let the hub run until ``condition()`` holds, and look again every *pause* ms."""
    deadline = time.monotonic() + programs.PATIENCE * (10 if LONG else 1)
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError("it did not happen in time")
        h.sleep(pause)


def empty(remote: Any, name: str) -> bool:
    """Is nothing left at an endpoint, ready or delayed or with a worker?"""
    found = endpoint(remote, name)
    return not any(found.get(key, 0) for key in ("ready", "delayed", "in_flight"))


def stop_at_work(h: Any, remote: Any, worker: Actor, name: str) -> None:
    """Stop the only worker of an endpoint while it has a job: between two it may have none, and then goes on a bit."""
    while True:
        worker.signal(signal.SIGSTOP)
        if all(endpoint(remote, name)["in_flight"] for _ in range(3)):  # what it has sent before is read by then
            return
        worker.signal(signal.SIGCONT)
        h.sleep(5)


def exhume(remote: Any, name: str, folder: Path) -> int:
    """Take the dead letters of an endpoint out, and write down which they are: how many."""
    journal = Journal(str(folder), "grave")
    count: int = endpoint(remote, f"{name}.dead").get("ready", 0)
    if count:
        for job in remote.pull(f"{name}.dead").recv_many(count):
            journal.note(BURIED, job)
    journal.close()
    return count


def memory(pid: int, key: str = "VmHWM") -> int:
    """The most memory that a process had, in bytes; by *key* VmRSS, what it has now."""
    found = re.search(rf"^{key}:\s*(\d+) kB$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1]) << 10


def mib(size: float) -> str:
    return f"{size / (1 << 20):.0f} MiB"

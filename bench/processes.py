"""Starting the measured processes, and leaving none of them behind.

Each measurement gets fresh ones. They are in sessions of their own, so that ctrl-C reaches this program alone, which
then ends them; if it is killed, the kernel ends them (`worker.end_with_the_parent`).
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

import memory
from plan import Plan
from sides import Side

WORKER = Path(__file__).with_name("worker.py")
ROLES = ("broker", "producer", "consumer")
#: How long a process may be silent, in seconds, beyond what it is to measure.
PATIENCE = 60
#: How long one that is told to end may take, in seconds.
GRACE = 3


class Failed(Exception):
    """A measurement that came to nothing; the text says why."""


class Process:
    """A measured process.

    :param what: its name, for people.
    :param script: a program of this folder, whose first argument is the process without which it is not to live.
    """

    def __init__(self, what: str, script: Path, *arguments: object) -> None:
        self.what = what
        self.errors = tempfile.TemporaryFile()  # noqa: SIM115  # closed with the process
        self.popen = subprocess.Popen(
            [sys.executable, str(script), str(os.getpid()), *map(str, arguments)],
            bufsize=0,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            start_new_session=True,
        )

    def hear(self, patience: float = PATIENCE) -> str:
        """The next line that it says.

        :raises Failed: it says nothing for *patience* seconds, or has ended.
        """
        stdout: Any = self.popen.stdout
        if not select.select([stdout], [], [], patience)[0]:
            raise Failed(f"{self.what} was silent for {patience:.0f} s{self._complaint()}")
        line: str = stdout.readline().decode().strip()
        if not line:
            self.popen.wait()
            self.check()
        return line

    def check(self) -> None:
        """
        :raises Failed: it has ended.
        """
        status = self.popen.poll()
        if status is not None:
            raise Failed(f"{self.what} ended with status {status}{self._complaint()}")

    def say(self, line: str) -> None:
        """Tell it something; one that has ended is found out by who listens to it."""
        try:
            self.popen.stdin.write(line.encode() + b"\n")  # type: ignore[union-attr]
        except BrokenPipeError:
            pass

    def cpu(self) -> float:
        """The CPU time of all its threads so far, in seconds."""
        return cpu_of(self.popen.pid)

    def figures(self, before: float) -> dict[str, float]:
        """What a worker says of itself at its end, of one that does not: CPU time since that was *before*, memory."""
        return {"cpu": self.cpu() - before, "peak": memory.peak_of_tree(self.popen.pid)}

    def _complaint(self) -> str:
        self.errors.seek(0)
        lines = self.errors.read().decode(errors="replace").strip().splitlines()
        return f": {lines[-1]}" if lines else ""

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *exc: object) -> None:
        """End it, in good order if it ends soon. Whatever happens, it is gone afterwards."""
        try:
            self.popen.terminate()
            self.popen.wait(GRACE)
        except subprocess.TimeoutExpired:
            pass
        finally:
            self.popen.kill()
            self.popen.wait()
            for file in self.popen.stdin, self.popen.stdout, self.errors:
                file.close()  # type: ignore[union-attr]


def cpu_of(pid: int) -> float:
    """The CPU time of all threads of a process, in seconds: clock_getcpuclockid(3), which Python does not have."""
    return time.clock_gettime((~pid << 3) | 2)


def worker(name: str, role: str, plan: Plan, *address: str) -> Process:
    """One of a side's processes."""
    return Process(f"the {role} of {name}", WORKER, name, role, json.dumps(asdict(plan)), *address)


def measure(name: str, plan: Plan, seconds: float) -> dict[str, Any]:
    """One measurement of one side, with fresh processes.

    :param name: of the side.
    :param seconds: what it should take about.
    :return: ``rate`` in messages a second; for each of `ROLES` its CPU seconds a million messages; ``latency``, median
        and p99 in ms; ``peak``, the most memory of each of `ROLES`, in MiB; ``late``, median and
        p99 in ms of how late they were sent, if *plan* says when they are due.
    :raises Failed: a process died or was silent too long, or messages were lost.
    """
    with ExitStack() as stack:
        broker = stack.enter_context(worker(name, "broker", plan))
        address = broker.hear().partition("listening on ")[2]
        try:
            consumer = stack.enter_context(worker(name, "consumer", plan, address))
            consumer.hear()
            producer = stack.enter_context(worker(name, "producer", plan, address))
            producer.hear()
            before = broker.cpu()
            producer.say("go")
            received = json.loads(consumer.hear(PATIENCE + 10 * seconds))
            sent = json.loads(producer.hear())
            ended = {"broker": broker.figures(before), "producer": sent, "consumer": received}
        except Failed:
            broker.check()  # if that has ended, the others could but fail
            raise
    millions = plan.all_messages / 1e6
    return {
        "rate": plan.messages / received["seconds"],
        **{role: figures["cpu"] / millions for role, figures in ended.items()},
        "latency": received["latency"],
        "peak": {role: figures["peak"] for role, figures in ended.items()},
        "late": sent["late"],
    }


def describe(side: Side) -> dict[str, Any]:
    """What a reader must know of a side; ``missing`` says why it cannot be measured, else it is empty."""
    try:
        found, missing = side.version(), ""
    except LookupError as error:
        found, missing = "", str(error)
    texts = {key: getattr(side, key) for key in ("title", "guarantee", "payload", "batching", "settings")}
    return {**texts, "version": found, "missing": missing}

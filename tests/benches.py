"""For tests of the benchmarks: running them, and finding the processes that they start."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

BENCH = Path(__file__).parents[1] / "bench"
RUN = [sys.executable, str(BENCH / "run.py")]
#: Some processes are measured on cores of their own.
needs_cores = pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="PyPy 3.9 knows of no cores")


def bench(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*RUN, *map(str, arguments)], capture_output=True, text=True, timeout=100)


def children(pid: int) -> list[int]:
    """The processes that it started and that are still there, the first first."""
    return list(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))


def wait_for_workers(pid: int, count: int = 3) -> list[int]:
    """The measured processes of a run."""
    for _ in range(3000):
        found = children(pid)
        if len(found) == count:
            return found
        time.sleep(0.01)
    raise AssertionError("it did not start")


def wait_until_replaced(pid: int) -> None:
    """Until a process is no longer Python."""
    for _ in range(1000):
        if os.readlink(f"/proc/{pid}/exe") != os.path.realpath(sys.executable):
            return
        time.sleep(0.01)
    raise AssertionError(f"process {pid} is still Python")


def wait_until_gone(pid: int) -> None:
    for _ in range(1000):
        try:
            if "\nState:\tZ" in Path(f"/proc/{pid}/status").read_text():
                return
        except OSError:
            return
        time.sleep(0.01)
    raise AssertionError(f"process {pid} is still there")


def started_with(folder: Path) -> set[int]:
    """The processes whose TMPDIR it is: daemons too, which have left their family."""
    return {int(path.parent.name) for path in Path("/proc").glob("[0-9]*/environ") if is_in(f"TMPDIR={folder}", path)}


def is_in(variable: str, environment: Path) -> bool:
    try:
        return variable.encode() in environment.read_bytes().split(b"\0")
    except OSError:
        return False

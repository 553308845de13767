"""What a message takes, by the best measure that works here, and how often it calls the kernel.

A work of `works` is done twice, with N and with 3 N messages, each time by a process of its own, and the difference is
divided by 2 N: starting up, importing and the first messages are in both.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Callable

COUNTED = Path(__file__).with_name("counted.py")
#: How long a process may take, in seconds.
PATIENCE = 300
ENVIRONMENT = {
    # Sets have one order.
    "PYTHONHASHSEED": "0",
    # How often a loop looks before it sleeps depends on how fast all processes are.
    "VANILLA_BUSY_POLL": "0",
    # glibc copies in a loop. The one instruction that copies it all counts as three a byte in valgrind, and as one in a
    # processor's counter.
    "GLIBC_TUNABLES": "glibc.cpu.x86_rep_movsb_threshold=0x7fffffffffffffff"
    ":glibc.cpu.x86_rep_stosb_threshold=0x7fffffffffffffff",
    # Nothing is compiled twice.
    "PYTHONDONTWRITEBYTECODE": "",
}

#: Work -> what one message takes.
Figures = dict[str, float]


class Failed(Exception):
    """There is no count; the text says why."""


class Measure:
    """A way to tell what a process takes.

    :ivar unit: of the figures, which are written in *form*.
    :ivar tolerance: how many times as much is slower.
    :ivar least: what is less than this, a message, is nothing.
    :ivar times: how many times as many messages it needs as others do.
    :ivar rounds: of which the least counts.
    :ivar alone: may no other process of ours run meanwhile?
    """

    unit = "instructions"
    form = ",.0f"
    tolerance = 1.1
    least = 0.0
    times = 1
    rounds = 1
    alone = False

    def take(self, *command: str) -> float:
        """Run *command*: what all of it took.

        :raises Failed: it did not end well, or this measure does not work here.
        """
        with tempfile.TemporaryDirectory(prefix="vanilla-bench-") as folder:
            out = Path(folder, "count")
            prefix = self.prefix(out)
            run(*prefix, *command)
            try:
                return self.read(out.read_text())
            except (OSError, LookupError, ValueError) as error:
                raise Failed(f"{prefix[0]} has counted nothing: {error}") from None

    def prefix(self, out: Path) -> list[str]:
        """What to put before a command, so that what it takes is written to *out*."""
        raise NotImplementedError

    def read(self, written: str) -> float:
        """What it took.

        :raises LookupError, ValueError: that was not written.
        """
        raise NotImplementedError


class Perf(Measure):
    """The processor's counter, which many virtual machines do not have."""

    def prefix(self, out: Path) -> list[str]:
        return ["perf", "stat", "--field-separator=,", "--event=instructions:u", f"--output={out}", "--"]

    def read(self, written: str) -> float:
        r"""A line for each kind of core that the processor has.

        >>> Perf().read("1234567,,cpu_core/instructions/u,100,100.00,,\n<not counted>,,cpu_atom/instructions/u,0,,,\n")
        1234567.0
        """
        found = [line.partition(",")[0] for line in written.splitlines() if "instructions" in line]
        if not any(map(str.isdigit, found)):
            raise LookupError(f"it says {', '.join(found) or 'nothing'}")
        return float(sum(map(int, filter(str.isdigit, found))))


class Valgrind(Measure):
    """cachegrind without caches, the fastest of valgrind's tools that count."""

    def prefix(self, out: Path) -> list[str]:
        return ["valgrind", "--quiet", "--tool=cachegrind", "--cache-sim=no", f"--cachegrind-out-file={out}", "--"]

    def read(self, written: str) -> float:
        r"""
        >>> Valgrind().read("events: Ir\nfn=main\n1 2\nsummary: 1234567\n")
        1234567.0
        """
        return float(written.splitlines()[-1].partition("summary: ")[2])


class CPUTime(Measure):
    """User and system time, which depends on what the machine does besides."""

    unit = "us of CPU"
    form = ".3f"
    tolerance = 1.25
    times = 20
    rounds = 3
    alone = True

    def take(self, *command: str) -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        run(*command)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return (after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime) * 1e6


class Strace(Measure):
    """Each call of the kernel costs about as much as a thousand instructions, which the others do not see."""

    unit = "system calls"
    form = ".4f"
    least = 0.01

    def prefix(self, out: Path) -> list[str]:
        return ["strace", "--summary-only", "--summary-columns=calls", "--follow-forks", f"--output={out}", "--"]

    def read(self, written: str) -> float:
        r"""
        >>> Strace().read("    calls syscall\n--------- -------\n     1234 read\n--------- -------\n     1234 total")
        1234.0
        """
        return float(written.splitlines()[-1].partition("total")[0])


MEASURES: dict[str, Measure] = {"perf": Perf(), "valgrind": Valgrind(), "rusage": CPUTime(), "strace": Strace()}
#: What tells a program's effort, the best first. The last works everywhere.
EFFORT = ("perf", "valgrind", "rusage")


def run(*command: str) -> None:
    """Run *command*; what it says is for nobody, but for its last line if it fails.

    :raises Failed: it did not end well.
    """
    environment = {**os.environ, **ENVIRONMENT}
    try:
        subprocess.run(command, env=environment, check=True, capture_output=True, text=True, timeout=PATIENCE)
    except OSError as error:
        raise Failed(f"{command[0]} does not run: {error.strerror}") from None
    except subprocess.TimeoutExpired:
        raise Failed(f"{' '.join(command[-2:])} took over {PATIENCE} s") from None
    except subprocess.CalledProcessError as error:
        said = error.stderr.strip().splitlines()[-1:]
        raise Failed(f"{' '.join(command[-2:])} ended with status {error.returncode}: {' '.join(said)}") from None


def usable(names: Iterable[str]) -> list[str]:
    """Those measures that give a number here."""
    return [name for name in names if gives_a_number(MEASURES[name])]


def gives_a_number(measure: Measure) -> bool:
    try:
        return measure.take(sys.executable, "-S", "-c", "pass") > 0
    except Failed:
        return False


def best() -> list[str]:
    """The measures to use here."""
    return [*usable(EFFORT)[:1], *usable(["strace"])]


def processes(measure: Measure, works: dict[str, int]) -> int:
    """How many `figures` will count."""
    return 2 * measure.rounds * len(works)


def figures(measure: Measure, works: dict[str, int], progress: Callable[[str], object]) -> Figures:
    """What a message of each of *works* takes.

    :param works: name -> N.
    :param progress: called with its name whenever a process was counted.
    :raises Failed: one could not be counted.
    """
    run(sys.executable, str(COUNTED), next(iter(works)), "1")  # compiles what is not
    shares = {work: n * measure.times for work, n in works.items()}
    runs = [(work, n * share) for work, n in shares.items() for share in (1, 3)]
    least = least_of(measure, runs * measure.rounds, progress)
    return {work: max(least[work, 3 * n] - least[work, n], 0.0) / (2 * n) for work, n in shares.items()}


def least_of(
    measure: Measure, runs: list[tuple[str, int]], progress: Callable[[str], object]
) -> dict[tuple[str, int], float]:
    """What each of *runs* takes at least. Whether others run at the same time makes no difference to most measures."""
    least: dict[tuple[str, int], float] = {}
    with ThreadPoolExecutor(1 if measure.alone else os.cpu_count()) as pool:
        taken = {pool.submit(measure.take, sys.executable, str(COUNTED), work, str(n)): (work, n) for work, n in runs}
        try:
            for future in as_completed(taken):
                key = taken[future]
                least[key] = min(future.result(), least.get(key, float("inf")))
                progress(key[0])
        finally:
            pool.shutdown(cancel_futures=True)
    return least

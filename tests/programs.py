"""The two programs as processes, for tests: started, read from, and ended whatever happens."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Callable

#: No test waits longer than this for a process, in seconds.
PATIENCE = 60

BROKER = [sys.executable, "-m", "vanilla.broker"]
VANILLA = [sys.executable, "-m", "vanilla.client"]


def environment(**changes: str) -> dict[str, str]:
    """Ours, without what steers the programs or a terminal's output, and with *changes*."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("VANILLA_")}
    return {**kept, **changes}


@contextmanager
def started(argv: list[str], log: IO[bytes], **popen: Any) -> Iterator[subprocess.Popen[bytes]]:
    """A process that is gone at the end of the block. If the block fails, what is in *log*, its stderr, is printed."""
    defaults = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": log, "env": environment()}
    process = subprocess.Popen(argv, **{**defaults, **popen})
    try:
        yield process
    except BaseException:
        print(f"{argv} (status {process.poll()}) said:\n{said(log)}")
        raise
    finally:
        process.kill()
        process.wait()
        for pipe in process.stdin, process.stdout:
            if pipe is not None:
                try:
                    pipe.close()
                except BrokenPipeError:
                    pass


def said(stderr: IO[bytes]) -> str:
    """What a process has said so far."""
    return os.pread(stderr.fileno(), 1 << 20, 0).decode(errors="replace")


@contextmanager
def broker(
    *args: str, listen: str = "tcp://127.0.0.1:0", inside: Callable[[list[str]], list[str]] = list
) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """A broker with the options *args*: its (first) URL, and its process, which has all of them as ``urls``.

    :param inside: what to run so that it runs in a network namespace.

    At the end of the block it is told to end and must do so with status 0, unless the test has killed it.
    """
    with tempfile.TemporaryFile() as stderr:
        with started(inside([*BROKER, "--listen", listen, "--drain", "1000", *args]), stderr) as process:
            assert process.stdout is not None
            lines = [process.stdout.readline().decode() for _ in [listen, *filter("--listen".__eq__, args)]]
            assert all(line.startswith("listening on ") for line in lines), said(stderr)
            process.urls = [line.split()[-1] for line in lines]  # type: ignore[attr-defined]
            yield process.urls[0], process  # type: ignore[attr-defined]
            process.terminate()
            status = process.wait(PATIENCE)
            assert status in (0, -signal.SIGKILL), f"the broker ended with status {status}"


def vanilla(*args: str, **popen: Any) -> tuple[int, str, str]:
    """Run ``vanilla`` to its end: its status, stdout and stderr.

    :param popen: for `subprocess.run`; ``input`` is bytes.
    """
    if "input" not in popen:
        popen.setdefault("stdin", subprocess.DEVNULL)
    popen = {"stdout": subprocess.PIPE, "env": environment(), **popen}
    ran = subprocess.run([*VANILLA, *args], stderr=subprocess.PIPE, timeout=PATIENCE, check=False, **popen)
    return ran.returncode, (ran.stdout or b"").decode(), ran.stderr.decode()


class Running:
    """A ``vanilla`` that runs: its process, and what it says."""

    def __init__(self, process: subprocess.Popen[bytes], stderr: IO[bytes]) -> None:
        self.process = process
        self._stderr = stderr

    @property
    def pipes(self) -> tuple[Any, Any]:
        """Its stdin and stdout."""
        return self.process.stdin, self.process.stdout

    @property
    def said(self) -> str:
        """What it has said on stderr so far."""
        return said(self._stderr)

    def end(self) -> tuple[int, str]:
        """Wait for its end: its status, and all that it said on stderr."""
        status = self.process.wait(PATIENCE)
        return status, said(self._stderr)


@contextmanager
def running(*args: str, **popen: Any) -> Iterator[Running]:
    """``vanilla`` with *args*, which is gone at the end of the block.

    :param popen: for `subprocess.Popen`; stdin is a pipe and unbuffered unless it says otherwise.
    """
    with tempfile.TemporaryFile() as stderr:
        popen = {"stdin": subprocess.PIPE, "bufsize": 0, **popen}
        with started([*VANILLA, *args], stderr, **popen) as process:
            yield Running(process, stderr)


def group(leader: int) -> list[tuple[int, str]]:
    """The children of a process: [(pid, command line)]."""
    found = []
    for pid in Path(f"/proc/{leader}/task/{leader}/children").read_text().split():
        found.append((int(pid), Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()))
    return found


def gone(pid: int) -> bool:
    """Is the process gone, or only waiting to be waited for?"""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def wait_until(condition: Callable[[], object]) -> None:
    """Wait for what no hub has a part in."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)


def read_all(fd: int) -> str:
    """What comes from a terminal until its end, which Linux reports as EIO."""
    parts = []
    while True:
        try:
            parts.append(os.read(fd, 65536))
        except OSError:
            return b"".join(parts).decode()

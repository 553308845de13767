"""Child processes that end with their parent, whatever ends it, and how signals end a parent that has some."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Callable, NoReturn

from .failed import Failed

#: prctl(2): the signal that the kernel sends when the parent dies.
_PR_SET_PDEATHSIG = 1
#: How long a child that is told to end may take, in seconds.
GRACE = 5
#: What may end a parent.
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

_libc = ctypes.CDLL(None)


def _tie(parent: int) -> Callable[[], None]:
    """What a child does before it becomes its program."""

    def tie() -> None:
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it died before it could be watched
            os._exit(1)

    return tie


class Child:
    """``python -m MODULE ARGUMENTS`` as a child process, in a session of its own: ctrl-C is for its parent alone.

    :param what: its name, for people.
    :param folder: where it runs: not where the user is, whose files could shadow modules that it imports.
    :param listens: it reads what it is told (`tell`); else its standard input is empty.
    """

    def __init__(self, what: str, folder: Path, module: str, *arguments: str, listens: bool = False) -> None:
        self.what = what
        #: A file, and no pipe, which would have to be read.
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  # closed in `end`
        self.process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            cwd=folder,
            stdin=subprocess.PIPE if listens else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            start_new_session=True,
            preexec_fn=_tie(os.getpid()),
        )

    @property
    def stdout(self) -> Any:
        """Its standard output, in bytes."""
        return self.process.stdout

    def tell(self, line: str) -> None:
        """A line to its standard input. One that has ended is not told; who hears from it finds that out."""
        try:
            os.write(self._stdin.fileno(), f"{line}\n".encode())
        except BrokenPipeError:
            pass

    def hang_up(self) -> None:
        """That was all there is to tell it. Twice does nothing."""
        if self._stdin is not None:
            self._stdin.close()

    @property
    def _stdin(self) -> Any:
        return self.process.stdin

    def check(self, patience: float = 0) -> None:
        """Does it run?

        :param patience: in seconds; so long it may take to end.
        :raises Failed: it has ended.
        """
        try:
            self.process.wait(patience)
        except subprocess.TimeoutExpired:
            return
        raise self.failure()

    def failure(self) -> Failed:
        """Why it has ended: its status, and the last line that it said."""
        status = self.process.wait()
        self._errors.seek(0)
        said = self._errors.read().decode(errors="replace").strip().splitlines()
        return Failed(f"{self.what} ended with status {status}{': ' + said[-1] if said else ''}")

    def kill(self) -> None:
        """SIGKILL."""
        self.process.kill()
        self.process.wait()

    def end(self) -> None:
        """Tell it to end, and make sure. Twice does nothing."""
        try:
            self.process.terminate()
            self.process.wait(GRACE)
        except subprocess.TimeoutExpired:
            pass
        finally:
            self.kill()
            self.hang_up()
            self.stdout.close()
            self._errors.close()


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """SIGTERM and SIGHUP end the block as ctrl-C does, so that it can clean up. Afterwards all is as it was."""

    def end(signum: int, frame: Any) -> NoReturn:
        raise SystemExit(128 + signum)

    previous = {signum: signal.getsignal(signum) for signum in SIGNALS}
    for signum in signal.SIGTERM, signal.SIGHUP:
        if previous[signum] is not signal.SIG_IGN:  # as under nohup
            signal.signal(signum, end)
    try:
        yield
    finally:
        for signum, handler in previous.items():
            signal.signal(signum, handler)


@contextmanager
def undisturbed_end() -> Iterator[None]:
    """From its end to that of `ended_by_signals` they are ignored: what follows is short, and must be done."""
    try:
        yield
    finally:
        for signum in SIGNALS:
            signal.signal(signum, signal.SIG_IGN)

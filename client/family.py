"""Child processes that end with their parent, whatever ends it."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Callable

from .failed import Failed

#: prctl(2): the signal that the kernel sends when the parent dies.
_PR_SET_PDEATHSIG = 1
#: How long a child that is told to end may take, in seconds.
GRACE = 5

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
    """

    def __init__(self, what: str, folder: Path, module: str, *arguments: str) -> None:
        self.what = what
        #: A file, and no pipe, which would have to be read.
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  # closed in `end`
        self.process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            start_new_session=True,
            preexec_fn=_tie(os.getpid()),
        )

    @property
    def stdout(self) -> Any:
        """Its standard output, in bytes."""
        return self.process.stdout

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
            self.stdout.close()
            self._errors.close()

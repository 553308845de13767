"""How far a run is, on one line of a terminal that is written over and over; nothing where nobody watches."""

from __future__ import annotations

import shutil
import sys
from typing import TextIO

WIDTH = 20


class Progress:
    """Called before each measurement with what it is.

    :ivar total: how many there will be; whoever knows that sets it before the first.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        self.total = 0
        self.done = 0
        self.stream = stream or sys.stderr

    def __call__(self, what: str) -> None:
        self._show(line(self.done, self.total, what)[: shutil.get_terminal_size().columns - 1])
        self.done += 1

    def end(self) -> None:
        """Leave no trace."""
        self._show("")

    def _show(self, text: str) -> None:
        if self.stream.isatty():
            print(f"\r\033[K{text}", end="", file=self.stream, flush=True)


def line(done: int, total: int, what: str) -> str:
    """
    >>> line(12, 48, "oneway-16: pyzmq, round 2 of 5")
    '[#####---------------] 12/48 oneway-16: pyzmq, round 2 of 5'
    """
    full = WIDTH * done // max(total, 1)
    return f"[{'#' * full}{'-' * (WIDTH - full)}] {done}/{total} {what}"

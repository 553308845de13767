"""A progress bar on a terminal; elsewhere a line for each quarter of the way."""

from __future__ import annotations

import os
import shutil
import sys
import time

from .table import plural

#: Seconds between two drawings.
PACE = 0.1
#: Longest bar, in characters.
LONGEST = 40


class Progress:
    """How far something has come.

    The bar is drawn on stderr if that is a terminal; lines go to stdout.

    :param what: what is done, for people.
    :param total: how much there is to do; 1 at least.
    """

    def __init__(self, what: str, total: int) -> None:
        self.what = what
        self.total = total
        self.done = 0
        self._bar = sys.stderr is not None and sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
        self._quarter = 0
        self._drawn = 0.0

    def show(self, done: int) -> None:
        """*done* of the total is done."""
        self.done = done
        if self._bar:
            now = time.monotonic()
            if now - self._drawn >= PACE:
                self._drawn = now
                self._draw()
        elif done * 4 // self.total > self._quarter:
            self._quarter = done * 4 // self.total
            print(f"{self.what}: {self._text()}", flush=True)

    def _text(self) -> str:
        return f"{done_percent(self.done, self.total)} %, {self.done:,} of {plural(self.total, 'file')}"

    def _draw(self) -> None:
        text = f" {self._text()}"
        width = min((shutil.get_terminal_size().columns or 80) - len(self.what) - len(text) - 4, LONGEST)
        full = width * self.done // self.total
        bar = f" [{'#' * full}{'-' * (width - full)}]" if width > 0 else ""
        print(f"\r{self.what}{bar}{text}\x1b[K", end="", file=sys.stderr, flush=True)

    def say(self, text: str) -> None:
        """A line for people, which does not disturb the bar."""
        self.clear()
        print(text, flush=True)

    def clear(self) -> None:
        """Take the bar away; the next `show` draws it anew."""
        if self._bar:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
            self._drawn = 0.0


def done_percent(done: int, total: int) -> int:
    """Rounded down: 100 means all.

    >>> done_percent(1789, 1790), done_percent(1790, 1790)
    (99, 100)
    """
    return done * 100 // total

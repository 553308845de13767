"""What comes of long work while it goes on: on a terminal a line that is drawn anew, elsewhere little or nothing."""

from __future__ import annotations

import os
import shutil
import sys
import time
from typing import Callable

from .table import plural

#: Seconds between two drawings.
PACE = 0.1
#: Longest bar, in characters.
LONGEST = 40


class Line:
    """A line on stderr that is drawn over and over, if that is a terminal; else nothing.

    :ivar live: it is.
    """

    def __init__(self) -> None:
        self.live = sys.stderr is not None and sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
        self._drawn = 0.0

    def show(self, text: Callable[[], str]) -> None:
        """Draw what *text* returns, unless something was drawn a moment ago."""
        now = time.monotonic()
        if self.live and now - self._drawn >= PACE:
            self._drawn = now
            print(f"\r{text()}\x1b[K", end="", file=sys.stderr, flush=True)

    def clear(self) -> None:
        """Take it away; the next `show` draws it anew."""
        if self.live:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
            self._drawn = 0.0


def width() -> int:
    """Of the terminal, in characters."""
    return shutil.get_terminal_size().columns or 80


class Progress:
    """How far something has come: a bar on a terminal, elsewhere a line for each quarter of the way.

    The bar is drawn on stderr if that is a terminal; lines go to stdout.

    :param what: what is done, for people.
    :param total: how much there is to do; 1 at least.
    """

    def __init__(self, what: str, total: int) -> None:
        self.what = what
        self.total = total
        self.done = 0
        self._line = Line()
        self._quarter = 0

    def show(self, done: int) -> None:
        """*done* of the total is done."""
        self.done = done
        if self._line.live:
            self._line.show(self._bar)
        elif done * 4 // self.total > self._quarter:
            self._quarter = done * 4 // self.total
            print(f"{self.what}: {self._text()}", flush=True)

    def _text(self) -> str:
        return f"{done_percent(self.done, self.total)} %, {self.done:,} of {plural(self.total, 'file')}"

    def _bar(self) -> str:
        text = f" {self._text()}"
        length = min(width() - len(self.what) - len(text) - 4, LONGEST)
        full = length * self.done // self.total
        bar = f" [{'#' * full}{'-' * (length - full)}]" if length > 0 else ""
        return f"{self.what}{bar}{text}"

    def say(self, text: str) -> None:
        """A line for people, which does not disturb the bar."""
        self.clear()
        print(text, flush=True)

    def clear(self) -> None:
        """Take the bar away; the next `show` draws it anew."""
        self._line.clear()


def done_percent(done: int, total: int) -> int:
    """Rounded down: 100 means all.

    >>> done_percent(1789, 1790), done_percent(1790, 1790)
    (99, 100)
    """
    return done * 100 // total

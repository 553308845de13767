"""One timeout for several waits."""

from __future__ import annotations

from time import monotonic

from .timers import seconds


class Deadline:
    """Turns the one timeout of a call into those of its parts. All in ms, -1 is for ever."""

    __slots__ = ("_end",)

    def __init__(self, timeout: float) -> None:
        length = seconds(timeout)
        self._end = None if length < 0 else monotonic() + length

    def left(self) -> float:
        """The ms that are left, 0 if it is over."""
        return -1 if self._end is None else max(self._end - monotonic(), 0) * 1000

"""A descriptor by which a signal handler, or another thread, wakes a hub that sleeps."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Callable

if TYPE_CHECKING:
    from .core import Hub


class Waker:
    """Wakes a hub from another thread or from a signal handler.

    :param f: called in the loop, without arguments, once or more after `wake`.
    :param background: as for `Poll.register`.
    """

    __slots__ = ("_f", "_hub", "_read", "_write")

    def __init__(self, hub: Hub, f: Callable[[], object], background: bool = False) -> None:
        # A pipe, not an eventfd: os.eventfd is 3.10 and PyPy 3.9 lacks it.
        self._read, self._write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._hub = hub
        self._f = f
        hub.poll.register(self._read, self._wake_up, background=background)

    def fileno(self) -> int:
        """The descriptor to write a byte to, for who cannot call `wake`. Non-blocking."""
        return self._write

    def wake(self) -> None:
        """Takes no lock, so that a signal handler may call it. A thread sees to it that `close` is not called
        meanwhile."""
        try:
            os.write(self._write, b"!")
        except BlockingIOError:
            pass  # the pipe is full of wake-ups

    def _wake_up(self, events: int) -> None:
        try:
            os.read(self._read, 4096)
        except BlockingIOError:
            pass
        finally:  # a ctrl-C between the two would lose all these wake-ups
            self._f()

    def close(self) -> None:
        """Close the descriptors. Twice does nothing."""
        read, self._read = self._read, -1
        write, self._write = self._write, -1
        if read >= 0:
            if not self._hub.forked:
                self._hub.poll.unregister(read)
            os.close(read)
            os.close(write)

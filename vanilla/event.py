"""An event: any number of tasks wait until somebody says that it has happened."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

from .task import leave

if TYPE_CHECKING:
    from .core import Hub


class Event:
    """Something that has happened or not; made by `Hub.event`. It keeps no tasks: whoever waits is woken by `set`.

    >>> import vanilla
    >>> with vanilla.Hub() as h:
    ...     ready = h.event()
    ...     task = h.spawn(ready.set)
    ...     ready.wait()
    ...     ready.is_set
    True
    """

    __slots__ = ("__weakref__", "_hub", "_line", "_runner", "is_set")

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._runner = hub.runner
        #: Has it happened?
        self.is_set = False
        #: Who waits, first come first; nobody while it is set.
        self._line: deque[Any] = deque()

    def set(self) -> None:
        """It has happened: wakes all who wait, those first who waited first. Twice does nothing.

        :raises RuntimeError: called in another thread.
        """
        self._hub.check_thread()
        self.is_set = True
        self._hub.ready.extend(self._line)
        self._line.clear()

    def clear(self) -> None:
        """It has not happened: who waits from now on waits for the next `set`. Who was woken stays so."""
        self.is_set = False

    def wait(self, timeout: float = -1) -> None:
        """Return once it is set, at once if it is.

        :param timeout: ms to wait, -1 for ever, 0 not at all.
        :raises Timeout: it was not set in that time, even if it is by now.
        """
        if not self.is_set:
            self._runner.line_up(self._line, self, timeout)

    # what a waiter is parked on
    def forget(self, waiter: Any) -> bool:
        return leave(self._line, waiter)

    def describe(self, waiter: Any) -> str:
        return "an event to be set"

    def __repr__(self) -> str:
        return f"<Event, {'set' if self.is_set else f'{len(self._line)} wait'}>"

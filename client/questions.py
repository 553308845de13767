"""What was asked of the broker about the connection itself (HELLO, STATUS, ADMIN, PING), and who waits for answers."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, Callable

if TYPE_CHECKING:
    from vanilla.core import Hub

#: The number of the hello, which has none on the wire; those of others begin behind it.
GREETING = 0


class Questions:
    """The questions of one link, by number."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._waiting: dict[int, deque[Any]] = {}
        self._last = GREETING

    def number(self) -> int:
        """A new number."""
        self._last += 1
        return self._last

    def wait(self, number: int, timeout: float) -> Any:
        """Wait for the answer to *number*.

        :raises Timeout: it did not come in *timeout* ms.
        """
        waiting: deque[Any] = deque()
        self._waiting[number] = waiting
        try:
            return self._hub.wait(waiting, "an answer from the broker", timeout)
        finally:
            self._waiting.pop(number, None)

    def answer(self, number: int, value: Any, error: Exception | None = None) -> None:
        """The answer to *number* is *value*, or *error*. Who does not wait any more is passed over."""
        waiting = self._waiting.pop(number, None)
        if waiting is not None:
            self._tell(waiting, value, lambda: error)

    def fail(self, error: Callable[[], Exception]) -> None:
        """Nothing will be answered; *error* makes what is raised, anew for each."""
        waitings, self._waiting = self._waiting, {}
        for waiting in waitings.values():
            self._tell(waiting, None, error)

    def _tell(self, waiting: deque[Any], value: Any, error: Callable[[], Exception | None]) -> None:
        for waiter in waiting:
            waiter.value, waiter.error = value, error()
            self._hub.ready.append(waiter)
        waiting.clear()

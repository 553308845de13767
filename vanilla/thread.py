"""``h.thread``: calls in OS threads, threads with a Hub of their own, and pipes between threads."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Callable

from . import crossing
from .bell import Bell
from .message import Pair, Recver
from .spawned import Spawned
from .task import check_callable
from .workers import SIZE, Workers

if TYPE_CHECKING:
    from .core import Hub

#: Items that a thread pipe holds unless told otherwise.
HELD = 1024


class Service:
    """``h.thread``.

    >>> import vanilla
    >>> def add(a, b):
    ...     return a + b
    >>> with vanilla.Hub() as h:
    ...     h.thread.call(add, 2, 3).recv()
    5
    """

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._bell: Bell | None = None
        self._workers: Workers | None = None

    @property
    def bell(self) -> Bell:
        """By which other threads reach this hub."""
        if self._bell is None:
            self._hub._check()
            self._bell = Bell(self._hub)
        return self._bell

    def reach(self, f: Callable[[], object]) -> None:
        """Call *f*, which must not wait, in the hub's loop soon. From any thread, though no other one was expected."""
        if self._bell is None:
            self._bell = Bell(self._hub)
        self._bell.ring(f)

    def call(self, f: Callable[..., Any], *args: Any) -> Recver:
        """Run ``f(*args)`` in a thread, one of at most `workers.SIZE` that this hub's calls share.

        :return: a Recver that gives what it returns, or raises what it raises.
        :raises Stop: the hub was stopped.
        :raises RuntimeError: the system gives us no thread.
        """
        if self._workers is None:
            self._workers = Workers(self.bell, SIZE)
        return self._workers.call(f, *args)

    def pool(self, size: int) -> Workers:
        """A pool of *size* threads of its own, which start when they are needed.

        :raises ValueError: *size* is less than 1.
        """
        self._hub._check()
        return Workers(self.bell, size)

    def pipe(self, size: int = HELD) -> Pair:
        """A Pair whose Sender may be used in any thread, with a Hub or without, and whose Recver is this hub's.

        :param size: how many items it holds while nobody receives, 1 or more.
        :raises ValueError: *size* is less than 1.
        :raises Stop: the hub was stopped.
        """
        self._hub._check()
        return crossing.pipe(self.bell, size)

    def spawn(self, f: Callable[..., Any], *args: Any) -> Pair:
        """Run ``f(hub, *args)`` in a new daemon thread with a new Hub, whose ``hub.parent`` is a Pair to this one.

        When *f* ends, its Hub is stopped and its end closed; what it raised is logged, and raised at the last recv
        here.

        :return: a Pair to it.
        :raises RuntimeError: the system gives us no thread.
        :raises OSError: there are no descriptors for its Hub.
        """
        check_callable(f)
        up = self.pipe()
        child = Spawned(f, args, up.sender, self._hub.busy_poll)
        down = child.start()
        close = down._state.close  # not the Sender's: that it is dropped is to be noticed
        self._hub.onstop(close)
        down.onclose(partial(self._hub.offstop, close))
        return Pair(down, up.recver)

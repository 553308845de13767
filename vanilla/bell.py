"""How other threads reach a hub: they leave something for it under the one `LOCK`, and ring its `Bell`.

One lock serves all threads. Where one thread at a time runs Python anyway, two meet at it only if they are switched
between the few instructions for which it is held. It can be taken again by the thread that has it: the garbage
collector, or a signal handler, may come by in the middle and close an end there. So everything that is done under it
bears that something else is done under it between any two of its lines.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections import deque
from typing import TYPE_CHECKING, Callable

from .waker import Waker

if TYPE_CHECKING:
    from .core import Hub
    from .crossing import Crossing

LOCK = threading.RLock()


class Bell:
    """Has functions called in the loop of *hub*, whoever asks for it. Made in the hub's thread, closed with the hub.

    Whatever rings before the hub has come to answer is answered together: of a burst only the first writes to a pipe.

    Invariant: while ``rung`` is set, `_answer` will be called, and looks at ``todo`` after it has set it back. So it is
    set, under `LOCK`, only once the waker is on its way: a ctrl-C in between costs a wake-up too many, and not one.
    """

    __slots__ = ("__weakref__", "_rung", "_todo", "_waker", "crossings", "hub", "open")

    def __init__(self, hub: Hub) -> None:
        self.hub = hub
        #: Does anybody hear it? Not after the end of the hub, and not in a forked child.
        self.open = True
        #: The thread pipes that end with this hub.
        self.crossings: set[Crossing] = set()
        self._rung = False
        self._todo: deque[Callable[[], object]] = deque()
        self._waker = Waker(hub, self._answer, background=True)
        hub.onstop(self.close)
        _bells.add(self)

    def ring(self, f: Callable[[], object]) -> None:
        """Call *f*, which must not wait, in the hub's loop soon. From any thread; in vain after its end."""
        self._todo.append(f)
        if not self._rung:
            with LOCK:  # or the waker could be closed just now
                if self.open and not self._rung:
                    self._waker.wake()
                    self._rung = True

    def _answer(self) -> None:
        with LOCK:  # or who rings now could set it behind this
            self._rung = False
        try:
            for _ in range(len(self._todo)):  # and no more: other threads may be faster than this one
                self.hub.guard(self._todo.popleft())
        finally:
            if self._todo:
                self.hub.at_edge(self._answer)

    def close(self) -> None:
        """End all thread pipes of the hub; nobody is heard from now on. Twice does nothing."""
        for crossing in list(self.crossings):
            crossing.close()
        with LOCK:
            self.open = False
            self._waker.close()
        self.hub.offstop(self.close)


_bells: weakref.WeakSet[Bell] = weakref.WeakSet()


def _disown() -> None:
    """In a forked child: bells, and what ends with them, are the parent's."""
    for bell in list(_bells):
        bell.open = False
        for crossing in bell.crossings:
            crossing.size = -1


# Held by the thread that forks, it is nobody else's in the child.
os.register_at_fork(before=LOCK.acquire, after_in_parent=LOCK.release, after_in_child=LOCK.release)
os.register_at_fork(after_in_child=_disown)

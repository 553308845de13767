"""A thread with a Hub of its own: `h.thread.spawn`.

It is a daemon thread: that its function never returns must not keep the interpreter from ending. But CPython ends a
daemon thread where it stands, and crashes if it stands on the stack of a greenlet, as that of a Hub mostly does. So at
the interpreter's exit all that are left are told to end, and are waited for a moment.
"""

from __future__ import annotations

import atexit
import os
import sys
import threading
import time
from functools import partial
from typing import Any, Callable

from .core import Hub
from .exception import Halt, Stop
from .message import Pair, Sender
from .traces import clear_frames

#: Seconds that the interpreter's exit waits for threads that were told to end; then as long again, each time, for those
#: that did not listen to stand still, and for those that compute to be ended.
LAST = 0.5


class Spawned:
    """One thread, on its way.

    :param parent: to whom it belongs; the function's last error goes there.
    :param busy_poll: of its Hub.
    """

    def __init__(self, f: Callable[..., Any], args: tuple[Any, ...], parent: Sender, busy_poll: float) -> None:
        self.thread = threading.Thread(
            target=self._run, name=f"vanilla {getattr(f, '__qualname__', None) or repr(f)}", daemon=True
        )
        self._call: Any = f, args, parent
        self._busy_poll = busy_poll
        self._close: Callable[[], object] = parent._state.close
        self._hub: Hub | None = None
        #: Does it stand still for ever? See `hold`.
        self._held = False
        #: Set when there is a Hub, or none can be had.
        self._ready = threading.Event()
        self._made: Any = None

    def start(self) -> Sender:
        """Start the thread, and wait until its Hub is there, as `threading` waits for the thread.

        :return: the Sender to it.
        """
        try:
            self.thread.start()
            self._ready.wait()
        except BaseException:
            if self.thread.is_alive():  # ctrl-C: nobody will have the other end, and it is to hear of that
                self._ready.wait()
                self._made = None
            raise
        made, self._made = self._made, None
        if isinstance(made, BaseException):
            raise made
        down: Sender = made
        return down

    def _run(self) -> None:
        (f, args, parent), self._call = self._call, None
        try:
            hub = self._hub = Hub(self._busy_poll)
            self._made, recver = hub.thread.pipe()
            hub.parent = Pair(parent, recver)
            _running.add(self)
        except BaseException as error:
            self._made = error
            if self._hub is not None:
                self._hub.stop()
            return
        finally:
            self._ready.set()
        raised = self._call_it(f, hub, args)
        try:
            hub.stop()
        except Stop:
            pass  # `end`, which came when it was at its end already
        finally:
            if raised is None:
                parent.close()
            else:
                parent._state.fail(raised)
            _running.discard(self)

    def _call_it(self, f: Callable[..., Any], hub: Hub, args: tuple[Any, ...]) -> BaseException | None:
        """What the parent is to hear of. That there is no parent any more is the usual end."""
        try:
            f(hub, *args)
        except BaseException as error:
            if isinstance(error, Halt) and (hub.parent.sender.halted or hub.parent.recver.halted):
                return None
            if not isinstance(error, (KeyboardInterrupt, SystemExit)):
                hub.failed(f, error)
            clear_frames(error.__traceback__)  # who keeps it shall not keep the Hub of an ended thread
            return error.with_traceback(error.__traceback__ and error.__traceback__.tb_next)
        return None

    def end(self) -> None:
        """Called in another thread: what waits in it is told `Stop`."""
        hub = self._hub
        assert hub is not None
        self._close()
        hub.thread.bell.ring(partial(hub.interrupt_main, Stop("the interpreter ends")))

    def hold(self) -> None:
        """It has caught that, and waits again: it shall stand still where it waits, for there it does no harm."""
        assert self._hub is not None
        self._hub.thread.bell.ring(self._stand)

    def _stand(self) -> None:
        lock = threading.Lock()
        lock.acquire()
        self._held = True
        lock.acquire()

    @property
    def harmless(self) -> bool:
        """Has it ended, or does it stand still?"""
        return self._held or not self.thread.is_alive()


_running: set[Spawned] = set()


def _end_all() -> None:
    """At the interpreter's exit."""
    left = _wait_for(list(_running), Spawned.end)
    if sys.implementation.name == "cpython":  # PyPy lets them be
        left = _wait_for(left, Spawned.hold)
        # Not before it is known who does not stand still: raised there, it would have him go on.
        left = _wait_for(left, _raise_in)
        _wait_for(left, Spawned.hold)


def _wait_for(left: list[Spawned], told: Callable[[Spawned], object]) -> list[Spawned]:
    """Tell *left*, and wait for what comes of it; returns who has not listened."""
    for spawned in left:
        told(spawned)
    deadline = time.monotonic() + LAST
    while left:
        late = time.monotonic() > deadline
        left = [spawned for spawned in left if not spawned.harmless]
        time.sleep(0.001)  # also the last time: who says that it stands still does so an instruction later
        if late:
            break
    return left


def _raise_in(spawned: Spawned) -> None:
    """Have SystemExit raised between any two instructions of one who computes."""
    import ctypes

    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(spawned.thread.ident or 0), ctypes.py_object(SystemExit))


atexit.register(_end_all)
os.register_at_fork(after_in_child=_running.clear)

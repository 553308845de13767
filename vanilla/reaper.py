"""The ends of child processes: each is noticed, waited for once, and told.

There is no handler for SIGCHLD: signals are the main thread's, and which child one was for has to be asked of the
kernel in a way that takes from others the children that they wait for. Here each child is waited for by its number.
The kernel tells of its end by a pidfd in the hub's poll; where it has none, or the pidfd is readable and there is
nothing to wait for yet (a debugger has the child), a thread waits.

Invariants:
1. While ``status`` is `RUNNING` nobody has waited for the child, so its number is no other process's. Whoever waits for
   it, and whoever sends it a signal, holds ``_lock``. A signal handler that comes by in the middle may take it again:
   what waitpid says is in its place before any handler runs.
2. ``_tell`` is called in the hub's loop, or never if the hub was stopped before. Only after that the pidfd leaves the
   poll, so a ctrl-C in the middle has it called again.
3. The pidfd is closed when the child was waited for, and is out of the poll by then.
"""

from __future__ import annotations

import errno
import logging
import os
import select
import signal
import threading
from collections import deque
from itertools import starmap
from typing import TYPE_CHECKING, Callable

from . import libc
from .waker import Waker

if TYPE_CHECKING:
    from .core import Hub

log = logging.getLogger("vanilla")

#: The status of a child that nobody has waited for.
RUNNING = -1
#: The status of one for which somebody else has.
UNKNOWN = -2

#: What pidfd_open says where there is none: an old kernel, or a sandbox.
_NO_PIDFD = errno.ENOSYS, errno.EPERM


class Watch:
    """Waits for the end of one child of ours, once it was told to `begin`."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        #: What waitpid said last: a process id, 0 while it runs, and a status.
        self._said: deque[tuple[int, int]] = deque([(0, RUNNING)], 1)
        self._lock = threading.RLock()
        self._hub: Hub | None = None
        self._tell: Callable[[], object] | None = None
        #: How a thread that waits wakes the hub; None: no thread waits, or there is no hub any more.
        self._waker: Waker | None = None
        #: -1: there is none.
        self._fd = -1
        #: The process whose child it is.
        self._owner = os.getpid()

    def begin(self, hub: Hub, tell: Callable[[], object]) -> None:
        """
        :param tell: called in the hub's loop, without arguments, when the child has ended. Until then the child counts
            as something that may wake somebody.
        :raises OSError, RuntimeError: we are out of descriptors, memory or threads.
        """
        self._hub = hub
        self._tell = tell
        self._fd = _open(self.pid)
        if self._fd >= 0:
            hub.poll.register(self._fd, self._readable)
        else:
            self._wait_in_thread(hub)

    @property
    def status(self) -> int:
        """As waitpid gives it, or one of the above."""
        pid, status = self._said[0]
        return status if pid else RUNNING

    def fileno(self) -> int:
        return self._fd

    def signal(self, signum: int) -> None:
        """Send a signal to the child, unless it has ended. May be called in any thread.

        :raises OSError: there is no such signal, or we may not send it.
        """
        with self._lock:
            if self.status != RUNNING:
                return
            try:
                if self._fd >= 0:
                    libc.pidfd_send_signal(self._fd, signum)
                else:
                    os.kill(self.pid, signum)
            except ProcessLookupError:
                pass  # somebody else has waited for it

    # -- in the hub's thread

    def _readable(self, events: int) -> None:
        hub = self._hub
        assert hub is not None
        if self._reap():
            self._end()
        else:
            hub.poll.unregister(self._fd)
            self._wait_in_thread(hub)

    def _wait_in_thread(self, hub: Hub) -> None:
        self._waker = Waker(hub, self._woken)
        threading.Thread(target=self.wait, name=f"vanilla child {self.pid}", daemon=True).start()

    def _woken(self) -> None:
        self._reap()
        self._end()

    def _end(self) -> None:
        if self._tell is not None:
            self._tell()
        self._leave_hub()
        self._close()

    def leave(self) -> bool:
        """The hub stops, and nobody is told any more. Has somebody to `wait` for the child?"""
        threaded = self._waker is not None
        self._leave_hub()
        if self._reap():
            self._close()
            return False
        return not threaded

    def abort(self) -> None:
        """End the child at once, wait for it, and tell nobody. It cannot refuse, so that does not take long."""
        with self._lock:
            if self.status == RUNNING:
                os.kill(self.pid, signal.SIGKILL)
                self._wait_for(0)
        self._leave_hub()
        self._close()

    def _leave_hub(self) -> None:
        self._tell = None
        with self._lock:
            if self._hub is not None:
                self._hub.poll.unregister(self._fd)
                self._hub = None
            if self._waker is not None:
                self._waker.close()
                self._waker = None

    # -- in any thread

    def wait(self) -> None:
        """Block until the child has ended. Then tell the hub; if there is none any more, do what is left to do."""
        try:
            libc.wait_for_end(self.pid)
        except ChildProcessError:
            pass  # as `_reap` will say
        with self._lock:
            if self._waker is not None:
                self._waker.wake()
                return
        self._reap()
        self._close()

    def _reap(self) -> bool:
        """Has the child ended, and is it waited for?"""
        with self._lock:
            if self.status == RUNNING:
                self._wait_for(os.WNOHANG)
            return self.status != RUNNING

    def _wait_for(self, options: int) -> None:
        try:
            # No bytecode between the two: a ctrl-C there would lose how it ended.
            self._said.extend(starmap(os.waitpid, [(self.pid, options)]))
        except ChildProcessError:
            log.warning("how child process %d ended is not known: somebody else has waited for it", self.pid)
            self._said.append((self.pid, UNKNOWN))

    def _close(self) -> None:
        with self._lock:
            fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def __del__(self) -> None:
        """A ctrl-C may have hit who was about to close it. In a fork the number may be another's."""
        try:
            if self._owner == os.getpid():
                self._close()
        except AttributeError:
            pass  # __init__ did not get as far


def _open(pid: int) -> int:
    """A pidfd, -1 where there are none."""
    try:
        return libc.pidfd_open(pid)
    except OSError as error:
        if error.errno in _NO_PIDFD:
            return -1
        raise


def take_over(watches: list[Watch]) -> None:
    """Wait in a thread for children whose hub was stopped, so that no zombie stays."""
    try:
        threading.Thread(target=_wait_for_all, args=(watches,), name="vanilla children", daemon=True).start()
    except RuntimeError as error:  # we are out of threads: zombies stay until this process ends
        log.warning("nobody waits for %d child processes of a hub that was stopped: %s", len(watches), error)


def _wait_for_all(watches: list[Watch]) -> None:
    poll = select.poll()
    left = {watch.fileno(): watch for watch in watches}
    del watches
    for fd in left:
        poll.register(fd, select.POLLIN)
    while left:
        for fd, _ in poll.poll():
            poll.unregister(fd)
            left.pop(fd).wait()

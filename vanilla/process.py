"""Child processes: programs, and functions in a fork. What runs in the child is in `child`, how its end is noticed in
`reaper`."""

from __future__ import annotations

import logging
import os
import signal
import weakref
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Callable

from .channel import State
from .child import Body, Function, Launch, Program, Text, cannot_start, close, forking
from .message import Recver, Sender
from .reaper import Watch, take_over
from .stream import Descriptor, Stream, reader, writer

if TYPE_CHECKING:
    from .core import Hub

log = logging.getLogger("vanilla")


class Child:
    """A process that `Service.execv` or `Service.spawn` has started.

    Its service refers to it until it has ended, so one that is dropped goes on. After that nothing here does, and it
    refers to itself nowhere: a Child that is dropped then closes its ends.
    """

    def __init__(self, service: Service, name: str, watch: Watch, ends: list[int]) -> None:
        """
        :param ends: our descriptors of its stdin, stdout and, if it is one of its own, stderr. They become this
            object's, and the list is empty then.
        :raises OSError, RuntimeError: its end could not be waited for.
        """
        hub = service.hub
        self.pid = watch.pid
        #: For the service.
        self.watch = watch
        self._service = service
        self._name = name = f"process {self.pid} ({name})"
        #: Until it has ended.
        self._done: Recver | None = Recver(State(hub))
        self._last_done = weakref.ref(self._done)
        watch.begin(hub, self._end)
        stdin, stdout, *stderr = (Descriptor(ends.pop(0)) for _ in range(len(ends)))
        #: Takes bytes; close it to say that no more comes.
        self.stdin: Sender = writer(hub, stdin, f"stdin of {name}")
        self.stdout: Stream = reader(hub, stdout, f"stdout of {name}")
        #: None if it goes where stdout goes.
        self.stderr: Stream | None = reader(hub, stderr[0], f"stderr of {name}") if stderr else None
        service.running.add(self)

    @property
    def done(self) -> Recver:
        """The Recver of a state that is set to this Child once it has ended."""
        done = self._last_done()
        if done is None:  # it has ended; a state that we held would hold us
            state = State(self._service.hub)
            done = Recver(state)
            self._last_done = weakref.ref(done)
            self._tell(state)
        return done

    def _tell(self, state: State) -> None:
        if state.halt is None:
            state.give_nowait(self)
            state.close()

    def _end(self) -> None:
        if self._done is not None:
            self._tell(self._done._state)
        self._done = None
        self._service.running.discard(self)

    @property
    def exitcode(self) -> int | None:
        """Its status; None while it runs, or if a signal has ended it."""
        status = self.watch.status
        return os.WEXITSTATUS(status) if status >= 0 and os.WIFEXITED(status) else None

    @property
    def exitsignal(self) -> int | None:
        """The signal that has ended it, or None."""
        status = self.watch.status
        return os.WTERMSIG(status) if status >= 0 and os.WIFSIGNALED(status) else None

    def signal(self, signum: int) -> None:
        """Send it a signal; to no other process, even when it has ended and its number is another's.

        :raises OSError: there is no such signal, or we may not send it to what it has become.
        """
        if self._service.hub.forked:
            raise self._service.hub._forked()
        self.watch.signal(signum)

    def terminate(self) -> None:
        """Send it SIGTERM."""
        self.signal(signal.SIGTERM)

    def __repr__(self) -> str:
        return f"<Child: {self._name}>"


class Service:
    """``h.process``.

    >>> import vanilla
    >>> with vanilla.Hub() as h:
    ...     child = h.process.execv(["tr", "a-z", "A-Z"])
    ...     child.stdin.send("hello")
    ...     child.stdin.close()
    ...     child.stdout.recv(), child.done.recv().exitcode
    (b'HELLO', 0)
    """

    def __init__(self, hub: Hub) -> None:
        self.hub = hub
        #: The children that have not ended, or whose end we have not noticed.
        self.running: set[Child] = set()
        hub.onstop(self._stop)

    def execv(
        self,
        args: Sequence[Text],
        env: Mapping[Text, Text] | None = None,
        stderrtoout: bool = False,
        cwd: Text | None = None,
    ) -> Child:
        """Start a program.

        :param args: its path, or a name to look for in the PATH of the environment that it gets; and its arguments.
        :param env: its whole environment, an empty one as well; None: ours.
        :param stderrtoout: its stderr goes where its stdout goes.
        :param cwd: its working directory; None: ours.
        :return: a Child. What cannot be run is one, too: it ends with 127 if it is not there, with 126 if it cannot be
            run or *cwd* is no directory, and says why on its stderr.
        :raises OSError: we are out of descriptors, processes or memory.
        :raises TypeError, ValueError: no system could start that.
        """
        return self._start(Program(args, env, cwd), stderrtoout)

    def spawn(self, f: Callable[..., object], *args: Any, stderrtoout: bool = False) -> Child:
        """Run ``f(*args)`` in a fork of this process.

        :return: a Child, which ends with 0 when *f* returns, with 1 and the traceback on its stderr when it raises, and
            with its code on SystemExit.
        :raises OSError: we are out of descriptors, processes or memory.
        """
        return self._start(Function(f, args), stderrtoout)

    def _start(self, body: Body, stderrtoout: bool) -> Child:
        self.hub._check()
        with forking():
            launch = Launch()
            watch = None
            try:
                launch.start(body, stderrtoout)
                watch = Watch(launch.pids[0])
                return Child(self, body.name, watch, launch.ends)
            except BaseException as error:
                for pid in launch.pids:
                    (watch or Watch(pid)).abort()
                close(launch.ends)
                if isinstance(error, OSError):
                    raise cannot_start(body, error) from error
                raise

    def _stop(self) -> None:
        running, self.running = self.running, set()
        for child in running:
            try:
                child.terminate()
            except OSError as error:  # it runs as somebody else now; the others are to be told all the same
                log.warning("cannot end %r: %s", child, error.strerror)
        left = [child.watch for child in running if child.watch.leave()]
        if left:
            take_over(left)

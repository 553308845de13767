"""The fork, and what runs in the child: its three descriptors, then a program or a function.

A fork is a copy of the whole parent, stopped in the middle of whatever it does, and nothing of that may go on. What
stands here is all that runs in the child before the program or function that it is for. What stays out of here: what
the parent does with a child (`process`), and how it learns of its end (`reaper`).

Invariants:
1. Control never comes back from the child's side of `_fork`: whatever happens there ends in ``os._exit``.
2. No finalizer of the parent's objects runs in the child: the garbage collector rests during the fork (`forking`) and
   up to an exec; before a function runs, all that is there is set aside for good. PyPy can do neither: there garbage is
   collected before the fork, and finalizers rest in the child up to an exec, or the function.
3. No Python handler of a signal runs in the child before the function: signals are blocked during the fork, and until
   the handlers are gone.
4. All that can be found wrong, or be looked up, is so in the parent.
5. The ends of pipes are numbers from 3 on, also where our own 0, 1 or 2 are closed: so to put one of them into its
   place overwrites none of the others.
"""

from __future__ import annotations

import errno
import fcntl
import gc
import os
import signal
import sys
import threading
import traceback
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import starmap
from typing import Any, Callable, Protocol, Union

from . import libc

#: What the system takes for a name or an argument.
Text = Union[str, bytes, "os.PathLike[str]", "os.PathLike[bytes]"]

#: PyPy 3.9 does not know its name.
F_DUPFD_CLOEXEC = getattr(fcntl, "F_DUPFD_CLOEXEC", 1030)

#: As a shell says it: the program is not there; it is, and cannot be run.
NOT_FOUND = 127
CANNOT_RUN = 126

#: All that can be blocked, as far as this system allows that.
_SIGNALS = frozenset(signal.valid_signals())

#: Can the garbage collector set aside all that is there?
_FREEZES = hasattr(gc, "freeze")

_lock = threading.Lock()
#: Was the garbage collector on before the fork that is under way?
_collecting = True
#: Streams of the parent that a child has replaced. They are kept: one that goes away writes what is in its buffer.
_replaced: list[Any] = []


def _renew_lock() -> None:
    """In any forked child: the thread that holds the lock may not be here."""
    global _lock
    _lock = threading.Lock()


os.register_at_fork(after_in_child=_renew_lock)


class Body(Protocol):
    """What a child is for."""

    #: For people.
    name: str
    #: Signals whose default action a child of this kind begins with, though they are ignored here.
    defaults: frozenset[int]

    def run(self) -> int:
        """Called in the child. If it returns, with this exit code."""


# -- in the parent


@contextmanager
def forking() -> Iterator[None]:
    """Keep signals and the garbage collector from getting between a fork and what belongs to it.

    What the handler of a signal raises is raised at the end of the block; it may come in the middle only where there
    are threads that could get the signal.
    """
    global _collecting
    with _lock:
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())
        _collecting = gc.isenabled()
        try:
            signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)  # a handler may raise in here, when that is done
            if _FREEZES:
                gc.disable()
            yield
        finally:
            if _FREEZES and _collecting:
                gc.enable()
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)


class Launch:
    """What there is of a child that is being started."""

    __slots__ = ("ends", "pids")

    def __init__(self) -> None:
        #: Its process id, once it has been forked.
        self.pids: list[int] = []
        #: Our ends of its stdin, stdout and, unless it goes where stdout goes, stderr: those that nobody has taken yet.
        self.ends: list[int] = []

    def start(self, body: Body, stderrtoout: bool) -> None:
        """Fork a child that runs *body*. To be called within `forking`.

        :raises OSError: we are out of descriptors, processes or memory.
        """
        theirs: list[int] = []
        try:
            for number in range(2 if stderrtoout else 3):
                read, write = _pipe()
                self.ends.append(read if number else write)
                theirs.append(write if number else read)
            _fork(body, theirs, self.pids)
        finally:
            close(theirs)


def close(fds: Iterable[int]) -> None:
    """Close descriptors of which some may be closed already."""
    for fd in fds:
        try:
            os.close(fd)
        except OSError:
            pass


_REASONS = {
    errno.EAGAIN: "the limit of processes is reached (ulimit -u, or that of a control group)",
    errno.EMFILE: "this process has too many open files (ulimit -n)",
}


def cannot_start(body: Body, error: OSError) -> OSError:
    """What to raise for *error*, which has kept us from starting *body*."""
    why = _REASONS.get(error.errno or 0) or str(error.strerror).lower()
    return OSError(error.errno, f"cannot start {body.name}: {why}")


def _pipe() -> tuple[int, int]:
    """A pipe, close-on-exec: the ends to read and to write, both from 3 on (invariant 5)."""
    ends = list(os.pipe2(os.O_CLOEXEC))
    try:
        for place, low in enumerate(ends):
            if low < 3:
                ends[place] = fcntl.fcntl(low, F_DUPFD_CLOEXEC, 3)
                os.close(low)
    except BaseException:
        close(ends)
        raise
    return ends[0], ends[1]


def _fork(body: Body, theirs: list[int], pids: list[int]) -> None:
    parent = os.getpid()
    # No bytecode, so that the number is in its place before a signal that another thread got can raise here.
    pids.extend(starmap(os.fork, [()]))
    if pids == [0]:
        try:
            _live(body, theirs, parent)
        finally:  # in this very frame: even where the recursion limit leaves no room for one more
            os._exit(CANNOT_RUN)


# -- in the child


def _live(body: Body, theirs: list[int], parent: int) -> None:
    gc.disable()
    code = CANNOT_RUN
    try:
        _settle(theirs, parent)
        _reset_signals(body.defaults)
        code = body.run()
    except BaseException as error:
        _say(f"cannot start {body.name}: {error!r}")
    finally:
        os._exit(code)


def _settle(theirs: list[int], parent: int) -> None:
    """Tie our end to the parent's, take our three descriptors, and close all others."""
    libc.signal_at_parents_end(signal.SIGTERM)
    if os.getppid() != parent:  # it ended before that call, so nobody would tell us
        os._exit(CANNOT_RUN)
    for number, fd in enumerate((theirs[0], theirs[1], theirs[-1])):
        os.dup2(fd, number)
    try:
        # a range would be gone through one by one up to the limit, where a Python or kernel has no call for it
        rest = [int(name) for name in os.listdir("/proc/self/fd")]
    except OSError:
        os.closerange(3, os.sysconf("SC_OPEN_MAX"))
    else:
        close(fd for fd in rest if fd > 2)


def _reset_signals(defaults: frozenset[int]) -> None:
    """Handlers are the parent's. What it ignores stays ignored, as in a shell (nohup), but for *defaults*."""
    signal.set_wakeup_fd(-1)
    for signum in _SIGNALS:
        if signum in defaults or callable(signal.getsignal(signum)):
            signal.signal(signum, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def _say(text: str) -> None:
    """A line on stderr. That may be closed at its other end."""
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    try:
        os.write(2, f"vanilla: {text}\n".encode(errors="backslashreplace"))
    except OSError:
        pass


class Program:
    """A program to become.

    :param args: its path, or its name in PATH, and its arguments.
    :param env: its environment; None: ours.
    :param cwd: its working directory; None: ours.
    :raises TypeError, ValueError: no system could start that.
    """

    #: SIGPIPE and SIGXFSZ are ignored by Python and expected by programs; SIGTERM is how we end a child.
    defaults: frozenset[int] = frozenset({signal.SIGPIPE, signal.SIGXFSZ, signal.SIGTERM})

    def __init__(self, args: Sequence[Text], env: Mapping[Text, Text] | None, cwd: Text | None) -> None:
        if isinstance(args, (str, bytes)):
            raise TypeError(f"args is a list of the program and its arguments, not one text: [{args!r}, ...]")
        self._args = [_encoded(arg) for arg in args]
        if not self._args or not self._args[0]:
            raise ValueError("args has no program")
        if env is None:
            self._env = dict(os.environb)
        else:
            self._env = {_encoded(name): _encoded(value) for name, value in env.items()}
            for name in self._env:
                if not name or b"=" in name:
                    raise ValueError(f"no name of a variable: {os.fsdecode(name)!r}")
        self._cwd = None if cwd is None else _encoded(cwd)
        program = self._args[0]
        path = self._env.get(b"PATH", os.fsencode(os.defpath))
        #: What to try, in this order.
        self._places = [program] if b"/" in program else [os.path.join(folder, program) for folder in path.split(b":")]
        self.name = repr(os.fsdecode(program))

    def run(self) -> int:
        if self._cwd is not None:
            try:
                os.chdir(self._cwd)
            except OSError as error:
                _say(f"cannot run {self.name} in {os.fsdecode(self._cwd)!r}: {error.strerror}")
                return CANNOT_RUN
        code, why = NOT_FOUND, "No such file or directory" if len(self._places) == 1 else "not found in PATH"
        for place in self._places:
            try:
                os.execve(place, self._args, self._env)
            except (FileNotFoundError, NotADirectoryError) as error:
                if code == NOT_FOUND and os.path.isfile(place):
                    why = f"{error.strerror}: the interpreter of {os.fsdecode(place)!r}"
            except OSError as error:
                if code == NOT_FOUND:
                    code, why = CANNOT_RUN, str(error.strerror)
        _say(f"cannot run {self.name}: {why}")
        return code


def _encoded(text: Text) -> bytes:
    encoded = os.fsencode(text)
    if b"\0" in encoded:
        raise ValueError(f"the system takes no zero bytes: {text!r}")
    return encoded


class Function:
    """A function to run, in the fork itself."""

    #: SIGPIPE stays ignored: Python code expects BrokenPipeError.
    defaults: frozenset[int] = frozenset({signal.SIGTERM})

    def __init__(self, f: Callable[..., object], args: tuple[Any, ...]) -> None:
        if not callable(f):
            raise TypeError(f"not callable: {f!r}")
        if not _FREEZES:  # invariant 2
            for _ in range(2):  # what has a finalizer is kept for it, with all that it refers to
                gc.collect()
        self._f = f
        self._args = args
        self.name = getattr(f, "__qualname__", None) or repr(f)

    def run(self) -> int:
        if _FREEZES:
            gc.freeze()
        if _collecting:
            gc.enable()
        _renew_streams()
        if signal.getsignal(signal.SIGINT) == signal.SIG_DFL:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        code = self._call()
        for stream in sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__:
            try:
                if stream is not None:
                    stream.flush()
            except (OSError, ValueError):
                pass  # nobody reads it, or it is closed
        return code

    def _call(self) -> int:
        try:
            self._f(*self._args)
        except SystemExit as error:
            return _status(error.code)
        except BaseException as error:
            trace = error.__traceback__ and error.__traceback__.tb_next  # without this frame
            try:
                traceback.print_exception(type(error), error, trace)
            except (OSError, ValueError):
                pass
            return 1
        return 0


def _status(code: Any) -> int:
    """What the interpreter makes of the argument of `sys.exit`."""
    if code is None:
        return 0
    if isinstance(code, int):
        return code & 0xFF
    try:
        print(code, file=sys.stderr)
    except (OSError, ValueError):
        pass
    return 1


def _renew_streams() -> None:
    """Streams of our own: those that are there hold what the parent has not written yet, or lead elsewhere."""
    encoding = getattr(sys.__stdout__, "encoding", None) or "utf-8"
    _replaced.extend([sys.stdin, sys.stdout, sys.stderr, sys.__stdin__, sys.__stdout__, sys.__stderr__])
    stdin = open(0, encoding=encoding, closefd=False)  # noqa: SIM115
    # by lines: who talks to its parent wants to be heard
    stdout = open(1, "w", 1, encoding=encoding, closefd=False)  # noqa: SIM115
    stderr = open(2, "w", 1, encoding=encoding, errors="backslashreplace", closefd=False)  # noqa: SIM115
    sys.stdin, sys.stdout, sys.stderr = stdin, stdout, stderr
    sys.__stdin__, sys.__stdout__, sys.__stderr__ = stdin, stdout, stderr  # type: ignore[misc]

"""The calls of Linux that `process` needs and that not every Python has.

Loaded when this module is imported, so that a forked child looks for nothing. The numbers of system calls are those
that all architectures share (they are newer than that agreement).
"""

from __future__ import annotations

import ctypes
import os

_PR_SET_PDEATHSIG = 1
_P_PID = 1
_WEXITED = 4
_WNOWAIT = 0x01000000
_PIDFD_SEND_SIGNAL = 424
_PIDFD_OPEN = 434

_libc = ctypes.CDLL(None, use_errno=True)
_prctl = _libc.prctl
_prctl.argtypes = [ctypes.c_int] + [ctypes.c_ulong] * 4
_waitid = _libc.waitid
_waitid.argtypes = [ctypes.c_int, ctypes.c_uint, ctypes.c_void_p, ctypes.c_int]
_syscall = _libc.syscall
_syscall.argtypes = [ctypes.c_long] * 5
_syscall.restype = ctypes.c_long


def _checked(result: int) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


def signal_at_parents_end(signum: int) -> None:
    """Have the kernel send us *signum* when the thread that forked us ends (prctl(2), PR_SET_PDEATHSIG)."""
    _checked(_prctl(_PR_SET_PDEATHSIG, signum, 0, 0, 0))


def pidfd_open(pid: int) -> int:
    """A descriptor of a process, close-on-exec, that becomes readable when it ends (pidfd_open(2), Linux 5.3).

    :raises OSError: ENOSYS or EPERM where there is no such call, or a sandbox does not allow it.
    """
    return _checked(_syscall(_PIDFD_OPEN, pid, 0, 0, 0))


def pidfd_send_signal(pidfd: int, signum: int) -> None:
    """Send a signal to the process of *pidfd*, and to no other one whatever has become of it.

    :raises ProcessLookupError: it has ended and was waited for.
    :raises OSError: EINVAL: there is no such signal.
    """
    _checked(_syscall(_PIDFD_SEND_SIGNAL, pidfd, signum, 0, 0))


def wait_for_end(pid: int) -> None:
    """Block until the child *pid* has ended, and leave it to be waited for: its number is nobody else's meanwhile.

    :raises ChildProcessError: somebody else has waited for it.
    """
    while True:
        try:
            _checked(_waitid(_P_PID, pid, None, _WEXITED | _WNOWAIT))
            return
        except InterruptedError:
            pass

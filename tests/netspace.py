"""A network namespace of a test's own: devices, addresses and ports that no one else has. It needs root.

It has no name and no file anywhere: a process holds it, which ends with its stdin, and so with the test, however that
ends.
"""

from __future__ import annotations

import ctypes
import os
import socket
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from typing import Any

CLONE_NEWNET = 0x40000000


class Unavailable(Exception):
    """This machine does not let us: the text says what is missing."""


class Namespace:
    """Closed by `close`; what still runs in it keeps it."""

    def __init__(self) -> None:
        with tempfile.TemporaryFile() as stderr:
            pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": stderr}
            try:
                self._holder = subprocess.Popen(["unshare", "--net", "--", "cat"], bufsize=0, **pipes)
            except FileNotFoundError:
                raise Unavailable("unshare is missing: apt-get install util-linux") from None
            stdin: Any = self._holder.stdin
            stdout: Any = self._holder.stdout
            try:
                stdin.write(b"\n")
                there = stdout.readline()
            except BrokenPipeError:
                there = b""
            if not there:
                self.close()
                stderr.seek(0)
                raise Unavailable(f"no network namespace: {stderr.read().decode().strip()}")

    @property
    def pid(self) -> int:
        """The process that holds it."""
        return self._holder.pid

    @property
    def file(self) -> str:
        """For setns(2)."""
        return f"/proc/{self.pid}/ns/net"

    def inside(self, argv: list[str]) -> list[str]:
        """What to run so that *argv* runs in here, as the same process."""
        return ["nsenter", f"--net={self.file}", "--", *argv]

    def popen(self, argv: list[str], **popen: Any) -> subprocess.Popen[Any]:
        """As `subprocess.Popen`."""
        return subprocess.Popen(self.inside(argv), **popen)

    def run(self, argv: list[str], **options: Any) -> subprocess.CompletedProcess[Any]:
        """As `subprocess.run`, but that a failure raises unless ``check=False``."""
        return subprocess.run(self.inside(argv), **{"check": True, **options})

    def socket(self, kind: int) -> socket.socket:
        """A socket (of IPv4, and of *kind*) that is in here, for a program that is not."""

        def make() -> socket.socket:
            enter(self.file)
            return socket.socket(socket.AF_INET, kind)

        with ThreadPoolExecutor(1) as thread:
            return thread.submit(make).result()

    def close(self) -> None:
        """Twice does nothing."""
        for pipe in self._holder.stdin, self._holder.stdout:
            if pipe is not None:
                pipe.close()
        self._holder.wait()


def enter(file: str) -> None:
    """Move this thread, and what it makes from now on, into a namespace."""
    libc = ctypes.CDLL(None, use_errno=True)
    fd = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if libc.setns(fd, CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), f"setns: {os.strerror(ctypes.get_errno())}")
    finally:
        os.close(fd)

"""An emulated path between two network namespaces: delay, a bottleneck and its queue, loss, duplicates, reordering.

    with Path(delay=0.010, rate=6e6, queue=120_000) as path:
        path.left.popen(["vanilla-broker", "--insecure", "--listen", f"udp://{path.left_address}:8264"])
        path.right.run(["vanilla", "push", "--url", ...])

What it does is done by a process of Python (forwarder.py): on a machine of 2026 it passes 12,000 packets a second with
a third of a core. It needs root and /dev/net/tun; `unavailable` says what is missing.
"""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
import tempfile
from contextlib import ExitStack, closing
from pathlib import Path as File
from typing import Any

from netspace import Namespace, Unavailable

FORWARDER = File(__file__).with_name("forwarder.py")


class Way:
    """One direction of a path."""

    def __init__(self, path: Path, number: int) -> None:
        self._path = path
        self._number = number

    def set(self, **values: float) -> None:
        """Change some of what `Path` is made with; packets that are under way are not touched."""
        self._path.order("set", self._number, values)

    @property
    def counters(self) -> dict[str, float]:
        """``packets`` and ``bytes`` that came; ``lost`` at random, ``overflows`` of the queue, ``passed``; ``queued``
        bytes and ``flying`` packets just now; ``missed`` packets that this machine was too slow for (0, or the figures
        of the run are about the machine), and ``refused`` by the device at the end."""
        counted: dict[str, float] = self._path.order("counters")[self._number]
        return counted


class Path:
    """Two namespaces and what is between them.

    :param values: for both directions: ``rate`` (bytes a second), ``delay`` (seconds), ``queue`` (bytes), ``loss``,
       ``duplicate``, ``reorder`` (probabilities), ``late`` (seconds, of those that are reordered or doubled), ``seed``.
    :ivar left, right: the namespaces.
    :ivar there, back: the directions, from left to right and from right to left.
    :raises Unavailable: it cannot be had.
    """

    left_address = "10.77.0.1"
    right_address = "10.77.0.2"

    def __init__(self, **values: float) -> None:
        if not os.path.exists("/dev/net/tun"):
            raise Unavailable("there is no /dev/net/tun: the kernel has no TUN devices")
        with ExitStack() as stack:
            self._said = stack.enter_context(tempfile.TemporaryFile())
            self.left, self.right = (stack.enter_context(closing(Namespace())) for _ in range(2))
            ends = [f"{self.left.file},{self.left_address}", f"{self.right.file},{self.right_address}"]
            popen: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": self._said}
            self._process = subprocess.Popen([sys.executable, str(FORWARDER), *ends], **popen)
            stack.callback(self._end)
            self._answer()
            self.there, self.back = Way(self, 0), Way(self, 1)
            self.set(**values)
            self._stack = stack.pop_all()

    def order(self, *what: Any) -> Any:
        """See forwarder.py."""
        stdin: Any = self._process.stdin
        stdin.write(json.dumps(what).encode() + b"\n")
        stdin.flush()
        return self._answer()

    def _answer(self) -> Any:
        stdout: Any = self._process.stdout
        line = stdout.readline()
        if not line:
            said = os.pread(self._said.fileno(), 1 << 16, 0).decode().strip()
            raise Unavailable(f"no emulated path: {said.rpartition(chr(10))[2]}")
        return json.loads(line)

    def set(self, **values: float) -> None:
        """As `Way.set`, for both directions."""
        self.there.set(**values)
        self.back.set(**values)

    def cut(self) -> None:
        """Nothing passes any more, either way."""
        self.set(loss=1.0)

    def heal(self) -> None:
        """All passes again."""
        self.set(loss=0.0)

    @property
    def pids(self) -> list[int]:
        """The processes it is made of."""
        return [self._process.pid, self.left.pid, self.right.pid]

    @property
    def cpu(self) -> float:
        """Seconds that the process in between has computed."""
        fields = File(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def _end(self) -> None:
        for pipe in self._process.stdin, self._process.stdout:
            if pipe is not None:
                pipe.close()
        self._process.wait()

    def close(self) -> None:
        """Twice does nothing."""
        self._stack.close()

    def __enter__(self) -> Path:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


@functools.lru_cache(None)
def unavailable() -> str:
    """Why there can be no path on this machine; "" if there can."""
    try:
        Path().close()
    except Unavailable as why:
        return str(why)
    return ""

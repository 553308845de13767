"""A library of `nets` in a process of its own, which is measured. Started by `echoes`, `copies` and `kept`.

    python netside.py PARENT NET echo                    says on which port it listens, and echoes until killed
    python netside.py PARENT NET copy SOURCE TARGET      says "ready"; copies after a line; says its ``cpu`` seconds
    python netside.py PARENT NET keep COUNT RECEIVE      says on which port; then what KiB a connection takes, and ends

PARENT is the process without which this one is not to live. It leaves the last core to the far ends (`netfar`).
"""

from __future__ import annotations

import os
import sys
import time
from importlib import import_module

import memory
from nets import Net, find
from worker import allow_descriptors, end_with_the_parent, say

#: Connections before memory is looked at first: all is imported, and the first of everything is made.
FIRST = 100


def leave_a_core() -> None:
    """To the far ends, if there are more than one."""
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores - {max(cores)} or cores)


def listening(port: int) -> None:
    say(f"listening on {port}")


def echo(net: Net) -> None:
    net.echo(listening)


def copy(net: Net, source: str, target: str) -> None:
    if net.module:
        import_module(net.module)
    say("ready")
    sys.stdin.readline()
    begin = time.process_time()
    net.copy(int(source), int(target))
    say({"cpu": time.process_time() - begin})


class Kept:
    """Counts connections, and ends this process with the last."""

    def __init__(self, count: int) -> None:
        self.left = count + FIRST
        self.count = count
        self.before = 0

    def __call__(self) -> None:
        self.left -= 1
        if self.left == self.count:
            self.before = memory.resident()
        if not self.left:
            say({"kib": (memory.resident() - self.before) / self.count / 1024})
            os._exit(0)


def keep(net: Net, count: str, receive: str) -> None:
    net.keep(bool(int(receive)), listening, Kept(int(count)))


WORKS = {"echo": echo, "copy": copy, "keep": keep}

if __name__ == "__main__":
    parent, name, what, *arguments = sys.argv[1:]
    end_with_the_parent(int(parent))
    allow_descriptors()
    leave_a_core()
    WORKS[what](find(name), *arguments)

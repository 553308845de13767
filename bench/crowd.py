"""Many connections of one process: opens them, says a few words on each, hears the answers, and closes them all.

    python crowd.py PARENT SIDE WORK ADDRESS

It says "ready", and then answers each line by how long that took, in JSON: ``seconds``, and ``cpu`` of this process.
"open N" opens N connections more (if WORK is "endpoint", one more with N endpoints), "close N" ends them all.

It has nothing of ours in it, and as little else as may be, for it takes turns with the server that is measured.
"""

from __future__ import annotations

import os
import select
import socket
import sys
import time
from functools import partial
from typing import Callable, NoReturn

from hosts import HOSTS, Words
from sides.server import listening
from worker import allow_descriptors, end_with_the_parent, say

#: Connections that wait for an answer at a time: of all sides pyzmq lets the fewest wait to be accepted.
WINDOW = 100
#: Connections from one address of 127.0.0.0/8, from .2 on. With many more the kernel is busy searching for free ports.
FROM_ONE = 1_000
#: How long a server may be silent, in seconds.
PATIENCE = 60.0
#: ip(7): connect chooses the port, for it knows for which connections it is free. Python has it since 3.12.
IP_BIND_ADDRESS_NO_PORT = 24


class Crowd:
    """The connections to *address*."""

    def __init__(self, address: tuple[str, int]) -> None:
        self.address = address
        self.epoll = select.epoll()
        self.socks: dict[int, socket.socket] = {}

    def open(self, count: int, words: Words) -> None:
        """Open *count* more, each with *words*, until all are answered."""
        waiting: dict[int, bytes] = {}
        while count or waiting:
            while count and len(waiting) < WINDOW:
                own = os.urandom(len(words.own))
                waiting[self.dial(words.said.replace(words.own, own, 1) if own else words.said)] = b""
                count -= 1
            for fd in self.ready():
                came = self.socks[fd].recv(65536) or lost("the server closed a connection")
                if fd in waiting:  # NATS has more to say
                    waiting[fd] += came
                    if waiting[fd].endswith(words.ending):
                        del waiting[fd]

    def dial(self, said: bytes) -> int:
        """One connection: its descriptor."""
        sock = socket.socket()
        sock.setsockopt(socket.IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1)
        sock.bind((f"127.0.0.{2 + len(self.socks) // FROM_ONE}", 0))
        sock.connect(self.address)
        sock.sendall(said)
        fd = sock.fileno()
        self.socks[fd] = sock
        self.epoll.register(fd, select.EPOLLIN)
        return fd

    def ready(self) -> list[int]:
        """The connections on which something has come."""
        return [fd for fd, _ in self.epoll.poll(PATIENCE)] or lost(f"the server said nothing for {PATIENCE:.0f} s")

    def close(self) -> None:
        """End all of them, until the server has closed them too."""
        for sock in self.socks.values():
            sock.shutdown(socket.SHUT_WR)
        while self.socks:
            for fd in self.ready():
                if not self.socks[fd].recv(65536):
                    self.socks.pop(fd).close()


def lost(why: str) -> NoReturn:
    """Give up."""
    raise SystemExit(why)


def keep_to_one_core() -> None:
    """The last one. The server has the others, and this one as well, if it wants it."""
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})


def timed(act: Callable[[], object]) -> dict[str, float]:
    """How long *act* takes."""
    begin, used = time.monotonic(), time.process_time()
    act()
    return {"seconds": time.monotonic() - begin, "cpu": time.process_time() - used}


def main(parent: str, name: str, work: str, address: str) -> None:
    end_with_the_parent(int(parent))
    allow_descriptors()
    keep_to_one_core()
    crowd = Crowd(listening(address.rpartition("/")[2]))
    names = range(0)
    say("ready")
    for line in sys.stdin:
        what, _, count = line.strip().partition(" ")
        if what == "close":
            say(timed(crowd.close))
            continue
        names = range(names.stop, names.stop + int(count))
        words = HOSTS[name].words(work, names)
        say(timed(partial(crowd.open, 1 if work == "endpoint" else len(names), words)))


if __name__ == "__main__":
    main(*sys.argv[1:])

"""What the processes of `vanilla bench` do: load, and nothing that `bench` itself does.

    push WAY NAME SIZE MANY RATE
    pull WAY NAME SIZE MANY

WAY is how to connect (`commands.way`), in JSON. Each says "ready" when it is connected, and waits for a line with two
times, from when and until when to send. From then on it says several times a second, in JSON a line, how far it has
come (`Work.report`). A pusher ends when all that it sent is confirmed, a puller when its standard input does. Times are
in seconds of CLOCK_MONOTONIC.

A message is zeros. In some the first byte is not 0; those carry a time, to tell how long they were on their way:

    0: 1, 7 zeros | 8: nanoseconds of CLOCK_MONOTONIC, just before the send | 16: zeros
"""

from __future__ import annotations

import json
import os
import struct
import sys
import time
from itertools import repeat
from typing import Any, Callable

from vanilla.core import Hub
from vanilla.exception import Closed, ConnectionLost, Refused, Timeout
from vanilla.memory import keep_freed_memory

from .commands import dial
from .histogram import Histogram

#: The beginning of a message that carries a time.
STAMP = struct.Struct("<Qq")
#: Messages of a block; fewer if they are large, or at a rate: then those of a millisecond.
BLOCK = 100
#: Bytes that are sent without a look at the clock, at most.
BLOCK_BYTES = 1 << 20
#: How often to say how far it has come, in ms.
TELL_MS = 200

monotonic = time.monotonic


class Work:
    """A pusher's or puller's counters.

    :ivar count: messages sent or received.
    """

    def __init__(self, hub: Hub) -> None:
        self.hub = hub
        self.count = 0
        #: The count when the time to send was over, and when that was.
        self._timed: tuple[int, float] | None = None
        self._cpu = time.process_time()

    def watch(self, end: float) -> None:
        """A task: tell how far it has come until the process ends. *end* is when the time to send is over."""
        while True:
            left = (end - monotonic()) * 1000
            if left <= 0 and self._timed is None:
                self._timed = self.count, monotonic()
            self.hub.sleep(min(left, TELL_MS) if left > 0 else TELL_MS)
            self.tell()

    def tell(self) -> None:
        """Say how far it has come."""
        print(json.dumps(self.report()), flush=True)

    def report(self) -> dict[str, Any]:
        """``count`` messages at the time ``at``, ``timed`` of them until ``until``, in ``cpu`` seconds of CPU time."""
        now = monotonic()
        timed, until = self._timed or (self.count, now)
        cpu = time.process_time() - self._cpu
        return {"count": self.count, "at": now, "timed": timed, "until": until, "cpu": cpu}


class Pusher(Work):
    """Sends blocks of messages, of which the first carries a time.

    :param jobs: the Sender.
    :param size: of a message, in bytes.
    :param many: messages a `send_many`; 0: each by a `send`.
    :param rate: messages a second; infinity: as fast as it goes.
    """

    def __init__(self, hub: Hub, jobs: Any, size: int, many: int, rate: float) -> None:
        super().__init__(hub)
        self.jobs = jobs
        self.size = size
        self.many = many
        self.rate = rate
        self._plain = bytes(size)
        self._list = [self._plain] * many
        most = max(min(BLOCK, BLOCK_BYTES // size, int(min(rate / 1000, BLOCK))), 1)
        #: Messages of a block.
        self._block = -(-most // many) * many if many else most

    def run(self, begin: float, end: float) -> None:
        """Send from *begin* to *end*, then wait for the confirms."""
        while True:
            now = monotonic()
            if now >= end:
                break
            due = begin + self.count / self.rate
            if due > now:
                self.hub.sleep((min(due, end) - now) * 1000)
            else:
                self._send_block()
        self.jobs.sync()

    def report(self) -> dict[str, Any]:
        """That of any `Work`, and ``lost``: how many of these messages are known to be lost."""
        return {**super().report(), "lost": self.jobs.lost}

    def _send_block(self) -> None:
        if self.many:
            self._send_lists()
        else:
            send, plain = self.jobs.send, self._plain
            send(self._stamped())
            for _ in repeat(None, self._block - 1):
                send(plain)
        self.count += self._block

    def _send_lists(self) -> None:
        for start in range(0, self._block, self.many):
            self._list[0] = self._plain if start else self._stamped()
            self.jobs.send_many(self._list)

    def _stamped(self) -> bytes:
        if self.size < STAMP.size:
            return self._plain
        return STAMP.pack(1, time.monotonic_ns()) + self._plain[STAMP.size :]


class Puller(Work):
    """Receives, until its Recver is closed.

    :param jobs: the Recver.
    :param size: of a message, in bytes.
    :param many: messages a `recv_many` at most; 0: each by a `recv`.
    """

    def __init__(self, hub: Hub, jobs: Any, size: int, many: int) -> None:
        super().__init__(hub)
        self.jobs = jobs
        self.size = size
        self.many = many
        self._waits = Histogram()

    def run(self) -> None:
        """Receive."""
        try:
            if self.many:
                self._receive_lists()
            elif self.size < STAMP.size:
                self._receive()
            else:
                self._receive_stamped()
        except Closed:
            pass

    def _receive(self) -> None:
        recv = self.jobs.recv
        while True:
            recv()
            self.count += 1

    def _receive_stamped(self) -> None:
        recv = self.jobs.recv
        while True:
            item = recv()
            self.count += 1
            if item[0]:
                self._note(item)

    def _receive_lists(self) -> None:
        recv_many, many, stamped = self.jobs.recv_many, self.many, self.size >= STAMP.size
        while True:
            items = recv_many(many)
            self.count += len(items)
            if stamped:
                for item in items:
                    if item[0]:
                        self._note(item)

    def _note(self, item: bytes) -> None:
        self._waits.add(max(time.monotonic_ns() - STAMP.unpack_from(item)[1], 0))

    def report(self) -> dict[str, Any]:
        """That of any `Work`, and ``waits``: how long messages were on their way, in ns, as a `Histogram` has it."""
        return {**super().report(), "waits": self._waits.pairs()}


def push(way: str, name: str, size: str, many: str, rate: str) -> None:
    """A pusher's life."""
    with Hub() as hub, dial(hub, **json.loads(way)) as remote, remote.push(name) as jobs:
        begin, end = _wait_for_the_start(remote)
        pusher = Pusher(hub, jobs, int(size), int(many), float(rate))
        hub.spawn(pusher.watch, end)
        pusher.run(begin, end)
        pusher.tell()


def pull(way: str, name: str, size: str, many: str) -> None:
    """A puller's life."""
    with Hub() as hub, dial(hub, **json.loads(way)) as remote, remote.pull(name) as jobs:
        _, end = _wait_for_the_start(remote)
        puller = Puller(hub, jobs, int(size), int(many))
        hub.spawn(puller.watch, end)
        hub.spawn(_close_at_the_end, hub, jobs)
        puller.run()
        puller.tell()


def _wait_for_the_start(remote: Any) -> tuple[float, float]:
    remote.ping()  # the endpoint is open
    print("ready", flush=True)
    begin, end = map(float, sys.stdin.readline().split())
    return begin, end


def _close_at_the_end(hub: Hub, jobs: Any) -> None:
    hub.thread.call(os.read, sys.stdin.fileno(), 1).recv()  # sys.stdin.read would hold its lock when this process ends
    jobs.close()


ROLES: dict[str, Callable[..., None]] = {"push": push, "pull": pull}

if __name__ == "__main__":
    keep_freed_memory()
    try:
        ROLES[sys.argv[1]](*sys.argv[2:])
    except (ConnectionLost, Timeout, Refused) as error:
        sys.exit(str(error))

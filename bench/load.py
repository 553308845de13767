"""What the processes of `growth` do: our broker, and load on it that is the same whatever grows.

    python load.py PARENT broker FLAG ...            says "listening on ADDRESS"
    python load.py PARENT LOAD ADDRESS SHAPE         says "ready"; hears "FROM UNTIL", says its figures; then, for each
                                                     line that it hears, says how many messages it has received
    python load.py PARENT depth ADDRESS SHAPE PID    says its figures

PARENT is the process without which this one is not to live. LOAD is loop, push or pull. SHAPE is a `Shape` as JSON, PID
the broker's process; FROM and UNTIL are seconds of CLOCK_MONOTONIC. Figures are JSON.
"""

from __future__ import annotations

import itertools
import json
import os
import sys
import time
from dataclasses import asdict, dataclass
from typing import Any, Callable

from memory import resident
from processes import cpu_of
from worker import allow_descriptors, end_with_the_parent, say

import vanilla
from vanilla.client.pull import PullState
from vanilla.memory import keep_freed_memory

#: How often it is looked whether something is so, in ms.
LOOK_MS = 5


@dataclass(frozen=True)
class Shape:
    """The load that one process makes.

    :ivar size: of a message, in bytes.
    :ivar batch: messages that are sent before each flush, and received by one call at most.
    :ivar prefetch: of the consumers; 0: they size it themselves.
    :ivar queues: a producer sends to all of them in turn.
    :ivar consumers: of each queue, each with a connection of its own.
    :ivar ahead: batches that are under way; as many are sent before anybody receives.
    :ivar least: how many messages a queue that is filled and drained passes on: it is filled again until it has.
    """

    size: int = 16
    batch: int = 100
    prefetch: int = 100
    queues: int = 1
    consumers: int = 1
    ahead: int = 64
    least: int = 300_000

    @property
    def messages(self) -> list[bytes]:
        """A batch."""
        return [bytes(self.size)] * self.batch

    def text(self) -> str:
        """For a command line."""
        return json.dumps(asdict(self))


class Frames:
    """Counts the deliveries of this process where the client takes them: its public API knows of no frames."""

    def __init__(self) -> None:
        self.count = 0
        PullState.frames = {kind: self._counting(take) for kind, take in PullState.frames.items()}

    def _counting(self, take: Callable[..., None]) -> Callable[..., None]:
        def count(state: Any, event: Any) -> None:
            self.count += 1
            take(state, event)

        return count


class Load:
    """One process's part of the load.

    :ivar sent: messages so far, and ``received`` likewise.
    """

    def __init__(self, hub: vanilla.Hub, address: str, shape: Shape) -> None:
        self.hub = hub
        self.address = address
        self.shape = shape
        self.frames = Frames()
        self.sent = self.received = 0
        self._batch = shape.messages

    def start(self) -> None:
        """Connect, and be ready for the measurement."""

    def stop(self) -> None:
        """Send no more: what was sent is on its way."""

    def watch(self, begin: float, end: float) -> dict[str, float]:
        """What goes through from *begin* to *end*, and all that was sent ever; then no more is."""
        before = self._counts(begin)
        after = self._counts(end)
        self.stop()
        return {**{key: after[key] - before[key] for key in after}, "all": self.sent}

    def _counts(self, when: float) -> dict[str, float]:
        self.go_on(when)
        return {"sent": self.sent, "received": self.received, "frames": self.frames.count}

    def go_on(self, until: float) -> None:
        """Let the tasks do their work."""
        self.hub.sleep(max(until - time.monotonic(), 0) * 1000)

    def connect(self, count: int) -> list[Any]:
        """So many connections."""
        connecting = [self.hub.spawn(self.hub.client.connect, self.address) for _ in range(count)]
        return [task.join() for task in connecting]

    def send(self, push: Any) -> None:
        """A batch."""
        push.send_many(self._batch)
        push.flush()
        self.sent += self.shape.batch

    def receive(self, pull: Any) -> None:
        """A task: receive for ever."""
        size, batch = self.shape.size, self.shape.batch
        while True:
            items = pull.recv_many(batch)
            if len(items[0]) != size:
                raise AssertionError(f"a message has {len(items[0])} bytes, not {size}")
            self.received += len(items)
            self.note(len(items))

    def note(self, count: int) -> None:
        """*count* more were received."""


class Loop(Load):
    """A producer and consumers that keep ``ahead`` batches under way: for what is received as much is sent.

    So batches are of one size wherever something grows, and no producer waits for credit.
    """

    def start(self) -> None:
        """Fill the queues, then let the consumers begin, and wait until they have received as much."""
        shape = self.shape
        pushing, *pulling = self.connect(1 + shape.consumers)
        names = [f"bench-{i}" for i in range(shape.queues)]
        self._pushes = itertools.cycle([pushing.push(name) for name in names])
        #: Batches that may be sent, whenever somebody waits for that, and messages received beyond whole batches.
        self._places = self.hub.channel(1 << 30)
        self._rest = 0
        self._stopped = False
        full = shape.ahead * shape.batch
        for _ in range(shape.ahead):
            self.send(next(self._pushes))
        pushing.ping()  # it has all of it
        self._producer = self.hub.spawn(self._produce)
        for pull in [each.pull(name, prefetch=shape.prefetch) for each in pulling for name in names]:
            self.hub.spawn(self.receive, pull)
        while self.received < full:
            self.hub.sleep(LOOK_MS)

    def _produce(self) -> None:
        while self._places.recv() and not self._stopped:
            self.send(next(self._pushes))

    def note(self, count: int) -> None:
        self._rest += count
        while self._rest >= self.shape.batch:
            self._rest -= self.shape.batch
            self._places.send(True)

    def stop(self) -> None:
        self._stopped = True
        self._places.send(False)
        self._producer.join()


class Push(Load):
    """A producer that sends as fast as it can, as long as somebody watches."""

    def start(self) -> None:
        (pushing,) = self.connect(1)
        self._push = pushing.push("bench")
        self._push.sync()

    def go_on(self, until: float) -> None:
        while time.monotonic() < until:
            self.send(self._push)


class Pull(Load):
    """A consumer that receives as fast as it can."""

    def start(self) -> None:
        (pulling,) = self.connect(1)
        self.hub.spawn(self.receive, pulling.pull("bench", prefetch=self.shape.prefetch))


def run(kind: type[Load]) -> Callable[[str, str], None]:
    """A process's life."""

    def live(address: str, shape: str) -> None:
        with vanilla.Hub() as hub:
            load = kind(hub, address, Shape(**json.loads(shape)))
            load.start()
            say("ready")
            begin, end = map(float, heard(hub).split())
            say(load.watch(begin, end))
            while heard(hub):
                say(str(load.received))

    return live


def heard(hub: vanilla.Hub) -> str:
    """The next line of stdin, empty at its end; the other tasks run meanwhile."""
    line: str = hub.thread.call(sys.stdin.readline).recv()
    return line


def depth(address: str, shape: str, pid: str) -> None:
    """Fill a queue with ``ahead`` batches and drain it, again and again."""
    with vanilla.Hub() as hub, hub.client.connect(address) as pushing, hub.client.connect(address) as pulling:
        say(fill_and_drain(pushing.push("bench"), pulling, Shape(**json.loads(shape)), int(pid)))


def fill_and_drain(push: Any, pulling: Any, shape: Shape, broker: int) -> dict[str, float]:
    """``fill`` and ``drain``, the broker's CPU seconds for all ``messages``; ``frames`` that they were delivered in;
    ``memory``, what the broker's resident memory grows by while the queue is full, in bytes."""
    frames = Frames()
    full = shape.ahead * shape.batch
    rounds = max(shape.least // full, 1)
    fill = drain = 0.0
    before, memory = resident(broker), 0
    for _ in range(rounds):
        begin = cpu_of(broker)
        _fill(push, shape)
        middle = cpu_of(broker)
        memory = max(memory, resident(broker) - before)
        _drain(pulling, shape)
        fill += middle - begin
        drain += cpu_of(broker) - middle
    (endpoint,) = pulling.status()["endpoints"]
    if endpoint["ready"] or endpoint["acknowledged"] != rounds * full:
        raise AssertionError(f"{rounds * full:,} messages were sent, and the broker has {endpoint}")
    return {"fill": fill, "drain": drain, "messages": rounds * full, "frames": frames.count, "memory": memory}


def _fill(push: Any, shape: Shape) -> None:
    batch = shape.messages
    for _ in range(shape.ahead):
        push.send_many(batch)
        push.flush()
    push.sync()


def _drain(pulling: Any, shape: Shape) -> None:
    """All of it, until the broker has all acknowledgements: it answers in turn."""
    with pulling.pull("bench", prefetch=shape.prefetch) as pull:
        left = shape.ahead * shape.batch
        while left:
            left -= len(pull.recv_many(min(left, shape.batch)))
    pulling.ping()


def broker(*flags: str) -> None:
    os.execv(sys.executable, [sys.executable, "-m", "vanilla.broker", "--listen", "tcp://127.0.0.1:0", *flags])


ROLES: dict[str, Callable[..., None]] = {
    "broker": broker,
    "loop": run(Loop),
    "push": run(Push),
    "pull": run(Pull),
    "depth": depth,
}

if __name__ == "__main__":
    end_with_the_parent(int(sys.argv[1]))
    allow_descriptors()
    keep_freed_memory()
    ROLES[sys.argv[2]](*sys.argv[3:])

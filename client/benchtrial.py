"""One size of messages through a broker: processes that push, processes that pull, and the count of both."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any, Callable

from vanilla.core import Hub
from vanilla.deadline import Deadline
from vanilla.exception import Halt, Timeout
from vanilla.message import Sender
from vanilla.stream import Descriptor, reader

from .benchresult import Result
from .commands import way
from .family import GRACE, Child
from .histogram import Histogram
from .remote import Remote
from .table import number

#: How often the broker is asked whether all is settled, in ms.
SETTLE_MS = 20

#: What a process says that has not said anything.
NOTHING: dict[str, Any] = {"count": 0, "lost": 0, "at": 0.0, "timed": 0, "until": 0.0, "cpu": 0.0, "waits": []}


class Worker:
    """A process that pushes or pulls, and how far it has said that it is.

    :param what: its name, for people.
    :ivar ready: it waits for the start.
    :ivar ended: it has ended well.
    :ivar said: its last report (`benchwork.Work.report`).
    """

    def __init__(self, what: str, folder: Path, *arguments: str) -> None:
        self.child = Child(what, folder, "vanilla.client.benchwork", *arguments, listens=True)
        self.ready = self.ended = False
        self.said = self._before = NOTHING

    def hear(self, hub: Hub, reports: Sender) -> None:
        """A task: send ``(self, line)`` for each line that it says, at its end ``(self, None)``."""
        # A descriptor of its own: the stream closes it, as `Child` does the other.
        stream = reader(hub, Descriptor(os.dup(self.child.stdout.fileno())), self.child.what)
        try:
            try:
                while True:
                    reports.send((self, stream.recv_line()))
            except Halt:
                reports.send((self, None))
        except Halt:
            pass  # nobody listens any more

    def take(self, line: bytes | None) -> None:
        """What `hear` has sent.

        :raises Failed: it ended, and not well.
        """
        if line is None:
            if self.child.process.wait(GRACE):
                raise self.child.failure()
            self.ended = True
        elif not self.ready:
            self.ready = True
        else:
            self._before, self.said = self.said, json.loads(line)

    @property
    def rate(self) -> float:
        """Messages a second lately."""
        return (self.said["count"] - self._before["count"]) / max(self.said["at"] - self._before["at"], 1e-3)


class Trial:
    """One size, once. To leave the block is to end its processes.

    :param name: of the endpoint, where nobody else may be.
    :param size: of a message, in bytes.
    :param args: of the command: what `way` takes, ``pushers``, ``pullers``, ``many``, ``rate`` and ``seconds``.
    :param show: called with a function that returns how far it is, when that has changed.
    """

    def __init__(
        self, hub: Hub, remote: Remote, folder: Path, name: str, size: int, args: Any, show: Callable[..., object]
    ) -> None:
        self.hub = hub
        self.remote = remote
        self.folder = folder
        self.name = name
        self.size = size
        self.args = args
        self.pushers: list[Worker] = []
        self.pullers: list[Worker] = []
        self._show = show
        self._reports = hub.router()
        #: When the sending began.
        self._began = 0.0
        self._broker_cpu: float | None = None
        self._complete = False

    def run(self) -> Result:
        """Push, stop, wait until all is confirmed and the queue is empty, and count.

        :raises ConnectionLost: the broker is gone.
        :raises Failed: a process has ended.
        """
        self._start()
        self._listen_until(lambda: all(worker.ready for worker in self.pushers + self.pullers))
        before = _broker_cpu(self.remote)
        self._go()
        self._listen_until(lambda: all(worker.ended for worker in self.pushers))
        self._listen_until(lambda: is_settled(self.remote, self.name), SETTLE_MS)
        after = _broker_cpu(self.remote)
        for worker in self.pullers:
            worker.child.hang_up()
        self._listen_until(lambda: all(worker.ended for worker in self.pullers))
        self._broker_cpu = None if before is None or after is None else after - before
        self._complete = True
        return self.result()

    def _start(self) -> None:
        # The processes run in another folder.
        found = {
            key: value if key == "url" or value is None else os.path.abspath(value)
            for key, value in way(self.args).items()
        }
        common = json.dumps(found), self.name, str(self.size), str(self.args.many or 0)
        for i in range(1, self.args.pullers + 1):
            self.pullers.append(self._worker(f"puller {i}", "pull", *common))
        for i in range(1, self.args.pushers + 1):
            self.pushers.append(self._worker(f"pusher {i}", "push", *common, str(self.args.rate)))

    def _worker(self, what: str, *arguments: str) -> Worker:
        worker = Worker(what, self.folder, *arguments)
        self.hub.spawn(worker.hear, self.hub, self._reports.sender)
        return worker

    def _go(self) -> None:
        self._began = time.monotonic()
        for worker in self.pullers + self.pushers:
            worker.child.tell(f"{self._began} {self._began + self.args.seconds}")

    def _listen_until(self, condition: Callable[[], bool], look: float = -1) -> None:
        """Take what the processes say until *condition* holds.

        :param look: how often to see whether it does when they say nothing, in ms; -1: not at all.
        """
        while not condition():
            try:
                worker, line = self._reports.recv(look)
            except Timeout:
                continue
            if line is None and worker.child.process.wait(GRACE):
                self.remote.ping()  # if the broker is gone, that is the reason
            worker.take(line)
            if self._began:
                self._show(self._progress)

    def _progress(self) -> str:
        passed = min(time.monotonic() - self._began, self.args.seconds)
        sent, received = (number(sum(worker.rate for worker in some)) for some in (self.pushers, self.pullers))
        return f"{self.size} bytes: {passed:.1f} of {self.args.seconds:g} s, {sent} sent/s, {received} received/s"

    def result(self) -> Result:
        """What is known by now."""
        sent, received = ([worker.said for worker in some] for some in (self.pushers, self.pullers))
        waits = Histogram()
        for report in received:
            waits.merge(report["waits"])
        cpu = {"pushers": _sum(sent, "cpu"), "pullers": _sum(received, "cpu"), "broker": self._broker_cpu}
        rate = sum(report["timed"] / (report["until"] - self._began) for report in received if report["timed"])
        return Result(
            size=self.size,
            complete=self._complete,
            sent=_sum(sent, "count"),
            received=_sum(received, "count"),
            lost=_sum(sent, "lost"),
            rate=rate,
            cpu=cpu,
            waits=waits,
        )

    def __enter__(self) -> Trial:
        return self

    def __exit__(self, *exc: object) -> None:
        self._reports.close()
        for worker in self.pushers + self.pullers:
            worker.child.end()


def _sum(reports: list[dict[str, Any]], key: str) -> Any:
    return sum(report[key] for report in reports)


def _broker_cpu(remote: Remote) -> float | None:
    """The CPU time that the broker has used, in seconds, if it tells."""
    cpu: float | None = remote.status()["broker"].get("cpu")
    return cpu


# -- the queue


def look_at(remote: Remote, name: str) -> dict[str, Any]:
    """What the broker says of the endpoint *name*; an empty map if it is not there."""
    return {each["name"]: each for each in remote.status()["endpoints"]}.get(name, {})


def messages_in(endpoint: dict[str, Any]) -> int:
    """How many messages are in an endpoint that the broker has told of, or on their way out of it."""
    count: int = sum(endpoint.get(kind, 0) for kind in ("ready", "delayed", "in_flight"))
    return count


def is_settled(remote: Remote, name: str) -> bool:
    """Is the queue empty, and all that was in it acknowledged?"""
    return not messages_in(look_at(remote, name))


def empty(remote: Remote, name: str, timeout: float) -> int:
    """Take what processes that were killed have left in the queue: how many messages could not be taken in *timeout*
    ms."""
    deadline = Deadline(timeout)
    with remote.pull(name) as jobs:
        while True:
            endpoint = look_at(remote, name)
            left = messages_in(endpoint)
            if not (left or endpoint.get("pushers")) or not deadline.left():
                return left
            _take(jobs, deadline)


def _take(jobs: Any, deadline: Deadline) -> None:
    try:
        while deadline.left():
            jobs.recv_many(1000, timeout=min(SETTLE_MS, deadline.left()))
    except Timeout:
        pass

"""`vanilla demo --rpc`: the same job by calls. Each file is a call to workers that serve.

A call is never repeated by the broker, so the demo does that: to count tokens twice does no harm.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from vanilla.exception import Halt, RemoteError, Timeout

from .demofiles import Count, read_file
from .demowork import SERVICE
from .progress import Progress

if TYPE_CHECKING:
    from vanilla.core import Hub

    from .demo import Crew
    from .remote import Remote

#: Calls that are outstanding at a time.
CALLS = 16
#: How often the children are looked after while nothing comes from them, in ms.
LOOK_MS = 100


class Calls:
    """All files by calls, once.

    :ivar counts: the results by file.
    :ivar workers: whose they are.
    :ivar again: calls that failed with their worker, and were asked again.
    """

    def __init__(self, hub: Hub, remote: Remote, crew: Crew, names: list[bytes], kill: bool) -> None:
        self.hub = hub
        self.crew = crew
        self.names = names
        self.counts: dict[bytes, Count] = {}
        self.workers: dict[bytes, int] = {}
        self.again = 0
        self._counter = remote.wrap(SERVICE, wait=True)
        self._progress = Progress("calls", len(names))
        self._kill_at = -(-len(names) // 2) if kill else 0

    def run(self, root: bytes) -> None:
        """Ask for everything, and wait until all of it is answered.

        :raises Failed: a child process has ended.
        :raises ConnectionLost: the broker is gone.
        :raises OSError: a file cannot be read.
        """
        results = self.hub.router()
        todo = iter(self.names)
        for _ in range(CALLS):
            self.hub.spawn(self._ask_all, root, todo, results.sender)
        while len(self.counts) < len(self.names):
            try:
                name, (size, tokens, failed, worker) = results.recv(LOOK_MS)
            except Timeout:
                self.crew.check()
            else:
                self._take(name, Count(size, tokens, failed), worker)
        self._progress.clear()

    def _ask_all(self, root: bytes, todo: Iterator[bytes], results: Any) -> None:
        """One call after the other."""
        try:
            for name in todo:
                results.send((name, self._ask(read_file(root, name))))
        except Halt:
            pass  # the demo has ended
        except Exception as error:
            results.send(error)  # it is raised there

    def _ask(self, body: bytes) -> Any:
        while True:
            try:
                return self._counter.count(body).recv()
            except RemoteError as error:
                if error.code != "PEER_LOST":
                    raise
                self.again += 1

    def _take(self, name: bytes, count: Count, worker: int) -> None:
        self.counts[name] = count
        self.workers[name] = worker
        self._progress.show(len(self.counts))
        if len(self.counts) == self._kill_at:
            killed, successor = self.crew.kill_one()
            where = f"file {self._kill_at:,} of {len(self.names):,}"
            self._progress.say(f"{killed} was killed at {where}; {successor} takes its place")

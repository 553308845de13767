"""A broker in one network namespace, its producers and workers in another, and the test itself in neither.

The test speaks to the broker by a Unix socket, which knows no namespaces: so it sees what happens while nothing passes
between the two.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Union

import programs
from checker import Verdict, judge
from fleet import Actor, Fleet, empty, fleet, memory, mib, until
from netcable import Cable
from netpath import Path as NetPath

#: What of a session's status is told, summed up over all.
SUMS = "sent", "lost", "retransmitted", "moves"
#: What TCP does about congestion: a new namespace has what ours has.
CONTROL = Path("/proc/sys/net/ipv4/tcp_congestion_control")

Between = Union[Cable, NetPath]


class Stage:
    """One run.

    :ivar url: the broker's, for those in the other namespace.
    :ivar remote: our own connection to it.
    """

    def __init__(self, h: Any, between: Between, scheme: str, crew: Fleet, unix: str) -> None:
        self.h, self.between, self.scheme, self.crew, self.unix = h, between, scheme, crew, unix
        self.url = f"{scheme}://{between.left_address}:8264"
        self.remote: Any = None
        self.process: Any = None
        self.producers: list[Actor] = []
        self.workers: list[Actor] = []
        self._begin = time.monotonic()
        #: By peer, as last seen.
        self._sessions: dict[str, dict[str, Any]] = {}

    @contextmanager
    def broker(self, *args: str) -> Iterator[None]:
        """A broker for as long as the block, at the same addresses each time."""
        also = ["--listen", self.unix, "--insecure", *args]
        with programs.broker(*also, listen=self.url, inside=self.between.left.inside) as (_, self.process):
            with self.h.client.connect(self.unix, reconnect=False) as self.remote:
                yield

    def cast(self, jobs: int, reconnect: bool = False, seconds: float = 0.0, size: int = 0, prefetch: int = 0) -> None:
        """Start two producers that have *jobs* together, and two workers that take so many *seconds* for each.

        :param prefetch: jobs that a worker asks for ahead.
        :param reconnect: may their connections be lost? If not they fail with them.
        """
        common: dict[str, Any] = {"url": self.url, "name": "jobs", "reconnect": reconnect}
        start = self.crew.start
        self.workers = [start("worker", f"w{n}", **common, seconds=seconds, prefetch=prefetch) for n in range(2)]
        self.producers = [start("producer", f"p{n}", **common, jobs=jobs // 2, size=size) for n in range(2)]

    def busy(self) -> bool:
        """Has each of the cast sent or got a job? Then it was connected: a first connection is not tried again."""
        journals = list(self.crew.folder.iterdir())
        cast = len(self.workers) + len(self.producers)
        return len(journals) == cast and all(path.stat().st_size for path in journals)

    def look(self) -> list[dict[str, Any]]:
        """The sessions over UDP that there are."""
        sessions: list[dict[str, Any]] = self.remote.status()["broker"]["udp"]
        self._sessions.update((session["peer"], session) for session in sessions)
        return sessions

    @property
    def moves(self) -> int:
        """Changes of address so far, of the sessions that there are."""
        return sum(session["moves"] for session in self.look())

    def over(self) -> bool:
        """Is all sent, and all of it done?"""
        self.look()
        return all(producer.status == 0 for producer in self.producers) and empty(self.remote, "jobs")

    def play(self) -> Verdict:
        """Until all is done: what it has come to."""
        until(self.h, self.over, 20)
        return judge(self.crew.events())

    def figures(self, verdict: Verdict) -> str:
        over = f"tcp ({CONTROL.read_text().strip()})" if self.scheme == "tcp" else self.scheme
        text = f"{time.monotonic() - self._begin:.1f} s over {over}: {verdict}"
        if self._sessions:
            sums = {name: sum(one[name] for one in self._sessions.values()) for name in SUMS}
            text += f"; datagrams of the broker: {', '.join(f'{count:,} {name}' for name, count in sums.items())}"
        return f"{text}; broker {mib(memory(self.process.pid))}"


@contextmanager
def stage(h: Any, between: Between, scheme: str, journals: Path, unix: str) -> Iterator[Stage]:
    """A stage without a broker yet; its actors are gone at the end of the block."""
    with fleet(journals, between.right.inside) as crew:
        yield Stage(h, between, scheme, crew, unix)

"""What the processes of `stuck` do: our broker, servers, of which one stops to answer, and a client.

    python stuckends.py PARENT broker                     says "listening on ADDRESS"
    python stuckends.py PARENT server ADDRESS [ANSWERS]   says "ready"; with ANSWERS it answers so many, says "stuck",
                                                          and does nothing any more
    python stuckends.py PARENT client ADDRESS WARM TIMED  says "calling" and calls; hears when the time begins that it
                                                          is to warm up and to count, and says its figures at the end

PARENT is the process without which this one is not to live, WARM and TIMED are seconds. Figures are JSON: ``waits`` of
the timed calls, median and p99 in ms; ``calls``, how many these are; ``held``, how many were never answered.
"""

from __future__ import annotations

import signal
import sys
from typing import Any

from jobs import work
from load import broker, heard
from percentile import percentiles
from plan import now
from worker import end_with_the_parent, say

import vanilla

SERVICE = "bench"
#: How long a server works for an answer, in seconds.
WORK = 0.0002
#: Calls that the client has under way, besides those that it has given up.
LANES = 4
#: After so many ms a call is given up: it is not cancelled, and another takes its place.
GIVE_UP_MS = 250


def server(address: str, answers: str = "") -> None:
    with vanilla.Hub() as hub, hub.client.connect(address) as remote:
        serving = hub.spawn(serve, remote.router(SERVICE), int(answers) if answers else sys.maxsize)
        remote.ping()  # the broker knows of it
        say("ready")
        serving.join()


def serve(requests: Any, answers: int) -> None:
    """A task: answer so many requests, and keep the next for ever. The process then reads and writes nothing either."""
    for number, request in enumerate(requests):
        if number == answers:
            say("stuck")
            while True:
                signal.pause()
        work(WORK)
        request.reply(request.item)


class Client:
    """Calls in some lanes, each one after the other.

    :ivar begin, end: when calls count, in ns.
    :ivar waits: of the calls that count, in ns, whether they were answered or given up.
    :ivar held: what was given up, and is still wanted.
    """

    def __init__(self, dealer: Any) -> None:
        self.dealer = dealer
        self.begin = self.end = sys.maxsize
        self.waits: list[int] = []
        self.held: list[Any] = []

    def count(self, warm: float, timed: float) -> None:
        """From now on: warm up for so many seconds, and then count."""
        self.begin = now() + round(warm * 1e9)
        self.end = self.begin + round(timed * 1e9)

    def lane(self) -> None:
        """A task."""
        while (made := now()) < self.end:
            reply = self.dealer.call(made)
            try:
                if reply.recv(timeout=GIVE_UP_MS) != made:
                    raise AssertionError("an answer was mixed up")
            except vanilla.Timeout:
                self.held.append(reply)
            if made >= self.begin:
                self.waits.append(now() - made)


def client(address: str, warm: str, timed: str) -> None:
    with vanilla.Hub() as hub, hub.client.connect(address) as remote:
        calling = Client(remote.dealer(SERVICE))
        lanes = [hub.spawn(calling.lane) for _ in range(LANES)]
        say("calling")
        heard(hub)
        calling.count(float(warm), float(timed))
        for lane in lanes:
            lane.join()
        say({"waits": percentiles(calling.waits), "calls": len(calling.waits), "held": len(calling.held)})


ROLES = {"broker": broker, "server": server, "client": client}

if __name__ == "__main__":
    end_with_the_parent(int(sys.argv[1]))
    ROLES[sys.argv[2]](*sys.argv[3:])

"""One process of the rows of an emulated path: a flow's broker, receiver or sender. `paths` starts it, in lines.

    python pathends.py PARENT NAMESPACE FLOW broker HOST PORT      says "listening on ..."
    python pathends.py PARENT NAMESPACE FLOW receiver HOST PORT    says "ready", waits for when to count, says figures
    python pathends.py PARENT NAMESPACE FLOW sender HOST PORT      says "ready", waits for a line, sends until killed

PARENT is the process without which this one is not to live, NAMESPACE the file of the network namespace that it enters,
HOST the address of the far end. When to count is a pair in JSON, and so are the figures: see `gauge.Gauge`; ``cpu`` are
the seconds since it was told.
"""

from __future__ import annotations

import json
import sys
import time

from emulated import enter
from flows import Flow, find
from gauge import Gauge
from worker import end_with_the_parent, say


def broker(flow: Flow, host: str, port: int) -> None:
    flow.broker(host, port)


def receiver(flow: Flow, host: str, port: int) -> None:
    told: list[tuple[Gauge, float]] = []

    def ready() -> Gauge:
        say("ready")
        gauge = Gauge(*json.loads(sys.stdin.readline()))
        told.append((gauge, time.process_time()))
        return gauge

    flow.receive(host, port, ready)
    ((gauge, begin),) = told
    say({"bytes": gauge.bytes, "cpu": time.process_time() - begin})


def sender(flow: Flow, host: str, port: int) -> None:
    def ready() -> None:
        say("ready")
        sys.stdin.readline()

    flow.send(host, port, ready)


ROLES = {"broker": broker, "receiver": receiver, "sender": sender}

if __name__ == "__main__":
    parent, namespace, name, role, host, port = sys.argv[1:]
    end_with_the_parent(int(parent))
    enter(namespace)
    ROLES[role](find(name), host, int(port))

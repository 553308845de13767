"""One measured process: a side's broker, producer or consumer. Started by `processes`, with which it talks in lines.

    python worker.py PARENT SIDE broker PLAN              says "listening on ADDRESS"
    python worker.py PARENT SIDE consumer PLAN ADDRESS    says "ready", receives, says its figures
    python worker.py PARENT SIDE producer PLAN ADDRESS    says "ready", waits for a line, sends, says its own

PARENT is the process without which this one is not to live. PLAN is a `Plan`, in JSON, and so are the figures: ``cpu``,
seconds of user and system time for all messages; ``peak``, the most memory, in MiB; the consumer's ``seconds``, from
the first to the last message that counts, and ``latency`` of those of them that carry a stamp, in ms; the producer's
``late``, in ms: how far behind a schedule it sent, if there is one.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import signal
import sys
import time
from typing import Any

import memory
from percentile import percentiles
from plan import Plan
from sides import Side, find

_PR_SET_PDEATHSIG = 1


def end_with_the_parent(parent: int) -> None:
    """Not even a parent that is killed leaves this process behind, or the program that takes its place."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        raise SystemExit("the parent is gone")


def allow_descriptors() -> None:
    """As many as may be, for this process and the program that takes its place: a connection takes one at each end."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def say(what: Any) -> None:
    print(what if isinstance(what, str) else json.dumps(what), flush=True)


def broker(side: Side, plan: Plan) -> None:
    side.broker(plan.size)


def producer(side: Side, plan: Plan, address: str) -> None:
    late: list[int] = []
    with side.sender(address, plan.size) as send:
        say("ready")
        sys.stdin.readline()
        begin = time.process_time()
        if plan.period:
            late = side.pace(send, plan)[plan.warm_blocks :]
        else:
            side.produce(send, plan)
    cpu = time.process_time() - begin
    say({"cpu": cpu, "peak": memory.peak(), "late": percentiles(late) if late else None})


def consumer(side: Side, plan: Plan, address: str) -> None:
    marks = []
    with side.recver(address, plan.size) as recv:
        say("ready")
        begin = time.process_time()
        waits = side.consume(recv, plan, lambda: marks.append(time.monotonic()))
        end = time.monotonic()
    cpu = time.process_time() - begin
    say({"cpu": cpu, "peak": memory.peak(), "seconds": end - marks[0], "latency": percentiles(waits)})


ROLES = {"broker": broker, "producer": producer, "consumer": consumer}

if __name__ == "__main__":
    end_with_the_parent(int(sys.argv[1]))
    name, role, plan, *address = sys.argv[2:]
    ROLES[role](find(name), Plan(**json.loads(plan)), *address)

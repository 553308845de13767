"""One process of the rows of calls: a side's broker, server or client. `calls` starts it, and talks with it in lines.

    python callers.py PARENT SIDE broker LOAD              says "listening on ADDRESS"
    python callers.py PARENT SIDE server LOAD [ADDRESS]    says "ready", or "listening on ADDRESS" where no broker is
    python callers.py PARENT SIDE client LOAD ADDRESS      says "ready", waits for a line, calls, says its figures

PARENT is the process without which this one is not to live. LOAD is a `tally.Load`, in JSON, and so are the figures:
see `tally.Tally.figures`.
"""

from __future__ import annotations

import json
import os
import sys
import time

from services import Service, find
from tally import Load, Tally
from worker import end_with_the_parent, say


def broker(service: Service, load: Load) -> None:
    service.broker(0)


def server(service: Service, load: Load, address: str = "") -> None:
    service.serve(address, load.work, lambda: say("ready"))


def client(service: Service, load: Load, address: str) -> None:
    tally = Tally(load)
    with service.client(address, load.work) as calling:
        say("ready")
        sys.stdin.readline()
        begin = time.process_time()
        if load.at_a_time == 1:
            service.one_at_a_time(calling, tally)
        else:
            service.many(calling, tally, load.at_a_time)
        cpu = time.process_time() - begin
        say(tally.figures(cpu))


def share_one_core() -> None:
    """With all other processes that do this, and with what takes the place of this one: the last that it may use."""
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})


ROLES = {"broker": broker, "server": server, "client": client}

if __name__ == "__main__":
    end_with_the_parent(int(sys.argv[1]))
    name, role, load, *address = sys.argv[2:]
    settings = Load(**json.loads(load))
    if settings.one_core:
        share_one_core()
    ROLES[role](find(name), settings, *address)

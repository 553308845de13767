"""The processes of a scenario: one that starts all others, producers, workers and what else there is.

    python actors.py PARENT FOLDER

It reads orders from stdin, a JSON list a line, and answers each with a line:

    ["start", ROLE, WHO, {...}]   a process: its number. It writes its journal to FOLDER.
    ["signal", PID, NUMBER]       null
    ["status", PID]               how it ended, as of `subprocess`; null as long as it runs

Each process is a fork of this one, which has imported all there is: it costs milliseconds, so that workers can be
killed by the hundred. They end with this one, and this one with PARENT, or at the end of its stdin.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import signal
import sys
import time
import traceback
from itertools import count
from typing import Any, Callable

from journal import CONFIRMED, DONE, GOT, SEND, Journal
from pubsub import KINDS

import vanilla
import vanilla.client

_PR_SET_PDEATHSIG = 1
#: Between two syncs of a producer.
SYNC_EVERY = 100
#: Clients of a crowd that connect at a time, at first.
LANES = 20


def end_with_the_parent(parent: int) -> None:
    """Not even a parent that is killed leaves this process behind."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        raise SystemExit("the parent is gone")


def allow_descriptors() -> None:
    """As many as may be."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


# -- roles


def producer(journal: Journal, url: str, name: str, jobs: int, size: int = 0, reconnect: bool = True) -> None:
    """Sends *jobs* jobs, of *size* bytes and a few more, and says which are confirmed."""
    more = [bytes(size)] if size else []
    with vanilla.Hub() as hub, hub.client.connect(url, reconnect=reconnect) as remote:
        out = remote.push(name)
        for number in range(jobs):
            journal.note(SEND, (journal.who, number))
            out.send([journal.who, number, *more])
            if number % SYNC_EVERY == SYNC_EVERY - 1 or number == jobs - 1:
                out.sync()
                journal.note(CONFIRMED, (journal.who, number))


def worker(
    journal: Journal,
    url: str,
    name: str,
    seconds: float = 0.0,
    lease: int | None = None,
    reconnect: bool = True,
    prefetch: int = 0,
) -> None:
    """Does jobs, one after the other, for ever: each takes so many seconds in a loop that never lets others run."""
    with vanilla.Hub() as hub, hub.client.connect(url, reconnect=reconnect) as remote:
        for delivery in remote.pull(name, ack=True, lease=lease, prefetch=prefetch):
            journal.note(GOT, delivery.item[:2], delivery.redelivered, delivery.attempts)
            end = time.monotonic() + seconds
            while time.monotonic() < end:
                pass
            journal.note(DONE, delivery.item[:2])
            delivery.ack()


def refuser(journal: Journal, url: str, name: str, delay: int) -> None:
    """Refuses each job once, for *delay* ms."""
    with vanilla.Hub() as hub, hub.client.connect(url) as remote:
        for delivery in remote.pull(name, ack=True):
            journal.note(GOT, delivery.item, delivery.redelivered, delivery.attempts)
            if delivery.attempts == 1:
                delivery.nack(delay=delay)
            else:
                journal.note(DONE, delivery.item)
                delivery.ack()


def dialer(journal: Journal, url: str, dials: int, descriptors: int) -> None:
    """With so few descriptors: dials so often, uses what it has, closes it, and does it again."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors, descriptors))
    with vanilla.Hub() as hub:
        for what in "connected", "again":
            remotes, refused = [], 0
            for _ in range(dials):
                try:
                    remotes.append(hub.client.connect(url))
                except vanilla.ConnectionLost:
                    refused += 1
            for remote in remotes:
                remote.ping()
            journal.note(what, (journal.who, len(remotes)))
            journal.note("refused", (journal.who, refused))
            for remote in remotes:
                remote.close()


def pinger(journal: Journal, kind: str, address: str) -> None:
    """Publishes to itself, and waits for what comes back: one at a time, for ever."""
    client = KINDS[kind](address)
    client.subscribe("ping")
    for number in count():
        journal.note(SEND, (journal.who, number))
        client.publish("ping", b"%d" % number)
        client.flush()
        if client.recv() != b"%d" % number:
            raise AssertionError("another came")
        journal.note(GOT, (journal.who, number))
        time.sleep(0.001)


def reader(journal: Journal, kind: str, address: str, subject: str) -> None:
    """Subscribes, and reads for ever."""
    client = KINDS[kind](address)
    client.subscribe(subject)
    journal.note("ready", (journal.who, 0))
    while True:
        client.recv()


def blaster(journal: Journal, kind: str, address: str, subject: str, megabytes: int, rate: int, size: int) -> None:
    """Publishes so many megabytes, *rate* of them a second, in bodies of *size* bytes."""
    client = KINDS[kind](address)
    body = bytes(size)
    begin = time.monotonic()
    for number in range(megabytes):
        journal.note("blast", (journal.who, number))
        for _ in range((1 << 20) // size):
            client.publish(subject, body)
        client.flush()
        time.sleep(max(begin + (number + 1) / rate - time.monotonic(), 0))
    journal.note("blast", (journal.who, megabytes))


def crowd(journal: Journal, url: str, name: str, clients: int) -> None:
    """So many clients. When the connection of one has been lost and is there again, it sends a job."""
    with vanilla.Hub() as hub:
        remotes: list[Any] = []
        lanes = [hub.spawn(_connect, hub, url, remotes, clients) for _ in range(LANES)]
        for lane in lanes:
            lane.join()
        journal.note("ready", (journal.who, clients))
        tasks = [hub.spawn(_come_back, journal, remote, name, number) for number, remote in enumerate(remotes)]
        for task in tasks:
            task.join()


def _connect(hub: vanilla.Hub, url: str, remotes: list[Any], clients: int) -> None:
    while len(remotes) < clients:
        remotes.append(None)  # its place
        number = len(remotes) - 1
        remotes[number] = hub.client.connect(url, timeout=60_000)


def _come_back(journal: Journal, remote: Any, name: str, number: int) -> None:
    lost = False
    for event in remote.events:
        if lost and event.kind == "connected":
            break
        lost |= event.kind == "lost"
    job = f"{journal.who}.{number}", 0
    journal.note("back", job)
    journal.note(SEND, job)
    out = remote.push(name)
    out.send(job)
    out.sync()
    journal.note(CONFIRMED, job)


ROLES: dict[str, Callable[..., None]] = {
    "producer": producer,
    "worker": worker,
    "refuser": refuser,
    "dialer": dialer,
    "crowd": crowd,
    "pinger": pinger,
    "reader": reader,
    "blaster": blaster,
}

# -- the one that starts them


def start(folder: str, role: str, who: str, arguments: dict[str, Any]) -> int:
    parent = os.getpid()
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        os.close(0)
        end_with_the_parent(parent)
        ROLES[role](Journal(folder, who), **arguments)
        status = 0
    except BaseException:
        print(f"{role} {who}:", file=sys.stderr)
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)


def obey(folder: str) -> None:
    """Until there are no more orders; then all that still run are killed."""
    living: set[int] = set()
    ended: dict[int, int] = {}
    for line in sys.stdin:
        order, *about = json.loads(line)
        answer = None
        if order == "start":
            answer = start(folder, *about)
            living.add(answer)
        elif order == "signal":
            if about[0] in living:  # its number can be no other's: it was not waited for
                os.kill(*about)
        else:
            if about[0] in living:
                pid, status = os.waitpid(about[0], os.WNOHANG)
                if pid:
                    living.discard(pid)
                    ended[pid] = -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
            answer = ended.get(about[0])
        print(json.dumps(answer), flush=True)
    for pid in living:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


if __name__ == "__main__":
    end_with_the_parent(int(sys.argv[1]))
    allow_descriptors()
    obey(sys.argv[2])

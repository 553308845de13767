"""Hundreds of megabytes for a subscriber that reads nothing: the broker's memory stays under its cap, and the others
notice next to nothing. In the long form beside Redis and NATS, where they are installed."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import tempfile
from contextlib import ExitStack, contextmanager

import programs
import pytest
from checker import milliseconds, percentile
from fleet import LONG, fleet, memory, mib, until
from journal import GOT, SEND, count
from pubsub import KINDS

#: The broker's cap of all it holds.
CAP = 16 << 20
BODY = 16 << 10
SERVERS = {
    "redis": ("redis-server", "--bind 127.0.0.1 --save {empty} --appendonly no --port {port}"),
    "nats": ("nats-server", "--addr 127.0.0.1 --port {port}"),
}


@contextmanager
def server(kind):
    """A broker: its address and its process."""
    if kind == "vanilla":
        with programs.broker("--memory", str(CAP)) as found:
            yield found
        return
    program, options = SERVERS[kind]
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    argv = [program, *(word.format(empty="", port=port) for word in options.split())]
    with tempfile.TemporaryFile() as log, tempfile.TemporaryDirectory() as folder:
        with programs.started(argv, log, cwd=folder, stdout=subprocess.DEVNULL) as process:
            programs.wait_until(lambda: listens(port))
            yield f"tcp://127.0.0.1:{port}", process


def listens(port):
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) == 0


@pytest.mark.parametrize("kind", ["vanilla", *(kind for kind in SERVERS if LONG and shutil.which(SERVERS[kind][0]))])
def test_a_subscriber_that_reads_nothing_costs_others_little_and_memory_no_more_than_its_cap(h, journals, tell, kind):
    megabytes, rate, alone_ms = (600, 60, 5_000) if LONG else (64, 64, 500)
    with ExitStack() as stack:
        address, process = stack.enter_context(server(kind))
        crew = stack.enter_context(fleet(journals))
        crew.start("pinger", "ping", kind=kind, address=address)
        crew.start("reader", "reader", kind=kind, address=address, subject="news")
        until(h, lambda: count(journals, GOT) > 0 and count(journals, "ready") > 0)
        h.sleep(alone_ms)
        blast = {
            "kind": kind,
            "address": address,
            "subject": "news",
            "megabytes": megabytes,
            "rate": rate,
            "size": BODY,
        }
        spans = []
        before = memory(process.pid, "VmRSS")
        for who in "reading", "deaf":
            if who == "deaf":
                stack.enter_context(KINDS[kind].deaf(address, "news"))
            blaster = crew.start("blaster", who, **blast)
            until(h, lambda blaster=blaster: blaster.status is not None)
            assert blaster.status == 0
            if who == "reading":
                read_most = memory(process.pid)
        deaf_most = memory(process.pid)
        events = crew.events()
    sent = {event.job: event.at for event in events if event.what == SEND}
    pings = [(sent[event.job], event.at - sent[event.job]) for event in events if event.what == GOT]
    for who in "reading", "deaf":
        times = [event.at for event in events if event.who == who]
        spans.append([wait for at, wait in pings if times[0] <= at <= times[-1]])
    first = min(event.at for event in events if event.who == "reading")
    alone = [wait for at, wait in pings if at < first]
    ratio = percentile(spans[1], 99) / percentile(spans[0], 99)
    told = ", ".join(
        f"{name} {milliseconds(waits, 50)} (p50) {milliseconds(waits, 99)} (p99)"
        for name, waits in (("alone", alone), ("beside a reader", spans[0]), ("and one that reads nothing", spans[1]))
    )
    tell(
        f"{kind}: {megabytes} MB at {rate} MB/s; others' round trips: {told}: {ratio:.2f}x; memory {mib(before)}, most "
        f"beside a reader {mib(read_most)}, and one that reads nothing {mib(deaf_most)}"
    )
    assert len(spans[0]) > 10 < len(spans[1])
    if kind == "vanilla":
        assert deaf_most - before < CAP or sys.implementation.name != "cpython"  # PyPy's collector frees when it likes
        assert ratio <= 2 or not LONG

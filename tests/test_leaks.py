"""Nothing is left of what is over: of connections, tasks and timeouts, by the thousand. ``make soak``: by 100,000.

What is counted is what a leak would be: objects of this package (where the garbage collector lists them), descriptors,
timers, descriptors that are polled, what keeps the loop from its end, and the resident memory of the process.
"""

from __future__ import annotations

import gc
import os
import platform
import resource
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

import vanilla

LONG = os.environ.get("SOAK") == "long"
#: How often everything is done, and how many of it at a time.
ROUNDS = 100_000 if LONG else 3_000
CROWD = 100
#: How much resident memory may grow meanwhile, in bytes. A leak of one object a round is more: in the short form it is
#: found by the counts.
GROWTH = 4 << 20
CPYTHON = platform.python_implementation() == "CPython"


def connect(h: vanilla.Hub, server: Any) -> None:
    """A connection is made, used and closed, by both sides."""
    with h.tcp.connect(server.port) as conn:
        conn.send(b"hello")
        assert conn.recv() == b"hello"


def connect_and_drop(h: vanilla.Hub, server: Any) -> None:
    """One is left to the garbage collector."""
    conn = h.tcp.connect(server.port)
    conn.send(b"hello")
    assert conn.recv_n(5) == b"hello"
    if not CPYTHON:
        conn.close()


def connect_and_wait(h: vanilla.Hub, server: Any) -> None:
    """On one nothing comes, in vain is waited for, and it is broken off with something unread."""
    with h.tcp.connect(server.port) as conn:
        with pytest.raises(vanilla.Timeout):
            conn.recv(1)
        conn.send(b"hello")
        assert conn.recv_line is not None


def spawn(h: vanilla.Hub, server: Any) -> None:
    """A task returns, one raises, one is cancelled where it waits, one before it starts."""
    never = h.pipe()
    assert h.spawn(int, "1").join() == 1
    waiting = h.spawn(never.recv)
    h.sleep(0)
    waiting.cancel()
    unborn = h.spawn(int)
    unborn.cancel()
    later = h.spawn_later(60_000, int)
    h.sleep(0)
    later.cancel()
    for task in waiting, unborn, later:
        with pytest.raises(vanilla.Cancelled):
            task.join()


def chatter(h: vanilla.Hub, server: Any) -> None:
    """Channels of all kinds come and go, with what is in them."""
    sender, recver = h.queue(3)
    sender.send_many([1, 2])
    assert recver.recv_many(5) == [1, 2]
    state = h.state(1)
    broadcast = h.broadcast()
    subscriber = broadcast.subscribe()
    broadcast.send(1)
    assert state.recv() == subscriber.recv() == 1
    assert list(h.producer(lambda out: out.send(1)).map(str)) == ["1"]
    subscriber.close()


def time_out(h: vanilla.Hub, server: Any) -> None:
    """Whatever can wait waits in vain."""
    (_, recver), full, never = h.pipe(), h.queue(1), h.channel()
    full.send(1)
    task = h.spawn(never.recv)
    for wait in (
        lambda: recver.recv(1),
        lambda: h.select([recver, never], 1),
        lambda: full.send(2, 1),
        lambda: task.join(1),
        lambda: h.select([recver, never, never.recver], 0),
    ):
        with pytest.raises(vanilla.Timeout):
            wait()
    h.sleep(1)
    never.send(None)
    task.join()


def answer_in_time(h: vanilla.Hub, server: Any) -> None:
    """A timeout that is not over leaves nothing behind either."""
    request, reply = h.pipe(), h.pipe()
    task = h.spawn(lambda: reply.send(request.recv(60_000), 60_000))
    request.send(1, 60_000)
    assert h.select([reply], 60_000)[1] == 1
    assert task.join(60_000) is None
    h.after(60_000, print).cancel()


def call(h: vanilla.Hub, server: Any) -> None:
    """A thread computes, and fails."""
    assert h.thread.call(int, "1").recv() == 1
    with pytest.raises(ValueError, match="invalid literal"):
        h.thread.call(int, "x").recv()


def echo(conn: Any) -> None:
    for data in conn.recver:
        conn.send(data)


def crowd(h: vanilla.Hub, server: Any, once: Any) -> None:
    """*once*, by many tasks at a time."""
    tasks = [h.spawn(once, h, server) for _ in range(CROWD)]
    for task in tasks:
        task.join()


def settle(h: vanilla.Hub) -> None:
    """Until the server's tasks have ended, its descriptors are closed, and what the collector finds is gone as well.

    An error that was raised at who joined a task refers to that one's frame, which refers to the task: a cycle. The
    ends in it are abandoned when it is collected, which channels hear of at the tick's edge.
    """
    deadline = time.monotonic() + 10
    while len(h.tasks) > 1 and time.monotonic() < deadline:
        h.sleep(1)
    for _ in range(3):
        gc.collect()
        h.sleep(1)


def census(h: vanilla.Hub) -> dict[str, Any]:
    """What is there."""
    settle(h)
    kinds = Counter(type(each) for each in gc.get_objects()) if CPYTHON else Counter()
    return {
        "objects": {str(kind): n for kind, n in kinds.items() if str(kind.__module__).startswith("vanilla")},
        "descriptors": len(os.listdir("/proc/self/fd")),
        "tasks": len(h.tasks),
        "timers": len(h.timers),
        "polled": len(h.poll.handlers),
        "live": h.poll.live,
        "closers": len(h._closers),
        "ready": len(h.ready),
    }


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


@pytest.mark.parametrize(
    "once", [connect, connect_and_drop, connect_and_wait, spawn, chatter, time_out, answer_in_time, call]
)
def test_nothing_is_left_of_what_is_over(h, record_property, once):
    server = h.tcp.listen()
    server.consume(echo)
    for _ in range(ROUNDS // CROWD // 5):  # all that is made once is made, and the allocator has what it takes
        crowd(h, server, once)
    before, memory, begun = census(h), resident(), time.monotonic()
    for _ in range(ROUNDS // CROWD):
        crowd(h, server, once)
    after, grown = census(h), resident() - memory
    record_property("figure", f"{ROUNDS:,} in {time.monotonic() - begun:.0f} s, RSS {grown / 1024:+,.0f} KiB")
    assert after == before
    if CPYTHON:  # PyPy's grows and shrinks as its collector sees fit
        assert grown < GROWTH

"""What is counted: N messages through one of ours, beside far ends that do next to nothing.

All of it is one thread of one process, on Unix sockets, which hand over at once. So two runs of the same code do the
same, down to the instruction, which three processes on a busy machine never do.
"""

from __future__ import annotations

import socket
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, Callable, NamedTuple

from farends import Clients, FarEnd, Sink, Source

import vanilla

# Whatever one of the works needs is imported by all, so that it is compiled before the first is counted.
import vanilla.broker.broker
import vanilla.client.remote
import vanilla.unix
from vanilla.memory import keep_freed_memory

#: Where many are sent or received at a call, lists are of so many bytes.
LIST_BYTES = 64 << 10


@contextmanager
def connected(make: Callable[[socket.socket], FarEnd]) -> Iterator[Any]:
    """A connection to a far end, which has its turn whenever the hub's other tasks wait."""
    with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX) as server, vanilla.Hub() as h:
        server.bind(f"{folder}/socket")
        server.listen()
        h.spawn(take_turns, h, server, make)
        with h.client.connect(f"unix://{folder}/socket") as remote:
            yield remote


def take_turns(h: vanilla.Hub, server: socket.socket, make: Callable[[socket.socket], FarEnd]) -> None:
    """Until the other end is closed, with whatever is on its way."""
    with server.accept()[0] as sock:
        end = make(sock)
        try:
            while True:
                end.turn()
                h.sleep(0)
        except (EOFError, ConnectionError):
            pass


def producer(size: int, n: int) -> None:
    with connected(Sink) as remote:
        jobs = remote.push("bench")
        send, payload = jobs.send, bytes(size)
        for _ in range(n):
            send(payload)
        jobs.sync()


def consumer(size: int, n: int) -> None:
    with connected(partial(Source, size=size)) as remote:
        recv = remote.pull("bench").recv
        for _ in range(n):
            recv()


def leased_consumer(size: int, n: int) -> None:
    with connected(partial(Source, size=size)) as remote:
        recv = remote.pull("bench", ack=True).recv
        for _ in range(n):
            recv().ack()


def many_producer(size: int, n: int) -> None:
    with connected(Sink) as remote:
        jobs = remote.push("bench")
        payload, most = bytes(size), LIST_BYTES // size
        for start in range(0, n, most):
            jobs.send_many([payload] * min(most, n - start))
        jobs.sync()


def many_consumer(size: int, n: int) -> None:
    with connected(partial(Source, size=size)) as remote:
        recv_many, left = remote.pull("bench").recv_many, n
        while left > 0:
            left -= len(recv_many(LIST_BYTES // size))


def broker(size: int, n: int) -> None:
    keep_freed_memory()  # as the program does
    with tempfile.TemporaryDirectory() as folder, vanilla.Hub() as h:
        h.broker.listen(f"unix://{folder}/socket")
        clients = Clients(f"{folder}/socket", size)
        while clients.received < n:
            clients.turn()
            h.sleep(0)


def channel(capacity: int, timeout: int, n: int) -> None:
    """From task to task; *timeout* in ms is given with each call, -1 with none."""
    with vanilla.Hub() as h:
        sender, recver = h.queue(capacity) if capacity else h.channel()
        limit = () if timeout < 0 else (timeout,)
        h.spawn(repeat, sender.send, n, (None, *limit))
        h.spawn(repeat, recver.recv, n, limit).join()


def repeat(f: Callable[..., object], n: int, arguments: tuple[Any, ...]) -> None:
    for _ in range(n):
        f(*arguments)


def select(ends: int, parked: bool, n: int) -> None:
    """Of so many ends one is chosen, each time another; *parked*: another task sends while this one waits."""
    with vanilla.Hub() as h:
        pairs = [h.queue(1) for _ in range(ends)]
        recvers, go = [pair.recver for pair in pairs], h.queue(1)
        order = [number * 37 % ends for number in range(n)]

        def feed() -> None:
            for number in order:
                pairs[number].send(number)
                go.recv()

        if parked:
            h.spawn(feed)
        for number in order:
            if not parked:
                pairs[number].send(number)
            if h.select(recvers)[1] != number:
                raise AssertionError("another end was chosen")
            if parked:
                go.send(None)


def echo(connections: int, size: int, n: int) -> None:
    """A server sends back what comes on so many connections, with a question on each at a time."""
    with tempfile.TemporaryDirectory() as folder, vanilla.Hub() as h, ExitStack() as stack:
        server = h.unix.listen(f"{folder}/socket")
        server.consume(send_back)
        socks = [stack.enter_context(socket.socket(socket.AF_UNIX)) for _ in range(connections)]
        for sock in socks:
            sock.connect(f"{folder}/socket")
        question = bytes(size)
        for start in range(0, n, connections):
            asked = socks[: n - start]
            for sock in asked:
                sock.send(question)
            for sock in asked:
                wait_for(h, sock, size)


def send_back(conn: Any) -> None:
    for data in conn.recver:
        conn.send(data)


def wait_for(h: vanilla.Hub, sock: socket.socket, size: int) -> None:
    """So many bytes on *sock*, which the hub knows nothing of."""
    while size:
        try:
            size -= len(sock.recv(size, socket.MSG_DONTWAIT))
        except BlockingIOError:
            h.sleep(0)


class Work(NamedTuple):
    """*run* moves as many messages as it is told; ``messages`` is about half a second's under valgrind."""

    run: Callable[[int], None]
    messages: int


class Size(NamedTuple):
    """Of a message, and how many of them are moved: a message a call, and many at a call."""

    size: int
    messages: int
    many: int


_SIZES = {
    "16 B": Size(16, 100_000, 400_000),
    "256 B": Size(256, 60_000, 100_000),
    "4 KiB": Size(4096, 10_000, 10_000),
    "64 KiB": Size(65536, 2_000, 2_000),
}
_ROLES = {"broker": broker, "producer": producer, "consumer": consumer}
_MANY = {"producer": many_producer, "consumer": many_consumer}

WORKS: dict[str, Work] = {
    **{
        f"one way, {title}: {role}": Work(partial(run, size), n)
        for title, (size, n, _) in _SIZES.items()
        for role, run in _ROLES.items()
    },
    **{
        f"many at a call, {title}: {role}": Work(partial(run, size), n)
        for title, (size, _, n) in _SIZES.items()
        for role, run in _MANY.items()
    },
    **{
        f"each acknowledged, {title}: consumer": Work(partial(leased_consumer, size), n)
        for title, (size, n, _) in _SIZES.items()
    },
    "hub: unbuffered": Work(partial(channel, 0, -1), 20_000),
    "hub: queue of 100": Work(partial(channel, 100, -1), 50_000),
    "hub: unbuffered, with a timeout on each call": Work(partial(channel, 0, 5000), 20_000),
    "hub: queue of 100, with a timeout on each call": Work(partial(channel, 100, 5000), 50_000),
    **{
        f"hub: select over {ends} ends, {what}": Work(partial(select, ends, parked), n)
        for what, parked in (("one is ready", False), ("waits each time", True))
        for ends, n in ((2, 5_000), (100, 2_000))
    },
    "hub: echo, 64 B": Work(partial(echo, 10, 64), 2_000),
    "hub: echo, 64 KiB": Work(partial(echo, 1, 65536), 1_000),
}

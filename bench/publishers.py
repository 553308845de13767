"""What is compared in the rows of `broadcast`, and their processes: a broker, a publisher, and one of all subscribers.

    python publishers.py PARENT SIDE broker                       says "listening on ADDRESS"
    python publishers.py PARENT SIDE subscribers ADDRESS SHAPE    says "ready" when all of them are subscribed
    python publishers.py PARENT SIDE publisher ADDRESS SHAPE      says "ready", waits for a line, publishes, says its
                                                                  figures

PARENT is the process without which this one is not to live. SHAPE is a `Shape`, in JSON, and so are the figures:
``rate``, messages delivered a second to all subscribers together; ``delivered``, all of them.
"""

from __future__ import annotations

import itertools
import json
import os
import select
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Callable

from board import Board, board_of
from plan import BLOCK, check, now, stamp
from sides.redis import Redis as RedisLists
from sides.redis import connect
from sides.server import listening
from sides.side import Side
from worker import allow_descriptors, end_with_the_parent, say

NAME = "bench"
#: Messages that a publisher puts together by hand.
BATCH = 500
BUFFER_BYTES = 256 << 10


@dataclass(frozen=True)
class Shape:
    """One measurement.

    :ivar board: the path of the `Board`.
    :ivar size: of a message, in bytes.
    :ivar subscribers: each with a connection of its own.
    :ivar warm, seconds: how long it warms up, and how long it counts.
    """

    board: str
    size: int
    subscribers: int
    warm: float
    seconds: float


class Taker:
    """What a subscriber does with messages: it looks at the first of each block, and reports those before it."""

    def __init__(self, board: Board, place: int, size: int) -> None:
        self.slots = board.slots
        self.place = place
        self.size = size
        self.count = 0

    def run(self, recv: Callable[[], Any]) -> None:
        """Receive messages for ever."""
        for number in itertools.count():
            self.report(recv(), number)
            for _ in range(BLOCK - 1):
                recv()

    def take(self, message: bytes) -> None:
        """This is the next message."""
        if not self.count % BLOCK:
            self.report(message, self.count // BLOCK)
        self.count += 1

    def report(self, message: bytes, number: int) -> None:
        check(message, number, self.size)
        self.slots[self.place] = number


#: What publishes a message, and what sees to it that all of them leave.
Publishing = tuple[Callable[[bytes], Any], Callable[[], object]]


class Publisher(Side):
    """A side of these rows."""

    def publishing(self, address: str) -> AbstractContextManager[Publishing]:
        """Connect; gives what is needed to publish."""
        raise NotImplementedError

    def subscribe(self, address: str, takers: list[Taker]) -> None:
        """Subscribe once for each of *takers*, say "ready", and let it have what comes until killed."""
        raise NotImplementedError


class Vanilla(Publisher):
    title = "vanilla, broadcast"
    package = "vanilla-broker"
    guarantee = (
        "confirmed to the publisher; a subscriber that lags beyond its buffer misses messages, and is told how many"
    )
    batching = "by the library, nothing to write: a call a message at both ends"
    settings = "defaults; a task for each subscriber"

    def broker(self, size: int) -> None:
        os.execv(sys.executable, [sys.executable, "-m", "vanilla.broker", "--listen", "tcp://127.0.0.1:0"])

    @contextmanager
    def publishing(self, address: str) -> Iterator[Publishing]:
        import vanilla

        with vanilla.Hub() as self.hub, self.hub.client.connect(address) as remote:
            yield remote.broadcast(NAME).send, list  # what was sent leaves as soon as this waits

    def sleep(self, seconds: float) -> None:
        self.hub.sleep(seconds * 1000)

    def subscribe(self, address: str, takers: list[Taker]) -> None:
        import vanilla

        with vanilla.Hub() as hub, ExitStack() as stack:
            remotes = [stack.enter_context(hub.client.connect(address)) for _ in takers]
            received = [remote.broadcast(NAME).subscribe() for remote in remotes]
            tasks = [hub.spawn(taker.run, each.recv) for taker, each in zip(takers, received)]
            for remote in remotes:
                remote.ping()  # the broker knows of it
            say("ready")
            for task in tasks:
                task.join()


class Redis(Publisher):
    """As redis-py offers it."""

    title = "Redis pub/sub"
    package = "redis"
    guarantee = "none: at most once; a subscriber that lags beyond 32 MiB is cut off"
    batching = "none: PUBLISH is a call and a round trip a message, and so is what `listen` hands out"
    settings = "no persistence; redis-py with hiredis; a thread for each subscriber"

    def version(self) -> str:
        return RedisLists().version()

    def broker(self, size: int) -> None:
        RedisLists().broker(size)

    @contextmanager
    def publishing(self, address: str) -> Iterator[Publishing]:
        with connect(address) as redis:
            yield lambda message: redis.publish(NAME, message), redis.ping

    def subscribe(self, address: str, takers: list[Taker]) -> None:
        with ExitStack() as stack:
            threads = []
            for taker in takers:
                subscribed = stack.enter_context(connect(address).pubsub(ignore_subscribe_messages=True))
                subscribed.subscribe(NAME)
                subscribed.get_message(timeout=None)  # it is subscribed
                threads.append(threading.Thread(target=taker.run, args=(data_of(subscribed.listen()),)))
            for thread in threads:
                thread.start()
            say("ready")
            for thread in threads:
                thread.join()


def data_of(received: Iterator[dict[str, Any]]) -> Callable[[], Any]:
    """What gives the next message."""
    return lambda: next(received)["data"]


class ByHand(Redis):
    """What a user has to write to see what the server can do."""

    title = "Redis pub/sub, by hand"
    batching = f"by the program: {BATCH:,} PUBLISH in a write, no time limit; a subscriber reads whatever is there"
    settings = "no persistence; sockets and hiredis, without redis-py; one thread for all subscribers"

    @contextmanager
    def publishing(self, address: str) -> Iterator[Publishing]:
        from hiredis import Reader, pack_command

        waiting: list[bytes] = []
        reader = Reader()
        with socket.create_connection(listening(address)) as sock:

            def publish(message: bytes) -> None:
                waiting.append(pack_command(("PUBLISH", NAME, message)))
                if len(waiting) >= BATCH:
                    flush()

            def flush() -> None:
                sock.sendall(b"".join(waiting))
                while waiting:
                    reader.feed(sock.recv(BUFFER_BYTES))
                    while reader.gets() is not False:
                        waiting.pop()

            yield publish, flush

    def subscribe(self, address: str, takers: list[Taker]) -> None:
        from hiredis import Reader

        ends: dict[int, tuple[socket.socket, Any, Taker]] = {}
        with select.epoll() as epoll:
            for taker in takers:
                sock = socket.create_connection(listening(address))
                sock.sendall(f"SUBSCRIBE {NAME}\r\n".encode())
                sock.recv(BUFFER_BYTES)  # it is subscribed
                ends[sock.fileno()] = sock, Reader(), taker
                epoll.register(sock, select.EPOLLIN)
            say("ready")
            while True:
                for fd, _ in epoll.poll():
                    sock, reader, taker = ends[fd]
                    reader.feed(sock.recv(BUFFER_BYTES))
                    while (message := reader.gets()) is not False:
                        taker.take(message[2])


SIDES: dict[str, Publisher] = {"vanilla": Vanilla(), "redis": Redis(), "redis-hand": ByHand()}


def publish(
    side: Publisher, send: Callable[[bytes], Any], flush: Callable[[], object], shape: Shape
) -> dict[str, float]:
    """Publish for as long as *shape* says, and never more than a window ahead of the slowest subscriber.

    :raises AssertionError: a subscriber does not get all of it.
    """
    board = board_of(shape.board, shape.subscribers)
    payload = bytes(shape.size)
    number = least = 0
    marks = []
    for seconds in shape.warm, shape.seconds:
        marks.append((now(), board.delivered))
        end = marks[-1][0] + round(seconds * 1e9)
        while now() < end:
            if number - least >= board.window:
                flush()
                least = board.wait(number - board.window + 1, side.sleep)
            send(stamp(number, shape.size))
            for _ in range(BLOCK - 1):
                send(payload)
            number += 1
    marks.append((now(), board.delivered))
    send(stamp(number, shape.size))
    flush()
    board.wait(number, side.sleep)
    (_, (begun, before), (ended, after)) = marks
    return {
        "rate": (after - before) * BLOCK / (ended - begun) * 1e9,
        "delivered": number * BLOCK * shape.subscribers,
    }


def broker(side: Publisher) -> None:
    side.broker(0)


def publisher(side: Publisher, address: str, shape: str) -> None:
    with side.publishing(address) as (send, flush):
        say("ready")
        sys.stdin.readline()
        say(publish(side, send, flush, Shape(**json.loads(shape))))


def subscribers(side: Publisher, address: str, shape: str) -> None:
    asked = Shape(**json.loads(shape))
    board = board_of(asked.board, asked.subscribers)
    side.subscribe(address, [Taker(board, place, asked.size) for place in range(asked.subscribers)])


ROLES: dict[str, Callable[..., None]] = {"broker": broker, "publisher": publisher, "subscribers": subscribers}

if __name__ == "__main__":
    end_with_the_parent(int(sys.argv[1]))
    allow_descriptors()
    ROLES[sys.argv[3]](SIDES[sys.argv[2]], *sys.argv[4:])

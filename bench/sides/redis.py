"""Redis as a queue: a list in a server that writes nothing to disk, pushed at one end and popped at the other; and as a
stream, whose entries a group of consumers acknowledges."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Callable

from plan import Plan

from .program import version_of
from .server import HOST, become, free_port, listening
from .side import Side, installed

SERVER = "redis-server"
KEY = "bench"
#: Lists of messages that a user makes are this large, as those of the other sides.
BATCH_BYTES = 64 << 10
#: How many messages may wait, and how many bytes of them, before the producer does. Redis has no such limit of its own.
MOST = 100_000
MOST_BYTES = 64 << 20
#: A stream: its group, its consumer, the field that a message is, and how many entries are read at a time.
GROUP, CONSUMER, FIELD = "workers", "worker", b"m"
READ = 1_000
#: How often a producer that waits looks again, in seconds.
PAUSE = 0.001


def connect(address: str) -> Any:
    """One connection, which waits as long as it has to."""
    from redis import Redis

    host, port = listening(address)
    return Redis(host, port, socket_timeout=None, single_connection_client=True)


def bounded(redis: Any, push: Callable[[Any], int], size: int) -> Callable[[Any], None]:
    """*push*, which gives the length of the list then, and waits while that is too long."""
    most = min(MOST, MOST_BYTES // size)

    def send(what: Any) -> None:
        if push(what) > most:
            while redis.llen(KEY) > most:
                time.sleep(PAUSE)

    return send


class Redis(Side):
    title = "Redis list"
    package = "redis"
    guarantee = (
        "confirmed to the producer; kept in the server's memory until popped; what a consumer has popped goes with it; "
        "no back-pressure: the list grows while there is memory"
    )
    batching = "none: LPUSH and BRPOP, each a call and a round trip a message"
    settings = f"no persistence; redis-py with hiredis; the producer waits while the list has {MOST:,} messages"

    def version(self) -> str:
        return f"{version_of(SERVER)}, redis-py {installed(self.package)}, hiredis {installed('hiredis')}"

    def broker(self, size: int) -> None:
        port = free_port()
        become(SERVER, port, "--bind", HOST, "--port", str(port), "--save", "", "--appendonly", "no")

    @contextmanager
    def sender(self, address: str, size: int) -> Iterator[Callable[[Any], None]]:
        with connect(address) as redis:
            redis.ping()
            yield bounded(redis, partial(redis.lpush, KEY), size)

    @contextmanager
    def recver(self, address: str, size: int) -> Iterator[Callable[[], Any]]:
        with connect(address) as redis:
            redis.ping()
            yield lambda: redis.brpop(KEY)[1]


class Many(Redis):
    """What a user has to write to get the throughput of batches. The list still holds messages, not batches."""

    title = "Redis list, batched by hand"
    payload = "lists of bytes"
    batching = f"by the program: RPUSH of {BATCH_BYTES >> 10} KiB of messages, no time limit, BLMPOP of up to as many"

    def version(self) -> str:
        if int(version_of(SERVER).partition(".")[0]) < 7:
            raise LookupError(f"{SERVER} {version_of(SERVER)} has no BLMPOP, which came with 7.0")
        return super().version()

    @contextmanager
    def sender(self, address: str, size: int) -> Iterator[Callable[[Any], None]]:
        with connect(address) as redis:
            redis.ping()
            yield bounded(redis, lambda batch: redis.rpush(KEY, *batch), size)

    @contextmanager
    def recver(self, address: str, size: int) -> Iterator[Callable[[], Any]]:
        most = max(BATCH_BYTES // size, 1)
        with connect(address) as redis:
            redis.ping()
            yield lambda: redis.blmpop(0, 1, KEY, direction="LEFT", count=most)[1]

    def produce(self, send: Callable[[Any], Any], plan: Plan) -> None:
        self.produce_lists(send, plan, max(BATCH_BYTES // plan.size, 1))

    def consume(self, recv: Callable[[], Any], plan: Plan, mark: Callable[[], object]) -> list[int]:
        return self.consume_lists(recv, plan, mark)


class Streams(Redis):
    """Entries that are pending until they are acknowledged; in pipelines, as a user writes it who minds throughput."""

    title = "Redis stream, pipelined"
    guarantee = (
        "confirmed to the producer; pending in the server's memory until acknowledged; another consumer has to claim "
        "what one that died was given; stays in the stream all the same until trimmed; no back-pressure"
    )
    payload = "lists of bytes"
    batching = (
        f"by the program: {BATCH_BYTES >> 10} KiB of XADD in a pipeline, no time limit; XREADGROUP of up to {READ:,}, "
        "and an XACK that names them all"
    )
    settings = "no persistence; redis-py with hiredis; nothing is trimmed"

    @contextmanager
    def sender(self, address: str, size: int) -> Iterator[Callable[[Any], Any]]:
        def send(batch: list[bytes]) -> None:
            pipeline = redis.pipeline(transaction=False)
            for message in batch:
                pipeline.xadd(KEY, {FIELD: message})
            pipeline.execute()

        with connect(address) as redis:
            yield send

    @contextmanager
    def recver(self, address: str, size: int) -> Iterator[Callable[[], Any]]:
        names: list[bytes] = []

        def recv() -> list[bytes]:
            if names:
                redis.xack(KEY, GROUP, *names)
            ((_, entries),) = redis.xreadgroup(GROUP, CONSUMER, {KEY: ">"}, count=READ, block=0)
            names[:] = [name for name, _ in entries]
            return [fields[FIELD] for _, fields in entries]

        with connect(address) as redis:
            redis.xgroup_create(KEY, GROUP, id="0", mkstream=True)
            yield recv
            redis.xack(KEY, GROUP, *names)

    def produce(self, send: Callable[[Any], Any], plan: Plan) -> None:
        self.produce_lists(send, plan, max(BATCH_BYTES // plan.size, 1))

    def consume(self, recv: Callable[[], Any], plan: Plan, mark: Callable[[], object]) -> list[int]:
        return self.consume_lists(recv, plan, mark)


SIDES = {"redis": Redis(), "redis-batched": Many(), "redis-streams": Streams()}

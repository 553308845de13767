"""Core NATS: a producer publishes to a subject, a consumer of a queue group gets it in a callback. No JetStream."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Callable

from pace import Pace
from plan import Plan, check, stamp

from .program import version_of
from .server import HOST, become, free_port, listening
from .side import Side, installed

SERVER = "nats-server"
SUBJECT = "bench"
GROUP = "workers"
#: What a server may keep for a consumer that lags, and how long it may wait for it: beyond, it cuts the consumer off.
#: The limits of the client are off. So all messages of a measurement may wait, and none is dropped.
CONFIG = "max_pending: 1GB\nwrite_deadline: '60s'\n"
#: How long the last flush may take, in seconds.
PATIENCE = 60


class Taker:
    """What the callback of a consumer does: it counts the messages, and looks at the first of each block.

    :ivar done: tells of the last message, or of what went wrong.
    """

    def __init__(self, done: asyncio.Future[None]) -> None:
        self.done = done
        self.count = 0
        self.plan = Plan(0, 0, 0)
        self.mark: Callable[[], object] = list
        self.waits: list[int] = []

    async def take(self, message: Any) -> None:
        if not self.count % self.plan.block:
            number = self.count // self.plan.block
            if number == self.plan.warm_blocks:
                self.mark()
            self.waits.append(check(message.data, number, self.plan.size))
            if number == self.plan.blocks:
                self.done.set_result(None)
        self.count += 1

    async def fail(self, error: Exception) -> None:
        if not self.done.done():
            self.done.set_exception(error)

    async def cut_off(self) -> None:
        await self.fail(ConnectionError("the server cut the consumer off"))


class Nats(Side):
    title = "NATS"
    package = "nats-py"
    guarantee = (
        "none, at most once: no confirms and no queue; what is in the buffers of a process that dies is lost, and what "
        "nobody subscribes to; no back-pressure: a consumer that lags is cut off, or drops messages"
    )
    batching = "by nats-py (asyncio): up to 2 MiB share a write; an awaited publish and a callback a message"
    settings = "max_pending 1 GB, write_deadline 60 s, no limits of what waits in the client"

    def version(self) -> str:
        return f"{version_of(SERVER)}, nats-py {installed(self.package)}"

    def broker(self, size: int) -> None:
        config = os.memfd_create("nats.conf", 0)
        os.write(config, CONFIG.encode())
        port = free_port()
        become(SERVER, port, "--addr", HOST, "--port", str(port), "--config", f"/proc/self/fd/{config}")

    @contextmanager
    def connection(self, address: str, **options: Any) -> Iterator[Any]:
        """One connection, served by ``self.loop``, which runs only while something is waited for."""
        import nats

        host, port = listening(address)
        connected = self.loop.run_until_complete(
            nats.connect(f"nats://{host}:{port}", allow_reconnect=False, **options)
        )
        try:
            yield connected
        finally:
            self.loop.run_until_complete(connected.close())

    @contextmanager
    def sender(self, address: str, size: int) -> Iterator[Callable[[bytes], Any]]:
        self.loop = asyncio.new_event_loop()
        with self.connection(address) as connected:
            yield partial(connected.publish, SUBJECT)
            self.loop.run_until_complete(connected.flush(PATIENCE))

    @contextmanager
    def recver(self, address: str, size: int) -> Iterator[Any]:
        self.loop = asyncio.new_event_loop()
        taker = Taker(self.loop.create_future())
        with self.connection(address, error_cb=taker.fail, disconnected_cb=taker.cut_off) as connected:
            self.loop.run_until_complete(
                connected.subscribe(SUBJECT, GROUP, cb=taker.take, pending_msgs_limit=0, pending_bytes_limit=0)
            )
            self.loop.run_until_complete(connected.flush())
            yield taker

    def produce(self, send: Callable[[bytes], Any], plan: Plan) -> None:
        async def produce() -> None:
            payload = bytes(plan.size)
            for number in range(plan.blocks):
                await send(stamp(number, plan.size))
                for _ in range(plan.block - 1):
                    await send(payload)
            await send(stamp(plan.blocks, plan.size))

        self.loop.run_until_complete(produce())

    def pace(self, send: Callable[[bytes], Any], plan: Plan) -> list[int]:
        async def pace() -> list[int]:
            pace = Pace(plan.period)
            for number in range(plan.all_messages):
                if (early := pace.early()) > 0:
                    await asyncio.sleep(early)
                pace.go()
                await send(stamp(number, plan.size))
            return pace.late

        return self.loop.run_until_complete(pace())

    def consume(self, recv: Any, plan: Plan, mark: Callable[[], object]) -> list[int]:
        taker: Taker = recv
        taker.plan, taker.mark = plan, mark
        self.loop.run_until_complete(taker.done)
        return taker.waits[plan.warm_blocks :]


SIDES = {"nats": Nats()}

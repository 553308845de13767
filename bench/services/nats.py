"""NATS: `request` at one end, a subscription that responds at the other. No JetStream."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Callable

from plan import now
from sides.nats import GROUP, SUBJECT, Nats
from tally import Tally

from .service import Service

#: How long an answer may take, in seconds.
PATIENCE = 60


class Requests(Service):
    title = "NATS"
    package = "nats-py"
    guarantee = "at most once: what a server that dies has is lost, and its client waits for its time to be over"
    batching = "by nats-py (asyncio): up to 2 MiB share a write; an awaited request and a callback a message"
    settings = "max_pending 1 GB, write_deadline 60 s; where many are under way, as many tasks"

    def __init__(self) -> None:
        self._nats = Nats()

    def version(self) -> str:
        return self._nats.version()

    def broker(self, size: int) -> None:
        self._nats.broker(size)

    def serve(self, address: str, work: str, ready: Callable[[], object]) -> None:
        with self.client(address, work) as connected:
            loop = self._nats.loop
            loop.run_until_complete(connected.subscribe(SUBJECT, GROUP, cb=respond))
            loop.run_until_complete(connected.flush())
            ready()
            loop.run_forever()

    @contextmanager
    def client(self, address: str, work: str) -> Iterator[Any]:
        self._nats.loop = asyncio.new_event_loop()
        with self._nats.connection(address) as connected:
            yield connected

    def one_at_a_time(self, call: Any, tally: Tally) -> None:
        self.many(call, tally, 1)

    def many(self, start: Any, tally: Tally, most: int) -> None:
        calls = iter(tally)

        async def ask() -> None:
            for (request,), answer in calls:
                made = now()
                tally.check((await start.request(SUBJECT, request, timeout=PATIENCE)).data, answer, made)

        async def ask_all() -> None:
            await asyncio.gather(*(ask() for _ in range(most)))

        self._nats.loop.run_until_complete(ask_all())


async def respond(message: Any) -> None:
    await message.respond(message.data)


SERVICES = {"nats": Requests()}

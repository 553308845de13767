"""asyncio of the standard library: coroutines, and a loop in Python with parts in C."""

from __future__ import annotations

import asyncio
import platform
import time
from collections.abc import Coroutine, Iterable
from typing import Any, Callable

from .library import Calls, Library, Picks, Sleepers

#: Contexts since Python 3.11; before that `asyncio.wait_for` and `asyncio.gather` have to do.
limit: Any = getattr(asyncio, "timeout", None)
group: Any = getattr(asyncio, "TaskGroup", None)


class Asyncio(Library):
    title = "asyncio"
    settings = "defaults; Queue(1) for unbuffered, " + (
        "asyncio.timeout, tasks of one TaskGroup" if limit else "asyncio.wait_for, create_task and gather"
    )

    def version(self) -> str:
        return f"of Python {platform.python_version()}"

    def channel(self, capacity: int, timeout: int, n: int) -> float:
        return asyncio.run(pass_on(max(capacity, 1), timeout, n))

    def sleep(self, sleepers: Sleepers) -> None:
        async def sleeper(length: float) -> None:
            begun = sleepers.begin()
            await asyncio.sleep(length)
            sleepers.end(begun, length)

        asyncio.run(run_all(map(sleeper, sleepers.lengths)))

    def spawn(self, batches: int, size: int) -> None:
        async def nothing() -> None:
            pass

        async def start() -> None:
            for _ in range(batches):
                await run_all(nothing() for _ in range(size))

        asyncio.run(start())

    def threads(self, calls: Calls) -> None:
        async def caller() -> None:
            loop = asyncio.get_running_loop()
            for number in range(calls.each):
                begun = time.monotonic_ns()
                calls.end(begun, number, await loop.run_in_executor(None, calls.work, number))

        asyncio.run(run_all(caller() for _ in range(calls.tasks)))

    def select(self, picks: Picks) -> float:
        return asyncio.run(pick(picks))

    def parked(self, n: int, waits: Callable[[], None]) -> None:
        async def start() -> None:
            queue: asyncio.Queue[int] = asyncio.Queue(1)

            async def wait() -> None:
                waits()
                await queue.get()

            await run_all(wait() for _ in range(n))

        asyncio.run(start())


async def run_all(coroutines: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Each in a task of its own."""
    if group:
        async with group() as tasks:
            for coroutine in coroutines:
                tasks.create_task(coroutine)
    else:
        await asyncio.gather(*map(asyncio.create_task, coroutines))


async def pass_on(capacity: int, timeout: int, n: int) -> float:
    """`Library.channel`."""
    queue: asyncio.Queue[int] = asyncio.Queue(capacity)
    produce, consume = ends(queue.put, queue.get, timeout / 1000, n)
    producer = asyncio.create_task(produce())
    consumer = asyncio.create_task(consume())
    start = time.perf_counter()
    await consumer
    seconds = time.perf_counter() - start
    await producer
    return n / seconds


def ends(put: Any, get: Any, seconds: float, n: int) -> tuple[Callable[[], Any], Callable[[], Any]]:
    """The two tasks."""

    async def produce() -> None:
        if seconds < 0:
            for i in range(n):
                await put(i)
        elif limit:
            for i in range(n):
                async with limit(seconds):
                    await put(i)
        else:
            for i in range(n):
                await asyncio.wait_for(put(i), seconds)

    async def consume() -> None:
        if seconds < 0:
            for _ in range(n):
                await get()
        elif limit:
            for _ in range(n):
                async with limit(seconds):
                    await get()
        else:
            for _ in range(n):
                await asyncio.wait_for(get(), seconds)

    return produce, consume


async def pick(picks: Picks) -> float:
    """`Library.select`: what waits for each end is a task, which goes on to wait when another end was chosen."""
    queues: list[asyncio.Queue[int]] = [asyncio.Queue(1) for _ in range(picks.ends)]
    go: asyncio.Queue[None] = asyncio.Queue(1)
    order = picks.order()
    waiting = {asyncio.create_task(queue.get()): queue for queue in queues}

    async def feed() -> None:
        for number in order:
            await queues[number].put(number)
            await go.get()

    start = time.perf_counter()
    feeder = asyncio.create_task(feed()) if picks.parked else None
    for number in order:
        if not picks.parked:
            await queues[number].put(number)
        done, _ = await asyncio.wait(list(waiting) if picks.fresh else waiting, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            queue = waiting.pop(task)
            waiting[asyncio.create_task(queue.get())] = queue
            picks.check(number, task.result())
        if picks.turn:
            await asyncio.sleep(0)
        if picks.parked:
            await go.put(None)
    seconds = time.perf_counter() - start
    for task in (*waiting, *([feeder] if feeder else [])):
        task.cancel()
    return picks.count / seconds


LIBRARY = Asyncio()

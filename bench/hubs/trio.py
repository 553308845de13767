"""trio: coroutines, and a loop in Python. Each call lets other tasks run, whether it had to wait or not."""

from __future__ import annotations

import time
from typing import Callable

from .library import Calls, Library, Picks, Sleepers


class Trio(Library):
    title = "trio"
    package = "trio"
    settings = "defaults; memory channels, timeouts by fail_after, tasks of one nursery"

    def channel(self, capacity: int, timeout: int, n: int) -> float:
        import trio

        return trio.run(pass_on, capacity, timeout / 1000, n)

    def sleep(self, sleepers: Sleepers) -> None:
        import trio

        async def sleeper(length: float) -> None:
            begun = sleepers.begin()
            await trio.sleep(length)
            sleepers.end(begun, length)

        async def start() -> None:
            async with trio.open_nursery() as nursery:
                for length in sleepers.lengths:
                    nursery.start_soon(sleeper, length)

        trio.run(start)

    def spawn(self, batches: int, size: int) -> None:
        import trio

        async def nothing() -> None:
            pass

        async def start() -> None:
            for _ in range(batches):
                async with trio.open_nursery() as nursery:
                    for _ in range(size):
                        nursery.start_soon(nothing)

        trio.run(start)

    def threads(self, calls: Calls) -> None:
        import trio

        async def caller() -> None:
            for number in range(calls.each):
                begun = time.monotonic_ns()
                calls.end(begun, number, await trio.to_thread.run_sync(calls.work, number))

        async def start() -> None:
            async with trio.open_nursery() as nursery:
                for _ in range(calls.tasks):
                    nursery.start_soon(caller)

        trio.run(start)

    def select(self, picks: Picks) -> float:
        import trio

        return trio.run(pick, picks)

    def parked(self, n: int, waits: Callable[[], None]) -> None:
        import trio

        async def start() -> None:
            ends = trio.open_memory_channel[int](0)  # both are kept

            async def wait() -> None:
                waits()
                await ends[1].receive()

            async with trio.open_nursery() as nursery:
                for _ in range(n):
                    nursery.start_soon(wait)

        trio.run(start)


async def pass_on(capacity: int, seconds: float, n: int) -> float:
    """`Library.channel`."""
    import trio

    sender, recver = trio.open_memory_channel[int](capacity)
    send, receive = sender.send, recver.receive

    async def produce() -> None:
        if seconds < 0:
            for i in range(n):
                await send(i)
        else:
            for i in range(n):
                with trio.fail_after(seconds):
                    await send(i)

    async def consume() -> None:
        if seconds < 0:
            for _ in range(n):
                await receive()
        else:
            for _ in range(n):
                with trio.fail_after(seconds):
                    await receive()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(produce)
        nursery.start_soon(consume)
        start = time.perf_counter()
    return n / (time.perf_counter() - start)


async def pick(picks: Picks) -> float:
    """`Library.select`: a nursery with a task for each end, of which the first ends the others."""
    import trio

    pairs = [trio.open_memory_channel[int](1) for _ in range(picks.ends)]
    let_go, go = trio.open_memory_channel[None](1)
    order = picks.order()

    async def first() -> int:
        found = []

        async def wait(recver: trio.MemoryReceiveChannel[int]) -> None:
            found.append(await recver.receive())
            nursery.cancel_scope.cancel()

        async with trio.open_nursery() as nursery:
            for _, recver in pairs:
                nursery.start_soon(wait, recver)
        return found[0]

    async def feed() -> None:
        for number in order:
            await pairs[number][0].send(number)
            await go.receive()

    async with trio.open_nursery() as outer:
        start = time.perf_counter()
        if picks.parked:
            outer.start_soon(feed)
        for number in order:
            if not picks.parked:
                await pairs[number][0].send(number)
            picks.check(number, await first())
            if picks.turn:
                await trio.lowlevel.checkpoint()
            if picks.parked:
                await let_go.send(None)
        seconds = time.perf_counter() - start
    return picks.count / seconds


LIBRARY = Trio()

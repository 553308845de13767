"""trio: coroutines, and a loop in Python. Each call lets other tasks run, whether it had to wait or not."""

from __future__ import annotations

import time

from .library import Library, Sleepers


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


LIBRARY = Trio()

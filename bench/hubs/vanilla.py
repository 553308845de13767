"""Ours: `vanilla.Hub`."""

from __future__ import annotations

import time

from .library import Library, Sleepers


class Vanilla(Library):
    title = "vanilla"
    package = "vanilla-broker"
    settings = "defaults; spawn, and join of each task"

    def channel(self, capacity: int, timeout: int, n: int) -> float:
        import vanilla

        with vanilla.Hub() as h:
            sender, recver = h.queue(capacity) if capacity else h.channel()
            send, recv = sender.send, recver.recv

            def produce() -> None:
                if timeout < 0:
                    for i in range(n):
                        send(i)
                else:
                    for i in range(n):
                        send(i, timeout)

            def consume() -> None:
                if timeout < 0:
                    for _ in range(n):
                        recv()
                else:
                    for _ in range(n):
                        recv(timeout)

            h.spawn(produce)
            consumer = h.spawn(consume)
            start = time.perf_counter()
            consumer.join()
            return n / (time.perf_counter() - start)

    def sleep(self, sleepers: Sleepers) -> None:
        import vanilla

        with vanilla.Hub() as h:

            def sleeper(length: float) -> None:
                begun = sleepers.begin()
                h.sleep(length * 1000)
                sleepers.end(begun, length)

            tasks = [h.spawn(sleeper, length) for length in sleepers.lengths]
            for task in tasks:
                task.join()

    def spawn(self, batches: int, size: int) -> None:
        import vanilla

        def nothing() -> None:
            pass

        with vanilla.Hub() as h:
            for _ in range(batches):
                tasks = [h.spawn(nothing) for _ in range(size)]
                for task in tasks:
                    task.join()


LIBRARY = Vanilla()

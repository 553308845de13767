"""Ours: `vanilla.Hub`."""

from __future__ import annotations

import time
from typing import Callable

from .library import Calls, Library, Picks, Sleepers


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

    def threads(self, calls: Calls) -> None:
        import vanilla

        with vanilla.Hub() as h:

            def caller() -> None:
                for number in range(calls.each):
                    begun = time.monotonic_ns()
                    calls.end(begun, number, h.thread.call(calls.work, number).recv())

            tasks = [h.spawn(caller) for _ in range(calls.tasks)]
            for task in tasks:
                task.join()

    def select(self, picks: Picks) -> float:
        import vanilla

        with vanilla.Hub() as h:
            pairs = [h.queue(1) for _ in range(picks.ends)]
            recvers, senders = [pair.recver for pair in pairs], [pair.sender for pair in pairs]
            go, order = h.queue(1), picks.order()

            def feed() -> None:
                for number in order:
                    senders[number].send(number)
                    go.recv()

            start = time.perf_counter()
            if picks.parked:
                h.spawn(feed)
            for number in order:
                if not picks.parked:
                    senders[number].send(number)
                end, item = h.select(list(recvers) if picks.fresh else recvers)
                picks.check(number, item if end is recvers[number] else -1)
                if picks.turn:
                    h.sleep(0)
                if picks.parked:
                    go.send(None)
            return picks.count / (time.perf_counter() - start)

    def parked(self, n: int, waits: Callable[[], None]) -> None:
        import vanilla

        with vanilla.Hub() as h:
            channel = h.channel()

            def wait() -> None:
                waits()
                channel.recv()

            tasks = [h.spawn(wait) for _ in range(n)]
            h.spawn(h.sleep, 600_000)  # or nobody could ever wake them
            for task in tasks:
                task.join()


LIBRARY = Vanilla()

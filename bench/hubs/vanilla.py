"""Ours: `vanilla.Hub`."""

from __future__ import annotations

import time

from .library import Library


class Vanilla(Library):
    title = "vanilla"
    package = "vanilla-broker"
    settings = "defaults"

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


LIBRARY = Vanilla()

"""gevent: greenlets as ours are, with a hub and queues that are compiled C."""

from __future__ import annotations

import time
from typing import Any

from .library import Library, Sleepers


class Gevent(Library):
    title = "gevent"
    package = "gevent"
    settings = "defaults; Channel and Queue, spawn and joinall"

    def channel(self, capacity: int, timeout: int, n: int) -> float:
        import gevent
        from gevent.queue import Channel, Queue

        queue: Any = Queue(capacity) if capacity else Channel()
        put, get = queue.put, queue.get
        seconds = timeout / 1000

        def produce() -> None:
            if timeout < 0:
                for i in range(n):
                    put(i)
            else:
                for i in range(n):
                    put(i, True, seconds)

        def consume() -> None:
            if timeout < 0:
                for _ in range(n):
                    get()
            else:
                for _ in range(n):
                    get(True, seconds)

        gevent.spawn(produce)
        consumer = gevent.spawn(consume)
        start = time.perf_counter()
        consumer.get()
        return n / (time.perf_counter() - start)

    def sleep(self, sleepers: Sleepers) -> None:
        import gevent

        def sleeper(length: float) -> None:
            begun = sleepers.begin()
            gevent.sleep(length)
            sleepers.end(begun, length)

        gevent.joinall([gevent.spawn(sleeper, length) for length in sleepers.lengths])

    def spawn(self, batches: int, size: int) -> None:
        import gevent

        def nothing() -> None:
            pass

        for _ in range(batches):
            gevent.joinall([gevent.spawn(nothing) for _ in range(size)])


LIBRARY = Gevent()

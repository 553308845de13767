"""gevent: greenlets as ours are, with a hub and queues that are compiled C."""

from __future__ import annotations

import time
from typing import Any, Callable

from .library import Calls, Library, Picks, Sleepers


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

    def threads(self, calls: Calls) -> None:
        import gevent

        apply = gevent.get_hub().threadpool.apply

        def caller() -> None:
            for number in range(calls.each):
                begun = time.monotonic_ns()
                calls.end(begun, number, apply(calls.work, (number,)))

        gevent.joinall([gevent.spawn(caller) for _ in range(calls.tasks)], raise_error=True)

    def select(self, picks: Picks) -> float:
        import gevent
        from gevent.event import Event
        from gevent.lock import Semaphore

        events = [Event() for _ in range(picks.ends)]
        numbers = {event: number for number, event in enumerate(events)}
        go, order = Semaphore(0), picks.order()

        def feed() -> None:
            for number in order:
                events[number].set()
                go.acquire()

        start = time.perf_counter()
        if picks.parked:
            gevent.spawn(feed)
        for number in order:
            if not picks.parked:
                events[number].set()
            (ready,) = gevent.wait(list(events) if picks.fresh else events, count=1)
            ready.clear()
            picks.check(number, numbers[ready])
            if picks.turn:
                gevent.sleep(0)
            if picks.parked:
                go.release()
        return picks.count / (time.perf_counter() - start)

    def parked(self, n: int, waits: Callable[[], None]) -> None:
        import gevent
        from gevent.queue import Channel

        channel: Any = Channel()

        def wait() -> None:
            waits()
            channel.get()

        gevent.joinall([gevent.spawn(wait) for _ in range(n)])


LIBRARY = Gevent()

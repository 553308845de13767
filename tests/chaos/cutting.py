"""Sessions of one process that are cut somewhere, and what is left is done by others."""

from __future__ import annotations

import random
import time

from fleet import LONG
from journal import DONE, GOT, Event
from peers import until
from proxy import Plan, Proxy

#: Messages of a connection that is cut.
JOBS = 3
#: In the short form one byte of so many is tried.
STRIDE = 1 if LONG else 7


class Book:
    """Events of one process."""

    def __init__(self):
        self.events = []

    def note(self, what, who, job, marked=False):
        self.events.append(Event(time.monotonic_ns(), what, who, tuple(job), marked))

    def got(self, who, delivery):
        self.note(GOT, who, delivery.item, delivery.redelivered)


def finish(h, broker, direct, book, who):
    """Do what is left, with a connection that nobody cuts."""

    def rest():
        for delivery in jobs:
            book.got(who, delivery)
            book.note(DONE, who, delivery.item)
            delivery.ack()

    jobs = direct.pull("jobs", ack=True)
    task = h.spawn(rest)
    endpoint = broker.endpoints.get("jobs")
    until(h, lambda: endpoint is None or endpoint.empty)
    jobs.close()
    task.join()


def sizes(h, broker, session):
    """The bytes of a session that nobody cuts: to the broker, and to the client."""
    with Proxy(broker.urls[0]) as proxy:
        session(proxy.url)
        until(h, lambda: proxy.history)
        return proxy.history[0]


def cuts(up, down):
    """A plan for each byte of a session, or some of them."""
    for way, size in ("cut_up", up), ("cut_down", down):
        for at in range(random.randrange(STRIDE), size, STRIDE):
            yield Plan(**{way: at}, reset=at % 2 == 0)

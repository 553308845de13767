"""Tasks that do what they are told, for tests that say in which order things happen within one tick."""

from __future__ import annotations

from vanilla import Cancelled, Timeout

#: A timeout that no test waits for: see `Actor.expire`.
LONG = 600_000


def run(h):
    """Let every task run until it waits."""
    for _ in range(4):
        h.sleep(0)


class Actor:
    """A task that calls what is sent to it, and keeps in `heard` what comes of that."""

    def __init__(self, h):
        self.h = h
        self.inbox = h.channel(1)
        self.heard = []
        self.task = h.spawn(self._live)
        run(h)

    def _live(self):
        while True:
            try:
                self._turn()
            except Timeout:
                self.heard.append("timeout")
            except Cancelled:
                self.heard.append("cancelled")

    def _turn(self):
        heard = self.inbox.recv()()
        if heard is not None:
            self.heard.append(heard)

    def do(self, f):
        """Have it call *f*, and everybody go on until they wait."""
        self.inbox.send(f)
        run(self.h)

    def expire(self):
        """What its timer does when its timeout is over. It may have been woken in this very tick."""
        if self.task.waiter.on is not None:
            self.h.runner.expire(self.task.waiter)

"""Ours: the broker program as it is started by hand, and the public client."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Callable

from .side import Side


class Vanilla(Side):
    title = "vanilla"
    package = "vanilla-broker"
    guarantee = (
        "confirmed to the producer; kept in the broker's memory until acknowledged; redelivered when a consumer dies; "
        "a full queue blocks its producers"
    )
    batching = "by the library, nothing to write: a call a message at both ends"

    def broker(self, size: int) -> None:
        os.execv(sys.executable, [sys.executable, "-m", "vanilla.broker", "--listen", "tcp://127.0.0.1:0"])

    @contextmanager
    def sender(self, address: str, size: int) -> Iterator[Callable[[bytes], Any]]:
        import vanilla

        with vanilla.Hub() as h, h.client.connect(address) as remote:
            jobs = remote.push("bench")
            yield jobs.send
            jobs.sync()

    @contextmanager
    def recver(self, address: str, size: int) -> Iterator[Callable[[], Any]]:
        import vanilla

        with vanilla.Hub() as h, h.client.connect(address) as remote:
            yield remote.pull("bench").recv


SIDES = {"vanilla": Vanilla()}

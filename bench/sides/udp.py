"""Ours over UDP: as over TCP, but for the address; without what the kernel joins and cuts; a datagram a message."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Callable

from .vanilla import Vanilla

#: Leaves UDP_SEGMENT and UDP_GRO aside, in whatever process has it in its environment.
WITHOUT = {"VANILLA_UDP_OFFLOAD": "0"}


class UDP(Vanilla):
    """Reliable, as it is without being told otherwise."""

    title = "vanilla, UDP"
    settings = "defaults; UDP_SEGMENT and UDP_GRO where the kernel has them"

    #: What the environment of each of its processes has besides.
    environment: dict[str, str] = {}

    def broker(self, size: int) -> None:
        os.environ.update(self.environment)
        os.execv(sys.executable, [sys.executable, "-m", "vanilla.broker", "--listen", "udp://127.0.0.1:0"])

    @contextmanager
    def sender(self, address: str, size: int) -> Iterator[Callable[[Any], Any]]:
        os.environ.update(self.environment)
        with super().sender(address, size) as send:
            yield send

    @contextmanager
    def recver(self, address: str, size: int) -> Iterator[Callable[[], Any]]:
        os.environ.update(self.environment)
        with super().recver(address, size) as recv:
            yield recv


class Plain(UDP):
    """A system call a datagram, at both ends and in the broker."""

    title = "vanilla, UDP without GSO and GRO"
    settings = "VANILLA_UDP_OFFLOAD=0 in all three processes"
    environment = WITHOUT


class Each(UDP):
    """What a program gets that puts each message into a datagram of its own, as most protocols over UDP do."""

    title = "vanilla, UDP, a message a datagram"
    batching = (
        "none by the producer: `flush` after each `send`, so that each message leaves in a datagram and by a system "
        "call of its own; the broker's way out is as ever"
    )

    def send_of(self, jobs: Any) -> Callable[[Any], Any]:
        send, flush = jobs.send, jobs.flush

        def send_alone(message: bytes) -> None:
            send(message)
            flush()

        return send_alone


SIDES = {"udp": UDP(), "udp-plain": Plain(), "udp-each": Each()}

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

    def broker(self, size: int) -> None:
        os.environ.update(self.environment)
        os.execv(sys.executable, [sys.executable, "-m", "vanilla.broker", "--listen", "udp://127.0.0.1:0"])

    def prepare(self, size: int) -> None:
        """In a client's process, before the library is imported."""
        os.environ.update(self.environment)

    @contextmanager
    def sender(self, address: str, size: int) -> Iterator[Callable[[Any], Any]]:
        self.prepare(size)
        with super().sender(address, size) as send:
            yield send

    @contextmanager
    def recver(self, address: str, size: int) -> Iterator[Callable[[], Any]]:
        self.prepare(size)
        with super().recver(address, size) as recv:
            yield recv


class Plain(UDP):
    """A system call a datagram, at both ends and in the broker."""

    title = "vanilla, UDP without GSO and GRO"
    settings = "VANILLA_UDP_OFFLOAD=0 in all three processes"
    environment = WITHOUT


class Each(UDP):
    """Each message in a datagram of its own, as in most protocols over UDP.

    Sessions of all three processes are told that the path takes no longer ones. Of the library nothing else is changed;
    trains of them still go by a system call each.
    """

    title = "vanilla, UDP, a message a datagram"
    settings = "datagrams limited to what one message takes, in all three processes; UDP_SEGMENT and UDP_GRO as ever"

    def broker(self, size: int) -> None:
        os.environ.update(self.environment)
        from vanilla.broker import cli

        shorten(size)
        cli.main(["--listen", "udp://127.0.0.1:0"])

    def prepare(self, size: int) -> None:
        super().prepare(size)
        shorten(size)


class EachPlain(Each):
    """And a system call for each of them."""

    title = "vanilla, UDP, a message a datagram, without GSO and GRO"
    settings = "datagrams limited to what one message takes, and VANILLA_UDP_OFFLOAD=0, in all three processes"
    environment = WITHOUT


def shorten(size: int) -> None:
    """Have sessions of this process send datagrams that hold a message of *size* bytes each, packed, and no more."""
    import msgpack

    from vanilla.protocol.outgoing import Outgoing
    from vanilla.protocol.packets import OVERHEAD_BYTES

    resize, datagram = Outgoing._size, OVERHEAD_BYTES + len(msgpack.packb(bytes(size)))
    Outgoing._size = lambda outgoing, _: resize(outgoing, datagram)  # type: ignore[method-assign]


SIDES = {"udp": UDP(), "udp-plain": Plain(), "udp-each": Each(), "udp-each-plain": EachPlain()}

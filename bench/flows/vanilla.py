"""Ours: a producer at the near end; the broker, as it is started by hand, and a consumer at the far end."""

from __future__ import annotations

import os
import sys
from itertools import count
from pathlib import Path
from typing import Callable

from gauge import BLOCK_BYTES, Gauge, block

from .flow import Flow

#: Beside the port over which the path goes: for the consumer, which is on the broker's machine.
INNER = 1000


class UDP(Flow):
    title = "vanilla, UDP"
    package = "vanilla-broker"
    guarantee = "confirmed to the producer by a broker, which keeps it until the consumer has acknowledged it"
    payload = f"bytes, {BLOCK_BYTES:,} a message"
    batching = "by the library, nothing to write: a call a message at both ends"
    settings = "defaults (the controller by delivery rate); the consumer over TCP on the broker's machine"
    has_broker = True
    scheme = "udp"

    def broker(self, host: str, port: int) -> None:
        urls = f"{self.scheme}://{host}:{port}", f"tcp://127.0.0.1:{port + INNER}"
        listen = [word for url in urls for word in ("--listen", url)]
        os.execv(sys.executable, [sys.executable, "-m", "vanilla.broker", "--insecure", *listen])

    def receive(self, host: str, port: int, ready: Callable[[], Gauge]) -> None:
        import vanilla

        with vanilla.Hub() as h, h.client.connect(f"tcp://127.0.0.1:{port + INNER}") as remote:
            blocks = remote.pull("bench")
            gauge = ready()
            while left := gauge.left:
                try:
                    gauge.block(blocks.recv(timeout=left * 1000))
                except vanilla.Timeout:
                    return

    def send(self, host: str, port: int, ready: Callable[[], object]) -> None:
        import vanilla

        with vanilla.Hub() as h, h.client.connect(f"{self.scheme}://{host}:{port}") as remote:
            send = remote.push("bench").send
            ready()
            for number in count():
                send(block(number))


class NewReno(UDP):
    """The reference controller in place of the default one, which is a table's entry."""

    title = "vanilla, UDP, NewReno"
    settings = "NewReno (RFC 9002) in place of the default controller; the consumer over TCP on the broker's machine"

    def send(self, host: str, port: int, ready: Callable[[], object]) -> None:
        from vanilla.protocol.congestion import CONTROLLERS

        CONTROLLERS["delivery"] = CONTROLLERS["newreno"]
        super().send(host, port, ready)


class TCP(UDP):
    title = "vanilla, TCP"
    scheme = "tcp"

    def __init__(self) -> None:
        control = Path("/proc/sys/net/ipv4/tcp_congestion_control").read_text().strip()
        self.settings = f"this kernel's default control, {control}; the consumer over TCP on the broker's machine"


FLOWS = {"vanilla-udp": UDP(), "vanilla-newreno": NewReno(), "vanilla-tcp": TCP()}

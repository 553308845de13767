"""The kernel's TCP, on plain sockets, by each of its congestion controls."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Callable

from gauge import Gauge

from .flow import Flow, chunks

AVAILABLE = Path("/proc/sys/net/ipv4/tcp_available_congestion_control")
#: What is read at a time at most.
READ_BYTES = 1 << 18


class TCP(Flow):
    """A plain socket at either end."""

    def __init__(self, control: str) -> None:
        self.control = control
        self.title = f"kernel TCP, {control}"
        self.settings = f"TCP_CONGESTION {control}, else the kernel's defaults"

    def version(self) -> str:
        if self.control not in AVAILABLE.read_text().split():
            raise LookupError(f"this kernel has no {self.control}")
        return ""

    def receive(self, host: str, port: int, ready: Callable[[], Gauge]) -> None:
        with socket.create_server((host, port)) as server:
            gauge = ready()
            try:
                server.settimeout(gauge.left)
                sock, _ = server.accept()
                with sock:
                    while left := gauge.left:
                        sock.settimeout(left)
                        data = sock.recv(READ_BYTES)
                        if not data:
                            raise EOFError("the sender has ended")
                        gauge.feed(data)
            except TimeoutError:
                return

    def send(self, host: str, port: int, ready: Callable[[], object]) -> None:
        with socket.socket() as sock:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, self.control.encode())
            sock.connect((host, port))
            ready()
            for chunk in chunks():
                sock.sendall(chunk)


FLOWS = {f"tcp-{control}": TCP(control) for control in ("reno", "cubic", "bbr")}

"""Ours over UDP: a dealer's calls to a router, as over TCP but for the address."""

from __future__ import annotations

import os
import sys

from .vanilla import Vanilla


class UDP(Vanilla):
    title = "vanilla, UDP"
    settings = "defaults; UDP_SEGMENT and UDP_GRO where the kernel has them"

    def broker(self, size: int) -> None:
        os.execv(sys.executable, [sys.executable, "-m", "vanilla.broker", "--listen", "udp://127.0.0.1:0"])


SERVICES = {"udp": UDP()}

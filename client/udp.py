"""Dialling ``udp://``: a socket, and the session that makes a stream of its datagrams."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from vanilla import udpsocket
from vanilla.protocol.limits import Limits
from vanilla.protocol.transport import Transport
from vanilla.task import monotonic
from vanilla.udppath import Path

if TYPE_CHECKING:
    from vanilla.core import Hub


def dial(hub: Hub, host: str, port: int, timeout: float = -1, datagram: int = 0) -> udpsocket.UDPSocket:
    """As `vanilla.udpsocket.dial`.

    :param timeout: ms, -1 for ever.
    :param datagram: the longest one that we send or take, in bytes; 0: as the path has it.
    """
    return udpsocket.dial(hub, host, port, timeout, _make, datagram)


def _make(path: Path) -> Transport:
    chance = random.SystemRandom()
    return Transport(True, monotonic(), chance.getrandbits(64) or 1, chance, limits=Limits(**path._asdict()))

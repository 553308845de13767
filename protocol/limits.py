"""What one side of a UDP session may use."""

from __future__ import annotations

from typing import NamedTuple

from .packets import DATAGRAM_BYTES


class Limits(NamedTuple):
    """Times are in seconds."""

    datagram: int = DATAGRAM_BYTES  # bytes of the longest datagram on this path, either way
    elsewhere: int = DATAGRAM_BYTES  # and once the peer has another address
    window: int = 4 << 20  # bytes that come and are not read
    buffer: int = 4 << 20  # bytes that are put and not acknowledged
    datagrams: int = 256  # so long, that our kernel's receive buffer holds
    ping: float = 15.0  # after this much silence the peer is asked
    idle: float = 60.0  # and after this much the session ends
    controller: str = "delivery"  # a key of CONTROLLERS


DEFAULTS = Limits()

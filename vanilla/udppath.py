"""How long the datagrams of a session may be on the path that a socket has, and how many of them its kernel holds."""

from __future__ import annotations

import socket
from ipaddress import ip_address
from typing import NamedTuple

#: What every path carries (RFC 9000, 14).
ANYWHERE_BYTES = 1200
#: Between addresses on loopback, which carries 65,507. Four make a full train, and the kernel counts each as 16,640
#: bytes; it counts one of 1,200 as 2,304.
LOOPBACK_BYTES = 15900
#: Datagrams that are in flight at least, whatever the kernel says.
LEAST = 16


class Path(NamedTuple):
    """``datagram``: bytes of the longest one; ``elsewhere``: if the peer gets another address; ``datagrams``: how many
    the kernel holds for us."""

    datagram: int
    elsewhere: int
    datagrams: int


def path_of(sock: socket.socket, configured: int = 0) -> Path:
    """The path of *sock*, which is connected.

    :param configured: the longest datagram on any path, in bytes; 0: `LOOPBACK_BYTES` or `ANYWHERE_BYTES`.
    """
    datagram = configured or (LOOPBACK_BYTES if _stays_here(sock) else ANYWHERE_BYTES)
    datagrams = sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) // counted(datagram)
    return Path(datagram, configured or ANYWHERE_BYTES, max(datagrams, LEAST))


def _stays_here(sock: socket.socket) -> bool:
    names = sock.getsockname(), sock.getpeername()
    return all(ip_address(name[0].partition("%")[0]).is_loopback for name in names)


def counted(size: int) -> int:
    """What Linux counts for a datagram of *size* bytes, its own records included, as SO_MEMINFO was seen to say: up to
    16 KiB it takes memory by powers of two, beyond by pages.

    >>> counted(1200), counted(15900), counted(60000)
    (2304, 16640, 61024)
    """
    whole = size + 450
    return (1 << (whole - 1).bit_length()) + 256 if whole <= 16384 else size + 1024

"""Sockets for sessions over UDP: room for many datagrams, and trains of them in one call, where the kernel has that.

UDP_SEGMENT has the kernel, or the device, cut what is sent into datagrams; UDP_GRO has it join those that come.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from typing import TYPE_CHECKING

from .udppath import Path, path_of

if TYPE_CHECKING:
    from .outbox import Buffer

#: As linux/udp.h has them: the socket module does not.
UDP_SEGMENT, UDP_GRO = 103, 104
#: How a kernel says that it does not cut: the device has no checksums; a datagram would be longer than it takes.
UNCUT = (errno.EIO, errno.EINVAL, errno.EMSGSIZE)
#: What we ask the kernel to hold for us, in bytes.
BUFFER_BYTES = 4 << 20
_INT = struct.Struct("i")
_SHORT = struct.Struct("H")
#: Room for one control message with an int.
ANCILLARY_BYTES = socket.CMSG_SPACE(_INT.size) if hasattr(socket, "CMSG_SPACE") else 0


class Offload:
    """Does this kernel cut what is sent (UDP_SEGMENT), and join what comes (UDP_GRO)? Found out once.

    The environment variable ``VANILLA_UDP_OFFLOAD=0``, read then, leaves both aside: for devices on the way that handle
    trains of datagrams badly, and to see what they bring.
    """

    def __init__(self) -> None:
        self.sends = self.joins = False
        if not ANCILLARY_BYTES or os.environ.get("VANILLA_UDP_OFFLOAD") == "0":
            return
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            try:
                sock.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, 0)
                self.sends = True
            except OSError:
                pass
            self.joins = self.join(sock)

    def join(self, sock: socket.socket) -> bool:
        try:
            sock.setsockopt(socket.IPPROTO_UDP, UDP_GRO, 1)
        except OSError:
            return False
        return True


OFFLOAD = Offload()


def make_room(sock: socket.socket) -> None:
    """Make *sock* non-blocking, with as much room in the kernel as it gives."""
    sock.setblocking(False)
    for option in socket.SO_RCVBUF, socket.SO_SNDBUF:
        sock.setsockopt(socket.SOL_SOCKET, option, BUFFER_BYTES)


def prepare(sock: socket.socket, configured: int = 0) -> Path:
    """Make *sock*, which is connected, ready for a session: what its path is; *configured* as `path_of` has it."""
    make_room(sock)
    if OFFLOAD.joins:
        OFFLOAD.join(sock)
    return path_of(sock, configured)


def send_train(sock: socket.socket, data: Buffer, segment: int) -> bool:
    """Send *data* as datagrams of *segment* bytes by one call; False: the kernel does not, for this device or this
    size."""
    try:
        sock.sendmsg([data], [(socket.IPPROTO_UDP, UDP_SEGMENT, _SHORT.pack(segment))])
    except OSError as error:
        if error.errno not in UNCUT:
            raise
        return False
    return True


def segment_of(ancillary: list[tuple[int, int, bytes]]) -> int:
    """Of how many bytes each of the datagrams is that UDP_GRO has joined, but for the last; 0: there is but one."""
    for level, kind, value in ancillary:
        if (level, kind) == (socket.IPPROTO_UDP, UDP_GRO):
            return int(_INT.unpack(value[: _INT.size])[0])
    return 0

"""Both sides of a TLS connection, for tests of what is driven by a hub on one side only."""

from __future__ import annotations

import select
import socket
from typing import Any

from vanilla.certificates import client_context, server_context
from vanilla.tlssocket import TLSSocket

#: No test waits longer than this for something that it expects, in seconds.
PATIENCE = 30


def shake(*sides: Any) -> None:
    """Let two sides of one connection go on with their handshake, in turn, until both are done."""
    while not all(side.ready for side in sides):
        for side in sides:
            try:
                side.handshake()
            except BlockingIOError:
                pass


class Far:
    """A `TLSSocket` as the other side uses it: as a blocking socket."""

    def __init__(self, tls: TLSSocket) -> None:
        self.tls = tls
        self._blocking = True

    def dup(self) -> TLSSocket:
        """For another stream, which goes on in place of this object."""
        return self.tls

    def setblocking(self, flag: bool) -> None:
        self._blocking = flag

    def settimeout(self, seconds: float) -> None:
        self._blocking = bool(seconds)

    def send(self, data: bytes) -> int:
        return self._call(self.tls.send, data, write=True)

    def sendall(self, data: bytes) -> None:
        while data:
            data = data[self.send(data) :]

    def recv(self, size: int) -> bytes:
        return self._call(self.tls.recv, size, write=False)

    def shutdown(self, how: int) -> None:
        self._call(self.tls.shutdown, how, write=True)

    def setsockopt(self, *option: Any) -> None:
        self.tls._sock.setsockopt(*option)

    def fileno(self) -> int:
        return self.tls.fileno()

    def close(self) -> None:
        self.tls.close()

    def _call(self, f: Any, argument: Any, write: bool) -> Any:
        while True:
            try:
                return f(argument)
            except BlockingIOError:
                if not self._blocking:
                    raise
            fds = [self.tls.fileno()]
            assert any(select.select([] if write else fds, fds if write else [], [], PATIENCE))


def pair(h: Any, certs: Any) -> tuple[Far, TLSSocket]:
    """The other side, a client, and ours, once they have shaken hands."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    theirs.setblocking(False)
    near = TLSSocket(h, ours, server_context(certs.server))
    far = TLSSocket(h, theirs, client_context(certs.ca), "localhost")
    shake(near, far)
    return Far(far), near

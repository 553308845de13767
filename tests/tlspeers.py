"""Both sides of a TLS connection, for tests of what is driven by a hub on one side only."""

from __future__ import annotations

import select
import socket
from types import SimpleNamespace
from typing import Any

from vanilla.certificates import client_context, server_context
from vanilla.poll import Poll
from vanilla.tlssocket import Exchange, TLSSocket

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
    """A `TLSSocket` as the other side uses it: as a blocking socket, in whatever thread.

    So it belongs to no hub and shares no `Exchange`.
    """

    def __init__(self, h: Any, sock: socket.socket, certs: Any) -> None:
        nobody: Any = SimpleNamespace(poll=Poll(), forked=False, tls=SimpleNamespace(exchange=Exchange()))
        self.tls = TLSSocket(nobody, sock, client_context(certs.ca), "localhost")
        self._h = h
        self._poll = nobody.poll
        self._blocking = True

    def dup(self) -> TLSSocket:
        """For a stream of the hub, which goes on in place of this object."""
        self.tls.hub = self._h
        self._h.poll.layers[self.tls.fileno()] = self.tls
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
        self._poll.close()

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
    far = Far(h, theirs, certs)
    shake(near, far.tls)
    return far, near

"""gevent: greenlets as ours are, and sockets with the methods of plain ones."""

from __future__ import annotations

from typing import Any, Callable

from .net import CHUNK, HOST, Net


class Gevent(Net):
    title = "gevent"
    package = "gevent"
    module = "gevent.socket"
    settings = "defaults; StreamServer with a greenlet a connection, recv and sendall of its sockets"

    def echo(self, listening: Callable[[int], None]) -> None:
        from gevent.server import StreamServer

        def serve(sock: Any, _: Any) -> None:
            tune(sock)
            while data := sock.recv(CHUNK):
                sock.sendall(data)

        serve_with(StreamServer((HOST, 0), serve), listening)

    def copy(self, source: int, target: int) -> None:
        from gevent import socket

        with socket.create_connection((HOST, source)) as a, socket.create_connection((HOST, target)) as b:
            while data := a.recv(CHUNK):
                b.sendall(data)

    def keep(self, receive: bool, listening: Callable[[int], None], kept: Callable[[], None]) -> None:
        from gevent.server import StreamServer

        socks = []

        def wait(sock: Any, _: Any) -> None:
            kept()
            sock.recv(CHUNK)

        def keep(sock: Any, _: Any) -> None:
            socks.append(sock)
            kept()

        server = StreamServer((HOST, 0), wait) if receive else StreamServer((HOST, 0), keep, spawn=None)
        serve_with(server, listening)


def tune(sock: Any) -> None:
    """No Nagle delay, as all others have it."""
    import socket

    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def serve_with(server: Any, listening: Callable[[int], None]) -> None:
    """Until the end of this process."""
    server.start()
    listening(server.server_port)
    server.serve_forever()


NETS = {"gevent": Gevent()}

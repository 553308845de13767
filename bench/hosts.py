"""What accepts connections in the rows of `connections`: a program for each side, and what a client says to it first.

    python hosts.py PARENT SIDE WORK      says "listening on ADDRESS" and goes on as the server

PARENT is the process without which this one is not to live.
"""

from __future__ import annotations

import os
import resource
import select
import socket
import struct
import sys
from typing import NamedTuple

from sides.nats import SERVER as NATS_SERVER
from sides.program import version_of
from sides.redis import SERVER as REDIS_SERVER
from sides.server import HOST, become, free_port
from sides.side import Side
from worker import allow_descriptors, end_with_the_parent

#: Connections that a server is told to take, where it would take fewer.
MOST = 20_000
#: What a puller of the queue below waits for.
QUEUE = "jobs"


class Words(NamedTuple):
    """What a client says, at once and without waiting, and how the server's answer to all of it ends. ``own`` stands
    in what is said for bytes that no two connections may share, if there are such."""

    said: bytes
    ending: bytes
    own: bytes = b""


class Host(Side):
    """A side of these rows. What it has not raises LookupError, whose text says why."""

    guarantee = "none needed: no messages"
    batching = "none: one write a connection"

    def serve(self, work: str) -> None:
        """Be the server, in this process, until killed; print ``listening on ADDRESS`` once ready."""
        raise NotImplementedError

    def idle(self) -> Words:
        """For a connection that does nothing more."""
        raise NotImplementedError

    def puller(self) -> Words:
        """For a connection that waits for messages of the one queue."""
        raise LookupError("has no queues")

    def endpoints(self, names: range) -> Words:
        """For a connection that waits for messages of many queues."""
        raise LookupError("has no queues")

    def words(self, work: str, names: range) -> Words:
        """What to say for one connection of *work*."""
        return self.endpoints(names) if work == "endpoint" else self.puller() if work == "puller" else self.idle()


class Vanilla(Host):
    title = "vanilla"
    package = "vanilla-broker"
    payload = "HELLO, answered by HELLO"
    settings = f"--connections {MOST}"

    def serve(self, work: str) -> None:
        options = ("--listen", f"tcp://{HOST}:0", "--connections", str(MOST))
        os.execv(sys.executable, [sys.executable, "-m", "vanilla.broker", *options])

    def idle(self) -> Words:
        from msgpack import packb

        from vanilla.protocol.connection import VERSION
        from vanilla.protocol.frames import FRAME_LIMIT, HELLO, pack_control

        own = os.urandom(16)
        hello = pack_control(HELLO, 0, 0, {"v": VERSION, "id": own, "agent": "bench"})
        return Words(hello, packb("frame") + packb(FRAME_LIMIT), own)

    def puller(self) -> Words:
        from vanilla.protocol.frames import CREDIT, OPEN, pack_control

        opening = pack_control(OPEN, 1, 0, {"kind": "pull", "name": QUEUE})
        credit = pack_control(CREDIT, 1, 0, {"n": 1, "b": 1000})
        hello = self.idle()
        return Words(hello.said + opening + credit, pack_control(OPEN, 1), hello.own)

    def endpoints(self, names: range) -> Words:
        from vanilla.protocol.frames import OPEN, pack_control

        frames = [
            pack_control(OPEN, number, 0, {"kind": "pull", "name": f"{QUEUE}{name}"})
            for number, name in enumerate(names, 1)
        ]
        hello = self.idle()
        return Words(hello.said + b"".join(frames), pack_control(OPEN, len(names)), hello.own)


class Redis(Host):
    title = "Redis"
    payload = "PING, answered by PONG"
    #: From 127.0.0.2 it would take nobody in its protected mode.
    settings = f"no persistence, maxclients {MOST}, no protected mode"

    def version(self) -> str:
        return version_of(REDIS_SERVER)

    def serve(self, work: str) -> None:
        port = free_port()
        options = ("--save", "", "--appendonly", "no", "--maxclients", str(MOST), "--protected-mode", "no")
        become(REDIS_SERVER, port, "--bind", HOST, "--port", str(port), *options)

    def idle(self) -> Words:
        return Words(b"PING\r\n", b"+PONG\r\n")

    def puller(self) -> Words:
        return Words(f"PING\r\nBLPOP {QUEUE} 0\r\n".encode(), b"+PONG\r\n")

    def endpoints(self, names: range) -> Words:
        raise LookupError("has none: an empty list is no key")


class Nats(Host):
    title = "NATS"
    payload = "CONNECT and PING, answered by INFO and PONG"

    def version(self) -> str:
        return version_of(NATS_SERVER)

    def serve(self, work: str) -> None:
        port = free_port()
        become(NATS_SERVER, port, "--addr", HOST, "--port", str(port))

    def _words(self, *more: str) -> Words:
        lines = ('CONNECT {"verbose":false,"pedantic":false}', *more, "PING", "")
        return Words("\r\n".join(lines).encode(), b"PONG\r\n")

    def idle(self) -> Words:
        return self._words()

    def puller(self) -> Words:
        return self._words(f"SUB {QUEUE} workers 1")

    def endpoints(self, names: range) -> Words:
        return self._words(*(f"SUB {QUEUE}{name} workers {number}" for number, name in enumerate(names, 1)))


class Pyzmq(Host):
    """A PULL socket; for pullers a PUSH socket. Its clients speak ZMTP 3.0 without security, by hand."""

    title = "pyzmq"
    package = "pyzmq"
    payload = "greeting and READY, answered by the same"

    def serve(self, work: str) -> None:
        import zmq

        server = zmq.Context().socket(zmq.PUSH if work == "puller" else zmq.PULL)
        server.bind(f"tcp://{HOST}:*")
        print("listening on", server.last_endpoint.decode(), flush=True)
        server.poll(-1)

    def _words(self, ours: bytes, theirs: bytes) -> Words:
        greeting = b"\xff" + bytes(8) + b"\x7f\x03\x00" + b"NULL".ljust(20, b"\0") + bytes(32)
        ready = b"\x05READY\x0bSocket-Type" + struct.pack(">I", 4)
        return Words(greeting + b"\x04" + bytes([len(ready) + 4]) + ready + ours, ready + theirs)

    def idle(self) -> Words:
        return self._words(b"PUSH", b"PULL")

    def puller(self) -> Words:
        return self._words(b"PULL", b"PUSH")

    def endpoints(self, names: range) -> Words:
        raise LookupError("has none: a queue is a socket with a port of its own")


class Floor(Host):
    """As little as a server in Python can do: it knows no frames and no limits."""

    title = "Python floor"
    payload = "64 bytes, answered by as many"
    WORDS = bytes(64)
    BATCH = 16

    def serve(self, work: str) -> None:
        with socket.create_server((HOST, 0), backlog=1024) as server, select.epoll() as epoll:
            server.setblocking(False)
            epoll.register(server, select.EPOLLIN)
            print("listening on {}:{}".format(*server.getsockname()), flush=True)
            self._run(server, epoll)

    def _run(self, server: socket.socket, epoll: select.epoll) -> None:
        socks: dict[int, socket.socket] = {}
        while True:
            for fd, _ in epoll.poll():
                if fd in socks:
                    if socks[fd].recv(4096):
                        socks[fd].send(self.WORDS)
                    else:
                        socks.pop(fd).close()
                else:
                    self._accept(server, epoll, socks)

    def _accept(self, server: socket.socket, epoll: select.epoll, socks: dict[int, socket.socket]) -> None:
        for _ in range(self.BATCH):
            try:
                sock, _ = server.accept()
            except BlockingIOError:
                return
            sock.setblocking(False)
            socks[sock.fileno()] = sock
            epoll.register(sock.fileno(), select.EPOLLIN)

    def idle(self) -> Words:
        return Words(self.WORDS, self.WORDS)


HOSTS: dict[str, Host] = {"vanilla": Vanilla(), "redis": Redis(), "nats": Nats(), "pyzmq": Pyzmq(), "floor": Floor()}


def most_descriptors() -> int:
    """How many a process may have if it asks."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    return sys.maxsize if hard == resource.RLIM_INFINITY else hard


def main(parent: str, name: str, work: str) -> None:
    end_with_the_parent(int(parent))
    allow_descriptors()
    HOSTS[name].serve(work)


if __name__ == "__main__":
    main(*sys.argv[1:])

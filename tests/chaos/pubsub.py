"""Publish and subscribe by three brokers, in the same words: ours by its client, the others by plain sockets."""

from __future__ import annotations

import socket
from typing import Any, Protocol

import vanilla
import vanilla.client
from vanilla.protocol.frames import CREDIT, HELLO, OPEN, pack_control

_ALL = 1 << 60


class Client(Protocol):
    """One connection."""

    def publish(self, subject: str, body: bytes) -> None: ...

    def flush(self) -> None:
        """Wait until the broker has read what was published."""

    def subscribe(self, subject: str) -> None: ...

    def recv(self) -> bytes:
        """The next body of what was subscribed to."""


class Vanilla:
    def __init__(self, address: str) -> None:
        self._remote = vanilla.Hub().client.connect(address)
        self._senders: dict[str, Any] = {}
        self._recver: Any = None

    def publish(self, subject: str, body: bytes) -> None:
        if subject not in self._senders:
            self._senders[subject] = self._remote.broadcast(subject)
        self._senders[subject].send(body)

    def flush(self) -> None:
        for sender in self._senders.values():
            sender.sync()

    def subscribe(self, subject: str) -> None:
        self._recver = self._remote.broadcast(subject).subscribe()
        self._remote.ping()

    def recv(self) -> bytes:
        body: bytes = self._recver.recv()
        return body

    @staticmethod
    def deaf(address: str, subject: str) -> socket.socket:
        sock = _dial(address)
        sock.sendall(pack_control(HELLO, 0, 0, {"v": 1, "id": b"d" * 16}))
        sock.sendall(pack_control(OPEN, 1, 0, {"kind": "subscribe", "name": subject}))
        sock.sendall(pack_control(CREDIT, 1, 0, {"n": _ALL, "b": _ALL}))
        sock.recv(1)
        return sock


class Redis:
    def __init__(self, address: str) -> None:
        self._sock, self._subscribed = _dial(address), _dial(address)
        self._lines, self._coming = self._sock.makefile("rb"), self._subscribed.makefile("rb")
        self._unanswered = 0

    def publish(self, subject: str, body: bytes) -> None:
        self._sock.sendall(_command(b"PUBLISH", subject.encode(), body))
        self._unanswered += 1

    def flush(self) -> None:
        for _ in range(self._unanswered):
            _line(self._lines)
        self._unanswered = 0

    def subscribe(self, subject: str) -> None:
        self._subscribed.sendall(_command(b"SUBSCRIBE", subject.encode()))
        for _ in range(6):
            _line(self._coming)

    def recv(self) -> bytes:
        for _ in range(5):
            _line(self._coming)
        return _sized(self._coming, int(_line(self._coming)[1:]))

    @staticmethod
    def deaf(address: str, subject: str) -> socket.socket:
        sock = _dial(address)
        sock.sendall(_command(b"SUBSCRIBE", subject.encode()))
        sock.recv(1)
        return sock


class Nats:
    def __init__(self, address: str) -> None:
        self._sock, self._subscribed = _dial(address), _dial(address)
        self._lines, self._coming = self._sock.makefile("rb"), self._subscribed.makefile("rb")
        for sock in self._sock, self._subscribed:
            sock.sendall(b'CONNECT {"verbose":false}\r\n')

    def publish(self, subject: str, body: bytes) -> None:
        self._sock.sendall(b"PUB %s %d\r\n%s\r\n" % (subject.encode(), len(body), body))

    def flush(self) -> None:
        self._sock.sendall(b"PING\r\n")
        while _line(self._lines) != b"PONG\r\n":
            pass

    def subscribe(self, subject: str) -> None:
        self._subscribed.sendall(b"SUB %s 1\r\nPING\r\n" % subject.encode())
        while _line(self._coming) != b"PONG\r\n":
            pass

    def recv(self) -> bytes:
        while True:
            word, *about = _line(self._coming).split()
            if word == b"MSG":
                return _sized(self._coming, int(about[-1]))
            if word == b"PING":
                self._subscribed.sendall(b"PONG\r\n")

    @staticmethod
    def deaf(address: str, subject: str) -> socket.socket:
        sock = _dial(address)
        sock.sendall(b'CONNECT {"verbose":false}\r\nSUB %s 1\r\nPING\r\n' % subject.encode())
        sock.recv(1)
        return sock


KINDS: dict[str, Any] = {"vanilla": Vanilla, "redis": Redis, "nats": Nats}


def _dial(address: str) -> socket.socket:
    host, _, port = address.rpartition("//")[2].rpartition(":")
    sock = socket.create_connection((host, int(port)))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def _command(*words: bytes) -> bytes:
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in words)


def _line(lines: Any) -> bytes:
    line: bytes = lines.readline()
    if not line:
        raise EOFError("the broker has closed the connection")
    return line


def _sized(lines: Any, size: int) -> bytes:
    body: bytes = lines.read(size + 2)[:-2]
    return body

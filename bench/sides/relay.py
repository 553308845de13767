"""A floor: a Python process that copies bytes from one TCP connection to another, and knows no messages at all."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Callable

from .side import Side

BUFFER_BYTES = 256 << 10


def connect(address: str, role: bytes) -> socket.socket:
    """A connection to the relay, which learns what it is for from one byte."""
    host, _, port = address.rpartition(":")
    sock = socket.create_connection((host, int(port)))
    sock.sendall(role)
    return sock


class Relay(Side):
    title = "Python byte relay"
    guarantee = "none: no messages, no queue, no names, one producer and one consumer"
    payload = "bytes of a size that both ends know"
    batching = "none: one sendall and one recv a message"

    def broker(self, size: int) -> None:
        ends = {}
        with socket.create_server(("127.0.0.1", 0)) as server:
            print("listening on {}:{}".format(*server.getsockname()), flush=True)
            while len(ends) < 2:
                sock = server.accept()[0]
                ends[sock.recv(1)] = sock
        buffer = bytearray(BUFFER_BYTES)
        view = memoryview(buffer)
        source, target = ends[b"P"], ends[b"C"]
        while True:
            n = source.recv_into(buffer)
            if not n:
                break
            target.sendall(view[:n])

    @contextmanager
    def sender(self, address: str, size: int) -> Iterator[Callable[[bytes], Any]]:
        with connect(address, b"P") as sock:
            yield sock.sendall

    @contextmanager
    def recver(self, address: str, size: int) -> Iterator[Callable[[], Any]]:
        with connect(address, b"C") as sock:
            recv = sock.recv
            yield lambda: recv(size, socket.MSG_WAITALL)


SIDES = {"relay": Relay()}

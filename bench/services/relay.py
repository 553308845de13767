"""A floor: a process that copies bytes between two connections, both ways, and an end that sends back what it gets."""

from __future__ import annotations

import select
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Callable

from plan import STAMP
from sides.relay import BUFFER_BYTES, connect
from sides.relay import Relay as OneWay

from .service import Service, many_in_lists

SIZE = STAMP.size


class Relay(Service):
    title = "Python byte relay"
    guarantee = "none: no messages, no queue, no names, one client and one server"
    payload = "16 bytes, as both ends know"
    batching = "none: one sendall and one recv of what is there; where many are under way, of as many as may be"

    def broker(self, size: int) -> None:
        """As little as there can be between two ends that may both speak: no turn is known before."""
        ends = OneWay().accept()
        others = {end.fileno(): (end, other) for end, other in zip(ends, reversed(ends))}
        buffer = bytearray(BUFFER_BYTES)
        view = memoryview(buffer)
        with select.epoll() as epoll:
            for end in ends:
                epoll.register(end, select.EPOLLIN)
            while True:
                for fd, _ in epoll.poll():
                    source, target = others[fd]
                    n = source.recv_into(buffer)
                    if not n:
                        return
                    target.sendall(view[:n])

    def serve(self, address: str, work: str, ready: Callable[[], object]) -> None:
        with connect(address, b"C") as sock:
            ready()
            while data := sock.recv(BUFFER_BYTES):
                sock.sendall(data)

    @contextmanager
    def client(self, address: str, work: str) -> Iterator[socket.socket]:
        with connect(address, b"P") as sock:
            yield sock

    def one_at_a_time(self, call: Any, tally: Any) -> None:
        def ask(request: bytes) -> bytes:
            call.sendall(request)
            return call.recv(SIZE, socket.MSG_WAITALL)  # type: ignore[no-any-return]

        super().one_at_a_time(ask, tally)

    def many(self, start: Any, tally: Any, most: int) -> None:
        def recv() -> list[bytes]:
            data = start.recv(most * SIZE)
            if rest := -len(data) % SIZE:
                data += start.recv(rest, socket.MSG_WAITALL)
            return [data[at : at + SIZE] for at in range(0, len(data), SIZE)]

        many_in_lists(lambda requests: start.sendall(b"".join(requests)), recv, tally, most)


SERVICES = {"relay": Relay()}

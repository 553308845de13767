"""No library: sockets of Python, with an epoll loop where there are many, and blocking ones where there are two."""

from __future__ import annotations

import select
import socket
from typing import Callable

from .net import CHUNK, HOST, Net


class Plain(Net):
    title = "plain sockets"
    settings = "a loop of epoll, recv and send; to copy, blocking recv and sendall of 64 KiB"

    def echo(self, listening: Callable[[int], None]) -> None:
        server, epoll = listen(listening)
        socks = {server.fileno(): server}
        while True:
            for fd, _ in epoll.poll():
                sock = socks[fd]
                if sock is server:
                    conn = server.accept()[0]
                    conn.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    socks[conn.fileno()] = conn
                    epoll.register(conn, select.EPOLLIN)
                elif data := sock.recv(CHUNK):
                    sock.send(data)
                else:
                    epoll.unregister(fd)
                    socks.pop(fd).close()

    def copy(self, source: int, target: int) -> None:
        with socket.create_connection((HOST, source)) as a, socket.create_connection((HOST, target)) as b:
            while data := a.recv(CHUNK):
                b.sendall(data)

    def keep(self, receive: bool, listening: Callable[[int], None], kept: Callable[[], None]) -> None:
        if receive:
            raise LookupError("has no tasks")
        server, epoll = listen(listening)
        socks = []
        while epoll.poll():
            sock = server.accept()[0]
            socks.append(sock)
            epoll.register(sock, select.EPOLLIN)
            kept()


def listen(listening: Callable[[int], None]) -> tuple[socket.socket, select.epoll]:
    server = socket.create_server((HOST, 0), backlog=1024)
    epoll = select.epoll()
    epoll.register(server, select.EPOLLIN)
    listening(server.getsockname()[1])
    return server, epoll


class Into(Plain):
    """The quickest that a program in Python does: one buffer, which neither is made anew nor filled with zeros."""

    title = "plain sockets, one buffer"
    settings = "blocking recv_into and sendall of one buffer of 64 KiB"

    def copy(self, source: int, target: int) -> None:
        with socket.create_connection((HOST, source)) as a, socket.create_connection((HOST, target)) as b:
            buffer = memoryview(bytearray(CHUNK))
            while size := a.recv_into(buffer):
                b.sendall(buffer[:size])


NETS = {"plain": Plain(), "plain-into": Into()}

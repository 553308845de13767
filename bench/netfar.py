"""The far ends of what `netside` runs: plain sockets on the last core, the same for all sides.

    python netfar.py PARENT ask PORT CONNECTIONS SIZE    says "ready"; a line "SECONDS" later, how many were answered
    python netfar.py PARENT source BLOCKS                says on which port; sends so many blocks to who comes, and ends
    python netfar.py PARENT sink BLOCKS                  says on which port; after the last of them, the ``seconds``
    python netfar.py PARENT hold PORT CONNECTIONS        opens so many, and holds them

PARENT is the process without which this one is not to live. A block is `BLOCK` bytes and begins with its number, which
the sink looks at. The source fills no buffer anew, and the sink has the kernel throw the rest of each block away
(tcp(7), MSG_TRUNC), so that the two take less than what is between them.
"""

from __future__ import annotations

import select
import socket
import struct
import sys
import time

from crowd import Crowd, keep_to_one_core, lost
from sides.server import HOST
from worker import allow_descriptors, end_with_the_parent, say

BLOCK = 1 << 20
NUMBER = struct.Struct(">Q")
#: How long anybody may be silent, in seconds.
PATIENCE = 30.0


class Asker:
    """Has a question of *size* bytes on each connection that is not answered yet, and looks at each answer."""

    def __init__(self, port: int, connections: int, size: int) -> None:
        self.epoll = select.epoll()
        #: Two that alternate, so that one that is lost or doubled is found out.
        self.questions = {}
        self.socks = {}
        self.turn = {}
        self.came: dict[int, bytes] = {}
        for number in range(connections):
            sock = socket.create_connection((HOST, port))
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            fd = sock.fileno()
            self.socks[fd] = sock
            self.questions[fd] = [NUMBER.pack(2 * number + i).rjust(size, b".") for i in (0, 1)]
            self.turn[fd] = 0
            self.epoll.register(fd, select.EPOLLIN)
            sock.sendall(self.questions[fd][0])

    def ask(self, seconds: float) -> int:
        """For so long, and until one is answered.

        :return: how many were answered.
        """
        answered = 0
        end = time.monotonic() + seconds
        while time.monotonic() < end or not answered:
            for fd, _ in self.epoll.poll(PATIENCE) or lost("no answer"):
                turn = self.turn[fd]
                questions = self.questions[fd]
                sock = self.socks[fd]
                data = sock.recv(65536)
                if data != questions[turn]:
                    data = self.came.pop(fd, b"") + data
                    if data != questions[turn]:
                        if not data or not questions[turn].startswith(data):
                            lost("an answer is not what was asked")
                        self.came[fd] = data
                        continue
                self.turn[fd] = turn = 1 - turn
                sock.send(questions[turn])
                answered += 1
        return answered


def ask(port: str, connections: str, size: str) -> None:
    asker = Asker(int(port), int(connections), int(size))
    say("ready")
    for line in sys.stdin:
        begin = time.monotonic()
        answered = asker.ask(float(line))
        say({"answered": answered, "seconds": time.monotonic() - begin})


def accept() -> socket.socket:
    """The one connection that is made to a port of our own, which is said."""
    with socket.create_server((HOST, 0)) as server:
        server.settimeout(PATIENCE)
        say(f"listening on {server.getsockname()[1]}")
        return server.accept()[0]


def source(blocks: str) -> None:
    block = bytearray(BLOCK)
    with accept() as sock:
        for number in range(int(blocks)):
            NUMBER.pack_into(block, 0, number)
            sock.sendall(block)


def sink(blocks: str) -> None:
    trash = bytearray(BLOCK)
    with accept() as sock:
        begin = 0.0
        for number in range(int(blocks)):
            head = sock.recv(NUMBER.size, socket.MSG_WAITALL)
            begin = begin or time.monotonic()
            if head != NUMBER.pack(number):
                lost(f"block {number} is not in its place")
            left = BLOCK - NUMBER.size
            while left:
                left -= sock.recv_into(trash, left, socket.MSG_TRUNC) or lost("it ended too early")
        seconds = time.monotonic() - begin
        if sock.recv(1):
            lost("more came than was sent")
    say({"seconds": seconds})


def hold(port: str, connections: str) -> None:
    crowd = Crowd((HOST, int(port)))
    for _ in range(int(connections)):
        crowd.dial(b"")
    time.sleep(PATIENCE)


WORKS = {"ask": ask, "source": source, "sink": sink, "hold": hold}

if __name__ == "__main__":
    parent, what, *arguments = sys.argv[1:]
    end_with_the_parent(int(parent))
    allow_descriptors()
    keep_to_one_core()
    WORKS[what](*arguments)

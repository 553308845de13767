"""beanstalkd: jobs in a server's memory, each reserved and deleted; by greenstalk, and many at a time by hand."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, BinaryIO, Callable

from plan import Plan, check

from .program import find_program
from .server import HOST, become, free_port, listening
from .side import Side, installed

SERVER = "beanstalkd"
#: Jobs that a program puts together by hand are so many bytes, as those of the other sides.
BATCH_BYTES = 64 << 10
#: How many jobs it reserves at a time.
RESERVED = 1_000
#: How long a job may be reserved, in seconds: the client's default.
TTR = 60


def server_version() -> str:
    """
    :raises LookupError: it is not installed.
    """
    return subprocess.run([find_program(SERVER), "-v"], capture_output=True, text=True).stdout.split()[-1]


class Beanstalkd(Side):
    title = "beanstalkd"
    package = "greenstalk"
    guarantee = (
        f"confirmed to the producer; kept in the server's memory until deleted; goes back when its worker is gone, or "
        f"after {TTR} s; no back-pressure: the tube grows while there is memory"
    )
    payload = "bytes, in a job"
    batching = "none: put, reserve and delete, each a call and a round trip a message"
    settings = "no log; greenstalk"

    def version(self) -> str:
        return f"{server_version()}, greenstalk {installed(self.package)}"

    def broker(self, size: int) -> None:
        port = free_port()
        become(SERVER, port, "-l", HOST, "-p", str(port), "-z", str(1 << 20))

    @contextmanager
    def client(self, address: str) -> Iterator[Any]:
        from greenstalk import Client

        with Client(listening(address), encoding=None) as client:
            yield client

    @contextmanager
    def sender(self, address: str, size: int) -> Iterator[Callable[[bytes], Any]]:
        with self.client(address) as client:
            yield client.put

    @contextmanager
    def recver(self, address: str, size: int) -> Iterator[Any]:
        with self.client(address) as client:
            yield client

    def consume(self, recv: Any, plan: Plan, mark: Callable[[], object]) -> list[int]:
        waits = []
        for count in range(plan.all_messages):
            job = recv.reserve()
            if not count % plan.block:
                if count == plan.warm_blocks * plan.block:
                    mark()
                waits.append(check(job.body, count // plan.block, plan.size))
            recv.delete(job)
        return waits[plan.warm_blocks :]


class Batched(Beanstalkd):
    """What a program can do that knows the protocol: many commands in one write, their answers read together."""

    title = "beanstalkd, pipelined by hand"
    package = ""
    payload = "lists of bytes"
    batching = f"by the program: {BATCH_BYTES >> 10} KiB of puts in a write; up to {RESERVED:,} deletes and reserves"
    settings = "no log; a socket, without a client library"

    def version(self) -> str:
        return server_version()

    @contextmanager
    def client(self, address: str) -> Iterator[Any]:
        with socket.create_connection(listening(address)) as sock, sock.makefile("rb", 1 << 20) as answers:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            yield sock, answers

    @contextmanager
    def sender(self, address: str, size: int) -> Iterator[Callable[[Any], Any]]:
        with self.client(address) as (sock, answers):
            yield partial(put, sock, answers)

    def produce(self, send: Callable[[Any], Any], plan: Plan) -> None:
        self.produce_lists(send, plan, max(BATCH_BYTES // plan.size, 1))

    def consume(self, recv: Any, plan: Plan, mark: Callable[[], object]) -> list[int]:
        sock, answers = recv
        left = plan.all_messages
        done: list[bytes] = []

        def take() -> list[bytes]:
            nonlocal left, done
            count = min(RESERVED, left)  # each is waited for
            left -= count
            bodies, done = reserve(sock, answers, done, count)
            return bodies

        waits = self.consume_lists(take, plan, mark)
        reserve(sock, answers, done, 0)
        return waits


def put(sock: socket.socket, answers: BinaryIO, batch: list[bytes]) -> None:
    """Put each of *batch*."""
    sock.sendall(b"".join([b"put 65536 0 %d %d\r\n%b\r\n" % (TTR, len(body), body) for body in batch]))
    for _ in batch:
        expect(answers, b"INSERTED")


def reserve(sock: socket.socket, answers: BinaryIO, done: list[bytes], count: int) -> tuple[list[bytes], list[bytes]]:
    """Delete the jobs *done*, and reserve *count* others: their bodies, and their names."""
    sock.sendall(b"".join([b"delete %b\r\n" % name for name in done]) + b"reserve\r\n" * count)
    for _ in done:
        expect(answers, b"DELETED")
    bodies, names = [], []
    for _ in range(count):
        name, size = expect(answers, b"RESERVED")
        names.append(name)
        bodies.append(answers.read(int(size) + 2)[:-2])
    return bodies, names


def expect(answers: BinaryIO, word: bytes) -> list[bytes]:
    """What stands behind *word* in the next answer.

    :raises AssertionError: it is another.
    """
    found, *rest = answers.readline().split()
    if found != word:
        raise AssertionError(f"the server says {found!r}, not {word!r}")
    return rest


SIDES = {"beanstalkd": Beanstalkd(), "beanstalkd-batched": Batched()}

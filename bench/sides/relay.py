"""Floors: a process that copies bytes from one TCP connection to another and knows no messages, in Python and in C; and
what Python takes to send and receive a message a call, in batches, with nothing else to do."""

from __future__ import annotations

import os
import signal
import socket
import struct
import subprocess
import tempfile
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Callable

from .program import find_program, version_of
from .side import Side

BUFFER_BYTES = 256 << 10
SOURCE = Path(__file__).with_name("relay.c")
#: Messages of so many bytes are packed together.
BATCH_BYTES = 64 << 10
#: The length of a batch, before it.
LENGTH = struct.Struct(">I")
COMPILER = "cc"
OPTIONS = ("-O2", "-std=c99")


def connect(address: str, role: bytes) -> socket.socket:
    """A connection to the relay, which learns what it is for from one byte."""
    host, _, port = address.rpartition(":")
    sock = socket.create_connection((host, int(port)))
    at_once(sock)
    sock.sendall(role)
    return sock


def at_once(sock: socket.socket) -> None:
    """What is sent leaves now, and not when what was sent before is acknowledged, as with all other sides."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, True)


def copy(source: socket.socket, target: socket.socket) -> None:
    """Copy bytes until *source* ends, and then the end."""
    buffer = bytearray(BUFFER_BYTES)
    view = memoryview(buffer)
    while n := source.recv_into(buffer):
        target.sendall(view[:n])
    target.shutdown(socket.SHUT_WR)


def compiled() -> int:
    """relay.c as a program, open to be executed; there is no file of it any more."""
    with tempfile.TemporaryDirectory(prefix="vanilla-bench-") as scratch:
        path = os.path.join(scratch, "relay")
        subprocess.run([find_program(COMPILER), *OPTIONS, "-o", path, str(SOURCE)], check=True)
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)


class Relay(Side):
    title = "Python byte relay"
    guarantee = "none: no messages, no queue, no names, one producer and one consumer"
    payload = "bytes of a size that both ends know"
    batching = "none: one sendall and one recv a message"

    def broker(self, size: int) -> None:
        copy(*self.accept())
        signal.pause()

    def accept(self) -> tuple[socket.socket, socket.socket]:
        """The connections to the producer and to the consumer."""
        ends: dict[bytes, socket.socket] = {}
        with socket.create_server(("127.0.0.1", 0)) as server:
            print("listening on {}:{}".format(*server.getsockname()), flush=True)
            while len(ends) < 2:
                sock = server.accept()[0]
                at_once(sock)
                ends[sock.recv(1)] = sock
        return ends[b"P"], ends[b"C"]

    @contextmanager
    def sender(self, address: str, size: int) -> Iterator[Callable[[bytes], Any]]:
        with connect(address, b"P") as sock:
            yield sock.sendall

    @contextmanager
    def recver(self, address: str, size: int) -> Iterator[Callable[[], Any]]:
        with connect(address, b"C") as sock:
            recv = sock.recv
            yield lambda: recv(size, socket.MSG_WAITALL)


class Compiled(Relay):
    """The same with a loop in C, in the place of the process that has accepted the connections."""

    title = "C byte relay"
    settings = f"relay.c, compiled with {' '.join((COMPILER, *OPTIONS))}"

    def version(self) -> str:
        return f"{COMPILER} {version_of(COMPILER)}"

    def broker(self, size: int) -> None:
        program = compiled()
        ends = [end.detach() for end in self.accept()]
        for end in ends:
            os.set_inheritable(end, True)
        os.execve(program, ["relay", *map(str, ends)], os.environ)


class Packing:
    """Sends messages in arrays of msgpack, `BATCH_BYTES` at a time."""

    def __init__(self, sock: socket.socket) -> None:
        from msgpack import packb

        self._pack = packb
        self._sock = sock
        self._pending: list[bytes] = []
        self._left = BATCH_BYTES

    def send(self, message: bytes) -> None:
        self._pending.append(message)
        self._left -= len(message)
        if self._left <= 0:
            self.flush()

    def flush(self) -> None:
        packed = self._pack(self._pending)
        self._sock.sendall(LENGTH.pack(len(packed)))
        self._sock.sendall(packed)
        self._pending = []
        self._left = BATCH_BYTES


class Unpacking:
    """Receives what `Packing` sends, a batch at a time."""

    def __init__(self, sock: socket.socket) -> None:
        from msgpack import unpackb

        self._unpack = unpackb
        self._sock = sock
        self._buffer = memoryview(bytearray(2 * BATCH_BYTES))
        self._ready: deque[bytes] = deque()

    def recv(self) -> bytes:
        if not self._ready:
            self._fill()
        return self._ready.popleft()

    def _fill(self) -> None:
        (size,) = LENGTH.unpack(self._sock.recv(LENGTH.size, socket.MSG_WAITALL))
        array = self._buffer[:size]
        self._sock.recv_into(array, size, socket.MSG_WAITALL)
        self._ready.extend(self._unpack(array))


class Batches(Relay):
    """The same relay between ends that batch: what a message a call costs in Python before anything is promised."""

    title = "Python byte relay, batches"
    package = "msgpack"
    payload = "bytes"
    batching = f"by a few lines of ours: {BATCH_BYTES >> 10} KiB of msgpack, a call a message at both ends"

    @contextmanager
    def sender(self, address: str, size: int) -> Iterator[Callable[[bytes], Any]]:
        with connect(address, b"P") as sock:
            packing = Packing(sock)
            yield packing.send
            packing.flush()

    @contextmanager
    def recver(self, address: str, size: int) -> Iterator[Callable[[], Any]]:
        with connect(address, b"C") as sock:
            yield Unpacking(sock).recv


SIDES = {"relay": Relay(), "relay-batches": Batches(), "relay-c": Compiled()}

"""For peers whose broker is a server of its own, which takes the place of the process that was to be the broker.

So its CPU time is that process's, and it ends as that one would: by SIGTERM, or by the kernel when the benchmark is
killed. It gets no file, or a folder that goes when it does, and logs to what was stderr, whose last line says why a
measurement failed.
"""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
import time
from typing import NoReturn

from .program import find_program

HOST = "127.0.0.1"
#: How long a server may take to listen, in seconds.
STARTING = 30.0


def free_port() -> int:
    """A port that nobody has now; the kernel gives it to no one else for a while."""
    with socket.create_server((HOST, 0)) as server:
        port: int = server.getsockname()[1]
    return port


def scratch_folder() -> str:
    """A folder that is removed once this process has ended, or the program that has taken its place: even by a kill.

    A grandchild waits for the end of a pipe whose other end they hold, as do those whom they start. It is no child of
    theirs: its memory is not the server's.
    """
    folder = tempfile.mkdtemp(prefix="vanilla-bench-")
    wait, hold = os.pipe()
    if child := os.fork():
        os.waitpid(child, 0)
        os.close(wait)
        os.set_inheritable(hold, True)
        return folder
    os.close(hold)
    if os.fork():
        os._exit(0)
    os.closerange(0, 3)
    os.read(wait, 1)
    shutil.rmtree(folder, ignore_errors=True)
    os._exit(0)


def become(name: str, port: int, *arguments: str) -> NoReturn:
    """Say where it is going to listen (`listening` waits until it does), and go on as the server *name*."""
    print(f"listening on {HOST}:{port}", flush=True)
    os.dup2(2, 1)
    os.execv(find_program(name), [name, *arguments])


def listening(address: str) -> tuple[str, int]:
    """Host and port of *address*, once somebody listens there.

    :raises OSError: nobody does, for `STARTING` seconds.
    """
    host, _, port = address.rpartition(":")
    deadline = time.monotonic() + STARTING
    while True:
        try:
            socket.create_connection((host, int(port))).close()
            return host, int(port)
        except ConnectionRefusedError:
            if time.monotonic() > deadline:
                raise
        time.sleep(0.01)

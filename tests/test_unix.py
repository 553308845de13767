"""Unix sockets: whose file it is, who may connect, and what a dead process leaves."""

from __future__ import annotations

import errno
import fcntl
import gc
import os
import platform
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

import vanilla
from vanilla import unix

by_reference_count = pytest.mark.skipif(platform.python_implementation() == "PyPy", reason="ends are dropped at once")


@pytest.fixture
def path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # pytest's own paths may be too long for a socket
    return "test.sock"


def open_descriptors() -> int:
    gc.collect()
    return len(os.listdir("/proc/self/fd"))


@contextmanager
def full(path: str) -> Iterator[list[socket.socket]]:
    """Fill the backlog of who listens; gives the clients that are in it."""
    with ExitStack() as stack:
        clients = []
        while True:
            client = stack.enter_context(socket.socket(socket.AF_UNIX))
            client.setblocking(False)
            if client.connect_ex(path) == errno.EAGAIN:
                yield clients
                return
            clients.append(client)


def leave_a_stale_socket(path: str) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(path)


def test_both_sides_speak(h, path):
    server = h.unix.listen(path)
    assert server.path == path
    with h.unix.connect(path) as near, server.recv() as far:
        assert near.peer == far.local == path
        assert far.peer is near.local is None
        near.send("hello")
        assert far.recv() == b"hello"
        far.send("back")
        assert near.recv() == b"back"


@pytest.mark.parametrize("mode", [0o600, 0o660])
def test_the_permissions_are_set_before_anybody_can_connect(path, mode, monkeypatch):
    seen = []
    real = os.chmod

    def chmod(name, wanted):
        with socket.socket(socket.AF_UNIX) as sock:
            seen.append(sock.connect_ex(name))
        real(name, wanted)

    monkeypatch.setattr(os, "chmod", chmod)
    umask = os.umask(0)
    try:
        with unix.bind(path, mode):
            assert stat.S_IMODE(os.stat(path).st_mode) == mode
    finally:
        os.umask(umask)
    assert seen == [errno.ECONNREFUSED]


def test_a_stale_socket_is_replaced(h, path):
    leave_a_stale_socket(path)
    server = h.unix.listen(path)
    h.unix.connect(path).close()
    server.close()


def test_what_a_killed_process_left_is_replaced(h, path):
    code = "import os, sys; from vanilla import unix; unix.bind(sys.argv[1]); os.kill(os.getpid(), 9)"
    subprocess.run([sys.executable, "-c", code, path])
    assert os.path.exists(path)
    h.unix.listen(path).close()
    assert not os.path.exists(path)


def test_a_live_socket_is_left_alone(h, path):
    server = h.unix.listen(path)
    with pytest.raises(OSError, match=f"cannot listen on unix://{path}: address already in use") as raised:
        h.unix.listen(path)
    assert raised.value.errno == errno.EADDRINUSE
    h.unix.connect(path).close()
    server.close()


def test_a_live_socket_with_a_full_backlog_is_left_alone(path):
    with unix.bind(path, backlog=0), full(path):
        with pytest.raises(OSError, match="address already in use"):
            unix.bind(path)
        assert os.path.exists(path)


@pytest.mark.parametrize("kind", ["file", "directory", "link"])
def test_what_is_no_socket_is_never_deleted(h, path, kind):
    if kind == "file":
        with open(path, "w") as file:
            file.write("precious")
    elif kind == "directory":
        os.mkdir(path)
    else:
        os.symlink("nowhere", path)
    with pytest.raises(OSError, match="a file that is no socket") as raised:
        h.unix.listen(path)
    assert raised.value.errno == errno.EADDRINUSE
    assert os.path.lexists(path)


def test_a_stale_socket_is_not_replaced_while_another_process_may_be_at_it(path, monkeypatch):
    monkeypatch.setattr(unix.time, "sleep", lambda seconds: None)
    leave_a_stale_socket(path)
    fd = os.open(".", os.O_RDONLY)
    fcntl.flock(fd, fcntl.LOCK_EX)
    with pytest.raises(OSError, match="locked by another process"):
        unix.bind(path)
    os.close(fd)
    unix.bind(path).close()


RACE = """
import sys
from vanilla import unix
sys.stdin.readline()
try:
    sock = unix.bind(sys.argv[1])
    print("listens", flush=True)
except OSError as error:
    print("refused", flush=True)
sys.stdin.readline()
"""


def test_of_several_who_find_a_stale_socket_one_listens(h, path):
    leave_a_stale_socket(path)
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", RACE, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )
        for _ in range(3)
    ]
    for racer in racers:
        racer.stdin.write("go\n")
    assert sorted(racer.stdout.readline().strip() for racer in racers) == ["listens", "refused", "refused"]
    h.unix.connect(path).close()  # it can be reached
    for racer in racers:
        racer.communicate("end\n")


def test_the_file_goes_away_with_the_server(h, path):
    server = h.unix.listen(path)
    os.mkdir("elsewhere")
    os.chdir("elsewhere")
    server.close()
    os.chdir("..")
    assert not os.path.exists(path)
    with pytest.raises(vanilla.ConnectionLost, match=f"unix://{path}: no such file"):
        h.unix.connect(path)


def test_the_file_goes_away_with_the_hub(path):
    with vanilla.Hub() as h:
        server = h.unix.listen(path)
        assert os.path.exists(path)
    assert not os.path.exists(path)
    assert server.halted


@by_reference_count
def test_the_file_goes_away_with_a_dropped_server(h, path):
    server = h.unix.listen(path)
    assert os.path.exists(path)
    del server
    h.sleep(0)
    assert not os.path.exists(path)


def test_somebody_elses_file_stays(h, path):
    first = h.unix.listen(path)
    os.unlink(path)
    second = h.unix.listen(path)
    first.close()
    h.unix.connect(path).close()
    second.close()
    assert not os.path.exists(path)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_does_not_remove_its_parents_file(path):
    with unix.bind(path) as sock:
        pid = os.fork()
        if pid == 0:
            try:
                unix.unlink(sock)
            finally:
                os._exit(0)
        os.waitpid(pid, 0)
        assert os.path.exists(path)
        unix.unlink(sock)
        unix.unlink(sock)
        assert not os.path.exists(path)


@pytest.mark.parametrize("path", ["x" * 108, "ü" * 54, "", "\0abstract"])
def test_a_path_that_cannot_be_is_explained(h, path):
    before = open_descriptors()
    for call in h.unix.listen, h.unix.connect:
        with pytest.raises(OSError, match="at most 107 bytes, not 108" if len(path) > 50 else "is no path"):
            call(path)
    assert open_descriptors() == before


def test_a_directory_that_is_not_there(h):
    with pytest.raises(FileNotFoundError, match="cannot listen on unix://nowhere/x: no such file or directory"):
        h.unix.listen("nowhere/x")


def test_a_failure_after_bind_leaves_no_file(path, monkeypatch):
    def chmod(name, mode):
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "chmod", chmod)
    before = open_descriptors()
    with pytest.raises(PermissionError, match=f"unix://{path}"):
        unix.bind(path)
    assert not os.path.exists(path)
    assert open_descriptors() == before


def test_nobody_listens(h, path):
    leave_a_stale_socket(path)
    before = open_descriptors()
    with pytest.raises(vanilla.ConnectionLost, match=f"unix://{path}: connection refused"):
        h.unix.connect(path)
    assert open_descriptors() == before


def test_a_full_backlog_is_waited_for(h, path):
    with unix.bind(path, backlog=0) as sock, full(path) as clients:
        before = open_descriptors()
        with pytest.raises(vanilla.Timeout, match="backlog is full"):
            h.unix.connect(path, timeout=1)
        cancelled = h.spawn(h.unix.connect, path)
        h.sleep(0)
        cancelled.cancel()
        with pytest.raises(vanilla.Cancelled):
            cancelled.join()
        assert open_descriptors() == before
        waiting = h.spawn(h.unix.connect, path)
        h.sleep(1)
        assert not waiting.done
        for _ in clients:
            sock.accept()[0].close()
        waiting.join().close()


def test_no_descriptor_is_left(h, path):
    server = h.unix.listen(path)
    before = open_descriptors()
    server.consume(lambda conn: conn.close())
    for _ in range(20):
        with h.unix.connect(path) as conn:
            with pytest.raises(vanilla.Closed):
                conn.recv()
    assert open_descriptors() == before


def test_a_socket_tells_the_user_at_its_other_end():
    code = (
        "import os, socket\n"
        "from vanilla.unix import user_of\n"
        "if os.getuid() == 0: os.setgid(54321); os.setuid(12345)\n"  # so that no two of the numbers are the same
        "a, b = socket.socketpair()\n"
        "print(user_of(a), user_of(b), os.getuid())"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert len(set(said)) == 1

"""``h.io``: pipes, files, devices and sockets that are there already."""

from __future__ import annotations

import errno
import gc
import os
import socket
import ssl

import pytest

import vanilla
from vanilla.input import Input
from vanilla.line import Line
from vanilla.message import Sender, Stream
from vanilla.poll import Poll
from vanilla.stream import Connection

BIG = b"0123456789abcdef" * (1 << 16)  # 1 MiB: more than a pipe takes, and many reads
#: No test waits longer than this for something that it expects, in ms.
PATIENCE = 10_000


def is_open(fd):
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


# -- pipes


def test_a_pipe_is_a_pair_of_a_sender_and_a_stream(h):
    with h.io.pipe() as pipe:
        sender, recver = pipe
        assert type(sender) is Sender and type(recver) is Stream
        sender.send("12")
        sender.send([b"3", "\n"])
        assert recver.recv_line() == b"123"


def test_what_one_end_of_a_pipe_sends_a_blocking_program_reads(h):
    read, write = os.pipe()
    sender = h.io.fd_out(write)
    sender.send(BIG)
    sender.close()
    got = h.thread.call(lambda: b"".join(iter(lambda: os.read(read, 1 << 20), b""))).recv(PATIENCE)
    assert got == BIG
    os.close(read)


@pytest.mark.trap("send ignores its timeout")
def test_the_timeout_of_send_holds_on_a_descriptor(h):
    read, write = os.pipe()
    sender = h.io.fd_out(write)
    sender.send(BIG)
    for timeout in 0, 5:
        with pytest.raises(vanilla.Timeout):
            sender.send(b"not sent", timeout)
    recver = h.io.fd_in(read)
    assert recver.recv_n(len(BIG)) == BIG
    sender.send(b"sent", PATIENCE)
    assert recver.recv() == b"sent"
    sender.close()
    recver.close()


@pytest.mark.trap("a timeout loses what was read")
def test_a_timeout_of_recv_line_loses_nothing_on_a_pipe(h):
    with h.io.pipe() as pipe:
        pipe.send(b"ab")
        with pytest.raises(vanilla.Timeout):
            pipe.recver.recv_line(1)
        pipe.send(b"c\n")
        assert pipe.recver.recv_line() == b"abc"


def test_a_pipe_whose_ends_are_dropped_is_closed(h):
    sender, recver = h.io.pipe()
    fds = [end._state.line.fd for end in (sender, recver)]
    sender.close()
    recver.close()
    assert not any(map(is_open, fds))


def test_a_terminal_is_a_stream(h):
    near, far = os.openpty()
    sender, recver = h.io.fd_out(near), h.io.fd_in(far)
    sender.send("typed\n")
    assert recver.recv_line(PATIENCE) == b"typed"
    recver.close()
    sender.close()


# -- files and devices, for which epoll cannot wait


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "file")


def test_a_regular_file_is_read_as_it_is(h, path):
    with open(path, "wb") as file:
        file.write(BIG + b"\nlast")
    recver = h.io.fd_in(os.open(path, os.O_RDONLY))
    assert recver.recv_line() == BIG
    assert recver.recv_n(4) == b"last"
    with pytest.raises(vanilla.Closed):
        recver.recv()


def test_a_file_is_in_select_and_ends_an_iteration(h, path):
    with open(path, "wb") as file:
        file.write(b"x" * 100_000)
    recver = h.io.fd_in(os.open(path, os.O_RDONLY))
    other = h.pipe()
    end, data = h.select([recver, other], 0)
    assert end is recver
    assert data + b"".join(recver) == b"x" * 100_000


def test_others_have_their_turn_while_a_long_piece_of_a_file_is_read(h, path):
    with open(path, "wb") as file:
        file.write(BIG * 4)
    turns = []

    def count():
        while True:
            turns.append(True)
            h.sleep(0)

    counting = h.spawn(count)
    recver = h.io.fd_in(os.open(path, os.O_RDONLY))
    assert len(recver.recv_n(4 * len(BIG))) == 4 * len(BIG)
    assert len(turns) > 4 * len(BIG) // 65536 // 2
    counting.cancel()
    recver.close()


def test_who_gives_up_waiting_for_a_file_leaves_the_loop_in_peace(h, path):
    with open(path, "wb") as file:
        file.write(BIG * 4)
    recver = h.io.fd_in(os.open(path, os.O_RDONLY))
    task = h.spawn(recver.recv_n, 4 * len(BIG))
    h.sleep(0)
    assert not task.done
    task.cancel()
    for _ in range(4):
        h.sleep(0)
    assert recver._state.line.events == 0
    assert h.timers.next_due() is None
    assert h.poll.live == 0
    assert len(recver.recv_n(4 * len(BIG))) == 4 * len(BIG)
    recver.close()


def test_a_regular_file_is_written(h, path):
    sender = h.io.fd_out(os.open(path, os.O_WRONLY | os.O_CREAT))
    sender.send([b"ab"] * 5000)  # more parts than are written at once
    sender.send("end", PATIENCE)
    assert h.select([sender], PATIENCE) == (sender, None)
    sender.close()
    with open(path, "rb") as file:
        assert file.read() == b"ab" * 5000 + b"end"


def test_devices_without_readiness_are_streams(h):
    with h.io.fd_in(os.open("/dev/null", os.O_RDONLY)) as nothing:
        assert list(nothing) == []
    with h.io.fd_in(os.open("/dev/zero", os.O_RDONLY)) as zeros:
        assert zeros.recv_n(200_000) == bytes(200_000)
    with h.io.fd_out(os.open("/dev/null", os.O_WRONLY)) as sink:
        for _ in range(100):
            sink.send(BIG)


def test_a_full_device_is_a_lost_connection_that_says_so(h):
    with h.io.fd_out(os.open("/dev/full", os.O_WRONLY)) as sender:
        with pytest.raises(vanilla.ConnectionLost, match="no space left on device"):
            sender.send(b"x")


# -- what is no descriptor for it


@pytest.mark.parametrize("make", ["fd_in", "fd_out"])
def test_a_bad_descriptor_is_an_error_at_once(h, make):
    read, write = os.pipe()
    os.close(read)
    os.close(write)
    for bad in read, -1:
        with pytest.raises(OSError) as told:
            getattr(h.io, make)(bad)
        assert told.value.errno == errno.EBADF
    with pytest.raises(TypeError):
        getattr(h.io, make)("1")


def test_the_wrong_end_of_a_pipe_is_an_error_at_once_and_left_as_it_was(h):
    read, write = os.pipe()
    with pytest.raises(OSError, match="not open for reading"):
        h.io.fd_in(write)
    with pytest.raises(OSError, match="not open for writing"):
        h.io.fd_out(read)
    assert os.get_blocking(read) and os.get_blocking(write)
    os.close(read)
    os.close(write)


def test_a_directory_is_an_error_at_once(h, tmp_path):
    fd = os.open(tmp_path, os.O_RDONLY)
    with pytest.raises(IsADirectoryError):
        h.io.fd_in(fd)
    os.close(fd)


# -- sockets


def test_a_connected_socket_becomes_a_connection(h):
    with socket.create_server(("127.0.0.1", 0)) as server:
        sock = socket.create_connection(server.getsockname())
        theirs, address = server.accept()
    with theirs, h.io.socket(sock) as conn:
        assert type(conn) is Connection
        assert conn.peer == theirs.getsockname() and conn.local == address
        assert sock.fileno() == -1
        sock.close()
        conn.send("hello\n")
        assert theirs.recv(100) == b"hello\n"
        theirs.send(b"a\nb")
        assert conn.recv_line() == b"a"
        theirs.close()
        assert conn.recv() == b"b"
        with pytest.raises(vanilla.Closed):
            conn.recv()


def test_a_socket_of_a_socketpair_has_no_address(h):
    ours, theirs = socket.socketpair()
    with h.io.socket(ours) as conn, h.io.socket(theirs) as other:
        assert conn.peer is None and conn.local is None
        conn.send(b"x")
        assert other.recv() == b"x"


def test_a_socket_that_carries_no_stream_is_refused_and_left_as_it_was(h):
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
        with pytest.raises(OSError) as told:
            h.io.socket(sock)
        assert told.value.errno == errno.ENOTCONN and sock.fileno() >= 0
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        with pytest.raises(ValueError, match=r"h\.udp"):
            h.io.socket(sock)
        assert sock.fileno() >= 0
    context = ssl.create_default_context()
    with context.wrap_socket(socket.socket(), server_hostname="x") as sock, pytest.raises(TypeError, match=r"h\.tls"):
        h.io.socket(sock)


def test_a_ctrl_c_in_the_middle_of_a_close_leaks_no_descriptor(h, monkeypatch):
    def interrupted(line):
        raise KeyboardInterrupt

    _sender, recver = h.io.pipe()
    fd = recver._state.line.fd
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Line, "close", interrupted)
        recver.close()
    del recver
    for _ in range(3):  # PyPy
        gc.collect()
    assert not is_open(fd)


def test_a_ctrl_c_in_the_middle_of_a_file_does_not_keep_who_reads_it_waiting(h, tmp_path, monkeypatch):
    def interrupted(end):
        monkeypatch.undo()
        raise KeyboardInterrupt

    path = tmp_path / "file"
    path.write_bytes(BIG)
    stream = h.io.fd_in(os.open(path, os.O_RDONLY))
    monkeypatch.setattr(Input, "readable", interrupted)
    task = h.spawn(stream.recv_n, len(BIG))
    with pytest.raises(KeyboardInterrupt):
        h.sleep(PATIENCE)
    assert task.join(PATIENCE) == BIG


def test_who_receives_again_after_the_kernel_refused_to_wait_is_told_of_what_comes(h, monkeypatch):
    def refuse(*args, **options):
        monkeypatch.undo()
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))  # fs.epoll.max_user_watches

    sender, recver = h.io.pipe()
    monkeypatch.setattr(Poll, "register", refuse)
    with pytest.raises(OSError, match="space"):
        recver.recv(PATIENCE)
    task = h.spawn(recver.recv, PATIENCE)
    h.sleep(0)
    sender.send("x")
    assert task.join() == b"x"

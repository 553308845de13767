"""Byte streams: nothing lost, nothing read ahead, nothing copied twice, nothing left open; in the clear and by TLS."""

from __future__ import annotations

import array
import fcntl
import gc
import logging
import os
import platform
import socket
import struct
import termios
import warnings

import pytest
import tlspeers

import vanilla
from vanilla import input, line, outbox
from vanilla.stream import Descriptor, TooLong, open_connection, reader, writer

by_reference_count = pytest.mark.skipif(platform.python_implementation() == "PyPy", reason="ends are dropped at once")

BIG = b"0123456789abcdef" * (1 << 18)  # 4 MiB: more than a socket takes at once


#: What looks at bytes in the kernel, or at how many calls it takes.
in_the_clear = pytest.mark.parametrize("peer", ["unix"], indirect=True)


@pytest.fixture(params=["unix", "tls"])
def peer(request, h, certs):
    """The other side's socket, blocking, and ours."""
    if request.param == "tls":
        theirs, ours = tlspeers.pair(h, certs)
    else:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        theirs.settimeout(30)
    yield theirs, ours
    theirs.close()


@pytest.fixture
def conn(h, peer):
    with open_connection(h, peer[1], "unix://test") as conn:
        yield conn


def reset(sock: socket.socket) -> None:
    """Close so that the peer sees a reset."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def tcp_pair() -> tuple[socket.socket, socket.socket]:
    """Ours, non-blocking, and theirs."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        ours = socket.create_connection(server.getsockname())
        theirs, _ = server.accept()
    ours.setblocking(False)
    theirs.settimeout(30)
    return ours, theirs


def unread(sock: socket.socket) -> int:
    """Bytes that wait in the kernel to be read."""
    size = array.array("i", [0])
    fcntl.ioctl(sock, termios.FIONREAD, size)
    return size[0]


def read_all(sock: socket.socket) -> bytes:
    parts = []
    while part := sock.recv(1 << 20):
        parts.append(part)
    return b"".join(parts)


def open_descriptors() -> int:
    gc.collect()
    return len(os.listdir("/proc/self/fd"))


def pending(conn) -> int:
    return conn.sender._state.left()


# -- receiving


def test_recv_gives_what_came(conn, peer):
    peer[0].send(b"hello")
    assert conn.recv() == b"hello"


def test_recv_waits_for_what_comes(h, conn, peer):
    task = h.spawn(conn.recv)
    h.sleep(0)
    peer[0].send(b"hello")
    assert task.join() == b"hello"


@in_the_clear
def test_nothing_is_read_while_nobody_receives(h, conn, peer):
    peer[0].send(b"one")
    assert conn.recv() == b"one"
    peer[0].send(b"two")
    for _ in range(3):
        h.sleep(0)
    assert unread(peer[1]) == 3
    assert conn.recv() == b"two"


@in_the_clear
def test_a_read_is_bounded(conn, peer):
    peer[0].setblocking(False)
    sent = peer[0].send(BIG)
    assert sent > input.CHUNK
    assert len(conn.recv()) == input.CHUNK
    assert unread(peer[1]) == sent - input.CHUNK


def test_recv_n_gathers_pieces(h, conn, peer):
    task = h.spawn(conn.recv_n, 6)
    for piece in b"ab", b"cd", b"efgh":
        h.sleep(0)
        peer[0].send(piece)
    assert task.join() == b"abcdef"
    assert conn.recv() == b"gh"
    assert conn.recv_n(0) == b""
    with pytest.raises(ValueError):
        conn.recv_n(-1)


@pytest.mark.trap("a timeout loses what was read")
@pytest.mark.parametrize("timeout", [0, 5])
def test_a_timeout_of_recv_n_loses_nothing(conn, peer, timeout):
    peer[0].send(b"abc")
    with pytest.raises(vanilla.Timeout):
        conn.recv_n(4, timeout)
    peer[0].send(b"de")
    assert conn.recv_n(4, 30_000) == b"abcd"
    assert conn.recv(30_000) == b"e"


@pytest.mark.trap("a timeout loses what was read")
@pytest.mark.parametrize("timeout", [0, 5])
def test_a_timeout_of_recv_line_loses_nothing(conn, peer, timeout):
    peer[0].send(b"first\nsec")
    assert conn.recv_line(timeout) == b"first"
    with pytest.raises(vanilla.Timeout):
        conn.recv_line(timeout)
    peer[0].send(b"ond\n")
    assert conn.recv_line(30_000) == b"second"


def test_a_cancelled_recv_n_loses_nothing(h, conn, peer):
    task = h.spawn(conn.recv_n, 4)
    h.sleep(0)
    peer[0].send(b"abc")
    while not conn.recver._state.data:
        h.sleep(0)
    task.cancel()
    with pytest.raises(vanilla.Cancelled):
        task.join()
    assert conn.recv() == b"abc"


def test_a_separator_is_found_across_pieces(h, conn, peer):
    task = h.spawn(conn.recv_partition, "\r\n")
    for piece in b"a\r", b"b", b"\r", b"\nrest":
        h.sleep(0)
        peer[0].send(piece)
        while unread(peer[1]):
            h.sleep(0)
    assert task.join() == b"a\rb"
    assert conn.recv() == b"rest"
    with pytest.raises(ValueError):
        conn.recv_partition("")


def test_the_separator_of_lines_can_be_set(conn, peer):
    conn.recver.sep = "→"
    peer[0].send("eins→zwei→".encode())
    assert [conn.recv_line(), conn.recv_line()] == [b"eins", b"zwei"]


def test_another_separator_searches_from_the_start(conn, peer):
    peer[0].send(b"a;b")
    with pytest.raises(vanilla.Timeout):
        conn.recv_partition("\n", 0)
    assert conn.recv_partition(";", 0) == b"a"


def test_a_line_of_16_mib_arrives(h, conn, peer):
    peer[0].setblocking(False)
    h.spawn(open_connection(h, peer[0].dup(), "unix://far").send, [*[BIG] * 4, b"\n"])
    assert conn.recv_line() == BIG * 4


@pytest.mark.trap("quadratic buffers")
def test_a_long_line_is_searched_once(conn, peer):
    searched = 0

    class Counting(bytearray):
        def find(self, sep, start, end):
            nonlocal searched
            searched += min(end, len(self)) - start
            return super().find(sep, start, end)

    gathered = conn.recver._state.data = Counting()
    size = 0
    for _ in range(200):
        size += peer[0].send(b"x" * 1000)
        with pytest.raises(vanilla.Timeout):
            conn.recv_line(0)
    assert conn.recver._state.data is gathered  # each chunk is added to it, and does not make it anew
    peer[0].send(b"\n")
    assert len(conn.recv_line()) == size
    assert size <= searched < 3 * size


@pytest.mark.trap("no cap on a line")
def test_a_line_beyond_the_limit_is_an_error_that_loses_nothing(conn, peer):
    conn.recver.limit = 10
    peer[0].send(b"0123456789\n0123456789x\nrest")
    assert conn.recv_line() == b"0123456789"
    for _ in range(2):
        with pytest.raises(TooLong, match="limit of 10 bytes"):
            conn.recv_line()
    assert conn.recv() == b"0123456789x\nrest"


@pytest.mark.trap("no cap on a line")
def test_the_limit_holds_while_one_waits(h, conn, peer):
    conn.recver.limit = 10
    task = h.spawn(conn.recv_line)
    h.sleep(0)
    peer[0].send(b"0123456789")
    while unread(peer[1]):
        h.sleep(0)
    assert not task.done
    peer[0].send(b"x")
    with pytest.raises(TooLong):
        task.join(30_000)
    assert conn.recv() == b"0123456789x"


@pytest.mark.trap("select ignores left-over bytes")
def test_left_over_bytes_are_ready_in_select(h, conn, peer):
    peer[0].send(b"line\nrest")
    assert conn.recv_line() == b"line"
    assert h.select([conn.recver], 0) == (conn.recver, b"rest")


@pytest.mark.trap("select ignores left-over bytes")
def test_what_a_timeout_left_is_ready_in_select(h, conn, peer):
    peer[0].send(b"abc")
    with pytest.raises(vanilla.Timeout):
        conn.recv_n(10, 1)
    assert h.select([conn], 0) == (conn, b"abc")


def test_select_waits_for_a_stream_beside_a_channel(h, conn, peer):
    sender, recver = h.pipe()
    task = h.spawn(h.select, [recver, conn])
    h.sleep(0)
    peer[0].send(b"bytes")
    assert task.join() == (conn, b"bytes")
    task = h.spawn(h.select, [recver, conn])
    h.sleep(0)
    sender.send("item")
    assert task.join() == (recver, "item")
    assert h.poll.live == 0


def test_a_select_behind_a_task_gets_what_the_task_left(h, conn, peer):
    first = h.spawn(conn.recv_n, 10)
    h.sleep(0)
    second = h.spawn(h.select, [conn])
    h.sleep(0)
    peer[0].send(b"abc")
    while unread(peer[1]):
        h.sleep(0)
    first.cancel()
    assert second.join() == (conn, b"abc")


def test_two_tasks_that_receive_at_once_are_busy(h, conn, peer):
    task = h.spawn(conn.recv)
    h.sleep(0)
    with pytest.raises(vanilla.Busy):
        conn.recv_line()
    peer[0].send(b"x")
    assert task.join() == b"x"


def test_iteration_ends_at_the_end_of_the_stream(h, conn, peer):
    peer[0].send(b"hello")
    peer[0].shutdown(socket.SHUT_WR)
    assert b"".join(conn.recver) == b"hello"
    with pytest.raises(vanilla.Closed):
        conn.recv()
    assert conn.recver.halted


@pytest.mark.parametrize("parked", [False, True])
def test_too_few_bytes_at_the_end_are_left_for_recv(h, conn, peer, parked):
    if parked:
        task = h.spawn(conn.recv_line)
        h.sleep(0)
    peer[0].send(b"unfinished")
    peer[0].shutdown(socket.SHUT_WR)
    with pytest.raises(vanilla.Closed):
        task.join() if parked else conn.recv_line()
    with pytest.raises(vanilla.Closed):
        conn.recv_n(11)
    assert conn.recv() == b"unfinished"
    with pytest.raises(vanilla.Closed):
        conn.recv()


def test_a_reset_is_a_lost_connection_and_not_the_end_of_an_iteration(h):
    ours, theirs = tcp_pair()
    conn = open_connection(h, ours, "tcp://test")
    theirs.send(b"before")
    reset(theirs)
    got = []
    with pytest.raises(vanilla.ConnectionLost, match="tcp://test: connection reset by peer"):
        for data in conn.recver:
            got.append(data)
    assert got in ([], [b"before"])
    with pytest.raises(vanilla.ConnectionLost):
        conn.recv()
    with pytest.raises(vanilla.ConnectionLost):
        conn.send(b"x")
    assert ours.fileno() == -1


def test_a_reset_reaches_who_waits(h):
    ours, theirs = tcp_pair()
    conn = open_connection(h, ours, "tcp://test")
    receiving, selecting = h.spawn(conn.recv), h.spawn(h.select, [conn])
    h.sleep(0)
    reset(theirs)
    for task in receiving, selecting:
        with pytest.raises(vanilla.ConnectionLost):
            task.join()


# -- sending


def test_send_takes_bytes_text_and_lists(conn, peer):
    for item in b"a", "ü", bytearray(b"b"), memoryview(b"xcx")[1:2], [b"d", "e", b"", memoryview(b"f")], b"", []:
        conn.send(item)
    conn.send(array.array("H", [0x6767]))
    conn.sender.close()
    assert read_all(peer[0]) == "aübcdefgg".encode()


@pytest.mark.parametrize("item", [None, 7, [b"a", 7], {}, ValueError("x")])
def test_send_refuses_what_is_no_bytes(conn, peer, item):
    with pytest.raises(TypeError, match="a stream sends bytes"):
        conn.send(item)
    conn.send(b"fine")
    conn.close()
    assert read_all(peer[0]) == b"fine"


def test_more_parts_than_the_system_takes_at_once(h, conn, peer):
    parts = [b"%d," % i for i in range(3 * outbox.IOV_MAX)]
    conn.send(parts)
    conn.close()
    assert read_all(peer[0]) == b"".join(parts)


def test_a_big_item_is_taken_at_once_and_written_by_the_loop(h, conn, peer):
    conn.send([BIG, BIG])
    assert 0 < pending(conn) < 2 * len(BIG)
    far = open_connection(h, peer[0].dup(), "unix://far")
    peer[0].setblocking(False)
    assert far.recv_n(2 * len(BIG)) == BIG * 2
    assert pending(conn) == 0


@pytest.mark.trap("send ignores its timeout")
def test_the_next_send_waits_for_the_item_before_and_a_timeout_means_not_sent(h, conn, peer):
    conn.send(BIG)
    for timeout in 0, 5:
        with pytest.raises(vanilla.Timeout):
            conn.send(b"never", timeout)
    task = h.spawn(conn.send, b"after")
    peer[0].setblocking(False)
    far = open_connection(h, peer[0].dup(), "unix://far")
    assert far.recv_n(len(BIG) + 5) == BIG + b"after"
    task.join()
    with pytest.raises(vanilla.Timeout):
        far.recv(0)


def test_items_of_several_senders_do_not_mix(h, conn, peer):
    items = [bytes([i]) * 300_000 for i in range(5)]
    tasks = [h.spawn(conn.send, item) for item in items]
    peer[0].setblocking(False)
    far = open_connection(h, peer[0].dup(), "unix://far")
    assert [far.recv_n(300_000) for _ in items] == items
    for task in tasks:
        task.join()


def test_a_buffer_may_be_used_again_after_send(h, conn, peer):
    buffer = bytearray(BIG)
    conn.send(buffer)
    buffer[:] = bytes(len(BIG))
    del buffer[10:]
    far = open_connection(h, peer[0].dup(), "unix://far")
    peer[0].setblocking(False)
    assert far.recv_n(len(BIG)) == BIG


def test_select_on_a_sender_waits_until_nothing_is_pending(h, conn, peer):
    assert h.select([conn.sender], 0) == (conn.sender, None)
    conn.send(BIG)
    with pytest.raises(vanilla.Timeout):
        h.select([conn.sender], 0)
    task = h.spawn(h.select, [conn.sender])
    far = open_connection(h, peer[0].dup(), "unix://far")
    peer[0].setblocking(False)
    far.recv_n(len(BIG))
    assert task.join() == (conn.sender, None)


def test_a_stream_is_piped_into_a_stream(h, conn, peer):
    conn.recver.pipe(conn.sender)
    peer[0].send(b"back")
    peer[0].shutdown(socket.SHUT_WR)
    task = h.thread.call(read_all, peer[0])
    assert task.recv() == b"back"


def test_a_peer_that_is_gone_is_a_lost_connection_at_the_next_send(h):
    ours, theirs = tcp_pair()
    conn = open_connection(h, ours, "tcp://test")
    reset(theirs)
    with pytest.raises(vanilla.ConnectionLost, match="tcp://test"):
        conn.send(b"x")
    with pytest.raises(vanilla.ConnectionLost):
        conn.send(b"x")
    with pytest.raises(vanilla.ConnectionLost):
        h.select([conn.sender])
    with pytest.raises(vanilla.ConnectionLost):  # the kernel has told of the reset, and would only say "end" now
        conn.recv()


def test_a_peer_that_goes_fails_who_waits_to_send(h):
    ours, theirs = tcp_pair()
    conn = open_connection(h, ours, "tcp://test")
    while pending(conn) == 0:
        conn.send(BIG)
    tasks = [h.spawn(conn.send, b"x"), h.spawn(h.select, [conn.sender])]
    h.sleep(0)
    reset(theirs)
    for task in tasks:
        with pytest.raises(vanilla.ConnectionLost):
            task.join()


# -- the end


def test_closing_the_sender_flushes_and_ends_one_direction(h, conn, peer):
    conn.send(BIG)
    assert pending(conn)
    conn.sender.close()
    with pytest.raises(vanilla.Closed):
        conn.send(b"x")
    got = h.thread.call(read_all, peer[0])
    assert got.recv() == BIG
    peer[0].send(b"still open")
    assert conn.recv() == b"still open"


def test_closing_fails_who_waits(h, conn):
    conn.send(BIG)
    tasks = [h.spawn(conn.send, b"x"), h.spawn(conn.recv), h.spawn(h.select, [conn])]
    h.sleep(0)
    conn.close()
    conn.close()
    for task in tasks:
        with pytest.raises(vanilla.Closed):
            task.join()


def test_a_descriptor_is_closed_when_both_ends_are(h, peer):
    before = open_descriptors()
    conn = open_connection(h, peer[1], "unix://test")
    conn.recver.close()
    assert peer[1].fileno() >= 0
    conn.send(b"still")
    conn.sender.close()
    assert peer[1].fileno() == -1
    assert open_descriptors() == before - 1
    assert read_all(peer[0]) == b"still"


def test_what_is_pending_leaves_after_both_ends_are_closed(h, peer):
    conn = open_connection(h, peer[1], "unix://test")
    conn.send(BIG)
    conn.close()
    assert h.thread.call(read_all, peer[0]).recv() == BIG
    assert peer[1].fileno() == -1
    assert h.poll.live == 0


@by_reference_count
def test_dropping_both_ends_closes_without_a_warning(h):
    before = open_descriptors()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for data in b"x", BIG:
            ours, theirs = socket.socketpair()
            ours.setblocking(False)
            sender, recver = open_connection(h, ours, "unix://test")
            del ours
            sender.send(data)
            del sender, recver
            assert h.thread.call(read_all, theirs).recv() == data
            theirs.close()
        h.sleep(0)
        gc.collect()
    assert open_descriptors() <= before + 2  # the pipe that wakes the hub


@by_reference_count
def test_a_reader_at_its_end_holds_no_descriptor(h, peer):
    conn = open_connection(h, peer[1], "unix://test")
    recver = conn.recver
    peer[0].close()
    with pytest.raises(vanilla.Closed):
        recver.recv()
    del conn
    assert peer[1].fileno() == -1


def test_onclose_is_called_at_the_end(h, conn, peer):
    ended = []
    conn.onclose(ended.append, "input")
    conn.sender.onclose(ended.append, "output")
    peer[0].shutdown(socket.SHUT_WR)
    assert list(conn.recver) == []
    assert ended == ["input"]
    conn.close()
    assert ended == ["input", "output"]
    conn.onclose(ended.append, "late")
    assert ended[-1] == "late"


def test_the_end_of_the_hub_says_what_was_not_sent(peer, caplog):
    with vanilla.Hub() as h:
        conn = open_connection(h, peer[1], "unix://test")
        conn.send(BIG)
        conn.close()
    assert peer[1].fileno() == -1
    assert "unix://test: closed; bytes not sent: " in caplog.text


def test_a_stopped_hub_lets_its_streams_be_closed(peer):
    with vanilla.Hub() as h:
        conn = open_connection(h, peer[1], "unix://test")
        conn.send(BIG)
    conn.close()
    assert peer[1].fileno() == -1


def test_a_peer_that_takes_nothing_does_not_hold_the_descriptor_for_ever(h, peer, monkeypatch, caplog):
    monkeypatch.setattr(line, "LINGER", 1)
    conn = open_connection(h, peer[1], "unix://test")
    conn.send(BIG)
    conn.close()
    while peer[1].fileno() >= 0:
        h.sleep(1)
    assert "bytes not sent" in caplog.text
    assert h.poll.live == 0


# -- the hub


def test_an_idle_stream_does_not_hide_a_deadlock(h, conn, peer):
    peer[0].send(b"x")
    assert conn.recv() == b"x"
    with pytest.raises(vanilla.Timeout):
        conn.recv(1)
    with pytest.raises(vanilla.Stop, match="deadlock"):
        h.router().recv()


def test_a_peer_that_hangs_up_on_an_idle_stream_does_not_spin_the_loop(h, conn, peer):
    peer[0].send(b"x")
    task = h.spawn(conn.recv)
    assert task.join() == b"x"
    peer[0].close()
    while conn.recver._state.line.events:  # interest is still there from the recv, and fires once for nobody
        h.sleep(0)
    with pytest.raises(vanilla.Closed):
        conn.recv()


class Endless:
    """A transport that is always ready."""

    def __init__(self, fd):
        self.fd = fd

    def fileno(self):
        return self.fd

    def recv(self, size):
        return b"x" * 10

    def send(self, data):
        return len(data)

    def sendmsg(self, views):
        return sum(map(len, views))

    def getsockname(self):
        return None

    def shutdown(self, how):
        pass

    def close(self):
        pass


@pytest.mark.parametrize("how", ["recv", "recv_n", "select", "send"])
def test_a_peer_that_is_always_ready_starves_nobody(h, peer, how):
    conn = open_connection(h, Endless(peer[1].fileno()), "test")
    fired = []
    h.after(1, lambda: fired.append(True))
    turn = {
        "recv": conn.recv,
        "recv_n": lambda: conn.recv_n(10),
        "select": lambda: h.select([conn]),
        "send": lambda: conn.send(b"x"),
    }[how]
    for _ in range(1_000_000):
        turn()
        if fired:
            break
    assert fired
    conn.close()
    peer[1].close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_that_drops_a_connection_leaves_it_to_the_parent(h, conn, peer):
    task = h.spawn(conn.recv)
    h.sleep(0)
    pid = os.fork()
    if pid == 0:
        try:
            conn.close()
        finally:
            os._exit(0)
    os.waitpid(pid, 0)
    peer[0].send(b"for the parent")
    assert task.join() == b"for the parent"
    conn.send(b"from the parent")
    assert peer[0].recv(100) == b"from the parent"


# -- descriptors


@pytest.fixture
def pipe(h):
    read, write = os.pipe()
    recver, sender = reader(h, Descriptor(read), "pipe"), writer(h, Descriptor(write), "pipe")
    yield sender, recver
    sender.close()
    recver.close()


def test_a_pipe_is_a_stream(h, pipe):
    sender, recver = pipe
    h.spawn(sender.send, [BIG, "\n", "rest"])
    assert recver.recv_line() == BIG
    assert recver.recv() == b"rest"
    sender.close()
    with pytest.raises(vanilla.Closed):
        recver.recv()


@pytest.mark.trap("send ignores its timeout")
def test_the_timeout_of_send_holds_on_a_pipe(pipe):
    sender, recver = pipe
    sender.send(BIG)
    with pytest.raises(vanilla.Timeout):
        sender.send(b"x", 5)
    assert recver.recv_n(len(BIG)) == BIG
    sender.send(b"x", 30_000)
    assert recver.recv() == b"x"


def test_a_pipe_whose_reader_is_gone_is_lost(pipe):
    sender, recver = pipe
    recver.close()
    with pytest.raises(vanilla.ConnectionLost, match="broken pipe"):
        sender.send(b"x")


@pytest.mark.trap("leaked descriptors")
def test_the_ends_of_a_pipe_close_their_descriptors(h):
    before = open_descriptors()
    read, write = os.pipe()
    recver, sender = reader(h, Descriptor(read), "pipe"), writer(h, Descriptor(write), "pipe")
    sender.send(b"x")
    sender.close()
    assert list(recver) == [b"x"]
    assert open_descriptors() == before


@pytest.fixture(autouse=True)
def _quiet(caplog):
    caplog.set_level(logging.INFO, "vanilla")

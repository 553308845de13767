"""``h.udp`` and `datagram`: nothing read ahead, nobody's address lost, one bad datagram ends nothing."""

from __future__ import annotations

import array
import fcntl
import gc
import os
import platform
import socket
import termios
import threading

import pytest

import vanilla
from vanilla import udp
from vanilla.datagram import Datagrams, open_datagrams

by_reference_count = pytest.mark.skipif(platform.python_implementation() == "PyPy", reason="ends are dropped at once")

#: No test waits longer than this for something that it expects, in ms.
PATIENCE = 10_000


def has_ipv6():
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
            sock.bind(("::1", 0))
    except OSError:
        return False
    return True


needs_ipv6 = pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")


@pytest.fixture
def serve(h):
    with h.udp.listen() as serve:
        yield serve


@pytest.fixture
def client(h):
    with h.udp.create() as client:
        yield client


@pytest.fixture
def full(h):
    """A connected socket whose kernel takes no more, how often it took something, and its peer's socket."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    ours.setblocking(False)
    with open_datagrams(h, ours, "unix://test") as pair:
        taken = 0
        try:
            while True:
                pair.send(b"%d" % taken, 0)
                taken += 1
        except vanilla.Timeout:
            pass
        h.sleep(0)
        pair.sender._state.line.streak = 0  # nobody is to make way for others at the next send
        yield pair, taken, theirs
    theirs.close()


def drain(theirs, count):
    """Receive so many. (The kernel takes more again once three quarters of its buffer are free.)"""
    theirs.settimeout(10)
    return [theirs.recv(100) for _ in range(count)]


def at(pair):
    return "127.0.0.1", pair.port


def unread(pair):
    """Bytes of the datagram that waits in the kernel to be read."""
    size = array.array("i", [0])
    fcntl.ioctl(pair.recver._state.line.fd, termios.FIONREAD, size)
    return size[0]


def dead_port(h):
    with h.udp.listen() as gone:
        return gone.port


# -- both ways


def test_a_datagram_goes_there_and_back(serve, client):
    client.send(("foo", at(serve)))
    data, address = serve.recv(PATIENCE)
    assert data == b"foo"
    serve.send((b"Echo: " + data, address))
    assert client.recv(PATIENCE) == (b"Echo: foo", at(serve))


def test_listen_says_where_and_takes_a_port_that_is_free(h, serve):
    assert type(serve) is Datagrams
    assert serve.host == "127.0.0.1" and serve.port > 0
    with pytest.raises(OSError, match=f"cannot listen on udp://127.0.0.1:{serve.port}: address already in use"):
        h.udp.listen(serve.port)
    port = serve.port
    serve.close()
    with h.udp.listen(port) as again:
        assert again.port == port


@pytest.mark.trap("a peer's address lost")
def test_each_datagram_is_one_item_with_the_address_of_its_sender(h, serve):
    senders = [h.udp.create("127.0.0.1", serve.port) for _ in range(3)]
    for number, sender in enumerate(senders):
        sender.send(b"%d" % number)
        sender.send("")
    got = [serve.recv(PATIENCE) for _ in range(6)]
    assert got == [(data, at(sender)) for n, sender in enumerate(senders) for data in (b"%d" % n, b"")]
    for number, sender in enumerate(senders):
        serve.send((b"to %d" % number, got[2 * number][1]))
        assert sender.recv(PATIENCE) == (b"to %d" % number, at(serve))
        sender.close()


@pytest.mark.parametrize("data", [b"x", "x", bytearray(b"x"), memoryview(b"x")])
def test_data_is_bytes_or_str(serve, client, data):
    client.send((data, at(serve)))
    assert serve.recv(PATIENCE)[0] == b"x"


@pytest.mark.parametrize(
    ("item", "error"),
    [
        (b"ab", TypeError),
        ((b"x", b"y", b"z"), TypeError),
        ((5, ("127.0.0.1", 1)), TypeError),
        ((b"x", "127.0.0.1:1"), TypeError),
        ((b"x", (b"127.0.0.1", 1)), TypeError),
        ((b"x", ("127.0.0.1", "1")), TypeError),
        ((b"x", ("127.0.0.1", 0)), ValueError),
        ((b"x", ("127.0.0.1", 65536)), ValueError),
    ],
)
def test_what_cannot_be_sent_is_the_senders_error_and_the_socket_goes_on(serve, client, item, error):
    with pytest.raises(error):
        client.send(item)
    client.send((b"good", at(serve)))
    assert serve.recv(PATIENCE)[0] == b"good"


def test_an_address_that_is_a_list_and_changes_is_not_taken_for_the_one_before(h, serve, client):
    with h.udp.listen() as other:
        address = list(at(serve))
        client.send((b"one", address))
        address[1] = other.port
        client.send((b"two", address))
        assert serve.recv(PATIENCE)[0] == b"one"
        assert other.recv(PATIENCE)[0] == b"two"


@pytest.mark.trap("IPv4 only")
@needs_ipv6
def test_ipv6_works_alike_and_one_socket_serves_both(h, serve, client):
    with h.udp.listen(host="::1") as six:
        client.send((b"four", at(serve)))
        client.send((b"six", ("::1", six.port)))
        data, four = serve.recv(PATIENCE)
        assert (data, len(four)) == (b"four", 2)
        data, address = six.recv(PATIENCE)
        assert data == b"six" and len(address) == 4 and address[:2] == ("::1", four[1])
        six.send((b"back", address))
        serve.send((b"back", four))
        got = sorted((client.recv(PATIENCE) for _ in range(2)), key=lambda item: len(item[1]))
        assert got == [(b"back", at(serve)), (b"back", ("::1", six.port, 0, 0))]


@pytest.mark.trap("IPv4 only")
@needs_ipv6
@pytest.mark.parametrize("host", ["", "::"])
@pytest.mark.parametrize(("near", "parts"), [("127.0.0.1", 2), ("::1", 4)])
def test_a_server_of_every_address_shows_ipv4_as_such(h, client, host, near, parts):
    with h.udp.listen(host=host) as serve:
        client.send((b"x", (near, serve.port)))
        _data, address = serve.recv(PATIENCE)
        assert address[0] == near and len(address) == parts
        serve.send((b"back", address))
        data, address = client.recv(PATIENCE)
        assert (data, *address[:2]) == (b"back", near, serve.port)


@needs_ipv6
def test_a_connected_socket_of_ipv6(h):
    with h.udp.listen(host="::1") as serve, h.udp.create("::1", serve.port) as client:
        client.send(b"x")
        _, address = serve.recv(PATIENCE)
        serve.send((b"y", address))
        assert client.recv(PATIENCE) == (b"y", ("::1", serve.port, 0, 0))


def test_an_address_of_the_other_family_is_an_error_that_says_so(serve):
    with pytest.raises(ValueError, match="IPv6"):
        serve.send((b"x", ("::1", 1)))


def test_without_ipv6_in_the_kernel_create_serves_ipv4(h, monkeypatch, serve):
    real = socket.socket

    def no_ipv6(family, *args, **kwargs):
        if family == socket.AF_INET6:
            raise OSError(97, "Address family not supported by protocol")
        return real(family, *args, **kwargs)

    monkeypatch.setattr(udp.socket, "socket", no_ipv6)
    with h.udp.create() as client:
        client.send((b"x", at(serve)))
        serve.send((b"y", serve.recv(PATIENCE)[1]))
        assert client.recv(PATIENCE) == (b"y", at(serve))


def test_a_name_is_looked_up_in_a_thread_and_once(h, serve, client, monkeypatch):
    asked = []
    real = socket.getaddrinfo

    def look(host, *args, **kwargs):
        if kwargs.get("flags") == socket.AI_NUMERICHOST:
            return real(host, *args, **kwargs)
        asked.append((host, threading.current_thread() is threading.main_thread()))
        return real("127.0.0.1" if host == "somewhere.test" else host, *args, **kwargs)

    monkeypatch.setattr("vanilla.tcp.socket.getaddrinfo", look)
    for data in b"one", b"two":
        client.send((data, ("somewhere.test", serve.port)), PATIENCE)
        assert serve.recv(PATIENCE)[0] == data
    client.send((b"three", at(serve)))
    client.send((b"four", ("somewhere.test", serve.port)))
    assert [serve.recv(PATIENCE)[0] for _ in range(2)] == [b"three", b"four"]
    assert asked == [("somewhere.test", False)]


@pytest.mark.trap("blocking look-up")
def test_a_look_up_does_not_block_the_hub_and_is_within_the_timeout(h, client, monkeypatch):
    calls = []
    never = h.pipe()

    def thread_call(f, *args):
        calls.append(args[0])
        return never.recver

    monkeypatch.setattr(h.thread, "call", thread_call)
    task = h.spawn(client.send, (b"x", ("slow.invalid", 1)), 5)
    ran = h.spawn(lambda: True)
    assert ran.join(PATIENCE)
    with pytest.raises(vanilla.Timeout):
        task.join(PATIENCE)
    assert task.done
    assert calls == ["slow.invalid"]


def test_of_a_name_with_both_families_ipv4_is_taken(h, serve, client):
    addresses = udp.Addresses(h, socket.AF_INET6)
    found = [(socket.AF_INET6, ("::1", 1, 0, 0)), (socket.AF_INET, ("127.0.0.1", 1))]
    assert udp.preferred(found)[0][0] == socket.AF_INET
    assert addresses.place(("127.0.0.1", 1)) == ("::ffff:127.0.0.1", 1, 0, 0)
    assert addresses.place(("localhost", 1)) is None


# -- connected


def test_a_connected_socket_takes_data_alone_and_hears_its_peer_only(h, serve, client):
    with h.udp.create("127.0.0.1", serve.port) as mine:
        mine.send("hello")
        assert serve.recv(PATIENCE) == (b"hello", at(mine))
        client.send((b"from a stranger", at(mine)))
        serve.send((b"from the peer", at(mine)))
        assert mine.recv(PATIENCE) == (b"from the peer", at(serve))
        with pytest.raises(vanilla.Timeout):
            mine.recv(0)
        with pytest.raises(TypeError):
            mine.send((b"x", at(serve)))


def test_a_host_without_a_port_is_no_address(h):
    with pytest.raises(TypeError, match="both"):
        h.udp.create("127.0.0.1")
    with pytest.raises(TypeError, match="both"):
        h.udp.create(port=1)
    with pytest.raises(ValueError, match="between 1 and 65535"):
        h.udp.create("127.0.0.1", 0)


@pytest.mark.parametrize("how", ["recv", "waiting", "select", "told the sender", "iterating"])
def test_a_port_where_nobody_listens_is_lost_at_the_receiver_and_the_socket_goes_on(h, how):
    port = dead_port(h)
    with h.udp.create("127.0.0.1", port) as client:
        if how == "waiting":
            task = h.spawn(client.recv)
            h.sleep(0)
        client.send(b"to nobody")
        if how == "told the sender":
            with h.udp.listen(port) as late:  # the error is about the first: the kernel tells who comes next
                client.send(b"to somebody")
                assert late.recv(PATIENCE) == (b"to somebody", at(client))
        with pytest.raises(vanilla.ConnectionLost, match=f"udp://127.0.0.1:{port}: connection refused"):
            if how == "waiting":
                task.join(PATIENCE)
            elif how == "select":
                h.select([client], PATIENCE)
            elif how == "iterating":
                for _ in client.recver:
                    raise AssertionError("nothing can come")
            else:
                client.recv(PATIENCE)
        with h.udp.listen(port) as late:
            client.send(b"again")
            data, address = late.recv(PATIENCE)
            late.send((data, address))
            assert client.recv(PATIENCE) == (b"again", at(late))


def test_an_error_that_the_sender_was_told_reaches_who_waits(h):
    port = dead_port(h)
    with h.udp.create("127.0.0.1", port) as client:
        task = h.spawn(client.recv)
        h.sleep(0)
        client.send(b"to nobody")
        with h.udp.listen(port) as late:
            client.send(b"to somebody")  # the loop has not run since, and the kernel has nothing more to tell
            assert late.recv(PATIENCE)[0] == b"to somebody"
            with pytest.raises(vanilla.ConnectionLost):
                task.join(PATIENCE)


def test_an_icmp_answer_is_nothing_to_a_socket_that_is_not_connected(h, serve, client):
    port = dead_port(h)
    client.send((b"x", ("127.0.0.1", port)))
    client.send((b"y", at(serve)))
    assert serve.recv(PATIENCE)[0] == b"y"
    with pytest.raises(vanilla.Timeout):
        client.recv(1)


def test_an_error_of_one_datagram_ends_nothing_on_a_socket_that_is_not_connected(h, serve, monkeypatch):
    """What a kernel that is told to (IP_RECVERR) or another system raises at a recvfrom."""

    class Bouncing:
        def __init__(self, sock):
            self.sock = sock
            self.bounces = 3

        def recvfrom(self, size):
            if self.bounces:
                self.bounces -= 1
                raise ConnectionRefusedError(111, "Connection refused")
            return self.sock.recvfrom(size)

        def __getattr__(self, name):
            return getattr(self.sock, name)

    line = serve.recver._state.line
    line.transport = Bouncing(line.transport)
    serve.send((b"to itself", at(serve)))
    assert serve.recv(PATIENCE) == (b"to itself", at(serve))


# -- sizes


@pytest.mark.trap("an oversize datagram kills the sender")
@pytest.mark.parametrize("connected", [False, True])
def test_an_oversize_datagram_is_an_error_at_its_send_and_the_socket_goes_on(h, serve, connected):
    with h.udp.create(*at(serve)) if connected else h.udp.create() as client:

        def send(data):
            client.send(data if connected else (data, at(serve)))

        for size in 65_508, 1 << 20:
            with pytest.raises(ValueError, match=f"{size} bytes is too large for udp://127.0.0.1:{serve.port}"):
                send(bytes(size))
        send(bytes(65_507))
        send(b"small")
        assert [len(serve.recv(PATIENCE)[0]) for _ in range(2)] == [65_507, 5]


# -- nothing is read before somebody receives


def test_nothing_is_read_while_nobody_receives(h, serve, client):
    client.send((b"one", at(serve)))
    assert serve.recv(PATIENCE)[0] == b"one"
    with pytest.raises(vanilla.Timeout):
        serve.recv(1)
    client.send((b"two", at(serve)))
    for _ in range(3):
        h.sleep(0)
    assert unread(serve) == 3
    assert serve.recv()[0] == b"two"


def test_what_the_kernel_drops_is_counted(h, serve, client):
    assert serve.recver.dropped == 0
    sent = 2000
    for _ in range(sent):
        client.send((bytes(1000), at(serve)))
    dropped = serve.recver.dropped
    assert 0 < dropped < sent
    assert len(serve.recv_many(sent)) == sent - dropped
    for _ in range(sent):
        client.send((bytes(1000), at(serve)))
    taken = len(serve.recv_many(sent))
    serve.close()
    assert serve.recver.dropped == dropped + sent - taken


def test_to_receive_a_datagram_is_one_system_call(h, serve, client):
    calls = []

    class Counted:
        def __init__(self, sock):
            self.sock = sock

        def __getattr__(self, name):
            calls.append(name)
            return getattr(self.sock, name)

    line = serve.recver._state.line
    line.transport = Counted(line.transport)
    for _ in range(10):
        client.send((b"x", at(serve)))
        serve.recv(PATIENCE)
    assert calls == ["recvfrom"] * 10


def test_recv_many_takes_what_is_there_and_no_more(serve, client):
    for number in range(5):
        client.send((b"%d" % number, at(serve)))
    assert [data for data, _ in serve.recv_many(3)] == [b"0", b"1", b"2"]
    assert [data for data, _ in serve.recv_many(10)] == [b"3", b"4"]
    with pytest.raises(vanilla.Timeout):
        serve.recv_many(1, 0)


def test_an_error_behind_what_recv_many_took_is_raised_by_the_next(h):
    with h.udp.listen() as serve, h.udp.create(*at(serve)) as client:
        client.send(b"x")
        serve.send((b"one", serve.recv(PATIENCE)[1]))
        state = client.recver._state
        real = state._read
        reads = [real(), vanilla.ConnectionLost("bounced")]
        type(state)._read, kept = (lambda self: reads.pop(0)), type(state)._read
        try:
            assert [data for data, _ in client.recv_many(5)] == [b"one"]
        finally:
            type(state)._read = kept
        with pytest.raises(vanilla.ConnectionLost, match="bounced"):
            client.recv(PATIENCE)


# -- waiting


def test_those_who_wait_are_served_in_their_order(h, serve, client):
    tasks = [h.spawn(serve.recv) for _ in range(3)]
    h.sleep(0)
    for number in range(3):
        client.send((b"%d" % number, at(serve)))
    assert [task.join(PATIENCE)[0] for task in tasks] == [b"0", b"1", b"2"]


def test_who_comes_later_does_not_take_what_another_waits_for(h, serve, client):
    task = h.spawn(serve.recv)
    h.sleep(0)
    client.send((b"x", at(serve)))
    with pytest.raises(vanilla.Timeout):
        serve.recv(0)
    with pytest.raises(vanilla.Timeout):
        h.select([serve], 0)
    assert task.join(PATIENCE)[0] == b"x"


def test_a_socket_that_nobody_waits_for_keeps_no_task_and_hides_no_deadlock(h, serve, client):
    client.send((b"x", at(serve)))
    serve.recv(PATIENCE)
    assert not h.tasks
    _sender, recver = h.pipe()
    with pytest.raises(vanilla.Stop, match="deadlock"):
        recver.recv()


def test_select_works_on_both_ends(h, serve, client):
    _, never = h.pipe()
    assert h.select([client.sender, never]) == (client.sender, None)
    task = h.spawn(h.select, [never, serve])
    h.sleep(0)
    client.send((b"x", at(serve)))
    end, (data, _) = task.join(PATIENCE)
    assert end is serve and data == b"x"
    client.send((b"y", at(serve)))
    assert h.select([serve.recver], PATIENCE)[1][0] == b"y"
    with pytest.raises(vanilla.Timeout):
        h.select([serve], 1)
    assert h.poll.live == 0


@pytest.mark.parametrize("wait", ["recv", "recv_many", "select"])
def test_a_timeout_or_a_cancel_leaves_nothing_behind(h, serve, client, wait):
    waits = {
        "recv": serve.recv,
        "recv_many": lambda ms=-1: serve.recv_many(2, ms),
        "select": lambda ms=-1: h.select([serve], ms),
    }
    with pytest.raises(vanilla.Timeout):
        waits[wait](1)
    task = h.spawn(waits[wait])
    h.sleep(0)
    task.cancel()
    h.sleep(0)
    assert h.poll.live == 0
    client.send((b"x", at(serve)))
    assert serve.recv(PATIENCE)[0] == b"x"


def test_items_are_consumed_and_mapped(h, serve, client):
    lengths = serve.map(lambda item: len(item[0]))
    for size in 3, 5:
        client.send((bytes(size), at(serve)))
    assert [lengths.recv(PATIENCE) for _ in range(2)] == [3, 5]


def test_a_peer_that_is_always_faster_starves_nobody(h, serve):
    line = serve.recver._state.line

    class Endless:
        def recvfrom(self, size):
            return b"x", ("127.0.0.1", 1)

        def __getattr__(self, name):
            return getattr(sock, name)

    sock, line.transport = line.transport, Endless()
    fired = []
    h.after(1, lambda: fired.append(True))
    for _ in range(1_000_000):
        serve.recv()
        if fired:
            break
    assert fired


# -- a full buffer


@pytest.mark.trap("send ignores its timeout")
def test_send_waits_while_the_kernels_buffer_is_full_and_its_timeout_holds(h, full):
    pair, taken, theirs = full
    for timeout in 0, 5:
        with pytest.raises(vanilla.Timeout):
            pair.send(b"not sent", timeout)
    assert h.poll.live == 0
    task = h.spawn(pair.send, b"sent", PATIENCE)
    h.sleep(0)
    assert not task.done
    got = drain(theirs, taken)
    task.join(PATIENCE)
    assert got + drain(theirs, 1) == [b"%d" % n for n in range(taken)] + [b"sent"]


def test_those_who_wait_to_send_keep_their_order(h, full):
    pair, taken, theirs = full
    tasks = [h.spawn(pair.send, b"w%d" % number) for number in range(3)]
    h.sleep(0)
    tasks[1].cancel()
    h.sleep(0)
    drain(theirs, taken)
    for task in tasks[0], tasks[2]:
        task.join(PATIENCE)
    assert drain(theirs, 2) == [b"w0", b"w2"]


def test_who_comes_later_does_not_send_before_those_who_wait(h, full):
    pair, taken, theirs = full
    task = h.spawn(pair.send, b"first")
    h.sleep(0)
    drain(theirs, taken)
    with pytest.raises(vanilla.Timeout):
        pair.send(b"second", 0)
    task.join(PATIENCE)
    pair.send(b"third", 0)
    assert drain(theirs, 2) == [b"first", b"third"]


def test_more_who_wait_to_send_than_the_buffer_takes_at_once_keep_their_order(h, full):
    pair, taken, theirs = full
    items = [b"w%d" % number for number in range(2 * taken)]
    tasks = [h.spawn(pair.send, item) for item in items]
    h.sleep(0)
    drain(theirs, taken)
    theirs.setblocking(False)
    got = []
    while len(got) < len(items):
        h.sleep(0)
        try:
            got.append(theirs.recv(100))
        except BlockingIOError:
            assert not all(task.done for task in tasks)
    assert got == items


def test_select_on_a_sender_waits_for_room(h, full):
    pair, taken, theirs = full
    with pytest.raises(vanilla.Timeout):
        h.select([pair.sender], 0)
    task = h.spawn(h.select, [pair.sender])
    h.sleep(1)
    assert not task.done
    drain(theirs, taken)
    assert task.join(PATIENCE) == (pair.sender, None)
    pair.send(b"x", 0)


def test_room_is_seen_by_a_select_though_nobody_has_waited(h, full):
    pair, taken, theirs = full
    drain(theirs, taken)
    assert h.select([pair.sender], 0) == (pair.sender, None)


# -- the end


def test_close_wakes_everybody_and_may_be_called_twice(h, full):
    pair, _taken, _theirs = full
    waits = [pair.recv, lambda: h.select([pair.recver]), lambda: pair.send(b"x"), lambda: h.select([pair.sender])]
    tasks = [h.spawn(wait) for wait in waits]
    h.sleep(1)
    called = []
    pair.onclose(called.append, "recver")
    pair.sender.onclose(called.append, "sender")
    pair.close()
    pair.close()
    for task in tasks:
        with pytest.raises(vanilla.Closed):
            task.join(PATIENCE)
    assert called == ["sender", "recver"]
    for use in pair.recv, lambda: pair.send(b"x"), lambda: h.select([pair]), lambda: h.select([pair.sender]):
        with pytest.raises(vanilla.Closed):
            use()
    assert h.poll.live == 0


def test_each_end_may_be_closed_alone_and_the_descriptor_goes_with_the_last(h, serve, client):
    fd = serve.recver._state.line.fd
    serve.recver.close()
    serve.send((b"still sends", at(serve)))
    os.fstat(fd)
    serve.sender.close()
    with pytest.raises(OSError):
        os.fstat(fd)
    with pytest.raises(vanilla.Closed):
        serve.send((b"x", at(serve)))


@by_reference_count
def test_a_dropped_socket_is_closed_without_a_cycle(h):
    gc.collect()
    gc.disable()
    try:
        serve, client = h.udp.listen(), h.udp.create()
        client.send((b"x", at(serve)))
        serve.recv(PATIENCE)
        fds = [pair.recver._state.line.fd for pair in (serve, client)]
        del serve, client
        for fd in fds:
            with pytest.raises(OSError):
                os.fstat(fd)
    finally:
        gc.enable()


def test_the_end_of_the_hub_ends_who_waits():
    with vanilla.Hub() as h:
        serve = h.udp.listen()
        task = h.spawn(serve.recv)
        h.sleep(0)
    with pytest.raises(vanilla.Stop):
        task.join()
    with pytest.raises(vanilla.Stop):
        serve.recv()
    serve.close()


def test_a_forked_child_that_drops_a_socket_leaves_it_to_the_parent(h, serve, client):
    task = h.spawn(serve.recv)
    h.sleep(0)
    pid = os.fork()
    if pid == 0:
        try:
            serve.close()
        finally:
            os._exit(0)
    os.waitpid(pid, 0)
    client.send((b"for the parent", at(serve)))
    assert task.join(PATIENCE)[0] == b"for the parent"

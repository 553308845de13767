"""`vanilla.message.Stream` over a Recver of any kind: a channel, a map, a broker's endpoint, another Stream."""

from __future__ import annotations

import gc
import platform
import socket
import weakref

import pytest
from hypothesis import given
from hypothesis import strategies as st

import vanilla
from vanilla.message import Recver, Stream
from vanilla.stream import TooLong, open_connection

by_reference_count = pytest.mark.skipif(platform.python_implementation() == "PyPy", reason="ends are dropped at once")

#: No test waits longer than this for something that it expects, in ms.
PATIENCE = 10_000


@pytest.fixture(params=["pipe", "queue", "channel", "mapped", "remote", "stream"])
def pair(request, h, tmp_path):
    """A Sender, and the Recver that is to be cut."""
    if request.param == "remote":
        with h.broker.listen(f"unix://{tmp_path}/sock") as broker, h.client.connect(broker.urls[0]) as remote:
            yield remote.push("bytes"), remote.pull("bytes")
        return
    pair = {
        "pipe": h.pipe,
        "queue": lambda: h.queue(3),
        "channel": h.channel,
        "mapped": lambda: h.channel().map(lambda item: item),
        "stream": h.io.pipe,
    }[request.param]()
    with pair:
        yield pair.sender, pair.recver


@pytest.fixture
def sender(pair):
    return pair[0]


@pytest.fixture
def stream(pair):
    return Stream(pair[1])


@pytest.fixture
def queue(h):
    """Ends of a local queue, with a Stream over the one."""
    sender, recver = h.queue(100)
    return sender, recver, Stream(recver)


def send(h, sender, *items):
    """Send without waiting for a receiver."""
    return h.spawn(lambda: [sender.send(item) for item in items])


def test_sockets_and_any_recver_give_the_same_class(h, queue):
    server = h.tcp.listen()
    with h.tcp.connect(server.port) as conn:
        assert type(conn.recver) is type(queue[2]) is vanilla.message.Stream
        assert isinstance(queue[2], Recver)


def test_pieces_are_cut_by_length_and_by_separator(h, sender, stream):
    send(h, sender, b"one\ntw", b"o\nab", "cé", b"x;rest")
    assert stream.recv_line(PATIENCE) == b"one"
    assert stream.recv_line(PATIENCE) == b"two"
    assert stream.recv_n(4, PATIENCE) == b"abc\xc3"
    assert stream.recv_partition(";", PATIENCE) == b"\xa9x"
    assert stream.recv(PATIENCE) == b"rest"


def test_a_task_waits_for_the_rest_of_a_line(h, sender, stream):
    task = h.spawn(stream.recv_line)
    h.sleep(1)
    send(h, sender, b"a", b"b", b"c\nd")
    assert task.join(PATIENCE) == b"abc"
    assert stream.recv_n(1, 0) == b"d"


@pytest.mark.trap("a timeout loses what was read")
@pytest.mark.parametrize("cut", ["recv_n", "recv_line"])
@pytest.mark.parametrize("timeout", [0, 5])
def test_a_timeout_loses_nothing(h, sender, stream, cut, timeout):
    send(h, sender, b"ab", b"cd")
    assert stream.recv_n(1, PATIENCE) == b"a"
    while stream._state.data != b"bcd":
        with pytest.raises(vanilla.Timeout):
            stream.recv_n(100, timeout) if cut == "recv_n" else stream.recv_line(timeout)
        h.sleep(1)
    send(h, sender, b"e\n")
    assert stream.recv_line(PATIENCE) == b"bcde"


def test_a_cancelled_recv_loses_nothing(h, sender, stream):
    task = h.spawn(stream.recv_n, 4)
    sent = send(h, sender, b"abc")
    sent.join(PATIENCE)
    while not stream._state.data:
        h.sleep(1)
    task.cancel()
    with pytest.raises(vanilla.Cancelled):
        task.join(PATIENCE)
    assert h.select([stream], 0) == (stream, b"abc")
    send(h, sender, b"d")
    assert stream.recv(PATIENCE) == b"d"


def test_left_over_bytes_are_ready_in_select(h, sender, stream):
    send(h, sender, b"line\nrest")
    assert stream.recv_line(PATIENCE) == b"line"
    assert h.select([stream], 0) == (stream, b"rest")


def test_a_select_waits_for_a_stream_beside_a_channel(h, sender, stream):
    other, recver = h.pipe()
    task = h.spawn(h.select, [recver, stream])
    h.sleep(1)
    send(h, sender, b"bytes")
    assert task.join(PATIENCE) == (stream, b"bytes")
    task = h.spawn(h.select, [stream, recver])
    h.sleep(1)
    other.send("item")
    assert task.join(PATIENCE) == (recver, "item")
    send(h, sender, b"more")
    assert stream.recv(PATIENCE) == b"more"


def test_a_select_behind_a_task_gets_what_the_task_left(h, sender, stream):
    first = h.spawn(stream.recv_n, 10)
    h.sleep(1)
    second = h.spawn(h.select, [stream])
    h.sleep(1)
    send(h, sender, b"abc")
    while not stream._state.data:
        h.sleep(1)
    first.cancel()
    assert second.join(PATIENCE) == (stream, b"abc")


def test_a_second_task_that_receives_is_busy(h, sender, stream):
    task = h.spawn(stream.recv)
    h.sleep(1)
    with pytest.raises(vanilla.Busy):
        stream.recv_line()
    send(h, sender, b"x")
    assert task.join(PATIENCE) == b"x"


def test_it_is_piped_mapped_consumed_and_iterated(h, sender, stream):
    out = stream.map(lambda piece: piece.upper()).pipe(h.channel(10))
    send(h, sender, b"a", b"b")
    got = b""
    while len(got) < 2:
        got += out.recv(PATIENCE)
    assert got == b"AB"


def test_iteration_ends_with_the_source(h, sender, stream):
    send(h, sender, b"ab")
    got = stream.recv_n(1, PATIENCE)
    stream.close()
    assert stream.halted
    assert got + b"".join(stream) == b"ab"
    with pytest.raises(vanilla.Closed):
        stream.recv()
    stream.close()


def test_closing_wakes_who_waits(h, stream):
    tasks = [h.spawn(stream.recv_line), h.spawn(h.select, [stream]), h.spawn(h.select, [stream])]
    h.sleep(5)
    stream.close()
    for task in tasks:
        with pytest.raises(vanilla.Closed):
            task.join(PATIENCE)


# -- over a local channel


def test_nothing_is_taken_while_nobody_receives(h, queue):
    sender, recver, stream = queue
    sender.send(b"one")
    assert stream.recv() == b"one"
    with pytest.raises(vanilla.Timeout):
        stream.recv_line(1)
    sender.send(b"two")
    h.sleep(1)
    assert len(recver._state.buffer) == 1


def test_who_has_given_up_stands_in_no_queue(h, queue):
    _sender, recver, stream = queue
    for wait in (lambda: stream.recv_n(5, 1), lambda: h.select([stream], 1)):
        with pytest.raises(vanilla.Timeout):
            wait()
        h.sleep(0)
        assert not recver._state.recvers
        assert not stream._state.recvers


def test_no_more_is_taken_than_was_asked_for(queue):
    sender, recver, stream = queue
    sender.send_many([b"abc", b"def", b"ghi"])
    assert stream.recv_n(4) == b"abcd"
    assert list(recver._state.buffer) == [b"ghi"]


def test_an_exception_among_the_pieces_is_raised_where_it_comes_and_loses_nothing(queue):
    sender, _, stream = queue
    sender.send_many([b"ab", KeyError("k"), b"cd\n"])
    with pytest.raises(KeyError):
        stream.recv_line()
    assert stream.recv_line() == b"abcd"
    sender.send(KeyError("k"))
    with pytest.raises(KeyError):
        stream.recv()


@pytest.mark.parametrize("how", ["recv", "recv_line", "select"])
def test_an_exception_reaches_who_waits(h, queue, how):
    sender, _, stream = queue
    task = h.spawn({"recv": stream.recv, "recv_line": stream.recv_line, "select": lambda: h.select([stream])}[how])
    h.sleep(0)
    sender.send(KeyError("k"))
    with pytest.raises(KeyError):
        task.join(PATIENCE)


def test_an_exception_goes_on_through_a_pipe(h, queue):
    sender, _, stream = queue
    out = stream.pipe(h.channel(10))
    sender.send_many([KeyError("k"), b"x"])
    with pytest.raises(KeyError):
        out.recv(PATIENCE)
    assert out.recv(PATIENCE) == b"x"


@pytest.mark.parametrize("item", [5, None, ["a"], "\ud800"])
@pytest.mark.parametrize("parked", [False, True])
def test_what_is_no_bytes_is_an_error_at_the_receiver_and_not_at_the_sender(h, queue, item, parked):
    sender, _, stream = queue
    task = h.spawn(stream.recv)
    if parked:
        h.sleep(0)
    sender.send(item)
    sender.send(bytearray(b"x"))
    with pytest.raises((TypeError, UnicodeEncodeError)):
        task.join(PATIENCE)
    assert stream.recv() == b"x"


def test_empty_pieces_are_no_pieces(h, queue):
    sender, _, stream = queue
    task = h.spawn(h.select, [stream])
    h.sleep(0)
    sender.send_many([b"", "", b"x", b""])
    assert task.join(PATIENCE) == (stream, b"x")
    with pytest.raises(vanilla.Timeout):
        stream.recv(0)


def test_what_is_too_short_at_the_end_is_left_for_recv(h, queue):
    sender, _, stream = queue
    first, second = h.spawn(stream.recv_n, 5), h.spawn(h.select, [stream])
    h.sleep(0)
    sender.send(b"abc")
    h.sleep(0)
    sender.close()
    with pytest.raises(vanilla.Closed):
        first.join(PATIENCE)
    assert second.join(PATIENCE) == (stream, b"abc")
    with pytest.raises(vanilla.Closed):
        stream.recv()


@pytest.mark.trap("no cap on a line")
def test_a_line_beyond_the_limit_is_an_error_that_loses_nothing(h, queue):
    sender, _, stream = queue
    stream.limit = 5
    task = h.spawn(stream.recv_line)
    h.sleep(0)
    sender.send_many([b"12345", b"6"])
    with pytest.raises(TooLong, match="limit of 5 bytes"):
        task.join(PATIENCE)
    assert stream.recv() == b"123456"


def test_the_separator_of_lines_is_given_or_set(h):
    sender, recver = h.queue(1)
    stream = Stream(recver, sep=";")
    sender.send("a;b\nc")
    assert stream.recv_line() == b"a"
    stream.sep = b"\n"
    assert stream.recv_line() == b"b"


def test_onclose_is_that_of_the_source(h, queue):
    sender, _, stream = queue
    called = []
    stream.onclose(called.append, 1)
    sender.close()
    assert called == [1]


@by_reference_count
def test_a_dropped_stream_drops_its_source(h):
    sender, recver = h.pipe()
    stream = Stream(recver)
    del stream
    assert not sender.halted  # somebody has the source
    stream = Stream(recver)
    del recver
    gc.collect()
    assert not sender.halted
    del stream
    with pytest.raises(vanilla.Abandoned):
        sender.send(b"x")


def use_and_drop(h):
    """What was behind a Stream on which a task has waited, in vain and not."""
    sender, recver = h.queue(5)
    stream = Stream(recver)
    try:
        stream.recv_line(1)
    except vanilla.Timeout:
        pass
    task = h.spawn(stream.recv_line)
    h.sleep(0)
    sender.send(b"a\nb")
    assert task.join() == b"a"
    return weakref.ref(stream._state)


@by_reference_count
def test_no_cycle_is_left_for_the_garbage_collector(h):
    gc.collect()
    gc.disable()
    try:
        left = use_and_drop(h)
        h.sleep(0)
        assert left() is None
    finally:
        gc.enable()


def test_a_sender_that_is_dropped_reaches_who_waits(h):
    sender, recver = h.pipe()
    task = h.spawn(Stream(recver).recv_line)
    h.sleep(0)
    del sender
    gc.collect()
    with pytest.raises(vanilla.Abandoned):
        task.join(PATIENCE)


@pytest.mark.parametrize(
    "what", [lambda h: h.state(1).recver, lambda h: h.queue(1), lambda h: b"bytes", lambda h: None]
)
def test_what_it_is_made_of_is_a_recver_that_gives_each_item_once(h, what):
    with pytest.raises(TypeError, match="gives each item once"):
        Stream(what(h))


def test_a_deadlock_names_the_stream(h):
    sender, recver = h.queue(1)
    with pytest.raises(vanilla.Stop, match="recv from a stream over a queue"):
        Stream(recver).recv_line()
    sender.send(b"x")


class Endless:
    """A connection whose peer sends faster than we read."""

    def __init__(self, fd):
        self.fd = fd

    def fileno(self):
        return self.fd

    def getsockname(self):
        return ""

    def recv(self, size):
        return b"x" * 100

    def shutdown(self, how):
        pass

    def close(self):
        pass


def test_a_source_that_is_always_ready_starves_nobody(h):
    ours, theirs = socket.socketpair()
    stream = Stream(open_connection(h, Endless(ours.fileno()), "test").recver)
    fired = []
    h.after(1, lambda: fired.append(True))
    for _ in range(1_000_000):
        stream.recv_n(10)
        if fired:
            break
    assert fired
    stream.close()
    ours.close()
    theirs.close()


@given(st.lists(st.binary(max_size=6)), st.data())
def test_any_cutting_of_any_pieces_gives_the_same_bytes(pieces, data):
    whole = b"".join(pieces)
    with vanilla.Hub() as h:
        sender, recver = h.pipe()
        stream = Stream(recver)
        h.spawn(lambda: [sender.send(piece) for piece in pieces] and None)
        got = b""
        while len(got) < len(whole):
            ask = data.draw(st.sampled_from(["n", "line", "recv", "select", "timeout"]))
            left = whole[len(got) :]
            if ask == "n":
                size = data.draw(st.integers(1, len(left)))
                got += stream.recv_n(size)
            elif ask == "line" and b"\n" in left:
                got += stream.recv_line() + b"\n"
            elif ask == "recv":
                got += stream.recv()
            elif ask == "select":
                got += h.select([stream])[1]
            else:
                with pytest.raises(vanilla.Timeout):
                    stream.recv_n(len(left) + 1, 0)
        assert got == whole

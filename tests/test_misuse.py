"""What is wrong is told at once, by who is called, and leaves nothing behind."""

from __future__ import annotations

import os
import signal

import pytest
from descriptors import open_descriptors

import vanilla
from vanilla import Stop

#: What takes something to call.
CALLS = {
    "spawn": lambda h, f: h.spawn(f),
    "spawn_later": lambda h, f: h.spawn_later(1, f),
    "producer": lambda h, f: h.producer(f),
    "consumer": lambda h, f: h.consumer(f),
    "trigger": lambda h, f: h.trigger(f),
    "timer": lambda h, f: h.timer(5, f),
    "every": lambda h, f: h.every(5, f),
    "onerror": lambda h, f: h.onerror(f),
    "onstop": lambda h, f: h.onstop(f),
    "map": lambda h, f: h.channel().map(f),
    "consume": lambda h, f: h.channel().consume(f),
    "pipe": lambda h, f: h.channel().pipe(f),
    "pool.call": lambda h, f: h.pool(1).call(f),
    "pool.map": lambda h, f: h.pool(1).map(f, [1]),
    "thread.call": lambda h, f: h.thread.call(f),
    "thread.spawn": lambda h, f: h.thread.spawn(f),
    "process.spawn": lambda h, f: h.process.spawn(f),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
@pytest.mark.parametrize("f", [5, None, "name"])
def test_what_cannot_be_called_is_a_type_error_at_once(h, call, f):
    before = set(h.tasks)
    with pytest.raises(TypeError, match=r"callable"):
        call(h, f)
    assert h.tasks == before


@pytest.mark.parametrize("ms", [0, -1])
def test_a_pulse_needs_some_time(h, ms):
    with pytest.raises(ValueError, match="more than 0"):
        h.pulse(ms)


def test_a_port_that_is_none_is_a_type_error(h):
    with pytest.raises(TypeError, match="before the host"):
        h.tcp.connect("localhost", 80)
    with pytest.raises(TypeError, match="port"):
        h.tcp.listen("80")


def test_a_descriptor_is_the_stream_of_one(h):
    read, write = os.pipe()
    with h.io.fd_in(read), h.io.fd_out(write):
        with pytest.raises(FileExistsError, match=r"os\.dup"):
            h.io.fd_in(read)
        with pytest.raises(FileExistsError):
            h.io.fd_out(write)
    again = os.pipe()
    assert again == (read, write)
    with h.io.fd_in(read), h.io.fd_out(write):
        pass


OPENS = {
    "tcp": lambda h, path: h.tcp.listen(),
    "unix": lambda h, path: h.unix.listen(path),
    "console": lambda h, path: h.console.listen(path),
    "udp": lambda h, path: h.udp.listen(),
    "udp.create": lambda h, path: h.udp.create(),
    "io": lambda h, path: h.io.pipe(),
    "signal": lambda h, path: h.signal.subscribe(signal.SIGUSR2),
    "process": lambda h, path: h.process.execv(["true"]),
    "broker": lambda h, path: h.broker.listen(f"unix://{path}"),
    "select": lambda h, path: h.select([h.pipe()], timeout=0),
    "stop_on_term": lambda h, path: h.stop_on_term(),
    "register": lambda h, path: h.register(0),
}


@pytest.mark.parametrize("opens", OPENS.values(), ids=OPENS)
def test_after_the_hubs_end_everything_says_so_and_nothing_is_left(tmp_path, opens):
    with vanilla.Hub() as h:
        pass
    path = str(tmp_path / "socket")
    before = open_descriptors(), signal.set_wakeup_fd(-1)
    try:
        with pytest.raises(Stop, match="the hub was stopped"):
            opens(h, path)
        assert not os.path.exists(path)
        assert (open_descriptors(), signal.set_wakeup_fd(-1)) == (before[0], -1)
    finally:
        signal.set_wakeup_fd(before[1])


def test_a_plug_in_that_waits_while_it_is_made_is_made_once(h, monkeypatch):
    made = []

    def plugin(hub):
        made.append(hub)
        hub.sleep(1)
        return object()

    monkeypatch.setattr("vanilla.services.find", lambda name: plugin if name == "fancy" else None)
    first, second = h.spawn(lambda: h.fancy), h.spawn(lambda: h.fancy)
    assert first.join() is second.join()
    assert made == [h]


def test_a_recver_may_be_piped_to_a_broadcast(h):
    news = h.broadcast()
    heard = news.subscribe()
    sender, recver = h.pipe()
    recver.pipe(news)
    sender.send("one")
    assert heard.recv() == "one"

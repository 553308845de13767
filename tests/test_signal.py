"""Signals: prompt, lossless, and everything as it was afterwards."""

from __future__ import annotations

import os
import platform
import signal
import socket
import threading

import pytest
from descriptors import open_descriptors

import vanilla
from vanilla.signal import subscribe


@pytest.fixture(autouse=True)
def _as_it_was():
    numbers = signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM, signal.SIGINT
    before = [signal.getsignal(number) for number in numbers], wakeup_fd()
    yield
    assert ([signal.getsignal(number) for number in numbers], wakeup_fd()) == before


def wakeup_fd() -> int:
    fd = signal.set_wakeup_fd(-1)
    signal.set_wakeup_fd(fd, warn_on_full_buffer=False)
    return fd


def send(signum=signal.SIGUSR1):
    os.kill(os.getpid(), signum)


class Got(list):
    def note(self, what="got"):
        return lambda: self.append(what)

    def wait(self, h, n=1):
        while len(self) < n:
            h.sleep(1)
        assert len(self) == n


@pytest.fixture
def got():
    return Got()


def test_a_callback_runs_in_the_loop(h, got):
    subscribe(h, signal.SIGUSR1, lambda: got.append(vanilla.core.getcurrent() is h.runner.loop))
    send()
    got.wait(h)
    assert got == [True]


def test_several_signals_and_subscribers(h, got):
    subscribe(h, signal.SIGUSR1, got.note("1a"))
    remove = subscribe(h, signal.SIGUSR1, got.note("1b"))
    subscribe(h, signal.SIGUSR2, got.note("2"))
    send(signal.SIGUSR1)
    got.wait(h, 2)
    send(signal.SIGUSR2)
    got.wait(h, 3)
    remove()
    remove()
    send(signal.SIGUSR1)
    got.wait(h, 4)
    assert got == ["1a", "1b", "2", "1a"]


def test_one_callback_subscribed_twice_is_called_twice(h, got):
    note = got.note()
    remove = subscribe(h, signal.SIGUSR1, note)
    subscribe(h, signal.SIGUSR1, note)
    send()
    got.wait(h, 2)
    remove()
    send()
    got.wait(h, 3)


def test_a_callback_that_raises_does_not_keep_the_next_from_its_turn(h, got, caplog):
    def fail():
        raise ValueError("no")

    subscribe(h, signal.SIGUSR1, fail)
    subscribe(h, signal.SIGUSR1, got.note())
    send()
    got.wait(h)
    assert "ValueError: no" in caplog.text


def test_a_signal_wakes_a_hub_that_waits_for_nothing_else(h):
    recver = h.signal.subscribe(signal.SIGUSR1)
    timer = threading.Timer(0.02, send)
    timer.start()
    assert recver.recv() == signal.SIGUSR1  # no deadlock, though only a signal can wake it
    timer.join()


def test_a_signal_that_the_kernel_gives_to_another_thread_wakes_the_hub(h):
    recver = h.signal.subscribe(signal.SIGUSR1)
    thread = threading.Thread(target=lambda: signal.pthread_kill(threading.get_ident(), signal.SIGUSR1))
    h.after(20, thread.start)
    assert recver.recv(30_000) == signal.SIGUSR1
    thread.join()


def test_a_signal_is_prompt_while_tasks_are_busy(h, got):
    sender, recver = h.pipe()

    def ping():
        while not got:
            sender.send(1)
        sender.close()

    subscribe(h, signal.SIGUSR1, got.note())
    h.spawn(ping)
    for turns, _ in enumerate(recver):
        if turns == 100:
            send()
        assert turns < 100_000
    assert got == ["got"]


@pytest.mark.trap("handlers restored to the default")
def test_the_previous_handler_and_wakeup_fd_come_back(h, got):
    read, write = socket.socketpair()
    write.setblocking(False)
    previous = signal.signal(signal.SIGUSR1, lambda signum, frame: got.append("previous"))
    mine = signal.getsignal(signal.SIGUSR1)
    before = signal.set_wakeup_fd(write.fileno(), warn_on_full_buffer=False)
    try:
        removes = [subscribe(h, signal.SIGUSR1, got.note()), subscribe(h, signal.SIGUSR1, got.note())]
        removes[0]()
        send()
        got.wait(h)
        removes[1]()
        assert signal.getsignal(signal.SIGUSR1) is mine
        assert wakeup_fd() == write.fileno()
        send()
        assert got == ["got", "previous"]
    finally:
        signal.set_wakeup_fd(before)
        signal.signal(signal.SIGUSR1, previous)
        read.close()
        write.close()


def test_a_handler_that_came_later_stays(h):
    def later(signum, frame):
        pass

    previous = signal.getsignal(signal.SIGUSR1)
    remove = subscribe(h, signal.SIGUSR1, int)
    signal.signal(signal.SIGUSR1, later)
    try:
        remove()
        assert signal.getsignal(signal.SIGUSR1) is later
    finally:
        signal.signal(signal.SIGUSR1, previous)


def test_the_end_of_the_hub_ends_its_subscriptions():
    before = open_descriptors()
    with vanilla.Hub() as h:
        remove = subscribe(h, signal.SIGUSR1, int)
        subscribe(h, signal.SIGTERM, int)
    remove()
    assert open_descriptors() == before


def test_without_subscribers_nothing_is_left_and_a_deadlock_is_seen(h):
    before = open_descriptors()
    for _ in range(3):
        subscribe(h, signal.SIGUSR1, int)()
    assert open_descriptors() == before
    with pytest.raises(vanilla.Stop, match="deadlock"):
        h.router().recv()


def test_two_hubs_of_the_main_thread(h, got):
    with vanilla.Hub() as other:
        subscribe(h, signal.SIGUSR1, got.note("one"))
        subscribe(other, signal.SIGUSR1, got.note("two"))
        send()
        got.wait(h, 1)
        while len(got) < 2:
            other.sleep(1)
    send()
    got.wait(h, 3)
    assert got == ["one", "two", "one"]


def test_a_recver_of_signals(h):
    recver = h.signal.subscribe(signal.SIGUSR1, signal.SIGUSR2)
    send(signal.SIGUSR2)
    assert recver.recv() == signal.SIGUSR2
    for _ in range(3):
        send(signal.SIGUSR1)
        h.sleep(0)
    assert recver.recv() == signal.SIGUSR1
    with pytest.raises(vanilla.Timeout):
        recver.recv(0)
    recver.close()


def test_interrupts_can_be_subscribed_to(h):
    recver = h.signal.subscribe(signal.SIGINT)
    send(signal.SIGINT)
    assert recver.recv() == signal.SIGINT
    recver.close()


def test_another_thread_is_told_that_it_cannot_subscribe():
    def other():
        with vanilla.Hub() as h:
            with pytest.raises(RuntimeError, match="main thread"):
                subscribe(h, signal.SIGUSR1, int)
        return "done"

    with vanilla.Hub() as h:
        assert h.thread.call(other).recv() == "done"


# PyPy takes a handler for SIGKILL, and leaves it to the kernel to know better.
UNCATCHABLE = [0, 4711] + [signal.SIGKILL] * (platform.python_implementation() == "CPython")


@pytest.mark.parametrize("signum", UNCATCHABLE)
def test_a_signal_that_cannot_be_caught_leaves_nothing_behind(h, signum):
    before = open_descriptors()
    with pytest.raises((OSError, ValueError)):
        subscribe(h, signum, int)
    with pytest.raises((OSError, ValueError)):
        h.signal.subscribe(signal.SIGUSR1, signum)
    assert open_descriptors() == before
    assert h.poll.live == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_gets_its_signals_itself(h, got):
    subscribe(h, signal.SIGTERM, got.note())
    pid = os.fork()
    if pid == 0:
        signal.pause()
        os._exit(1)
    os.kill(pid, signal.SIGTERM)
    assert os.WTERMSIG(os.waitpid(pid, 0)[1]) == signal.SIGTERM
    h.sleep(0)
    assert not got
    send(signal.SIGTERM)
    got.wait(h)

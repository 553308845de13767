"""Threads with a Hub of their own, and how they and their parents end."""

from __future__ import annotations

import gc
import logging
import os
import subprocess
import sys
import textwrap
import threading
import time
from types import SimpleNamespace

import pytest

import vanilla
from vanilla import spawned
from vanilla.spawned import Spawned

PATIENCE = 60


def started():
    return [thread for thread in threading.enumerate() if thread.name.startswith("vanilla ")]


@pytest.fixture(autouse=True)
def _no_thread_is_left():
    before = set(started())
    yield
    for thread in set(started()) - before:
        thread.join(PATIENCE)
        assert not thread.is_alive()


def echo(h, *prefix):
    for item in h.parent.recver:
        h.parent.send((*prefix, item))


def test_items_go_both_ways(h):
    child = h.thread.spawn(echo, "re")
    child.send(1)
    assert child.recv() == ("re", 1)
    child.close()


def test_it_has_a_thread_and_a_hub_of_its_own(h):
    def tell(hub):
        hub.parent.send((threading.get_ident(), hub is h))

    ident, same = h.thread.spawn(tell).recv()
    assert ident != threading.get_ident() and not same


def test_its_tasks_go_on_while_it_waits_for_its_parent(h):
    def work(hub):
        @hub.spawn
        def beat():
            hub.parent.send("beat")

        hub.parent.recv()

    child = h.thread.spawn(work)
    assert child.recv() == "beat"


def test_at_its_end_the_last_recv_raises_closed(h):
    child = h.thread.spawn(lambda hub: hub.parent.send(1))
    assert child.recv() == 1
    with pytest.raises(vanilla.Closed):
        child.recv()
    with pytest.raises(vanilla.Closed):
        child.send(1)


@pytest.mark.parametrize("kind", [ValueError, StopIteration, BaseException, SystemExit, vanilla.Stop])
def test_what_it_raises_is_raised_at_the_last_recv(h, kind, caplog):
    def fail(hub):
        hub.parent.send(1)
        raise kind("this")

    child = h.thread.spawn(fail)
    assert child.recv() == 1
    with pytest.raises(kind, match="this"):
        child.recv()
    with pytest.raises(vanilla.Closed):
        child.recv()
    assert ("fail raised" in caplog.text) == (kind is not SystemExit)


def test_its_error_finds_room_in_a_full_pipe(h):
    def fail(hub):
        hub.parent.send_many(range(1024))
        raise ValueError("this")

    child = h.thread.spawn(fail)
    while not child.recver.halted:
        h.sleep(1)
    for i in range(1024):
        assert child.recv() == i
    with pytest.raises(ValueError, match="this"):
        child.recv()


def test_a_deadlock_in_it_is_told_here(h):
    child = h.thread.spawn(lambda hub: hub.router().recv())
    with pytest.raises(vanilla.Stop, match="deadlock"):
        child.recv()


@pytest.mark.parametrize("how", ["stop", "close", "drop"])
@pytest.mark.parametrize("doing", ["recv", "send", "iterate"])
def test_it_hears_of_its_parents_end_and_ends_in_silence(how, doing, caplog):
    def work(hub):
        if doing == "iterate":
            list(hub.parent.recver)
        while True:
            hub.parent.recv() if doing == "recv" else hub.parent.send(1)

    with vanilla.Hub() as h:
        child = h.thread.spawn(work)
        (thread,) = (thread for thread in started() if "work" in thread.name)
        if how == "close":
            child.close()
        elif how == "drop":
            del child
            __import__("gc").collect()
        if how != "stop":
            thread.join(PATIENCE)
    thread.join(PATIENCE)
    assert not thread.is_alive()
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


def test_the_parent_keeps_nothing_of_children_that_have_ended(h):
    h.thread.pipe()
    before = len(h._closers), len(h.thread.bell.crossings)
    fds = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        child = h.thread.spawn(lambda hub: None)
        with pytest.raises(vanilla.Closed):
            child.recv()
    for thread in started():
        thread.join(PATIENCE)
    h.sleep(1)
    assert (len(h._closers), len(h.thread.bell.crossings)) == before
    assert len(os.listdir("/proc/self/fd")) == fds


def test_without_descriptors_for_its_hub_spawn_raises(h, monkeypatch):
    h.thread.bell  # noqa: B018

    def none():
        raise OSError(24, "Too many open files")

    monkeypatch.setattr("vanilla.core.Poll", none)
    with pytest.raises(OSError, match="Too many"):
        h.thread.spawn(echo)


def test_children_may_have_children(h):
    def outer(hub):
        inner = hub.thread.spawn(echo)
        for item in hub.parent.recver:
            inner.send(item)
            hub.parent.send(inner.recv())

    child = h.thread.spawn(outer)
    child.send(1)
    assert child.recv() == (1,)


# -- the end of the interpreter

ENDINGS = {
    "waits": "while True: hub.sleep(1)",
    "is busy in f": "while True: pass",
    "is busy in a task": "hub.spawn(spin); hub.sleep(1e9)",
    "has tasks at ping-pong": "c = hub.channel(); hub.spawn(loop, c.recv); loop(c.send, 1)",
    "catches all": "loop(catch, hub)",
    "sleeps in C": "time.sleep(1000)",
    "sends": "loop(hub.parent.send, 1)",
}


@pytest.mark.parametrize("stop", ["", "h.stop()"], ids=["left", "stopped"])
@pytest.mark.parametrize("doing", ENDINGS)
def test_the_interpreter_ends_in_silence_whatever_a_child_does(doing, stop):
    program = f"""
    import time, vanilla

    def spin():
        while True: pass

    def loop(f, *args):
        while True: f(*args)

    def catch(hub):
        try:
            hub.sleep(1)
        except BaseException:
            pass

    def child(hub):
        hub.parent.send("go")
        {ENDINGS[doing]}

    h = vanilla.Hub()
    children = [h.thread.spawn(child) for _ in range(2)]
    for each in children:
        each.recv()
    {stop}
    """
    ran = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")


def test_without_children_the_interpreters_exit_waits_for_nothing(monkeypatch):
    monkeypatch.setattr(spawned, "_running", set())
    monkeypatch.setattr("vanilla.spawned.time", SimpleNamespace(monotonic=time.monotonic))  # it cannot sleep
    spawned._end_all()


def test_what_a_child_has_to_do_at_its_end_is_done_at_the_interpreters_exit():
    program = """
    import vanilla

    def child(hub):
        try:
            hub.parent.send("go")
            hub.sleep(1e9)
        finally:
            print("tidied", flush=True)

    h = vanilla.Hub()
    one = h.thread.spawn(child)
    one.recv()
    """
    ran = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "tidied\n", "")


def test_a_forked_child_does_not_end_its_parents_threads():
    program = """
    import os, vanilla

    def echo(hub):
        for item in hub.parent.recver:
            hub.parent.send(item)

    h = vanilla.Hub()
    one = h.thread.spawn(echo)
    pid = os.fork()
    if pid == 0:
        import vanilla.spawned
        raise SystemExit(len(vanilla.spawned._running))
    assert os.waitpid(pid, 0)[1] == 0
    one.send(1)
    print(one.recv())
    """
    ran = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "1\n", "")


def test_a_ctrl_c_while_it_starts_is_heard_in_the_thread_as_a_dropped_pair(h, monkeypatch):
    wait, heard, over = threading.Event.wait, [], threading.Event()

    def listen(hub):
        try:
            hub.parent.recv()
        except vanilla.Abandoned as error:
            heard.append(error)
        over.set()

    def interrupted(event, timeout=None):
        if event in ready:
            monkeypatch.undo()
            raise KeyboardInterrupt
        return wait(event, timeout)

    class Noted(Spawned):
        def __init__(self, *args):
            super().__init__(*args)
            ready.append(self._ready)

    ready = []
    monkeypatch.setattr("vanilla.thread.Spawned", Noted)
    monkeypatch.setattr(threading.Event, "wait", interrupted)
    with pytest.raises(KeyboardInterrupt):
        h.thread.spawn(listen)
    for _ in range(3):  # PyPy
        gc.collect()
    assert over.wait(PATIENCE)
    assert heard

"""`Hub.dump`, and what a deadlock says."""

from __future__ import annotations

import signal
import subprocess
import sys
from unittest import mock

import pytest

from vanilla import Hub, Stop


def run(h):
    """Let every task run until it waits."""
    h.sleep(0)
    h.sleep(0)


def paragraphs(text):
    """By who: the lines about it."""
    head, *rest = text.split("\n\n")
    return {"": head, **{part.partition(" waits ")[0].partition(" runs")[0]: part for part in rest}}


def test_a_dump_tells_of_each_task_on_what_it_waits_since_when_and_where():
    clock = mock.Mock(return_value=1000.0)
    with (
        mock.patch.multiple("vanilla.core", monotonic=clock),
        mock.patch.multiple("vanilla.task", monotonic=clock),
        mock.patch.multiple("vanilla.loop", monotonic=clock),
        mock.patch.multiple("vanilla.dump", monotonic=clock),
        Hub() as h,
    ):
        pipe = h.pipe()

        def waits():
            pipe.recv()  # the line that is told

        def sleeps():
            h.sleep(60_000)

        h.spawn(waits)
        h.spawn(sleeps)
        run(h)
        clock.return_value = 1012.5
        fresh = h.spawn(waits)
        told = paragraphs(h.dump())
        receiver = told["task 1 (test_a_dump_tells_of_each_task_on_what_it_waits_since_when_and_where.<locals>.waits)"]
        assert "waits for recv on a pipe; for 12.5 s\n" in receiver
        line = waits.__code__.co_firstlineno + 1
        assert f"{__file__}:{line} in waits" in receiver
        assert "vanilla/" not in receiver
        sleeper = next(text for who, text in told.items() if who.endswith("sleeps)"))
        assert "waits for sleep of 60000 ms; for 12.5 s; for 47.5 s more at most\n" in sleeper
        assert any(text == f"{fresh} has not begun" for text in told.values())
        assert told["the main task"].startswith("the main task runs\n")
        assert "in test_a_dump_tells" in told["the main task"]
        assert told[""].startswith("3 tasks, 1 timers, ")


def test_a_dump_by_a_task_shows_where_the_main_task_waits(h):
    told = paragraphs(h.spawn(h.dump).join())
    assert "waits for join of task 1" in told["the main task"]
    assert "in test_a_dump_by_a_task" in told["the main task"]


def test_a_dump_keeps_nothing_alive_and_changes_nothing(h):
    pipe = h.pipe()
    task = h.spawn(pipe.recv)
    run(h)
    for _ in range(3):
        h.dump()
    pipe.send(1)
    assert task.join() == 1


def test_a_dump_of_many_ends_names_some(h):
    h.spawn(h.select, [h.pipe() for _ in range(100)])
    run(h)
    assert "recv on a pipe and 95 more)" in h.dump()


def test_a_deadlock_says_who_waits_for_whom_and_where(h):
    inner = h.spawn(h.pipe().recv)
    outer = h.spawn(inner.join)
    with pytest.raises(Stop) as raised:
        outer.join()
    text = str(raised.value)
    assert f"the main task waits for join of {outer} ({__file__}:" in text
    assert f"{outer} waits for join of {inner}" in text
    assert f"{inner} waits for recv on a pipe" in text


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_stop_on_term_waits_for_a_signal_and_stops(signum):
    program = """
        import vanilla
        h = vanilla.Hub()
        def work():
            try:
                h.sleep(60_000)
            finally:
                print("ended", flush=True)
        h.spawn(work)
        h.spawn(print, "ready", flush=True)
        h.stop_on_term()
        print(h.stopping)
    """
    source = "\n".join(line[8:] for line in program.splitlines())
    with subprocess.Popen([sys.executable, "-c", source], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signum)
        assert process.stdout.read() == "ended\nTrue\n"
    assert process.returncode == 0

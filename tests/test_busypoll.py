"""What comes soon each time is looked for without sleeping, and nothing else is."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import time

import pytest

import vanilla
from vanilla import busypoll
from vanilla.busypoll import LONGEST, LUCK, MISS, MOST_TRIALS, SLOW, TRIALS, TRYING, BusyPoll, look_us
from vanilla.poll import IN

LOOK = 100e-6
TURN = 1e-6


class World:
    """In place of `Poll`, and of time: something comes after each of *gaps*, in seconds, since the last was found."""

    def __init__(self, monkeypatch, cores=2):
        self.now = 0.0
        self.due = None
        self.looks = self.sleeps = 0
        self.yielding = TURN
        self.asked = None
        monkeypatch.setattr(busypoll, "cores", lambda: cores)
        monkeypatch.setattr(busypoll, "_give_way", self._give_way)
        self.waits = BusyPoll(self, LOOK, lambda: self.now)

    def _give_way(self):
        self.now += self.yielding

    def wait(self, timeout):
        self.asked = timeout
        if timeout == 0:
            self.looks += 1
        else:
            self.sleeps += 1
            ends = self.now + timeout if timeout > 0 else self.due
            self.now = max(min(ends, ends if self.due is None else self.due), self.now)
        return [(1, IN)] if self.due is not None and self.now >= self.due else []

    def come(self, *gaps, timeout=-1):
        """What was found after each of them, and for how many the process slept."""
        before, found = self.sleeps, []
        for gap in gaps:
            self.due = self.now + gap
            found.append(bool(self.waits.wait(timeout)))
        assert all(found) or timeout >= 0
        return self.sleeps - before


@pytest.fixture
def world(monkeypatch):
    return World(monkeypatch)


def lucky(world):
    world.come(*[LOOK / 2] * (TRIALS + TRYING))
    assert world.waits.looking


def test_what_comes_soon_many_times_in_a_row_is_then_looked_for(world):
    assert world.come(*[LOOK / 2] * TRIALS) == TRIALS
    assert world.looks == 0
    assert world.come(*[LOOK / 2] * 1000) == 0


def test_what_comes_late_now_and_then_does_not_hinder_it_but_every_second_does(world):
    for _ in range(10 * TRIALS):
        world.come(LOOK / 2, 3 * LOOK)
    assert not world.waits.looking
    for _ in range(TRIALS):
        world.come(*[LOOK / 2] * (SLOW + 1), 3 * LOOK)
    assert world.waits.looking


@pytest.mark.parametrize(
    ("worked", "looks"), [(0, 1), (0.25, 1), (0.5, 1.5), (1, 3), (2, LONGEST), (100, LONGEST)], ids=str
)
def test_who_has_worked_for_long_looks_for_longer(world, worked, looks):
    lucky(world)
    world.now += worked * LOOK
    before = world.looks
    world.come(1.0)
    assert world.looks - before == pytest.approx(looks * LOOK / TURN, abs=2)


def test_the_first_looks_are_long_so_that_who_is_slow_for_having_slept_can_become_fast(world):
    world.come(*[1.9 * LOOK] * TRIALS)
    assert world.come(*[1.9 * LOOK] * TRYING) == 0
    assert world.come(*[0.9 * LOOK] * 100) == 0


def test_who_pauses_now_and_then_sleeps_then_and_only_then(world):
    lucky(world)
    for _ in range(20):
        assert world.come(1.0, *[LOOK / 2] * LUCK) == 1


def test_a_pause_costs_one_look_each_and_no_more_than_are_left(world):
    lucky(world)
    before = world.looks
    world.come(*[1.0] * 100)
    assert not world.waits.looking
    assert world.looks - before <= -(-LUCK // MISS) * (LOOK / TURN + 2)


def test_looks_of_no_use_become_rare(world):
    """Each wait is short, and longer than a look."""
    waits = 100_000
    assert world.come(*[1.5 * LOOK] * waits) >= waits - 40 * TRYING
    tries = (MOST_TRIALS // TRIALS).bit_length() + waits // MOST_TRIALS
    assert 0 < world.looks <= tries * (1.5 * TRYING + -(-LUCK // MISS)) * (LOOK / TURN + 2)


def test_after_looks_that_were_of_use_it_takes_no_more_to_begin_again(world):
    lucky(world)
    for _ in range(10):
        world.come(*[LOOK / 2] * 100)
        world.come(*[1.0] * LUCK)
        assert not world.waits.looking
        lucky(world)


def test_what_a_timer_ends_earns_nothing_and_a_look_that_it_ends_found_nothing(world):
    for _ in range(10 * TRIALS):
        world.due = None
        world.waits.wait(LOOK / 2)
    assert not world.waits.looking
    lucky(world)
    before = world.looks
    for _ in range(100):
        world.due = None
        begin = world.now
        assert world.waits.wait(LOOK / 2) == []
        assert world.now - begin == pytest.approx(LOOK / 2, abs=2 * TURN)
    assert not world.waits.looking
    assert world.looks - before <= -(-LUCK // MISS) * (LOOK / 2 / TURN + 4)


def test_timers_that_are_due_now_and_then_do_not_hinder_it(world):
    lucky(world)
    for _ in range(50):
        assert world.come(*[LOOK / 2] * 2 * MISS) == 0
        world.due = None
        world.waits.wait(LOOK / 2)
    assert world.waits.looking


def test_a_wait_is_no_longer_for_the_look_before_it(world):
    lucky(world)
    world.due = None
    begin = world.now
    assert world.waits.wait(5 * LOOK) == []
    assert world.now - begin == pytest.approx(5 * LOOK)


def test_who_lost_the_core_to_others_between_two_looks_does_not_look_for_long(world):
    lucky(world)
    world.yielding = 100 * LOOK
    world.come(*[LOOK / 2] * LUCK)
    assert not world.waits.looking


def test_a_process_with_one_core_never_looks(monkeypatch):
    world = World(monkeypatch, cores=1)
    world.come(*[LOOK / 2] * 10 * TRIALS)
    assert world.looks == 0


@pytest.mark.parametrize(("text", "us"), [("", busypoll.LOOK_US), ("0", 0), ("50", 50)])
def test_the_environment_says_how_long(monkeypatch, text, us):
    monkeypatch.setenv(busypoll.VARIABLE, text)
    assert look_us(None) == us
    assert look_us(20) == 20


@pytest.mark.parametrize("text", ["x", "-1", "10001", "0.5", "1ms"])
def test_no_such_time_is_an_error_that_names_it(monkeypatch, text):
    monkeypatch.setenv(busypoll.VARIABLE, text)
    with pytest.raises(ValueError, match=busypoll.VARIABLE):
        vanilla.Hub()
    with pytest.raises(ValueError, match="busy_poll is -1, but must be from 0 to 10000 microseconds"):
        vanilla.Hub(busy_poll=-1)


def ping_pong(h, count):
    """*count* round trips with a process that answers at once: how many waits slept, and how many were looks."""
    ours, theirs = socket.socketpair()
    code = "import socket, sys\ns = socket.socket(fileno=int(sys.argv[1]))\nwhile d := s.recv(1): s.send(d)"
    waits = []

    class Counted:
        """Of the hub's epoll."""

        def __init__(self, epoll):
            self.register, self.modify, self.unregister = epoll.register, epoll.modify, epoll.unregister
            self.poll = lambda timeout: waits.append(timeout) or epoll.poll(timeout)

    with ours, theirs:
        child = subprocess.Popen([sys.executable, "-c", code, str(theirs.fileno())], pass_fds=[theirs.fileno()])
        theirs.close()
        try:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(h.poll, "_epoll", Counted(h.poll._epoll))
                stream = h.io.socket(ours)
                for _ in range(count):
                    stream.send(b"x")
                    assert stream.recv() == b"x"
                stream.close()
        finally:
            ours.close()
            child.wait(10)
    return len([timeout for timeout in waits if timeout]), waits.count(0)


@pytest.mark.skipif(busypoll.cores() < 2, reason="one core")
def test_a_hub_looks_for_answers_that_come_soon():
    with vanilla.Hub(busy_poll=busypoll.MOST_US) as h:  # no machine is so slow
        slept, looks = ping_pong(h, 300)
    assert looks > slept
    with vanilla.Hub(busy_poll=0) as h:
        slept, looks = ping_pong(h, 50)
    assert slept >= 50 > looks


def test_a_hub_that_nothing_comes_to_does_not_burn_its_core():
    with vanilla.Hub() as h:
        ping_pong(h, 100)
        begin = time.process_time()
        for _ in range(5):
            h.sleep(60)
        assert time.process_time() - begin < 0.15


def test_the_client_programs_say_in_one_line_that_it_is_wrong():
    environ = {**os.environ, busypoll.VARIABLE: "x"}
    said = subprocess.run(
        [sys.executable, "-m", "vanilla.client", "status"], capture_output=True, text=True, env=environ
    )
    assert (said.returncode, said.stderr.count("\n")) == (2, 1)
    assert busypoll.VARIABLE in said.stderr


@pytest.mark.skipif(busypoll.cores() < 2, reason="one core")
def test_what_a_layer_has_left_is_no_reason_to_look():
    with vanilla.Hub() as h:
        ours, theirs = socket.socketpair()
        done = h.state()
        heard = []

        def handle(events):
            heard.append(events)
            if len(heard) < 10 * TRIALS:
                h.poll.again.add(ours.fileno())
            else:
                done.send(True)

        h.poll.register(ours.fileno(), handle)
        h.poll.again.add(ours.fileno())
        done.recv()
        assert not h._loop._wait.__self__.looking
        h.poll.unregister(ours.fileno())
        ours.close()
        theirs.close()


def test_threads_inherit_it():
    with vanilla.Hub(busy_poll=77) as h:
        told = h.thread.spawn(lambda hub: hub.parent.send(hub.busy_poll))
        assert told.recv(timeout=10_000) == 77


def test_the_broker_takes_it_as_a_setting():
    run = [sys.executable, "-m", "vanilla.broker", "--check"]
    said = subprocess.run([*run, "--busy-poll", "70"], capture_output=True, text=True)
    assert "busy-poll = 70" in said.stdout
    environ = {**os.environ, busypoll.VARIABLE: "0"}
    said = subprocess.run(run, capture_output=True, text=True, env=environ)
    assert re.search(rf"busy-poll = 0.* # {busypoll.VARIABLE}", said.stdout)
    said = subprocess.run([*run, "--busy-poll", "70000"], capture_output=True, text=True)
    assert said.returncode == 1
    assert "--busy-poll: busy_poll is 70000, but must be from 0 to 10000 microseconds" in said.stderr

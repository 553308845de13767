"""`Hub.register`: readiness of descriptors of somebody else's."""

from __future__ import annotations

import gc
import os
import socket

import pytest

from vanilla import Abandoned, Busy, Closed, Hub, Stop, Timeout
from vanilla.poll import POLLIN, POLLOUT
from vanilla.readiness import Registration


@pytest.fixture
def pipe():
    read, write = os.pipe()
    yield read, write
    for fd in read, write:
        try:
            os.close(fd)
        except OSError:
            pass


@pytest.fixture
def pair():
    near, far = socket.socketpair()
    with near, far:
        yield near, far


def test_a_receiver_is_told_when_a_descriptor_is_ready(h, pipe):
    ready = h.register(pipe[0], POLLIN)
    task = h.spawn(ready.recv)
    h.sleep(0)
    assert not task.done
    os.write(pipe[1], b"x")
    assert task.join() == POLLIN


def test_a_descriptor_that_is_ready_already_is_told_at_once_and_each_time(h, pipe):
    ready = h.register(pipe[0])
    os.write(pipe[1], b"x")
    assert [ready.recv(timeout=0) for _ in range(3)] == [POLLIN] * 3
    os.read(pipe[0], 1)
    with pytest.raises(Timeout):
        ready.recv(timeout=0)
    with pytest.raises(Timeout):
        ready.recv(timeout=1)


def test_each_mask_has_a_receiver_of_its_own(h, pair):
    near, far = pair
    near.setblocking(False)
    readable, writable = h.register(near.fileno(), POLLIN, POLLOUT)
    assert writable.recv() == POLLOUT
    try:
        while True:
            near.send(bytes(65536))
    except BlockingIOError:
        pass
    with pytest.raises(Timeout):
        writable.recv(timeout=0)
    waits = h.spawn(writable.recv)
    h.sleep(0)
    far.send(b"x")
    assert readable.recv() == POLLIN
    assert not waits.done
    far.setblocking(False)
    while not waits.done:
        try:
            far.recv(1 << 20)
        except BlockingIOError:
            pass
        h.sleep(0)
    assert waits.join() == POLLOUT


def test_a_descriptor_that_stays_ready_does_not_wake_the_hub_while_nobody_listens(h, pipe):
    ready = h.register(pipe[0])
    os.write(pipe[1], b"x")
    assert ready.recv() == POLLIN
    fired = []
    fire = h.registered[pipe[0]].fire
    h.poll.handlers[pipe[0]] = lambda events: (fired.append(events), fire(events))
    for _ in range(5):
        h.sleep(0)
    assert fired == []


def test_the_other_sides_end_counts_as_ready(h, pipe):
    ready = h.register(pipe[0])
    task = h.spawn(ready.recv)
    h.sleep(0)
    os.close(pipe[1])
    assert task.join() == POLLIN


def test_select_waits_for_descriptors(h, pipe):
    ready, queue = h.register(pipe[0]), h.queue(1)
    task = h.spawn(h.select, [queue, ready])
    h.sleep(0)
    os.write(pipe[1], b"x")
    assert task.join() == (ready, POLLIN)
    assert h.select([queue, ready]) == (ready, POLLIN)
    os.read(pipe[0], 1)
    queue.send(1)
    assert h.select([ready, queue]) == (queue, 1)


def test_who_waits_for_a_descriptor_is_no_deadlock_and_nobody_else_is_kept_from_one(h, pipe):
    ready = h.register(pipe[0])
    with pytest.raises(Stop, match="deadlock"):
        h.pipe().recv()
    with pytest.raises(Timeout):
        ready.recv(timeout=1)
    with pytest.raises(Stop, match="deadlock"):
        h.pipe().recv()


def test_unregister_ends_the_receivers_and_twice_does_nothing(h, pipe):
    ready = h.register(pipe[0])
    task = h.spawn(ready.recv)
    h.sleep(0)
    live = h.poll.live
    h.unregister(pipe[0])
    h.unregister(pipe[0])
    assert h.poll.live == live - 1
    with pytest.raises(Closed):
        task.join()
    with pytest.raises(Closed):
        ready.recv()
    h.register(pipe[0])


def test_the_last_receiver_that_is_closed_or_dropped_unregisters(h, pair):
    fd = pair[0].fileno()
    readable, writable = h.register(fd, POLLIN, POLLOUT)
    readable.close()
    assert fd in h.registered
    del writable
    gc.collect()
    h.sleep(0)
    assert fd not in h.registered
    assert fd not in h.poll.handlers


def test_a_descriptor_is_registered_once(h, pipe):
    ready = h.register(pipe[0])
    with pytest.raises(FileExistsError):
        h.register(pipe[0])
    os.write(pipe[1], b"x")
    assert ready.recv() == POLLIN


def test_what_the_kernel_cannot_wait_for_is_an_error(h, pipe, tmp_path):
    with open(tmp_path / "file", "wb") as file, pytest.raises(OSError, match="not permitted"):
        h.register(file.fileno())
    with pytest.raises(OSError, match="Bad file"):
        h.register(pipe[1] + 1000)
    assert not h.registered


def test_one_task_waits_for_each_mask(h, pipe):
    ready = h.register(pipe[0])
    task = h.spawn(ready.recv)
    h.sleep(0)
    with pytest.raises(Busy):
        ready.recv()
    os.write(pipe[1], b"x")
    assert task.join() == POLLIN


def test_a_receiver_that_is_cancelled_is_forgotten(h, pipe):
    ready = h.register(pipe[0])
    task = h.spawn(ready.recv)
    h.sleep(0)
    task.cancel()
    h.sleep(0)
    assert task.done
    assert not h.registered[pipe[0]].waits[0].live
    os.write(pipe[1], b"x")
    assert ready.recv() == POLLIN


def test_iteration_ends_when_the_descriptor_is_unregistered(h, pipe):
    ready, seen = h.register(pipe[0]), []
    task = h.spawn(lambda: [seen.append(os.read(pipe[0], 1)) for _ in ready])
    os.write(pipe[1], b"ab")
    while len(seen) < 2:
        h.sleep(0)
    h.unregister(pipe[0])
    task.join()
    assert seen == [b"a", b"b"]


def test_the_hubs_end_ends_who_waits(pipe):
    with Hub() as h:
        ready = h.register(pipe[0])
        task = h.spawn(ready.recv)
        h.sleep(0)
    with pytest.raises((Stop, Closed, Abandoned)):
        task.join(timeout=0)


def test_a_descriptor_that_has_hung_up_does_not_wake_the_hub_while_nobody_waits(h, pipe, monkeypatch):
    calls = []
    fire = Registration.fire
    monkeypatch.setattr(Registration, "fire", lambda self, events: (calls.append(events), fire(self, events)))
    ready = h.register(pipe[0])
    os.close(pipe[1])
    for _ in range(3):
        assert h.spawn(ready.recv).join() == POLLIN
        calls.clear()
        for _ in range(10):
            h.sleep(0)
        assert len(calls) <= 1


def test_one_receiver_that_is_closed_while_somebody_waits_leaves_nothing_awake(pair):
    near, far = pair
    with Hub(busy_poll=0) as h:
        reads, writes = h.register(near.fileno(), POLLIN, POLLOUT)
        task = h.spawn(reads.recv)
        h.sleep(1)
        assert h.poll.live == 1
        reads.close()
        with pytest.raises(Closed):
            task.join()
        h.sleep(0)
        assert h.poll.live == 0
        far.send(b"x")
        ticks = []
        h.at_every_edge(lambda: ticks.append(1))
        h.sleep(20)
        assert len(ticks) < 5
        assert writes.recv() == POLLOUT

"""A broker and its clients in two network namespaces, and what is between them fails as networks do: it drops packets,
it is slow, it is cut and heals, and addresses change. Over UDP, and over TCP to compare with."""

from __future__ import annotations

import signal
import time

import netcable
import netpath
import pytest
from fleet import LONG, exhume, until
from journal import DONE, SEND, count
from stage import stage

SCHEMES = ["udp", "tcp"] if LONG else ["udp"]
#: Jobs that workers ask for ahead, where the way takes 20 ms there and back.
AHEAD = 100


@pytest.fixture
def cable():
    if netcable.unavailable():
        pytest.skip(netcable.unavailable())
    with netcable.Cable() as cable:
        yield cable


@pytest.fixture
def path():
    """20 ms there and back, 6 MB/s, and a queue that holds what is under way then."""
    if netpath.unavailable():
        pytest.skip(netpath.unavailable())
    with netpath.Path(delay=0.010, rate=6e6, queue=120_000) as path:
        yield path


@pytest.fixture(params=SCHEMES)
def scheme(request):
    return request.param


@pytest.fixture
def on(h, scheme, journals, tmp_path_factory):
    """Put a broker and its clients on the two sides of something."""
    unix = f"unix://{tmp_path_factory.mktemp('b')}/broker"
    return lambda between: stage(h, between, scheme, journals, unix)


def all_done_once(verdict, jobs):
    return not verdict.faults and verdict.confirmed == verdict.done == jobs and verdict.redeliveries == 0


@pytest.mark.parametrize("loss", [0.01, 0.1, 0.2] if LONG else [0.1])
def test_every_job_is_done_once_where_packets_are_dropped(on, cable, tell, loss):
    jobs = 10_000 if LONG else 1_000
    with on(cable) as stage, stage.broker():
        cable.drop(loss)
        stage.cast(jobs)
        verdict = stage.play()
        tell(f"{loss:.0%} of the packets dropped, {cable.dropped:,}; {stage.figures(verdict)}")
        assert cable.dropped > 0
        assert all_done_once(verdict, jobs)


@pytest.mark.parametrize("loss", [0.0, 0.01, 0.1] if LONG else [0.01])
def test_every_job_is_done_once_behind_a_slow_and_narrow_path(on, path, tell, loss):
    jobs = 4_000 if LONG else 1_000
    path.set(loss=loss)
    with on(path) as stage, stage.broker():
        stage.cast(jobs, size=2_000, prefetch=AHEAD)
        verdict = stage.play()
        dropped = path.there.counters["overflows"] + path.back.counters["overflows"]
        tell(f"20 ms, 6 MB/s, {loss:.0%} lost, {dropped:,.0f} packets did not fit; {stage.figures(verdict)}")
        assert all_done_once(verdict, jobs)


def test_sessions_outlive_a_partition(on, path, tell):
    jobs, seconds = (10_000, 5) if LONG else (2_000, 0.5)
    with on(path) as stage, stage.broker():
        stage.cast(jobs, prefetch=AHEAD)
        until(stage.h, lambda: count(stage.crew.folder, DONE) >= jobs // 10)
        path.cut()
        stage.h.sleep(seconds * 1000)
        done = count(stage.crew.folder, DONE)
        path.heal()
        healed = time.monotonic()
        until(stage.h, lambda: count(stage.crew.folder, DONE) > done, 1)
        again = time.monotonic() - healed
        verdict = stage.play()
        tell(f"cut for {seconds} s, first job {again * 1000:,.0f} ms after; {stage.figures(verdict)}")
        assert done < jobs
        assert all_done_once(verdict, jobs)


def test_clients_come_back_after_a_partition_that_no_session_outlives(on, path, tell):
    jobs, seconds, options = (10_000, 75, []) if LONG else (2_000, 3, ["--udp-idle", "1000"])
    with on(path) as stage, stage.broker(*options):
        stage.cast(jobs, reconnect=True, prefetch=AHEAD)
        until(stage.h, lambda: count(stage.crew.folder, DONE) >= jobs // 10)
        before = {session["peer"] for session in stage.look()}
        path.cut()
        stage.h.sleep(seconds * 1000)
        done = count(stage.crew.folder, DONE)
        path.heal()
        healed = time.monotonic()
        until(stage.h, lambda: count(stage.crew.folder, DONE) > done, 1)
        again = time.monotonic() - healed
        after = {session["peer"] for session in stage.look()}
        verdict = stage.play()
        tell(f"cut for {seconds} s, first job {again * 1000:,.0f} ms after; {stage.figures(verdict)}")
        assert not before & after
        assert verdict.faults == {}
        assert verdict.confirmed == verdict.done == jobs


@pytest.mark.parametrize("scheme", ["udp"], indirect=True)
@pytest.mark.parametrize("how", ["router", "address"])
def test_sessions_go_on_when_the_address_of_their_clients_changes(on, cable, tell, how):
    jobs, moves = (10_000, 5) if LONG else (1_000, 1)
    if how == "router":
        cable.route(1)
    with on(cable) as stage, stage.broker():
        stage.cast(jobs, seconds=0.0005)
        for number in range(moves):
            until(stage.h, lambda number=number: count(stage.crew.folder, DONE) >= jobs * (number + 1) // (moves + 1))
            cable.route(number + 2) if how == "router" else cable.move()
            until(stage.h, lambda number=number: stage.moves >= len(stage.workers) * (number + 1))
        verdict = stage.play()
        tell(f"another address, {moves} times, by {how}; {stage.figures(verdict)}")
        assert all_done_once(verdict, jobs)


def test_clients_find_a_broker_that_was_killed_and_started_again(on, cable, tell):
    jobs = 5_000 if LONG else 1_000
    with on(cable) as stage:
        cable.drop(0.05)
        with stage.broker("--capacity", "100"):
            stage.cast(jobs, reconnect=True, seconds=0.001)
            until(stage.h, lambda: stage.busy() and count(stage.crew.folder, DONE) > jobs // 4)
            stage.process.send_signal(signal.SIGKILL)
            stage.process.wait()
            ended = time.monotonic_ns()
        with stage.broker():
            until(stage.h, stage.over, 20)
            exhume(stage.remote, "jobs", stage.crew.folder)
            verdict = stage.play()
            tell(f"broker killed and started again, 5% dropped; {stage.figures(verdict)}")
        sent = {event.job: event.at for event in stage.crew.events() if event.what == SEND}
        assert verdict.confirmed == jobs
        assert set(verdict.faults) <= {"lost"}
        assert verdict.done + len(verdict.lost) == jobs
        assert all(sent[job] < ended for job in verdict.lost)  # they were in the memory of the one that ended

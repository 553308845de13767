"""Requests and replies: all sides that are installed answer, wrong answers are found out, goals say what is meant."""

from __future__ import annotations

import doctest
import json
import os
import re
import signal
import subprocess
import sys
import types
from typing import Any

import pytest
from benches import BENCH, bench, needs_cores, wait_for_workers, wait_until_gone

pytestmark = needs_cores

#: All in bench/services/, by the tables at the ends of its files.
SERVICES = sorted(
    name
    for path in BENCH.glob("services/*.py")
    for table in re.findall(r"^SERVICES = {(.*)}", path.read_text(), re.MULTILINE)
    for name in re.findall(r'"([^"]+)":', table)
)


def service_of(load, name: str) -> Any:
    """One that is installed here."""
    service = load("services").find(name)
    if missing := load("processes").describe(service)["missing"]:
        pytest.skip(missing)
    return service


@pytest.mark.parametrize("name", SERVICES)
def test_each_side_that_is_installed_answers_all_that_a_row_asks(load, name):
    calls, service = load("calls"), service_of(load, name)
    asked = {
        (row.work, row.at_a_time)
        for row in (*calls.ROWS, calls.ENCRYPTED, calls.DATAGRAMS)
        if name in row.sides and name not in row.unable
    }
    assert asked
    for work, at_a_time in asked:
        found = calls.measure(name, load("tally").Load(0.05, 0.05, at_a_time, work))
        assert found["rate"] > 0
        assert 0 < found["latency"]["median"] <= found["latency"]["p99"]
        assert set(found["cpu"]) == {"client", "server"} | ({"broker"} if service.has_broker else set())
        assert all(used >= 0 for used in found["cpu"].values())


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    """What a quick run of these rows says and keeps."""
    path = tmp_path_factory.mktemp("bench") / "results.json"
    ran = bench("--quick", "--json", path, "request", "wrap")
    assert (ran.returncode, ran.stderr) == (0, "")
    return ran.stdout, {row["name"]: row for row in json.loads(path.read_text())["rows"]}


def test_each_row_has_figures_of_ours_and_says_what_they_mean(quick, load):
    said, rows = quick
    assert list(rows) == [row.name for row in load("calls").ROWS]
    for row in rows.values():
        ours = next(iter(row["sides"].values()))
        assert ours["low"] == ours["rate"] == ours["high"] > 0
        assert 0 < ours["latency"]["median"] <= ours["latency"]["p99"]
        assert sorted(ours["cpu"]) == ["broker", "client", "server"]
        assert all(ours[text] and ours[text] in said for text in ("guarantee", "payload", "batching", "settings"))
        assert set(row["met"].values()) <= {None}
        assert row["title"] in said


def test_a_side_that_cannot_have_many_calls_says_so(quick):
    said, rows = quick
    assert rows["wrap-64"]["sides"]["pyro5"]["missing"] in ("a proxy has one call at a time", "Pyro5 is not installed")
    assert rows["wrap-64"]["sides"]["pyro5"]["missing"] in said


def test_the_processes_of_a_side_share_one_core_where_that_is_said(load):
    callers = load("callers")
    allowed = os.sched_getaffinity(0)
    try:
        callers.share_one_core()
        assert len(os.sched_getaffinity(0)) == 1
        assert os.sched_getaffinity(0) < allowed or len(allowed) == 1
    finally:
        os.sched_setaffinity(0, allowed)
    calls, settings = load("calls"), load("oneway").Settings(1, 1.0, True, print)
    for row in calls.ROWS:
        assert row.load(settings).one_core == row.name.endswith("-core")
        with calls.worker("relay", "broker", row.load(settings)) as process:
            process.hear()
            assert (len(os.sched_getaffinity(process.popen.pid)) == 1) == (row.one_core or len(allowed) == 1)


class Clock:
    """Goes on by a millisecond whenever it is looked at."""

    def __init__(self) -> None:
        self.now = 0

    def __call__(self) -> int:
        self.now += 1_000_000
        return self.now


@pytest.fixture
def tally(load, monkeypatch):
    """Some calls, by a clock that needs no time."""
    clock = Clock()
    module = load("tally")
    for name in "tally", "services.service":
        monkeypatch.setattr(load(name), "now", clock)
    return module.Tally(module.Load(0.2, 0.1))


def asked(load, tally, broken: Any, most: int) -> None:
    """Make the calls of *tally*; the answer to each third is what *broken* makes of it."""
    service = load("services").find("vanilla")
    count = iter(range(1, 1000))

    def call(request: bytes) -> Any:
        reply = request if next(count) % 3 else broken(request)
        return types.SimpleNamespace(recv=lambda: reply)

    if most == 1:
        service.one_at_a_time(call, tally)
    elif most:
        service.many(call, tally, most)
    else:
        replies: list[bytes] = []

        def send(requests):
            replies.extend(call(request).recv() for request in requests)

        def recv():
            found = replies[:3]
            del replies[:3]
            return found

        load("services.service").many_in_lists(send, recv, tally, 5)


@pytest.mark.parametrize("most", [1, 5, 0])
def test_calls_are_counted_and_timed_from_the_end_of_the_warm_up(load, tally, most):
    asked(load, tally, bytes, most)
    figures = tally.figures(1.5)
    (begun, before), (ended, after) = tally._begun, tally._ended
    assert figures["cpu"] == 1.5
    assert figures["calls"] == len(tally.waits)
    assert 0 < figures["rate"] < 1000  # each call looks at the clock more than once
    assert figures["rate"] * 0.2 == pytest.approx(after - before, rel=0.1)
    assert 1 <= figures["latency"]["median"] <= figures["latency"]["p99"]
    assert (ended - begun) / 1e9 == pytest.approx(0.2, abs=0.01)
    assert 0 < before < after <= figures["calls"]


def test_as_many_calls_as_may_be_have_no_answer_and_no_more(load, tally):
    open_calls = []

    def call(request: bytes) -> Any:
        open_calls.append(request)
        assert len(open_calls) <= 5

        def recv() -> bytes:
            seen.add(len(open_calls))
            return open_calls.pop(0)

        return types.SimpleNamespace(recv=recv)

    seen: set[int] = set()
    load("services").find("vanilla").many(call, tally, 5)
    assert seen == {1, 2, 3, 4, 5}  # fewer at the end


def test_lists_are_of_as_many_calls_as_were_answered(load, tally):
    asked: list[bytes] = []
    sizes = []

    def send(requests: list[bytes]) -> None:
        asked.extend(requests)
        sizes.append(len(requests))

    def recv() -> list[bytes]:
        assert len(asked) <= 5
        found = asked[:2]
        del asked[:2]
        return found

    load("services.service").many_in_lists(send, recv, tally, 5)
    assert sizes[0] == 5
    assert set(sizes[1:-1]) == {2}
    assert asked == []


def test_calls_that_warm_up_or_come_too_late_are_in_no_figure(tally):
    tally.waits = [9_000_000, 1_000_000, 3_000_000, 2_000_000, 9_000_000]
    tally._begun, tally._ended = (1_000_000_000, 1), (1_500_000_000, 4)
    assert tally.figures(0.5) == {"rate": 6.0, "latency": {"median": 2.0, "p99": 3.0}, "cpu": 0.5, "calls": 5}


@pytest.mark.parametrize("most", [1, 5, 0])
@pytest.mark.parametrize("broken", [lambda _: None, lambda _: bytes(16), lambda request: request[:-1]])
def test_a_wrong_answer_fails_the_measurement(load, tally, broken, most):
    with pytest.raises(AssertionError, match="lost, doubled or mixed up"):
        asked(load, tally, broken, most)


def test_a_client_without_answers_fails_the_measurement(load):
    tally = load("tally")
    with pytest.raises(AssertionError, match="no call was answered"):
        tally.Tally(tally.Load(1.0, 1.0)).figures(0.0)


DIES = """
import socket, sys
host, port = sys.argv[-1].split(":")
sock = socket.create_connection((host, int(port)))
sock.sendall(b"C")
print("ready", flush=True)
sock.recv(1)
sys.exit("it is enough")
"""


def test_a_server_that_dies_fails_the_measurement_and_is_named(load, monkeypatch, tmp_path):
    calls = load("calls")
    script = tmp_path / "dies.py"
    script.write_text(DIES)
    usual = calls.worker

    def worker(name, role, *rest):
        return calls.Process("the server", script, *rest) if role == "server" else usual(name, role, *rest)

    monkeypatch.setattr(calls, "worker", worker)
    with pytest.raises(calls.Failed, match=r"the (server|broker of relay) ended with status"):
        calls.measure("relay", load("tally").Load(1.0, 1.0))


def sample(rate: float, median: float) -> dict[str, Any]:
    """What a measurement gives."""
    return {"rate": rate, "latency": {"median": median, "p99": 9.0}, "cpu": {"client": 1.0, "server": 2.0}}


def measured(load, monkeypatch, row: Any, found: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """The *row* of these measurements."""
    calls = load("calls")
    monkeypatch.setattr(calls.processes, "describe", lambda side: {"title": side.title, "missing": ""})
    monkeypatch.setattr(calls, "measure", lambda name, _: found[name].pop(0))
    (made,) = row.rows(load("oneway").Settings(9, 1.0, False, lambda _: None))
    return made


def test_a_call_alone_is_to_take_no_longer(load, monkeypatch):
    found = {
        "vanilla": [sample(1.0, 0.6), sample(1.0, 0.7), sample(1.0, 0.65)],
        "pyzmq": [sample(9.0, 1.0)] * 3,
        "relay": [sample(9.0, 0.3)] * 3,
    }
    row = load("calls").Calls("a", "b", tuple(found), {"pyzmq": 0.65, "relay": 1.8}, rounds=3)
    row = measured(load, monkeypatch, row, found)
    assert row["kind"] == "calls-alone"
    assert row["met"] == {"pyzmq": True, "relay": False}
    assert row["ratios"]["pyzmq"] == {"median": 0.65, "low": 0.6, "high": 0.7}
    table = load("callstable")
    lines = table.lines_alone(row)
    assert {len(line) for line in lines} == {len(table.HEAD_ALONE)}
    assert lines[0][:4] == ["b", "vanilla", "0.650", "0.600–0.700"]
    assert lines[1][-3:] == ["– / 1.0 / 2.0", "0.65x (0.60–0.70)", "0.65x at most: met"]
    assert lines[2][-1] == "1.8x at most: not met"


def test_many_calls_are_to_be_answered_as_often(load, monkeypatch):
    found = {"vanilla": [sample(2.0, 9.0), sample(4.0, 9.0)], "pyzmq-dealers": [sample(1.0, 1.0)] * 2}
    row = load("calls").Calls("a", "b", tuple(found), {"pyzmq-dealers": 3.0}, at_a_time=64, rounds=2)
    row = measured(load, monkeypatch, row, found)
    assert row["kind"] == "calls-many"
    assert row["met"] == {"pyzmq-dealers": True}
    assert row["ratios"]["pyzmq-dealers"] == {"median": 3.0, "low": 2.0, "high": 4.0}
    table = load("callstable")
    lines = table.lines_many(row)
    assert {len(line) for line in lines} == {len(table.HEAD_MANY)}
    assert lines[1][-2:] == ["3.00x (2.00–4.00)", "3x: met"]


def test_a_side_that_is_missing_has_no_figures_and_no_verdict(load, monkeypatch):
    calls = load("calls")
    row = calls.Calls("a", "b", ("vanilla", "pyzmq"), {"pyzmq": 0.65}, unable={"pyzmq": "not today"})
    row = measured(load, monkeypatch, row, {"vanilla": [sample(1.0, 1.0)] * 5})
    assert (row["ratios"]["pyzmq"], row["met"]["pyzmq"], row["sides"]["pyzmq"]["rate"]) == (None, None, None)
    table = load("callstable")
    for lines in table.lines_alone(row), table.lines_many(row):
        assert lines[1][2] == "not today"
        assert set(lines[1]) == {"", "pyzmq", "not today"}


def test_progress_is_told_as_often_as_was_announced(load, monkeypatch):
    calls = load("calls")
    monkeypatch.setattr(calls.processes, "describe", lambda side: {"title": side.title, "missing": ""})
    monkeypatch.setattr(calls, "measure", lambda *_: sample(1.0, 1.0))
    told: list[str] = []
    settings = load("oneway").Settings(4, 1.0, False, told.append)
    row = calls.Calls("a", "b", ("vanilla", "pyzmq", "relay"), rounds=3, unable={"relay": "not today"})
    row.rows(settings)
    assert len(told) == row.measurements(settings) == 6
    assert told[:2] == ["a: vanilla, round 1 of 3", "a: pyzmq, round 1 of 3"]


MEASURE = """
import sys
sys.path.insert(0, sys.argv[1])
import calls, tally
calls.measure("relay", tally.Load(60.0, 1.0))
"""


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGKILL])
def test_a_run_that_is_ended_leaves_no_process_behind(signum):
    with subprocess.Popen([sys.executable, "-c", MEASURE, str(BENCH)], stderr=subprocess.DEVNULL) as run:
        try:
            workers = wait_for_workers(run.pid)
            run.send_signal(signum)
            run.wait(30)
        finally:
            run.kill()
    for pid in workers:
        wait_until_gone(pid)


def test_its_examples_run(load):
    for name in "tally", "callstable":
        assert doctest.testmod(load(name)).failed == 0

"""The benchmarks run and say what is missing; the page shows what was measured. No test minds how fast anything is."""

from __future__ import annotations

import doctest
import io
import itertools
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from typing import Any

import msgpack
import pytest
from benches import BENCH, RUN, bench, needs_cores, started_with, wait_for_workers, wait_until_gone, wait_until_replaced


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    """What a quick run of one row says and keeps."""
    path = tmp_path_factory.mktemp("bench") / "results.json"
    ran = bench("--quick", "--json", path, "oneway-16")
    assert ran.returncode == 0, ran.stderr
    return ran, json.loads(path.read_text())


def test_a_run_says_what_was_run_where(quick):
    ran, results = quick
    assert ran.stderr == ""
    about = results["about"]
    assert about["broker"].startswith("vanilla-broker ")
    assert "scanner" in about["broker"]
    assert all(about[key] for key in ("date", "cpu", "cores", "kernel", "python"))
    assert results["settings"] == {"rounds": 1, "seconds": 2.0, "quick": True}


def test_a_row_has_figures_of_ours_and_says_what_they_mean(quick):
    ran, results = quick
    (row,) = results["rows"]
    ours = row["sides"]["vanilla"]
    assert row["name"] == "oneway-16"
    assert ours["low"] == ours["rate"] == ours["high"] > 0
    assert sorted(ours["cpu"]) == ["broker", "consumer", "producer"]
    assert all(seconds > 0 for seconds in ours["cpu"].values())
    assert 0 < ours["latency"]["median"] <= ours["latency"]["p99"]
    assert sorted(ours["peak"]) == ["broker", "consumer", "producer"]
    assert all(mib > 1 for mib in ours["peak"].values())
    assert all(ours[text] for text in ("guarantee", "payload", "batching", "settings", "version"))
    assert "one way, 16 B" in ran.stdout
    assert ours["guarantee"] in ran.stdout


def sample(rate: float) -> dict[str, Any]:
    """What a measurement gives, at *rate* messages a second."""
    roles = {"broker": 1.0, "producer": 1.0, "consumer": 1.0}
    return {**roles, "rate": rate, "latency": {"median": 1.0, "p99": 20.0}, "peak": roles}


def test_a_peer_that_is_not_installed_has_no_figures(load, monkeypatch):
    oneway = load("oneway")
    processes = load("processes")
    sides = load("sides")

    def version(_):
        raise LookupError("pyzmq is not installed")

    monkeypatch.setattr(type(sides.find("pyzmq")), "version", version)
    monkeypatch.setattr(processes, "measure", lambda *_: sample(1.0))
    (row,) = oneway.OneWay("a", "b", 16, 1000, {"pyzmq": 2.0, "pyzmq-hwm": 2.0}).rows(
        oneway.Settings(1, 1.0, False, lambda _: None)
    )
    theirs = row["sides"]["pyzmq"]
    assert row["sides"]["vanilla"]["rate"] == 1.0
    assert (theirs["missing"], theirs["rate"], theirs["rates"]) == ("pyzmq is not installed", None, [])
    assert (row["met"], row["ratios"]["pyzmq"]) == ({"pyzmq": None, "pyzmq-hwm": None}, None)
    assert any("pyzmq is not installed" in line for line in load("rates").lines_of(row))


def test_each_side_has_a_goal_of_its_own(load, monkeypatch):
    oneway = load("oneway")
    rates = {"vanilla": 4.0, "pyzmq": 1.0, "pyzmq-hwm": 2.0, "relay": 5.0}
    monkeypatch.setattr(oneway.processes, "describe", lambda side: {"title": side.title, "missing": ""})
    monkeypatch.setattr(oneway.processes, "measure", lambda name, *_: sample(rates[name]))
    goals = {"pyzmq": 2.5, "pyzmq-hwm": 2.5, "relay": 0.5}
    (row,) = oneway.OneWay("a", "b", 16, 1000, goals, broker_cpu=0.04).rows(
        oneway.Settings(3, 1.0, False, lambda _: None)
    )
    assert row["met"] == {"pyzmq": True, "pyzmq-hwm": False, "relay": True}
    assert row["ratios"]["pyzmq-hwm"] == {"median": 2.0, "low": 2.0, "high": 2.0}
    assert [line[-1] for line in load("rates").lines_of(row)] == [
        "broker 0.04 s/M: not met",
        "2.5x: met",
        "2.5x: not met",
        "0.5x: met",
    ]


def test_a_side_that_would_take_much_too_long_moves_fewer_messages(load, monkeypatch):
    oneway = load("oneway")
    rates = {"vanilla": 4e6, "pyzmq": 1e6, "pyzmq-batched": 7e5, "redis": 2e5}
    moved = {}

    def measure(name, plan, _):
        moved.setdefault(name, []).append(plan.messages)
        return sample(rates[name])

    monkeypatch.setattr(oneway.processes, "describe", lambda side: {"title": side.title, "missing": ""})
    monkeypatch.setattr(oneway.processes, "measure", measure)
    (row,) = oneway.OneWay("a", "b", 16, 1_000_000, {"pyzmq": 2.5}, ("pyzmq-batched", "redis")).rows(
        oneway.Settings(2, 3.0, False, lambda _: None)
    )
    same, fewer = 6_000_000, 600_000
    assert moved == {
        "vanilla": [300_000, same, same],
        "pyzmq": [300_000, same, same],
        "pyzmq-batched": [10_000, same, same],
        "redis": [10_000, fewer, fewer],
    }
    assert {name: side["messages"] for name, side in row["sides"].items()} == {
        name: each[-1] for name, each in moved.items()
    }
    assert row["messages"] == same


def test_a_side_that_fails_has_no_figures_and_is_named(load, monkeypatch):
    oneway = load("oneway")

    def measure(*_):
        raise oneway.processes.Failed("the broker of vanilla was silent")

    monkeypatch.setattr(oneway.processes, "measure", measure)
    (row,) = oneway.OneWay("a", "b", 16, 1000, {}).rows(oneway.Settings(3, 1.0, False, lambda _: None))
    assert row["sides"]["vanilla"]["missing"] == "failed: the broker of vanilla was silent"
    assert row["sides"]["vanilla"]["rate"] is None
    assert load("run").failures([row]) == ["b: vanilla: failed: the broker of vanilla was silent"]


@pytest.mark.parametrize("name", ["vanilla", "vanilla-many", "pyzmq-batched", "redis-batched", "redis-streams"])
def test_what_was_sent_is_received_and_counted(load, name):
    plan = load("plan").Plan(16, 1, 2)
    side = load("sides").find(name)
    sent, marks = [], []
    side.produce(sent.append, plan)
    received = iter(sent)
    waits = side.consume(received.__next__, plan, lambda: marks.append(True))
    assert marks == [True]
    assert list(received) == []
    assert len(waits) == 3
    assert all(wait >= 0 for wait in waits)


class Job:
    """A delivery of ours, or a job of beanstalkd's."""

    def __init__(self, item: bytes, done: list[bytes]) -> None:
        self.item = self.body = item
        self.ack = lambda: done.append(item)


class Jobs:
    """What hands jobs out."""

    def __init__(self, items: list[bytes], done: list[bytes]) -> None:
        self.reserve = map(Job, items, itertools.repeat(done)).__next__
        self.delete = lambda job: job.ack()


@pytest.mark.parametrize(
    ("name", "recv"), [("vanilla-leased", lambda jobs: jobs.reserve), ("beanstalkd", lambda jobs: jobs)]
)
def test_where_each_is_acknowledged_each_is_once_and_in_order(load, name, recv):
    plan = load("plan").Plan(16, 1, 2)
    side = load("sides").find(name)
    sent, marks, done = [], [], []
    side.produce(sent.append, plan)
    waits = side.consume(recv(Jobs(sent, done)), plan, lambda: marks.append(len(done)))
    assert (len(waits), marks) == (3, [plan.block])
    assert done == sent
    for wrong in sent[1:], sent[:1] + sent:
        with pytest.raises(AssertionError):
            side.consume(recv(Jobs(wrong, [])), plan, list)


@pytest.mark.parametrize("name", ["vanilla-maps", "pyzmq-maps", "pyzmq-maps-hwm"])
def test_maps_are_looked_at_as_bytes_are(load, name):
    plans = load("plan")
    plan = plans.Plan(plans.MAP_BYTES, 1, 2)
    side = load("sides").find(name)
    sent, marks = [], []
    side.produce(sent.append, plan)
    assert len(sent) == plan.all_messages
    assert len(sent[1] if isinstance(sent[1], bytes) else msgpack.packb(sent[1])) == plans.MAP_BYTES
    waits = side.consume(iter(sent).__next__, plan, lambda: marks.append(True))
    assert (len(waits), marks) == (3, [True])
    for wrong in sent[1:] + sent, sent[:1] + sent:
        with pytest.raises(AssertionError):
            side.consume(iter(wrong).__next__, plan, list)


class Server:
    """Answers of a beanstalkd, and what it was told: a socket and a file at once."""

    def __init__(self, answers: bytes) -> None:
        self.told = b""
        self._answers = io.BytesIO(answers)
        self.readline, self.read = self._answers.readline, self._answers.read

    def sendall(self, data: bytes) -> None:
        self.told += data


def test_beanstalkd_is_told_many_commands_at_once_and_each_answer_is_read(load):
    load("sides").find("beanstalkd")
    beanstalkd = sys.modules["sides.beanstalkd"]
    server = Server(b"INSERTED 1\r\nINSERTED 2\r\n")
    beanstalkd.put(server, server, [b"a", b"\r\n"])
    assert server.told == b"put 65536 0 60 1\r\na\r\nput 65536 0 60 2\r\n\r\n\r\n"
    server = Server(b"DELETED\r\nRESERVED 2 2\r\n\r\n\r\nRESERVED 3 1\r\nb\r\n")
    assert beanstalkd.reserve(server, server, [b"1"], 2) == ([b"\r\n", b"b"], [b"2", b"3"])
    assert server.told == b"delete 1\r\nreserve\r\nreserve\r\n"
    server = Server(b"NOT_FOUND\r\n")
    with pytest.raises(AssertionError, match="NOT_FOUND"):
        beanstalkd.reserve(server, server, [b"1"], 0)


def test_a_side_of_a_goal_that_is_of_another_class_moves_fewer_messages_too(load, monkeypatch):
    oneway = load("oneway")
    rates = {"vanilla": 4e6, "pyzmq": 1e6, "redis": 1e5}
    moved = {}

    def measure(name, plan, _):
        moved.setdefault(name, []).append(plan.messages)
        return sample(rates[name])

    monkeypatch.setattr(oneway.processes, "describe", lambda side: {"title": side.title, "missing": ""})
    monkeypatch.setattr(oneway.processes, "measure", measure)
    (row,) = oneway.OneWay("a", "b", 16, 1_000_000, {"pyzmq": 0.6, "redis": 10.0}, apart=("redis",)).rows(
        oneway.Settings(1, 3.0, False, lambda _: None)
    )
    assert moved == {"vanilla": [300_000, 6_000_000], "pyzmq": [300_000, 6_000_000], "redis": [10_000, 300_000]}
    assert row["met"] == {"pyzmq": True, "redis": True}


def test_the_rows_of_what_is_acknowledged_are_about_ours_without_and_all_who_do_the_same(load):
    rows = [row for row in load("run").LEASED if row.ours == "vanilla-leased"]
    assert [(row.name, row.size) for row in rows] == [("leased-16", 16), ("leased-256", 256)]
    for row in rows:
        assert row.goals.pop("vanilla") == 0.6
        assert row.goals == dict.fromkeys(row.apart, 10.0)
        assert {name.partition("-")[0] for name in row.apart} == {"rabbitmq", "beanstalkd", "redis"}


def test_a_stamp_tells_how_long_its_message_was_on_its_way(load, monkeypatch):
    plan = load("plan")
    times = iter([1_000, 251_000])
    monkeypatch.setattr(plan, "now", times.__next__)
    assert plan.check(plan.stamp(7, 16), 7, 16) == 250_000


@pytest.mark.parametrize("place", range(4))
@pytest.mark.parametrize("copies", [0, 2], ids=["lost", "doubled"])
def test_where_each_message_has_a_stamp_each_is_looked_at(load, place, copies):
    plan = load("plan").Plan(16, 0, 4, block=1)
    side = load("sides").find("vanilla")
    sent = []
    side.produce(sent.append, plan)
    assert len(side.consume(iter(sent).__next__, plan, list)) == len(sent) == 5
    sent[place : place + 1] = [sent[place]] * copies
    with pytest.raises(AssertionError):
        side.consume(iter(sent).__next__, plan, list)


def test_who_is_late_sends_at_once_and_puts_off_nobody(load, monkeypatch):
    pace = load("pace")
    clock = [1_000]
    monkeypatch.setattr(pace, "now", lambda: clock[0])
    schedule = pace.Pace(100)
    schedule.go()
    clock[0] += 250
    for early in -150e-9, -50e-9:
        assert schedule.early() == pytest.approx(early)
        schedule.go()
    assert schedule.early() == pytest.approx(50e-9)
    assert schedule.late == [0, 150, 50]


@pytest.mark.parametrize("place", [0, 1, 150, 200])
@pytest.mark.parametrize("copies", [0, 2], ids=["lost", "doubled"])
def test_a_message_that_is_lost_or_doubled_fails_the_measurement(load, place, copies):
    plan = load("plan").Plan(16, 0, 2)
    side = load("sides").find("vanilla")
    sent = []
    side.produce(sent.append, plan)
    if copies and place == 200:
        pytest.skip("nobody waits for a message after the last")
    sent[place : place + 1] = [sent[place]] * copies
    with pytest.raises((AssertionError, StopIteration)):
        side.consume(iter(sent).__next__, plan, list)


def test_rows_are_chosen_by_name_or_by_how_they_begin(load):
    run = load("run")
    assert run.chosen([]) == list(run.ROWS)
    assert run.chosen(["oneway"]) == [name for name in run.ROWS if name.startswith("oneway-")]
    assert run.chosen(["hub", "oneway-16"]) == ["oneway-16", "hub"]
    assert run.chosen(["many-16"]) == ["many-16"]
    ran = bench("oneway-1")
    assert ran.returncode == 2
    assert "no row is called 'oneway-1'; there are oneway-16" in ran.stderr


@pytest.mark.parametrize(
    "wrong",
    [["--rounds", "0"], ["--rounds", "-1"], ["--seconds", "0"], ["--seconds", "nan"], ["--json", "/"]],
    ids=" ".join,
)
def test_what_cannot_be_is_refused_before_anything_is_measured(wrong):
    ran = bench(*wrong, "hub")
    assert (ran.returncode, ran.stdout) == (2, "")
    assert wrong[-1] in ran.stderr


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_run_that_is_ended_leaves_no_process_behind(signum):
    with subprocess.Popen([*RUN, "--seconds", "60", "oneway-16"], stderr=subprocess.DEVNULL) as run:
        try:
            workers = wait_for_workers(run.pid)
            run.send_signal(signum)
            run.wait(30)
        finally:
            run.kill()
    for pid in workers:
        wait_until_gone(pid)


def test_a_run_that_is_killed_leaves_no_crowd_behind():
    with subprocess.Popen([*RUN, "connections"], stderr=subprocess.DEVNULL) as run:
        try:
            both = wait_for_workers(run.pid, 2)
        finally:
            run.kill()
    for pid in both:
        wait_until_gone(pid)


def names_of_sides() -> list[str]:
    """All in bench/sides/, by the tables at the ends of its files."""
    tables = [
        re.findall(r"^SIDES = {(.*?)}", path.read_text(), re.MULTILINE | re.DOTALL) for path in BENCH.glob("sides/*.py")
    ]
    return sorted(name for table in tables for line in table for name in re.findall(r'"([^"]+)":', line))


def skip_without(load, name: str, kind: str = "sides") -> None:
    """Skip the test if a side, or a library of `hubs`, is not installed here."""
    missing = load("processes").describe(load(kind).find(name))["missing"]
    if missing:
        pytest.skip(missing)


@pytest.mark.parametrize("name", names_of_sides())
def test_each_side_that_is_installed_moves_messages(load, name):
    skip_without(load, name)
    found = load("processes").measure(name, load("plan").plan_for(16, 1000), 1.0)
    assert found["rate"] > 0
    assert all(mib > 0 for mib in found["peak"].values())


@pytest.mark.parametrize("name", names_of_sides())
def test_each_side_that_is_installed_can_send_when_a_message_is_due(load, name):
    if name not in load("latency").SIDES:
        pytest.skip("not a side of that row")
    skip_without(load, name)
    found = load("processes").measure(name, load("plan").Plan(256, 5, 20, block=1, period=1_000_000), 1.0)
    assert 0 < found["latency"]["median"] <= found["latency"]["p99"]
    assert found["late"]["median"] <= found["late"]["p99"]


def test_the_latency_row_says_what_was_measured_of_whom(tmp_path):
    path = tmp_path / "results.json"
    ran = bench("--quick", "--json", path, "latency")
    assert ran.returncode == 0, ran.stderr
    (row,) = json.loads(path.read_text())["rows"]
    ours = row["sides"]["vanilla"]
    assert 0 < ours["latency"]["median"] <= ours["latency"]["p99"]
    assert "256 B, one each millisecond" in ran.stdout
    assert ours["guarantee"] in ran.stdout


@pytest.mark.parametrize(
    ("ours", "shown"),
    [
        (0.6, ["0.60x (0.60–0.60)", "0.65x at most: met"]),
        (0.7, ["0.70x (0.70–0.70)", "0.65x at most: not met"]),
        (None, ["", "0.65x at most"]),
    ],
)
def test_the_goal_for_latency_is_an_upper_bound(load, ours, shown):
    latency = load("latency")
    plan = latency.plan_of(load("oneway").Settings(1, 2.0, False, lambda _: None))

    def side(median: float) -> dict[str, Any]:
        late = {"median": 0.1, "p99": 0.2}
        found = {**sample(1000.0), "latency": {"median": median, "p99": 9.0}, "late": late}
        return {"title": "x", "missing": "", **latency.summary([found])}

    sides = {name: side(1.0) for name in latency.SIDES}
    sides["vanilla"] = side(ours) if ours else {"title": "x", "missing": "failed: it died", **latency.summary([])}
    lines = latency.lines_of(latency.row(plan, sides))
    assert {len(line) for line in lines} == {len(latency.HEAD)}
    assert [line[-2:] for line in lines[:2]] == [["", ""], shown]


@pytest.mark.parametrize(("what", "arguments"), [("sleep", [3, 0.001, 0.002]), ("asleep", [3]), ("spawn", [2, 3])])
@pytest.mark.parametrize("name", ["vanilla", "gevent", "asyncio", "trio"])
def test_each_library_that_is_installed_runs_tasks(load, name, what, arguments):
    skip_without(load, name, "hubs")
    assert all(figure >= 0 for figure in load("alone").measure(name, what, *arguments).values())


@pytest.mark.parametrize("timeout", [-1, 5000])
@pytest.mark.parametrize("capacity", [0, 2])
@pytest.mark.parametrize("name", ["vanilla", "gevent", "asyncio", "trio"])
def test_each_library_that_is_installed_passes_numbers_on(load, name, capacity, timeout):
    skip_without(load, name, "hubs")
    assert load("alone").measure(name, "channel", capacity, timeout, 10)["rate"] > 0


MEASURE = """
import sys
sys.path.insert(0, sys.argv[1])
import plan, processes
processes.measure(sys.argv[2], plan.plan_for(16, 100_000_000), 60.0)
"""


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGKILL])
@pytest.mark.parametrize("name", ["redis", "nats", "rabbitmq", "beanstalkd-batched", "relay-c"])
def test_a_server_that_took_the_place_of_a_process_ends_with_the_run(load, name, signum, tmp_path):
    skip_without(load, name)
    command = [sys.executable, "-c", MEASURE, str(BENCH), name]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL, env={**os.environ, "TMPDIR": str(tmp_path)}) as run:
        try:
            workers = wait_for_workers(run.pid)
            wait_until_replaced(workers[0])
            assert started_with(tmp_path) >= {run.pid, *workers[1:]}  # a server may write over its environment
            run.send_signal(signum)
            run.wait(30)
        finally:
            run.kill()
    for pid in {*workers, *started_with(tmp_path)}:
        wait_until_gone(pid)
    assert list(tmp_path.iterdir()) == []


MEASURE_ALONE = """
import sys
sys.path.insert(0, sys.argv[1])
import alone
alone.measure("vanilla", "channel", 0, -1, 1_000_000_000_000)
"""


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGKILL])
def test_a_library_that_is_measured_ends_with_the_run(signum):
    with subprocess.Popen([sys.executable, "-c", MEASURE_ALONE, str(BENCH)], stderr=subprocess.DEVNULL) as run:
        try:
            (worker,) = wait_for_workers(run.pid, 1)
            run.send_signal(signum)
            run.wait(30)
        finally:
            run.kill()
    wait_until_gone(worker)


def test_the_page_shows_the_figures_that_are_stored(load):
    table = load("table")
    if not table.LATEST.exists():
        pytest.skip("no run is stored")
    page = table.PAGE.read_text()
    for path in table.RUNS:
        rendered = table.render(json.loads(path.read_text()))
        assert table.in_page(page, rendered, path.name) == page, "run bench/table.py"
    readme = table.README.read_text()
    assert table.in_page(readme, table.short(json.loads(table.LATEST.read_text()))) == readme, "run bench/table.py"


def test_a_column_that_no_row_has_figures_for_is_not_shown(load):
    (row,) = load("oneway").OneWay("a", "b", 16, 1000, {}).rows(load("oneway").Settings(0, 1.0, True, lambda _: None))
    table, rates = load("table"), load("rates")
    (column,) = [title for title in rates.HEAD if title.startswith("latency")]
    assert column not in table.table(rates.HEAD, rates.lines_of(row))
    row["sides"]["vanilla"].update(load("oneway").summary([sample(1e6)]))
    assert column in table.table(rates.HEAD, rates.lines_of(row))
    assert "1.00 / 20" in table.table(rates.HEAD, rates.lines_of(row))


def test_the_memory_of_a_server_is_that_of_all_its_processes(load):
    memory = load("memory")
    program = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'print(1, flush=True); input()'])"
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
        parent.stdout.readline()
        (child,) = memory.children(parent.pid)
        each = [memory.peak(parent.pid), memory.peak(child)]
        assert min(each) > 1
        assert memory.peak_of_tree(parent.pid) >= sum(each)
        parent.stdin.close()
    assert memory.peak(child) == memory.peak_of_tree(parent.pid) == 0


@needs_cores
def test_the_connections_row_has_what_each_side_takes(tmp_path):
    path = tmp_path / "results.json"
    ran = bench("--quick", "--json", path, "connections")
    assert (ran.returncode, ran.stderr) == (0, "")
    rows = json.loads(path.read_text())["rows"]
    assert len(rows) == 6
    for row in rows:
        ours = row["sides"]["vanilla"]
        assert (ours["missing"], row["met"]) == ("", {"vanilla": None})
        if row["unit"] == "connections/s":
            assert ours["value"] > 0
            assert all(microseconds > 0 for microseconds in ours["cpu"].values())
        else:
            assert ours["cpu"] is None
    assert "100 connections and their hellos" in ran.stdout
    assert "an empty list is no key" in ran.stdout


@needs_cores
@pytest.mark.parametrize("name", ["vanilla", "redis", "nats", "pyzmq", "floor"])
def test_each_server_that_is_installed_answers_a_crowd(load, name):
    connections = load("connections")
    if missing := connections.describe("idle")[name]["missing"]:
        pytest.skip(missing)
    found = connections.measure(name, "idle", 1_500)  # from two addresses
    assert found["opened"]["value"] > 0
    assert found["closed"]["value"] > 0


def answering(load, *pieces: bytes) -> Any:
    """A crowd of one whose server says *pieces*, one after the other, and then closes."""
    server = socket.create_server(("127.0.0.1", 0))

    def serve():
        with server, server.accept()[0] as sock:
            for piece in pieces:
                sock.recv(100)
                sock.sendall(piece)

    thread = threading.Thread(target=serve)
    thread.start()
    crowd = load("crowd")
    asked = crowd.Crowd(server.getsockname())
    try:
        asked.open(1, load("hosts").Words(b"hello", b"answer"))
    finally:
        for sock in asked.socks.values():
            sock.close()
        thread.join()


def test_a_crowd_hears_an_answer_to_its_end(load):
    answering(load, b"an answer")


@pytest.mark.parametrize("said", [(), (b"",), (b"no",), (b"answer no",)])
def test_a_connection_that_is_not_answered_fails_the_measurement(load, said):
    with pytest.raises((SystemExit, ConnectionResetError)):
        answering(load, *said)


def test_a_rate_is_to_be_reached_and_memory_is_not_to_be_passed(load):
    connections = load("connections")
    settings = load("oneway").Settings(1, 2.0, False, lambda _: None)
    about = {"vanilla": {"title": "vanilla", "missing": ""}, "redis": {"title": "Redis", "missing": "not here"}}
    rate, memory = (
        connections.Figure("{:,} a", "x", "connections/s", 5_000),
        connections.Figure("b", "x", "bytes", 5_000),
    )
    for value, reached in (5_001.0, (True, False)), (4_999.0, (False, True)):
        samples = {"vanilla": [{"x": {"value": value}}]}
        rows = [connections.row(figure, 1_000, about, samples, settings) for figure in (rate, memory)]
        assert tuple(row["met"]["vanilla"] for row in rows) == reached
    ours, theirs = connections.lines_of(rows[0])
    assert ours == ["1,000 a", "vanilla", "5.0k", "", "", "5.0k: not met"]
    assert theirs == ["", "Redis", "not here", "", "", ""]


@pytest.fixture(scope="module")
def quick_libraries(tmp_path_factory):
    """What a quick run of the rows of libraries says and keeps."""
    path = tmp_path_factory.mktemp("bench") / "results.json"
    ran = bench("--quick", "--json", path, "hub", "tasks")
    assert (ran.returncode, ran.stderr) == (0, "")
    return ran, json.loads(path.read_text())["rows"]


def test_libraries_that_are_installed_have_figures(quick_libraries, load):
    ran, rows = quick_libraries
    assert [row["name"] for row in rows] == ["hub"] * len(load("hub").WORKS) + ["tasks-sleep", "tasks-spawn"]
    for row in rows:
        assert list(row["sides"]) == list(load("hubs").NAMES)
        for name in "vanilla", "asyncio":
            side = row["sides"][name]
            assert side["missing"] == ""
            assert side.get("rate") or side["figures"]
        assert row["title"] in ran.stdout


def test_a_library_that_is_not_installed_has_no_figures(load, monkeypatch):
    def version(_):
        raise LookupError("gevent is not installed")

    figures = {"rate": 2.0, "cpu": 1.0, "start": 1.0, "kib": 1.0, "late": 0.0, "latest": 0.0}
    monkeypatch.setattr(type(load("hubs").find("gevent")), "version", version)
    monkeypatch.setattr(load("alone"), "measure", lambda *_: figures)
    settings = load("oneway").Settings(1, 1.0, False, lambda _: None)
    for module in "hub", "sleepers", "spawns":
        (row, *_) = load(module).rows(settings)
        lines = load("table").LAYOUTS[row["kind"]].lines(row)
        (theirs,) = [line for line in lines if line[1] == "gevent"]
        assert "gevent is not installed" in theirs
        assert set(theirs) <= {"", "gevent", "gevent is not installed"}
        assert sum("gevent is not installed" in line for line in map(str, lines)) == 1


def test_the_goals_of_the_hub_are_about_gevent(load, monkeypatch):
    hub, oneway = load("hub"), load("oneway")
    rates = iter([6.0, 3.0, 1.0, 1.0, 8.0, 2.0, 1.0, 1.0])
    monkeypatch.setattr(load("processes"), "describe", lambda side: {"title": side.title, "missing": ""})
    monkeypatch.setattr(hub, "measure", lambda *_: {"rate": next(rates)})
    row = hub.row("unbuffered", oneway.Settings(2, 1.0, False, lambda _: None))
    assert row["ratios"]["gevent"] == {"median": 2.8, "low": 2.0, "high": 4.0}
    assert row["met"] == {"gevent": False}


def test_a_library_that_fails_has_no_figures_and_is_named(load, monkeypatch):
    def fail(*_):
        raise load("processes").Failed("trio: it broke")

    monkeypatch.setattr(load("alone"), "measure", fail)
    (row,) = load("spawns").rows(load("oneway").Settings(2, 1.0, False, lambda _: None))
    assert row["sides"]["vanilla"]["missing"] == "failed: trio: it broke"
    installed = [side for side in row["sides"].values() if "not installed" not in side["missing"]]
    assert len(load("run").failures([row])) == len(installed) >= 2


def test_a_measurement_that_raises_says_what(load):
    with pytest.raises(load("processes").Failed, match=r"^vanilla: ZeroDivisionError: .*$"):
        load("alone").measure("vanilla", "spawn", 0, 0)


@pytest.mark.parametrize("lateness", [[], [0.0, 0.0], [-1.0]], ids=["asleep", "twice", "early"])
def test_a_task_that_does_not_wake_up_in_its_time_fails_the_measurement(load, lateness):
    class Broken:
        def spawn(self, batches, size):
            pass

        def sleep(self, sleepers):
            sleepers.begin()
            sleepers.late.extend(lateness)

    with pytest.raises(AssertionError, match="did not wake up, or too early"):
        load("alone").sleep(Broken(), 1, 0.001, 0.002)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_shows_what_is_done_and_what_is_measured(load, monkeypatch):
    oneway, hub = load("oneway"), load("hub")
    progress = load("progress").Progress(Terminal())
    monkeypatch.setattr(oneway.processes, "describe", lambda side: {"title": side.title, "missing": ""})
    monkeypatch.setattr(oneway.processes, "measure", lambda *_: sample(1000.0))
    monkeypatch.setattr(hub, "measure", lambda *_: {"rate": 1.0})
    monkeypatch.setenv("COLUMNS", "80")
    settings = oneway.Settings(2, 1.0, False, progress)
    rows = oneway.OneWay("a", "b", 16, 1000, {"pyzmq": 2.5}, ("relay",)), hub
    progress.total = sum(each.measurements(settings) for each in rows)
    for each in rows:
        each.rows(settings)
    progress.end()
    shown = progress.stream.getvalue().split("\r\033[K")[1:]
    assert progress.done == progress.total == len(shown) - 1
    assert f"] 0/{progress.total} a: vanilla, pilot" in shown[0]
    assert f"] 5/{progress.total} a: Python byte relay, round 1 of 2" in shown[5]
    assert f"] {progress.total - 1}/{progress.total} hub: " in shown[-2]
    assert shown[-1] == ""


def test_its_examples_run(load):
    for name, examples in {"cells": 4, "copies": 1, "growthtable": 1, "percentile": 2, "progress": 1}.items():
        assert doctest.testmod(load(name)) == (0, examples)

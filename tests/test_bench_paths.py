"""Rows over UDP and of an emulated path: they run, what is lost on the way fails them, verdicts follow from figures."""

from __future__ import annotations

import json
from typing import Any

import pytest
from benches import bench
from netpath import unavailable

needs_path = pytest.mark.skipif(bool(unavailable()), reason=unavailable() or "there is a path")


@needs_path
def test_something_comes_through_of_each_flow(tmp_path):
    path = tmp_path / "results.json"
    ran = bench("--quick", "--json", path, "udp-path", "udp-share")
    assert (ran.returncode, ran.stderr) == (0, "")
    lossless, shared = json.loads(path.read_text())["rows"]
    there = [side for side in lossless["sides"].values() if not side["missing"]]
    assert {"vanilla, UDP", "vanilla, UDP, NewReno", "vanilla, TCP"} < {side["title"] for side in there}
    assert sum(side["rate"] for side in there) > 0  # a busy machine may starve some in so short a time
    assert lossless["goal"] is None
    (point,) = shared["points"]
    assert len(point["rates"]) == 2
    assert sum(point["rates"]) > 0
    assert "kernel TCP, cubic" in ran.stdout


def test_where_no_path_can_be_had_the_rows_say_so(load, monkeypatch):
    paths, run = load("paths"), load("run")
    monkeypatch.setattr(paths.emulated, "unavailable", lambda: "no network namespace: not permitted")
    told: list[str] = []
    settings = load("oneway").Settings(1, 1.0, False, told.append)
    rows = [row for group in paths.ROWS for row in group.rows(settings)]
    assert told == []
    assert [group.measurements(settings) for group in paths.ROWS] == [0, 0]
    for row in rows:
        lines = run.table.LAYOUTS[row["kind"]].lines(row)
        assert all(any("not permitted" in cell or "is not installed" in cell for cell in line) for line in lines)
    assert run.failures(rows) == []


def sample(rate: float) -> dict[str, Any]:
    return {"rate": rate, "missed": 0, "cpu": {"sender": 0.1, "receiver": 0.2, "path": 0.3}}


@pytest.fixture
def measured(load, monkeypatch):
    """Makes the rows of flows that come so fast through each loss, by name; the others do not lose."""

    def make(rates: dict[str, dict[float, float]]) -> list[dict[str, Any]]:
        paths = load("paths")
        monkeypatch.setattr(paths, "describe", lambda names: {name: {"title": name, "missing": ""} for name in names})
        monkeypatch.setattr(
            paths, "measure", lambda names, loss, times, seed: [sample(rates.get(names[0], {}).get(loss, 5e6))]
        )
        return paths.Lossy().rows(load("oneway").Settings(3, 1.0, False, lambda _: None))

    return make


def test_what_comes_through_is_held_against_the_same_without_loss(measured, load):
    rows = measured({"vanilla-udp": {0.0: 6e6, 0.01: 5.4e6, 0.1: 3.5e6, 0.2: 2.4e6}})
    assert [row["goal"] and row["goal"]["met"] for row in rows] == [None, True, False, True]
    assert [row["sides"]["vanilla-udp"]["kept"] for row in rows] == [None, 0.9, pytest.approx(0.583, abs=0.001), 0.4]
    lines = [line for row in rows for line in load("pathtable").lines_of(row) if line[1] == "vanilla-udp"]
    assert [line[4] for line in lines] == ["", "90%", "58%", "40%"]
    assert [line[-1] for line in lines] == ["", "85%: met", "60%: not met", "40%: met"]


def test_the_reference_is_held_against_another_implementation_of_the_same(measured, load):
    same = dict.fromkeys((0.0, 0.01, 0.1, 0.2), 1e6)
    ours = {0.0: 1.0e6, 0.01: 0.71e6, 0.1: 1.29e6, 0.2: 1.4e6}
    rows = measured({"vanilla-newreno": ours, "aioquic-reno": same})
    assert [row["reference"]["met"] for row in rows] == [True, True, True, False]
    line = next(line for line in load("pathtable").lines_of(rows[-1]) if line[1] == "vanilla-newreno")
    assert line[-1] == "1.40x of aioquic-reno, at most 30% apart: not met"


@pytest.mark.parametrize(("rates", "met"), [([3e6, 2e6], True), ([5e6, 0.5e6], False)])
def test_who_shares_is_judged_by_how_equal_the_shares_are(load, rates, met):
    paths = load("paths")
    point = paths.share(("vanilla-udp", "tcp-cubic"), [sample(rate) for rate in rates], "", False)
    assert (point["met"], point["goal"]) == (met, paths.FAIR)
    assert point["index"] == pytest.approx(sum(rates) ** 2 / 2 / sum(rate**2 for rate in rates))
    among_others = paths.share(("tcp-bbr", "tcp-cubic"), [sample(rate) for rate in rates], "", False)
    assert (among_others["met"], among_others["goal"]) == (None, None)
    about = {name: {"title": name, "missing": ""} for name in ("vanilla-udp", "tcp-cubic")}
    (line,) = load("pathtable").lines_of_shares({"title": "t", "sides": about, "points": [point]})
    assert line[-1] == f"0.9: {'met' if met else 'not met'}"


@pytest.fixture
def gauge(load, monkeypatch):
    """Makes one that counts from 10 to 20; the clock is its ``at``."""
    module = load("gauge")
    clock = [0]
    monkeypatch.setattr(module, "now", lambda: clock[0])
    made = module.Gauge(10, 20)
    return made, clock, module.block


def test_only_what_comes_while_it_counts_is_counted(gauge):
    made, clock, block = gauge
    for number, at in enumerate([0, 9, 10, 15, 19, 20, 25]):
        clock[0] = at
        made.block(block(number))
    assert (made.came, made.counted, made.bytes, made.left) == (7, 3, 3000, 0)


@pytest.mark.parametrize("size", [1, 999, 1000, 1001, 2500])
def test_a_stream_is_counted_in_blocks_however_it_is_cut(gauge, size):
    made, clock, block = gauge
    clock[0] = 10
    stream = b"".join(map(block, range(5)))
    for at in range(0, len(stream), size):
        made.feed(stream[at : at + size])
    assert made.counted == 5


@pytest.mark.parametrize("numbers", [[0, 2], [0, 0], [1, 0]], ids=["lost", "doubled", "overtaken"])
def test_what_is_not_once_and_in_order_fails_the_measurement(gauge, numbers):
    made, _, block = gauge
    with pytest.raises(AssertionError, match="lost, doubled or overtaken"):
        made.feed(b"".join(map(block, numbers)))
    made.came = 0
    with pytest.raises(AssertionError, match="lost, doubled or overtaken"):
        for number in numbers:
            made.block(block(number))


def test_blocks_in_streams_are_those_of_messages(load):
    chunks = load("flows.flow").chunks()
    gauge = load("gauge")
    made = gauge.Gauge(0, 1 << 62)
    for _ in range(3):
        made.feed(next(chunks))
    assert made.counted == 48


@needs_path
def test_a_flow_whose_sender_dies_fails_the_measurement(load, monkeypatch):
    paths = load("paths")
    monkeypatch.setattr(paths._Ends, "start", lambda flow, between: flow.sender.popen.kill())
    monkeypatch.setattr(paths, "PATIENCE", 0)
    with pytest.raises(paths.Failed, match="the sender of tcp-cubic ended"):
        paths.measure(("tcp-cubic",), 0.0, paths.Times(0.1, 0.1), 1)


def test_over_udp_each_way_of_it_moves_all_messages(tmp_path):
    path = tmp_path / "results.json"
    ran = bench("--quick", "--json", path, "udp-oneway-64", "udp-request")
    assert (ran.returncode, ran.stderr) == (0, "")
    oneway, request = json.loads(path.read_text())["rows"]
    assert list(oneway["sides"]) == ["udp", "udp-each", "udp-each-plain", "udp-plain", "vanilla"]
    assert list(request["sides"]) == ["udp", "vanilla"]
    for row in oneway, request:
        assert all(side["rate"] > 0 for side in row["sides"].values())
    assert oneway["least"] == {"udp": {"goal": 2e6, "met": None}, "udp-plain": {"goal": 0.9e6, "met": None}}
    assert request["goals"] == {"vanilla": 1.2}
    assert "2.00M/s" in ran.stdout


def test_a_rate_that_is_to_be_reached_is_a_goal_of_its_own(load):
    oneway, rates = load("oneway"), load("rates")
    row = oneway.OneWay("a", "b", 64, 1000, {}, ("udp-plain",), ours="udp", least={"udp": 2e6, "udp-plain": 9e5})
    about = {name: {"title": name, "missing": ""} for name in row.describe()}
    samples = {
        name: [{"broker": 1.0, "producer": 1.0, "consumer": 1.0, "latency": {}, "peak": {}, "rate": 1.5e6}]
        for name in about
    }
    found = row._row({}, about, samples)
    assert [rates.goal(found, name) for name in about] == ["2.00M/s: not met", "900.0k/s: met"]


def test_who_leaves_offload_aside_does_so_in_all_its_processes(load, monkeypatch):
    load("sides").find("udp")
    udp = load("sides.udp")
    seen: list[Any] = []
    monkeypatch.setattr(udp.os, "execv", lambda *_: seen.append("broker"))
    monkeypatch.setattr(udp.os, "environ", {})
    monkeypatch.setattr(udp.Vanilla, "sender", lambda *_: Nothing(seen, udp.os.environ))
    monkeypatch.setattr(udp.Vanilla, "recver", lambda *_: Nothing(seen, udp.os.environ))
    for name, expected in ("udp", {}), ("udp-plain", {"VANILLA_UDP_OFFLOAD": "0"}):
        udp.os.environ.clear()
        udp.SIDES[name].broker(64)
        assert udp.os.environ == expected
        for ends in udp.SIDES[name].sender, udp.SIDES[name].recver:
            udp.os.environ.clear()
            with ends("", 64):
                assert seen[-1] == expected


class Nothing:
    """An end that remembers what the environment was when it was entered."""

    def __init__(self, seen: list[Any], environment: dict[str, str]) -> None:
        self.enter = lambda: seen.append(dict(environment))

    def __enter__(self) -> None:
        self.enter()

    def __exit__(self, *exc: object) -> None:
        pass


def test_where_a_datagram_is_for_one_message_each_has_its_own(h, load, monkeypatch):
    load("sides").find("udp")
    shorten = load("sides.udp").shorten
    outgoing = load("vanilla.protocol.outgoing").Outgoing
    monkeypatch.setattr(outgoing, "_size", outgoing._size)  # and back
    shorten(64)
    with h.broker.listen("udp://127.0.0.1:0") as broker, h.client.connect(broker.urls[0]) as remote:
        jobs, items = remote.push("jobs"), remote.pull("jobs")
        h.spawn(jobs.send_many, [bytes(64)] * 1000)
        assert [items.recv() for _ in range(1000)] == [bytes(64)] * 1000
        (session,) = broker.listeners[0][0].sessions.values()
        assert 1000 <= session.transport.counters.received < 1200

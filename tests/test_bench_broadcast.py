"""Broadcasts: each side that is installed delivers to all, what is missed is found out, and nobody is overrun."""

from __future__ import annotations

import json
import os
import types
from typing import Any

import pytest
from benches import bench


@pytest.mark.parametrize("subscribers", [1, 3])
@pytest.mark.parametrize("name", ["vanilla", "redis", "redis-hand"])
def test_each_side_that_is_installed_delivers_to_all(load, name, subscribers):
    broadcast = load("broadcast")
    if missing := load("processes").describe(broadcast.SIDES[name])["missing"]:
        pytest.skip(missing)
    found = broadcast.measure(name, 16, subscribers, 0.1, 0.1)
    assert found["rate"] > 0
    assert sorted(found["cpu"]) == ["broker", "publisher", "subscribers"]
    assert all(used >= 0 for used in found["cpu"].values())


def test_a_quick_run_has_a_row_for_each_size_and_crowd(load, tmp_path):
    path = tmp_path / "results.json"
    ran = bench("--quick", "--json", path, "broadcast-16-1", "broadcast-256-10")
    assert (ran.returncode, ran.stderr) == (0, "")
    rows = json.loads(path.read_text())["rows"]
    assert [row["name"] for row in rows] == ["broadcast-16-1", "broadcast-256-10"]
    for row in rows:
        ours = row["sides"]["vanilla"]
        assert ours["low"] == ours["rate"] == ours["high"] > 0
        assert row["title"] in ran.stdout
        assert all(ours[text] in ran.stdout for text in ("guarantee", "payload", "batching", "settings"))


@pytest.fixture
def board(load):
    """One of two subscribers, and its module."""
    module = load("board")
    descriptor = module.new_board(2)
    yield module, module.board_of(f"/proc/{os.getpid()}/fd/{descriptor}", 2)
    os.close(descriptor)


def test_reports_reach_whoever_has_opened_the_board(load):
    module = load("board")
    descriptor = module.new_board(3)
    try:
        one, other = (module.board_of(f"/proc/{os.getpid()}/fd/{descriptor}", 3) for _ in range(2))
        one.slots[0], one.slots[2] = 7, 1 << 40
        assert list(other.slots) == [7, 0, 1 << 40]
        assert other.delivered == 7 + (1 << 40)
    finally:
        os.close(descriptor)


def test_a_publisher_waits_for_the_slowest_subscriber(board):
    _, reports = board
    slept = []

    def sleep(seconds):
        slept.append(seconds)
        reports.slots[len(slept) % 2] += 3

    assert reports.wait(5, sleep) == 6
    assert len(slept) == 4
    assert reports.wait(6, sleep) == 6
    assert len(slept) == 4


def test_a_subscriber_that_reports_nothing_fails_the_measurement(board, monkeypatch):
    module, reports = board
    monkeypatch.setattr(module, "PATIENCE", 0)
    reports.slots[0] = 9
    with pytest.raises(AssertionError, match="a subscriber has 0 blocks, and 1 were to come"):
        reports.wait(1, lambda _: None)


@pytest.mark.parametrize(("subscribers", "window"), [(1, 80), (10, 80), (20, 40), (100, 20)])
def test_many_subscribers_have_less_on_its_way_to_each(load, subscribers, window):
    module = load("board")
    descriptor = module.new_board(subscribers)
    try:
        assert module.board_of(f"/proc/{os.getpid()}/fd/{descriptor}", subscribers).window == window
    finally:
        os.close(descriptor)


def messages(load, blocks: int) -> list[bytes]:
    """Those of so many blocks, and what ends the last."""
    plan = load("plan")
    found = []
    for number in range(blocks):
        found += [plan.stamp(number, 16), *[bytes(16)] * (plan.BLOCK - 1)]
    return [*found, plan.stamp(blocks, 16)]


def taken(load, reports: Any, how: str, sent: list[bytes]) -> None:
    """A subscriber takes them, until none is left."""
    taker = load("publishers").Taker(reports, 1, 16)
    if how == "run":
        with pytest.raises(StopIteration):
            taker.run(iter(sent).__next__)
    else:
        for message in sent:
            taker.take(message)


@pytest.mark.parametrize("how", ["run", "take"])
def test_a_subscriber_reports_what_it_has_in_full(load, board, how):
    _, reports = board
    sent = messages(load, 3)
    taken(load, reports, how, sent[:-1])
    assert list(reports.slots) == [0, 2]
    taken(load, reports, how, sent)
    assert list(reports.slots) == [0, 3]


@pytest.mark.parametrize("how", ["run", "take"])
@pytest.mark.parametrize("place", [0, 1, 150, 200])
@pytest.mark.parametrize("copies", [0, 2], ids=["missed", "doubled"])
def test_a_message_that_is_missed_or_doubled_fails_the_measurement(load, board, place, copies, how):
    _, reports = board
    sent = messages(load, 3)
    sent[place : place + 1] = [sent[place]] * copies
    with pytest.raises(AssertionError, match="lost, doubled or overtaken"):
        taken(load, reports, how, sent)


class Crowd:
    """Two subscribers that take what was sent when somebody waits for them."""

    def __init__(self, load: Any, reports: Any) -> None:
        self.sent: list[bytes] = []
        self.most = 0
        self.flushed = 0
        self.takers = [load("publishers").Taker(reports, place, 16) for place in range(2)]

    def flush(self) -> None:
        self.flushed = len(self.sent)

    def sleep(self, seconds: float) -> None:
        self.most = max(self.most, self.flushed - self.takers[0].count)
        for taker in self.takers:
            for message in self.sent[taker.count : min(taker.count + 250, self.flushed)]:
                taker.take(message)


def test_a_publisher_is_a_window_ahead_at_most_and_waits_for_all_at_the_end(load, monkeypatch):
    module = load("board")
    publishers = load("publishers")
    monkeypatch.setattr(module, "MOST", 4)
    monkeypatch.setattr(module, "LEAST", 4)
    clock = iter(range(0, 1 << 40, 1_000_000))
    monkeypatch.setattr(publishers, "now", lambda: next(clock))
    descriptor = module.new_board(2)
    path = f"/proc/{os.getpid()}/fd/{descriptor}"
    crowd = Crowd(load, module.board_of(path, 2))
    shape = publishers.Shape(path, 16, 2, 0.02, 0.05)
    try:
        found = publishers.publish(types.SimpleNamespace(sleep=crowd.sleep), crowd.sent.append, crowd.flush, shape)
    finally:
        os.close(descriptor)
    assert crowd.most <= 4 * 100 + 1
    assert {taker.count for taker in crowd.takers} == {len(crowd.sent)}
    assert found["delivered"] == (len(crowd.sent) - 1) * 2
    assert found["rate"] > 0


def test_a_side_that_is_missing_has_no_figures(load, monkeypatch):
    broadcast, oneway = load("broadcast"), load("oneway")
    rates = {"vanilla": [4.0, 8.0], "redis": [2.0, 2.0]}
    monkeypatch.setattr(
        broadcast.processes,
        "describe",
        lambda side: {"title": side.title, "missing": "not here" if "hand" in side.title else ""},
    )
    cpu = {"broker": 0.5, "publisher": 1.0, "subscribers": 2.0}
    monkeypatch.setattr(broadcast, "measure", lambda name, *_: {"rate": rates[name].pop(0), "cpu": cpu})
    told: list[str] = []
    settings = oneway.Settings(2, 1.0, False, told.append)
    row = broadcast.Broadcast(16, 10)
    expected = row.measurements(settings)
    (found,) = row.rows(settings)
    assert len(told) == expected == 4
    assert found["ratios"] == {"redis": {"median": 3.0, "low": 2.0, "high": 4.0}, "redis-hand": None}
    lines = broadcast.lines_of(found)
    assert {len(line) for line in lines} == {len(broadcast.HEAD)}
    assert lines[1][-2:] == ["0.500 / 1.000 / 2.000", "3.00x (2.00–4.00)"]
    assert lines[2] == ["", "Redis pub/sub, by hand", "not here", "", "", ""]


def test_a_subscriber_that_dies_fails_the_measurement_and_is_named(load, monkeypatch, tmp_path):
    broadcast = load("broadcast")
    if missing := load("processes").describe(broadcast.SIDES["redis"])["missing"]:
        pytest.skip(missing)
    script = tmp_path / "dies.py"
    script.write_text("import sys\nprint('ready', flush=True)\nsys.exit('it is enough')\n")
    usual = broadcast.Process
    monkeypatch.setattr(
        broadcast,
        "Process",
        lambda what, program, *rest: usual(what, script if "subscribers" in rest else program, *rest),
    )
    monkeypatch.setattr(broadcast, "PATIENCE", 0.1)
    with pytest.raises(broadcast.Failed, match=r"the subscribers of redis ended with status 1: it is enough"):
        broadcast.measure("redis", 16, 2, 0.01, 0.01)

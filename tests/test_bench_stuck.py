"""A server that hangs beside one that is free: the row runs, and what it says follows from what was measured."""

from __future__ import annotations

import json
from typing import Any

import pytest
from benches import bench


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    """What a quick run says, and its row."""
    path = tmp_path_factory.mktemp("bench") / "results.json"
    ran = bench("--quick", "--json", path, "stuck")
    assert (ran.returncode, ran.stderr) == (0, "")
    (row,) = json.loads(path.read_text())["rows"]
    return ran.stdout, row


def test_each_line_has_figures_and_says_what_is_to_hold(quick, load):
    said, row = quick
    assert row["kind"] == "stuck"
    assert [point["label"] for point in row["points"]] == [line.label for line in load("stuck").LINES]
    for point in row["points"]:
        assert 0.2 <= point["latency"]["median"] <= point["latency"]["p99"]
        assert all(calls > 0 for calls in point["calls"])
        assert point["label"] in said
    assert [point["goal"] for point in row["points"]] == [None, {"bound": 1.15, "met": None}, None]
    assert row["sides"]["vanilla"]["guarantee"] in said


def test_what_a_server_got_before_it_hung_is_never_answered(quick):
    _, row = quick
    alone, *hung = row["points"]
    assert alone["held"] == 0
    assert all(point["held"] >= 1 for point in hung)


def test_a_server_that_is_to_hang_and_does_not_fails_the_measurement(load, monkeypatch):
    stuck = load("stuck")
    monkeypatch.setattr(stuck, "HANGING", 0.1)
    with pytest.raises(stuck.Failed, match="the server that hangs was silent"):
        stuck.measure(stuck.Line("never", 1_000_000_000), quick=True)


class Reply:
    """An answer that is there, or never comes."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer

    def recv(self, timeout: float) -> Any:
        if self.answer is None:
            import vanilla

            raise vanilla.Timeout
        return self.answer


@pytest.fixture
def calling(load, monkeypatch):
    """Makes a client whose calls have these answers, each a function of what is asked."""
    ends = load("stuckends")

    def make(*answers: Any) -> Any:
        clock = iter(range(0, 1 << 30, 50_000_000))
        monkeypatch.setattr(ends, "now", lambda: next(clock))
        coming = iter(answers)

        class Dealer:
            def call(self, item):
                return Reply(next(coming, lambda asked: asked)(item))

        client = ends.Client(Dealer())
        client.count(0.2, 0.5)
        return client

    return make


def test_a_call_that_is_given_up_counts_as_long_as_it_was_waited_for(calling):
    client = calling(*[lambda asked: asked] * 5, lambda asked: None)
    client.lane()
    assert len(client.held) == 1
    assert set(client.waits) == {50_000_000}
    assert len(client.waits) == 5  # 0.5 s in steps of two looks at the clock, and one more each


def test_calls_of_the_warm_up_do_not_count_and_what_they_hold_does(calling):
    client = calling(lambda asked: None)
    client.lane()
    every = calling()
    every.lane()
    assert len(client.held) == 1
    assert len(client.waits) <= len(every.waits)


def test_an_answer_to_another_call_fails_the_measurement(calling):
    with pytest.raises(AssertionError, match="mixed up"):
        calling(lambda asked: asked + 1).lane()


def sample(median: float, p99: float, held: int = 0) -> dict[str, Any]:
    return {"waits": {"median": median, "p99": p99}, "calls": 9, "held": held}


@pytest.mark.parametrize(("p99", "met"), [(2.3, True), (2.31, False)])
def test_the_99th_percentile_is_held_against_that_of_one_server_alone(load, p99, met):
    stuck = load("stuck")
    alone = [sample(1.0, 1.0), sample(1.0, 2.0), sample(1.0, 3.0)]
    found = [sample(1.0, 9.0, held=2), sample(2.0, p99), sample(3.0, 1.0)]
    first = stuck.summary(stuck.LINES[0], alone, alone, False)
    assert (first["latency"], first["ratios"], first["goal"]) == ({"median": 1.0, "p99": 2.0}, None, None)
    point = stuck.summary(stuck.LINES[1], found, alone, False)
    assert point["goal"] == {"bound": 1.15, "met": met}
    assert point["ratios"] == {"median": 2.0, "p99": p99 / 2}
    assert point["held"] == 2
    assert stuck.summary(stuck.LINES[2], found, alone, False)["goal"] is None
    lines = stuck.lines_of({"title": "t", "points": [first, point]})
    assert {len(line) for line in lines} == {len(stuck.HEAD)}
    assert lines[0][:5] == ["t", "one free server alone", "1.00", "2.00", "1.00–3.00"]
    assert lines[1][-3:] == ["2", f"2.00x / {p99 / 2:.2f}x", f"p99 1.15x at most: {'met' if met else 'not met'}"]


def test_what_cannot_be_measured_is_named(load, monkeypatch):
    stuck = load("stuck")
    told: list[str] = []
    settings = load("oneway").Settings(2, 1.0, False, told.append)
    monkeypatch.setattr(stuck, "measure", lambda *_: sample(1.0, 1.0))
    stuck.rows(settings)
    assert len(told) == stuck.measurements(settings) == 6

    def fail(*_):
        raise stuck.Failed("the broker was silent")

    monkeypatch.setattr(stuck, "measure", fail)
    rows = stuck.rows(settings)
    assert rows[0]["points"] == []
    (failure,) = load("run").failures(rows)
    assert failure.endswith(": vanilla, servers: failed: the broker was silent")
    assert "failed: the broker was silent" in stuck.lines_of(rows[0])[0]

"""How cost grows: all rows run, what they say follows from what was measured, and no message is lost unseen."""

from __future__ import annotations

import json
import subprocess
import time

import pytest
from benches import RUN, bench, children, wait_until_gone


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    """The rows of a quick run."""
    path = tmp_path_factory.mktemp("bench") / "results.json"
    ran = bench("--quick", "--json", path, "growth")
    assert ran.returncode == 0, ran.stderr
    return ran.stdout, {row["name"]: row for row in json.loads(path.read_text())["rows"]}


def test_each_curve_has_points_and_says_what_is_to_hold(quick):
    said, rows = quick
    assert list(rows) == [f"growth-{what}" for what in ("consumers", "queues", "sizes", "many", "depth")]
    for row in rows.values():
        assert [row["kind"], row["sides"]["vanilla"]["missing"]] == ["growth", ""]
        assert len(row["points"]) == 2
        assert all(point["cpu_us"] > 0 and point["per_frame"] > 0 for point in row["points"])
        assert row["points"][0]["ratio"] == 1
        assert row["goals"]
        assert all(goal["met"] is None for goal in row["goals"])  # too few messages to tell
        assert row["title"] in said


def test_four_consumers_are_each_counted(quick):
    _, rows = quick
    (served,) = rows["growth-many"]["points"][1]["served"]
    assert len(served) == 4
    assert sum(served) > 0


def test_filling_and_draining_are_told_apart(quick):
    _, rows = quick
    for point in rows["growth-depth"]["points"]:
        assert point["cpu_us"] == pytest.approx(point["fill_us"] + point["drain_us"])
        assert point["fill_us"] > 0 and point["drain_us"] > 0


def test_batches_stay_whole_where_the_queue_is_deep(load):
    growth = load("growth")
    found = growth.measure_load(growth.Equal(), growth.loop(2, consumers=2, ahead=100), 0.2)
    assert 60 < found["per_frame"] < 140


def measured(growth, cost, **more):
    """What a measurement may find."""
    return {"cpu_us": cost, "per_frame": 100.0, "rate": 1.0, **more}


def settings(load, rounds=3):
    return load("oneway").Settings(rounds, 1.0, False, lambda _: None)


def curve(growth, costs, **more):
    """A curve whose points cost what is said, round by round."""
    rounds = {x: iter(each) for x, each in costs.items()}
    return growth.Curve(
        "growth-a",
        "a",
        "things",
        tuple(growth.loop(x) for x in costs),
        measure=lambda side, point, seconds: measured(growth, next(rounds[point.x])),
        **more,
    )


def test_medians_are_held_against_one_to_one_and_against_the_cheapest_before(load):
    growth = load("growth")
    costs = {1: [1.0, 9.0, 2.0], 10: [0.5, 0.4, 0.6], 100: [1.5, 1.5, 1.5]}
    (row,) = curve(growth, costs).rows(settings(load))
    assert [point["cpu_us"] for point in row["points"]] == [2.0, 0.5, 1.5]
    assert [point["ratio"] for point in row["points"]] == [1.0, 0.25, 0.75]
    assert [(goal["value"], goal["met"]) for goal in row["goals"]] == [(1.0, True), (3.0, False)]
    assert (row["points"][0]["low"], row["points"][0]["high"]) == (1.0, 9.0)


def test_a_large_message_may_cost_what_its_bytes_do(load):
    growth = load("growth")
    points = [{"x": 1, "cpu_us": 1.0}, {"x": 64 << 10, "cpu_us": 33.0}]
    assert growth.in_proportion(points, 1) == pytest.approx(1.0, rel=0.01)
    assert growth.in_proportion(points, 64 << 10) == 33.0
    assert growth.in_proportion(points, 128 << 10) == 65.0


def test_the_most_served_is_compared_with_the_least(load):
    growth = load("growth")
    samples = [measured(growth, 1.0, served=served) for served in ([10, 11], [10, 15], [10, 12])]
    point = growth.summary(growth.streams(2), samples)
    assert point["split"] == 1.2
    row = curve(growth, {}).row([point], {"missing": ""})
    assert row["goals"][-1] == {"what": "most served to least", "value": 1.2, "bound": 1.2, "met": True}


def test_what_cannot_be_measured_is_named(load):
    growth = load("growth")

    def measure(*_):
        raise growth.Failed("the broker was silent")

    (row,) = growth.Curve("growth-a", "a", "things", (growth.loop(1),), measure=measure).rows(settings(load))
    assert load("run").failures([row]) == ["a: vanilla, growth: failed: the broker was silent"]
    assert row["points"] == row["goals"] == []
    assert "failed: the broker was silent" in load("growthtable").lines_of(row)[0]


class Answers:
    """A process that says how much it has received, whenever it is asked."""

    def __init__(self, *counts):
        self.counts = list(counts)

    def say(self, line):
        pass

    def hear(self):
        return str(self.counts.pop(0))


def test_a_measurement_waits_until_all_has_come(load):
    growth = load("growth")
    loads = [Answers(1, 5, 5), Answers(0, 2, 3)]
    growth.see_all_come(loads, 8)
    assert [each.counts for each in loads] == [[], []]


@pytest.mark.parametrize(("received", "patience"), [(9, 60), (7, 0)], ids=["doubled", "lost"])
def test_a_message_that_is_lost_or_doubled_fails_the_measurement(load, monkeypatch, received, patience):
    growth = load("growth")
    monkeypatch.setattr(growth, "PATIENCE", patience)
    with pytest.raises(growth.Failed, match=f"8 messages were sent and {received} received"):
        growth.see_all_come([Answers(received)], 8)


def test_more_goals_than_points_are_shown_too(load):
    goals = [{"what": f"goal {i}", "value": 1.0, "bound": 2.0, "met": True} for i in range(3)]
    point = {"label": "1", "cpu_us": 1.0, "low": 1.0, "high": 1.0, "per_frame": 1.0, "ratio": 1.0}
    table = load("growthtable")
    lines = table.lines_of({"title": "a", "of": "things", "points": [point], "goals": goals, "sides": {}})
    assert [line[-1] for line in lines] == [f"1.00x goal {i}, at most 2x: met" for i in range(3)]
    assert {len(line) for line in lines} == {len(table.HEAD)}


def test_progress_is_told_as_often_as_was_announced(load):
    growth = load("growth")
    told = []
    found = curve(growth, {1: [1.0] * 3, 2: [1.0] * 3})
    five = load("oneway").Settings(5, 1.0, False, told.append)
    found.rows(five)
    assert len(told) == found.measurements(five) == 6
    assert told[0] == "growth-a: 1, round 1 of 3"


def test_a_run_that_is_killed_leaves_no_process_behind():
    with subprocess.Popen([*RUN, "growth-consumers"], stderr=subprocess.DEVNULL) as run:
        try:
            while len(found := children(run.pid)) < 2:  # the broker, and what loads it
                assert run.poll() is None
                time.sleep(0.01)
        finally:
            run.kill()
    for pid in found:
        wait_until_gone(pid)

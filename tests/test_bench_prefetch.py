"""Prefetch: all rows run, each job is done once, and what they say follows from what was measured."""

from __future__ import annotations

import contextlib
import json

import pytest
from benches import bench


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    """The rows of a quick run."""
    path = tmp_path_factory.mktemp("bench") / "results.json"
    ran = bench("--quick", "--json", path, "prefetch", "fast-slow")
    assert ran.returncode == 0, ran.stderr
    return ran.stdout, {row["name"]: row for row in json.loads(path.read_text())["rows"]}


def test_each_row_has_figures_and_says_what_is_to_hold(quick):
    said, rows = quick
    assert {name: len(row["points"]) for name, row in rows.items()} == {
        "prefetch-beside": 4,
        "prefetch-even": 2,
        "prefetch-held": 4,
        "fast-slow": 1,
    }
    for row in rows.values():
        assert row["kind"] == "prefetch"
        assert row["title"] in said
        goals = [point["goal"] for point in row["points"] if point["goal"]]
        assert goals and all(goal["met"] is None and goal["text"] in said for goal in goals)


def test_all_jobs_are_done_whoever_does_them(quick):
    _, rows = quick
    for point in rows["prefetch-beside"]["points"] + rows["fast-slow"]["points"]:
        assert sum(point["split"]) == 500
    for point in rows["prefetch-even"]["points"]:
        assert sum(point["split"]) == 20


def test_the_settings_that_are_compared_are_told(quick):
    said, rows = quick
    settings = [side["settings"] for side in rows["prefetch-beside"]["sides"].values()]
    assert len(set(settings)) == 3
    assert all(text in said for text in settings)


def test_what_is_held_is_what_came_and_is_not_begun(load, monkeypatch):
    prefetch = load("prefetch")
    monkeypatch.setattr(prefetch, "LOOKS", 1)
    ends = [1.0, 2.0, 3.0, 4.0, 5.0]
    found = prefetch.most_held([(0.5, 1), (2.5, 5), (4.5, 5)], ends)
    # At 2.5 two are done and the third is in hand.
    assert found == {"held": 2, "held_ms": 2000.0, "looks": 3}
    assert prefetch.most_held([(2.5, 2)], ends)["held"] == 0
    monkeypatch.setattr(prefetch, "LOOKS", 2)
    for unseen in ([(2.5, 2)], ends), ([(2.5, 2), (2.6, 2)], [1.0]):
        with pytest.raises(prefetch.Failed):
            prefetch.most_held(*unseen)


def point(load, *samples):
    prefetch = load("prefetch")
    return prefetch.summary(prefetch.Line("a", list), list(samples))


def test_medians_of_time_and_split_are_shown_and_the_most_that_was_held(load):
    found = point(load, *({"seconds": s, "split": [s * 10, 5]} for s in (3.0, 1.0, 2.0)))
    assert (found["seconds"], found["low"], found["high"], found["split"]) == (2.0, 1.0, 3.0, [20.0, 5])
    found = point(load, {"held": 3, "held_ms": 1.0, "looks": 9}, {"held": 2, "held_ms": 2.0, "looks": 8})
    assert (found["held"], found["held_ms"]) == (3, 2.0)


def test_goals_are_held_as_they_are_stated(load):
    prefetch = load("prefetch")
    alone = {"seconds": 1.0}
    assert prefetch.not_held_up({"seconds": 1.15}, alone) == ("1.15x of the fast one alone, at most 1.15x", True)
    assert not prefetch.not_held_up({"seconds": 1.16}, alone)[1]
    even, odd = {"split": [10, 10]}, {"split": [11, 9]}
    assert prefetch.in_halves({"rounds": [even, even]}, alone) == ("10 to 10", True)
    assert not prefetch.in_halves({"rounds": [even, even, odd]}, alone)[1]
    for held, ms, met in (9, 10.0, True), (9, 10.1, False), (1, 20.0, True), (0, 0.0, True):
        assert prefetch.not_hoarded({"held": held, "held_ms": ms}, alone)[1] is met


def test_jobs_are_split_by_speed_or_the_goal_is_not_met(load):
    prefetch = load("prefetch")

    def judged(*rounds):
        return prefetch.by_speed({"rounds": [{"seconds": 1.0, "alone": 1_000.0, **each} for each in rounds]}, {})

    fair = {"split": [900, 100], "busy": [0.8, 0.8]}
    assert judged(fair) == ("0.0% off their speeds, at most 10%; the fast one keeps 90% of its own, at least 80%", True)
    idle = {"split": [900, 100], "busy": [0.7, 0.8]}  # so the fast one could have done more
    assert judged(idle, fair, fair)[1]
    assert judged(idle, idle, fair) == (
        "12.9% off their speeds, at most 10%; the fast one keeps 90% of its own, at least 80%",
        False,
    )
    assert judged({**fair, "alone": 1_125.0})[1]
    assert not judged({**fair, "alone": 1_126.0})[1]
    assert not judged({"split": [1_000, 0], "busy": [0.8, 0.0]})[1]


def test_the_fast_worker_is_alone_first(load, monkeypatch):
    prefetch = load("prefetch")
    asked = []
    monkeypatch.setattr(prefetch, "share", lambda paces, count: asked.append((paces, count)) or {"seconds": 0.5})
    assert prefetch.split(1_000) == {"seconds": 0.5, "alone": 2_000.0}
    assert asked == [((0.1,), 1_000), ((0.1, 1.0), 1_000)]


def test_a_worker_tells_how_long_its_jobs_took_themselves(load, monkeypatch):
    jobs = load("jobs")
    times = iter([1.0, 1.5, 3.0, 3.25])
    monkeypatch.setattr(jobs.time, "monotonic", times.__next__)
    monkeypatch.setattr(jobs, "work", lambda seconds: None)
    taker = jobs.Taker()
    assert taker.answer("last") == [0, 0.0, 0.0]
    taker.take([contextlib.nullcontext()] * 2, 0.1)
    assert (taker.answer("last"), taker.answer("each")) == ([2, 3.25, 0.75], [1.5, 3.25])


@pytest.mark.parametrize("done", [9, 11], ids=["lost", "doubled"])
def test_a_job_that_is_lost_or_done_twice_fails_the_measurement(load, monkeypatch, done):
    prefetch = load("prefetch")
    monkeypatch.setattr(prefetch.Site, "wait_until_done", lambda self, count: None)
    monkeypatch.setattr(prefetch.Site, "ask", lambda self, question: [[done, 1.0, 1.0]])
    with pytest.raises(prefetch.Failed, match=f"{done} jobs were done, and 10 were sent"):
        prefetch.share((1.0,), 10)


def test_jobs_that_nobody_finishes_fail_the_measurement(load, monkeypatch):
    prefetch = load("prefetch")
    monkeypatch.setattr(prefetch, "PATIENCE", 0)
    with pytest.raises(prefetch.Failed, match="of 10 jobs were acknowledged"):
        prefetch.share((1000.0,), 10)


def test_what_cannot_be_measured_is_named(load):
    prefetch = load("prefetch")

    def measure(_):
        raise prefetch.Failed("the broker was silent")

    settings = load("oneway").Settings(3, 1.0, False, lambda _: None)
    (row,) = prefetch.Work("prefetch-a", "a", (prefetch.Line("b", measure),)).rows(settings)
    assert load("run").failures([row]) == ["a: vanilla, workers: failed: the broker was silent"]
    assert row["points"] == []
    assert "failed: the broker was silent" in load("prefetchtable").lines_of(row)[0]


def test_progress_is_told_as_often_as_was_announced(load):
    prefetch = load("prefetch")
    told = []
    settings = load("oneway").Settings(5, 1.0, False, told.append)
    lines = [prefetch.Line("b", lambda _: {"seconds": 1.0, "split": [1]}, rounds) for rounds in (3, 1)]
    work = prefetch.Work("prefetch-a", "a", tuple(lines))
    work.rows(settings)
    assert told == [f"prefetch-a: b, round {i}" for i in (1, 1, 2, 3)]
    assert work.measurements(settings) == 4

"""Charts: files of fixed names where matplotlib is installed, one line that says so where it is not."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec

import pytest
from benches import BENCH

RATE = {"title": "vanilla", "rate": 2e6, "low": 1e6, "high": 3e6}
#: As a peer that is not installed, and as a row that knows no spread.
NONE = {"title": "pyzmq", "rate": None, "low": None, "high": None, "missing": "pyzmq is not installed"}
PLAIN = {"title": "gevent", "rate": 1e6, "low": None, "high": None}


def curve(name, count=3):
    points = [
        {"x": 10**i, "label": f"{10**i:,}", "cpu_us": 1.0, "low": 0.5, "high": 2.0, "ratio": 1.0} for i in range(count)
    ]
    goal = {"what": "of one to one", "value": 1.0, "bound": 2.0, "met": True}
    return {"name": name, "kind": "growth", "title": name, "of": "things", "points": points, "goals": [goal]}


RESULTS = {
    "rows": [
        {"kind": "rate", "title": "one way", "sides": {"vanilla": RATE, "pyzmq": NONE}},
        {"kind": "rate", "title": "hub", "sides": {"gevent": PLAIN}},
        {"kind": "prefetch", "title": "drawn nowhere", "sides": {}},
        curve("growth-things"),
        curve("growth-pairs", 2),
        curve("growth-failed", 0),
    ]
}


def timed(load):
    """A row of latencies, as it is made: of one side that was measured, and of one that was not."""
    latency = load("latency")
    times = {"median": 0.1, "p99": 0.4}
    sample = {"latency": times, "late": times, **dict.fromkeys(latency.processes.ROLES, 1.0)}
    sides = {name: latency.summary(samples) for name, samples in (("vanilla", [sample] * 3), ("pyzmq", []))}
    titled = {name: {"title": name, **side} for name, side in sides.items()}
    return {"kind": "latency", "title": "one at a time", "sides": titled}


def called(load):
    """Rows of calls, broadcasts and whatever else is so many a second, as they are made."""
    calls = load("calls")
    sample = {"rate": 1e4, "latency": {"median": 0.1, "p99": 0.4}, "cpu": {"client": 1.0}}
    sides = {name: {"title": name, **calls.summary([sample] * n)} for name, n in (("vanilla", 3), ("pyzmq", 0))}
    kinds = ("calls-alone", "calls-many", "broadcast", "select", "threads", "echo")
    return [{"kind": kind, "title": kind, "sides": sides} for kind in kinds]


@pytest.fixture
def charts(load):
    if find_spec("matplotlib") is None:
        pytest.skip("matplotlib is not installed")
    return load("charts")


def test_each_kind_has_a_chart_and_each_curve(charts, load, tmp_path):
    written = charts.write({"rows": [*RESULTS["rows"], timed(load), *called(load)]}, tmp_path)
    dots = ["throughput.png", "latency.png", "calls-alone.png", "calls-many.png", "broadcast.png"]
    dots += ["select.png", "threads.png", "echo.png"]
    assert [path.name for path in written] == [*dots, "growth-things.png"]
    for path in written:
        assert path.read_bytes().startswith(b"\x89PNG")
        assert path.stat().st_size < 60_000


def test_the_same_results_give_the_same_files(charts, tmp_path):
    first, again = tmp_path / "first", tmp_path / "again"
    for folder in first, again:
        folder.mkdir()
    for one, other in zip(charts.write(RESULTS, first), charts.write(RESULTS, again)):
        assert one.read_bytes() == other.read_bytes()


def test_what_was_not_measured_has_no_chart(charts, tmp_path):
    rows = [{"kind": "rate", "title": "one way", "sides": {"pyzmq": NONE}}]
    assert charts.write({"rows": rows}, tmp_path) == []


def test_a_stored_run_is_drawn_by_the_program(charts, tmp_path):
    if not charts.LATEST.exists():
        pytest.skip("no run is stored")
    ran = subprocess.run(
        [sys.executable, str(BENCH / "charts.py"), str(charts.LATEST), str(tmp_path)], capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stderr
    assert sorted(map(str, tmp_path.iterdir())) == sorted(ran.stdout.splitlines())
    assert tmp_path / "throughput.png" in tmp_path.iterdir()


@pytest.fixture
def without_matplotlib(load, monkeypatch):
    def missing(package):
        raise LookupError(f"{package} is not installed")

    monkeypatch.setattr(load("charts"), "installed", missing)


def test_a_whole_run_without_matplotlib_says_so_in_a_line(load, without_matplotlib, monkeypatch, tmp_path, capsys):
    run = load("run")
    monkeypatch.setattr(run, "RESULTS", tmp_path)
    run.keep({**RESULTS, "about": {"date": "2000-01-01T00:00"}}, run.parser().parse_args([]))
    assert capsys.readouterr().err == "no charts: matplotlib is not installed\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["2000-01-01-all.json", "latest.json"]


def test_the_program_without_matplotlib_says_so_in_a_line(load, without_matplotlib, tmp_path):
    results = tmp_path / "results.json"
    results.write_text("{}")
    with pytest.raises(SystemExit, match="no charts: matplotlib is not installed"):
        load("charts").main(str(results))


@pytest.mark.parametrize("rows", [["oneway-16"], []], ids=["some-rows", "quick"])
def test_only_a_whole_run_is_drawn(load, monkeypatch, tmp_path, rows):
    run = load("run")
    monkeypatch.setattr(run, "RESULTS", tmp_path)
    monkeypatch.setattr(run, "draw", lambda results: pytest.fail("drawn"))
    run.keep({**RESULTS, "about": {"date": "2000-01-01T00:00"}}, run.parser().parse_args(rows or ["--quick"]))
    assert not (tmp_path / "latest.json").exists()

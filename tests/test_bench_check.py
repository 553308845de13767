"""The guard `make bench-check`: what it compares, what it refuses, and that it counts the same twice."""

from __future__ import annotations

import doctest
import json
import os
import platform
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from benches import BENCH, children, wait_until_gone

from vanilla.protocol.frames import ACK, DATA, HELLO, pack_control, pack_head

COUNTED = BENCH / "counted.py"
HERE = {"python": "CPython 3.11.7", "architecture": "x86_64", "libc": "glibc 2.36", "scanner": "c"}


@pytest.fixture
def check(load):
    return load("check")


@pytest.fixture
def count(load):
    return load("count")


@pytest.fixture
def run_of(check, monkeypatch, tmp_path, capsys):
    """Store figures, and give the status and the text of a check that finds others; None stores nothing."""

    def run(then, now, *arguments):
        monkeypatch.setattr(check, "STORED", tmp_path / "check.json")
        monkeypatch.setattr(check.count, "gives_a_number", lambda measure: True)
        monkeypatch.setattr(check, "measure", lambda names, works: dict.fromkeys(names, now))
        monkeypatch.setattr(sys, "argv", ["check.py", *arguments])
        if then is not None:
            check.keep({"valgrind": then})
        return check.main(), capsys.readouterr().out

    return run


# -- comparing


def test_what_takes_over_a_tenth_more_is_named_and_nothing_else(run_of):
    status, text = run_of({"a": 1000.0, "b": 1000.0, "c": 1000.0}, {"a": 1099.0, "b": 1101.0, "c": 901.0})
    assert status == 1
    assert [line for line in text.splitlines() if line.startswith("slower")] == [
        "slower: b: +10.1% instructions a message"
    ]
    assert "faster" not in text


def test_what_takes_a_tenth_less_is_named_and_no_failure(run_of):
    status, text = run_of({"a": 1000.0}, {"a": 899.0})
    assert status == 0
    assert "faster: a: -10.1% instructions a message" in text
    assert "store this run: make bench-check STORE=1" in text


def test_all_figures_are_in_the_table(run_of):
    _, text = run_of({"a": 1234.4, "b": 5.0}, {"a": 1234.6, "b": 10.0})
    assert [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines()[2:4]] == [
        ["a", "1,234", "1,235", "0.0%", ""],
        ["b", "5", "10", "+100.0%", "slower"],
    ]


def test_what_one_run_lacks_is_named_and_not_compared(run_of):
    status, text = run_of({"a": 1.0, "gone": 1.0}, {"a": 1.0, "new": 9.0})
    assert status == 0
    assert "not compared, for the stored run lacks it (make bench-check STORE=1): new" in text
    assert "in the stored run, and no longer measured: gone" in text


def test_a_call_in_a_hundred_messages_is_nothing(check):
    calls = check.MEASURES["strace"]
    assert check.compare(calls, {"a": 0.001, "b": 0.0}, {"a": 0.010, "b": 0.0099}).slower == {}
    assert check.compare(calls, {"a": 0.001, "b": 0.0}, {"a": 0.012, "b": 0.011}).slower.keys() == {"a", "b"}


def test_CPU_time_may_differ_by_more(check):
    assert check.MEASURES["rusage"].tolerance > check.MEASURES["valgrind"].tolerance == 1.1


def test_a_run_is_stored_with_what_made_it_and_compares_equal(check, run_of):
    status, text = run_of(None, {"a": 2.00001}, "--store")
    stored = json.loads(check.STORED.read_text())
    assert status == 0
    assert stored["figures"] == {"perf": {"a": 2.0}, "strace": {"a": 2.0}}
    assert stored["about"].keys() >= {"python", "architecture", "libc", "scanner", "greenlet", "msgpack"}
    assert "slower" not in text
    assert run_of(None, {"a": 2.0})[0] == 0


def test_the_run_that_is_stored_lacks_nothing(check):
    for figures in json.loads(check.STORED.read_text())["figures"].values():
        assert list(figures) == list(check.WORKS)


# -- refusing


def test_without_a_stored_run_it_says_how_to_make_one(run_of):
    status, text = run_of(None, {"a": 1.0})
    assert (status, text) == (2, "there is no stored run: make bench-check STORE=1\n")


@pytest.mark.parametrize("key", HERE)
def test_a_run_of_another_kind_is_refused(check, key):
    stored = {"about": {**HERE, key: "another"}, "figures": {"valgrind": {"a": 1.0}}}
    why = check.refusal(stored, ["valgrind"], HERE)
    assert why.startswith(f"the stored run was made with {key} another, and here it is {HERE[key]}. ")
    assert "make bench-check STORE=1" in why
    assert check.refusal({**stored, "about": HERE}, ["valgrind"], HERE) == ""


def test_a_run_by_a_measure_that_does_not_work_here_is_refused(check):
    stored = {"about": HERE, "figures": {"perf": {"a": 1.0}, "strace": {"a": 1.0}}}
    why = check.refusal(stored, ["strace"], HERE)
    assert why.startswith("the stored run was measured by what does not work here: perf. ")
    assert "make bench-check STORE=1" in why


@pytest.mark.parametrize(
    "text", ["{broken", "[]", "{}", '{"about": {}, "figures": {}}', '{"about": {}, "figures": {"x": {}}}']
)
def test_what_is_no_stored_run_is_refused(check, monkeypatch, tmp_path, capsys, text):
    monkeypatch.setattr(check, "STORED", tmp_path / "check.json")
    monkeypatch.setattr(sys, "argv", ["check.py"])
    check.STORED.write_text(text)
    assert check.main() == 2
    assert "is no stored run" in capsys.readouterr().out


def test_what_is_refused_is_not_measured(check, run_of, monkeypatch):
    run_of({"a": 1.0}, {"a": 1.0})
    monkeypatch.setattr(check, "KIND", "another")
    status, text = run_of(None, {"a": 9.0})
    assert status == 2
    assert text.startswith("the stored run was made with scanner ")
    assert "slower" not in text


def test_figures_in_CPU_time_are_those_of_one_processor(check):
    assert "cpu" in check.about(["rusage"])
    assert "cpu" not in check.about(["valgrind", "strace"])


def test_what_cannot_be_counted_is_named(check, run_of, monkeypatch, capsys):
    run_of({"a": 1.0}, {"a": 1.0})

    def measure(*_):
        raise check.count.Failed("counted.py a ended with status 1: no")

    monkeypatch.setattr(check, "measure", measure)
    assert check.main() == 2
    assert capsys.readouterr().out == "counted.py a ended with status 1: no\n"


# -- measuring


def test_what_starting_up_takes_cancels_out(count, monkeypatch):
    class Known(count.Measure):
        def take(self, *command):
            return 1e6 + 7 * int(command[-1])

    monkeypatch.setattr(count, "run", lambda *_: None)
    seen = []
    assert count.figures(Known(), {"a": 100, "b": 5}, seen.append) == {"a": 7.0, "b": 7.0}
    assert len(seen) == count.processes(Known(), {"a": 100, "b": 5}) == 4


def test_the_least_of_several_rounds_counts(count, monkeypatch):
    class Noisy(count.Measure):
        rounds, times, alone = 3, 10, True
        noise = iter([3, 0, 1, 1, 2, 9])

        def take(self, *command):
            return int(command[-1]) + next(self.noise)

    monkeypatch.setattr(count, "run", lambda *_: None)
    assert count.figures(Noisy(), {"a": 1}, lambda _: None) == {"a": (30 + 0 - 10 - 1) / 20}


def test_CPU_time_is_taken_where_nothing_counts_instructions(count, monkeypatch):
    for missing, best in (
        ((), ["perf", "strace"]),
        (("perf",), ["valgrind", "strace"]),
        (("perf", "valgrind", "strace"), ["rusage"]),
    ):
        absent = [count.MEASURES[name] for name in missing]
        monkeypatch.setattr(count, "gives_a_number", lambda measure, absent=absent: measure not in absent)
        assert count.best() == best


def test_a_counter_that_the_processor_lacks_gives_no_number(count):
    with pytest.raises(LookupError, match="<not supported>"):
        count.Perf().read("# started on a day\n\n<not supported>,,instructions:u,0,100.00,,\n")


def test_a_program_that_is_missing_gives_no_number(count, monkeypatch):
    monkeypatch.setattr(count.Valgrind, "prefix", lambda self, out: ["/no/such/program"])
    assert not count.gives_a_number(count.Valgrind())


def test_a_process_that_fails_says_why(count):
    with pytest.raises(count.Failed, match=r"ended with status 1: this is why$"):
        count.run(sys.executable, "-c", "raise SystemExit('this is why')")


@pytest.mark.skipif(platform.python_implementation() == "PyPy", reason="PyPy compiles and collects when it likes")
@pytest.mark.parametrize("name", ["valgrind", "strace"])
def test_the_same_code_takes_the_same(check, name):
    if not check.count.usable([name]):
        pytest.skip(f"{name} does not work here")
    works = {"one way, 4 KiB: broker": 400}
    (first,), (second,) = (check.measure([name], works)[name].values() for _ in range(2))
    assert first == pytest.approx(second, rel=0.02)
    assert first > 0


# -- what is counted


@pytest.fixture
def ends(load, monkeypatch):
    """The far ends that are made, and the module that makes them."""
    works, made = load("works"), []

    def kept(kind):
        return lambda *args, **kwargs: made.append(kind(*args, **kwargs)) or made[-1]

    for name in "Sink", "Source", "Clients":
        monkeypatch.setattr(works, name, kept(getattr(works, name)))
    return works, made


SIZES = (16, 256, 4096, 65536)


@pytest.mark.parametrize("size", SIZES)
def test_a_counted_producer_sends_all(ends, size):
    works, made = ends
    works.producer(size, 300)
    assert made[0].n == 300


@pytest.mark.parametrize("size", SIZES)
def test_a_counted_consumer_receives_all(ends, size):
    works, made = ends
    works.consumer(size, 300)
    assert made[0].n >= 300


@pytest.mark.parametrize("size", SIZES)
def test_a_counted_consumer_acknowledges_each(ends, size):
    works, made = ends
    works.leased_consumer(size, 300)
    assert made[0].n >= 300
    assert made[0]._settled >= 250


@pytest.mark.parametrize("size", SIZES)
def test_a_counted_broker_passes_all_on(ends, size):
    works, made = ends
    works.broker(size, 300)
    assert made[0].received >= 300


@pytest.mark.parametrize("size", SIZES)
def test_many_at_a_call_are_counted_too(ends, size):
    works, made = ends
    works.many_producer(size, 300)
    works.many_consumer(size, 300)
    assert made[0].n == 300 <= made[1].n


def test_each_work_runs_as_a_process_of_its_own(load):
    for name in load("works").WORKS:
        ran = subprocess.run([sys.executable, COUNTED, name, "50"], capture_output=True, text=True, timeout=60)
        assert (ran.returncode, ran.stderr) == (0, ""), name


ALL = """
import sys
sys.path.insert(0, sys.argv[1])
import works
before = set(sys.modules)
for work in works.WORKS.values():
    work.run(50)
print(*set(sys.modules) - before)
"""


def test_what_any_work_needs_is_imported_and_so_compiled_before_the_first_is_counted():
    ran = subprocess.run([sys.executable, "-c", ALL, BENCH], capture_output=True, text=True, timeout=60)
    assert (ran.stdout, ran.stderr) == ("\n", "")


@pytest.mark.parametrize("step", [1, 7, 40, 10_000])
def test_a_far_end_finds_its_frames_however_they_are_split(load, step):
    stream = b"".join(
        (
            pack_control(HELLO, 0, 0, {"v": 1}),
            pack_head(DATA, 1, 5, 2, 3000) + bytes(3000),
            pack_control(ACK, 1, 0, {"r": [0, 1]}),
            pack_head(DATA, 1, 7, 1, 10) + bytes(10),
        )
    )
    ours, theirs = socket.socketpair()
    with ours, theirs:
        wire, found = load("farends").Wire(ours), []
        for start in range(0, len(stream), step):
            theirs.sendall(stream[start : start + step])
            found += wire.heard()
    assert [(frame.kind, frame.seq, frame.count, frame.size) for frame in found if frame.kind == DATA] == [
        (DATA, 5, 2, 3000),
        (DATA, 7, 1, 10),
    ]
    assert [(frame.kind, frame.fields) for frame in found if frame.kind != DATA] == [
        (HELLO, {"v": 1}),
        (ACK, {"r": [0, 1]}),
    ]


START = "import subprocess, sys; subprocess.run([sys.executable, *sys.argv[1:]])"


def test_a_process_that_is_counted_ends_with_the_run():
    with subprocess.Popen([sys.executable, "-c", START, COUNTED, "hub: unbuffered", "1000000000"]) as run:
        try:
            pid = wait_for_hub(run.pid)
            run.send_signal(signal.SIGKILL)
            run.wait(30)
        finally:
            run.kill()
    wait_until_gone(pid)


def wait_for_hub(parent: int) -> int:
    """The process that *parent* starts, once it has a hub: it then knows its parent."""
    for _ in range(3000):
        for pid in children(parent):
            if any("eventpoll" in target for target in links(Path(f"/proc/{pid}/fd"))):
                return pid
        time.sleep(0.01)
    raise AssertionError("it did not start")


def links(folder: Path) -> list[str]:
    """Where those in *folder* lead to that are still there."""
    found = []
    for link in folder.iterdir():
        try:
            found.append(os.readlink(link))
        except OSError:
            continue
    return found


def test_its_examples_run(check, count):
    assert doctest.testmod(check) == (0, 1)
    assert doctest.testmod(count) == (0, 3)

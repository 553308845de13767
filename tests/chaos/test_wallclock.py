"""The wall clock of a broker and its clients is set a day on and back: nothing comes early, nothing late."""

from __future__ import annotations

import shutil
import signal
import struct
import subprocess
import sys
from pathlib import Path

import programs
import pytest
from checker import judge
from fleet import done, empty, fleet, until
from journal import DONE, GOT, SEND, count, read

DAY = 86_400
NOW = "import time, sys; print(int(time.time()))"

pytestmark = pytest.mark.skipif(not shutil.which("cc"), reason="no C compiler on this machine")


class WallClock:
    """The wall clock of the programs that run with ``env``."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "shift"
        self.shift(0)
        library = folder / "wallclock.so"
        source = Path(__file__).with_name("wallclock.c")
        subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", library, source, "-ldl"], check=True)
        self.env = {"LD_PRELOAD": str(library), "WALLCLOCK": str(self._file)}

    def shift(self, seconds: int) -> None:
        """From now on it is so much later than it is."""
        with open(self._file, "r+b" if self._file.exists() else "wb") as file:
            file.write(struct.pack("=q", seconds))


@pytest.fixture
def clock(tmp_path):
    return WallClock(tmp_path)


def test_the_clock_of_a_program_can_be_set(clock):
    def now():
        env = programs.environment(**clock.env)
        return int(subprocess.run([sys.executable, "-c", NOW], env=env, capture_output=True, check=True).stdout)

    today = now()
    clock.shift(DAY)
    tomorrow = now()
    clock.shift(-DAY)
    yesterday = now()
    assert DAY <= tomorrow - today <= DAY + 3600
    assert DAY - 3600 <= today - yesterday <= DAY


@pytest.mark.parametrize("days", [1, -1])
def test_a_clock_that_is_set_neither_hurries_nor_holds_what_waits(h, journals, tell, clock, monkeypatch, days):
    delay = 400
    for name, value in clock.env.items():
        monkeypatch.setenv(name, value)  # for the broker, and for the fleet
    with programs.broker() as (url, _), h.client.connect(url) as remote, fleet(journals) as crew:
        crew.start("refuser", "r", url=url, name="jobs", delay=delay)
        jobs = crew.start("producer", "p", url=url, name="jobs", jobs=5)
        until(h, lambda: sum(event.what == GOT for event in read(journals)) >= 5)
        clock.shift(days * DAY)
        until(h, lambda: done(remote) == 5)
        clock.shift(0)
        again = crew.start("producer", "q", url=url, name="jobs", jobs=5)
        until(h, lambda: done(remote) == 10 and jobs.status == 0 and again.status == 0)
        assert empty(remote, "jobs")
    events = read(journals)
    verdict = judge(events)
    waits = [
        second.at - first.at
        for first in events
        for second in events
        if first.what == second.what == GOT and first.job == second.job and not first.marked and second.marked
    ]
    tell(
        f"clock {days:+d} day and back: {verdict}; refused for {delay} ms, back after {sorted(waits)[-1] / 1e6:.0f} ms"
    )
    assert verdict.faults == {}
    assert len(waits) == 10
    assert min(waits) >= delay * 1_000_000
    assert sum(event.what == SEND for event in events) == 10


@pytest.mark.parametrize("days", [1, -1])
def test_a_clock_that_is_set_neither_ends_a_lease_nor_lengthens_it(h, journals, tell, clock, monkeypatch, days):
    for name, value in clock.env.items():
        monkeypatch.setenv(name, value)
    with programs.broker() as (url, _), h.client.connect(url) as remote, fleet(journals) as crew:
        crew.start("producer", "p", url=url, name="jobs", jobs=1)
        crew.start("producer", "q", url=url, name="late", jobs=1)
        crew.start("worker", "slow", url=url, name="jobs", seconds=0.5, lease=60_000)
        silent = crew.start("worker", "silent", url=url, name="late", seconds=60, lease=300)
        until(h, lambda: count(journals, GOT) == 2)
        silent.signal(signal.SIGSTOP)
        clock.shift(days * DAY)
        crew.start("worker", "other", url=url, name="jobs")
        crew.start("worker", "heir", url=url, name="late")
        until(h, lambda: done(remote) == 2)
    events = read(journals)
    verdict = judge(events)
    tell(f"clock {days:+d} day: one lease lasts, one ends: {verdict}")
    assert verdict.faults == {}
    assert {(event.who, event.job[0]) for event in events if event.what == DONE} == {("heir", "q"), ("slow", "p")}

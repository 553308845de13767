"""Three hundred dials with a hundred descriptors, at either end: those that are in go on, the others get in later."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import programs
import pytest
from fleet import fleet, until

DIALS, DESCRIPTORS = 300, 100
LIMITED = ["sh", "-c", f'ulimit -n {DESCRIPTORS}; exec "$@"', "sh"]


def test_a_broker_without_descriptors_serves_who_is_in_and_lets_the_others_in_later(h, tell, monkeypatch):
    monkeypatch.setattr(programs, "BROKER", [*LIMITED, *programs.BROKER])
    with programs.broker("--hello-timeout", "60000") as (url, broker), h.client.connect(url) as remote:
        let_go = h.state()
        inside = set()

        def dial(number):
            with h.client.connect(url, timeout=programs.PATIENCE * 1000) as visitor:
                inside.add(number)
                let_go.recv()
                out = visitor.push("jobs")
                out.send(number)
                out.sync()

        tasks = [h.spawn(dial, number) for number in range(DIALS)]
        until(h, lambda: remote.status()["broker"]["connections"] >= DESCRIPTORS * 3 // 4)
        waited = max(remote.ping() for _ in range(50))
        first = len(inside)
        assert first < DESCRIPTORS
        let_go.send(True)
        for task in tasks:
            task.join()
        jobs = remote.pull("jobs")
        assert sorted(jobs.recv() for _ in range(DIALS)) == list(range(DIALS))
        tell(
            f"broker with {DESCRIPTORS} descriptors, {DIALS} dials: {first} in at first, all in the end; "
            f"longest of 50 pings meanwhile {waited:.1f} ms"
        )
        limits = Path(f"/proc/{broker.pid}/limits").read_text()
        assert re.search(rf"^Max open files\s+{DESCRIPTORS}\s", limits, re.MULTILINE)


@pytest.mark.skipif(sys.implementation.name != "cpython", reason="PyPy's random numbers take a descriptor each")
def test_a_client_without_descriptors_goes_on_with_the_connections_that_it_has(h, journals, tell):
    with programs.broker() as (url, _), fleet(journals) as crew:
        dialer = crew.start("dialer", "d", url=url, dials=DIALS, descriptors=DESCRIPTORS)
        until(h, lambda: dialer.status is not None)
        assert dialer.status == 0
        opened = {event.what: event.job[1] for event in crew.events()}
        tell(f"client with {DESCRIPTORS} descriptors, {DIALS} dials: {opened}")
        assert 0 < opened["connected"] < DESCRIPTORS
        assert opened["connected"] + opened["refused"] == DIALS
        assert opened["again"] == opened["connected"]

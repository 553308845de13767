"""One measurement of a library in a process of its own, and the turns that the libraries take.

    python alone.py PARENT LIBRARY WHAT ARGUMENTS     says the figures of one of `MEASUREMENTS`; all of it is JSON

PARENT is the process without which this one is not to live.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from typing import Any, Callable

import processes
from hubs import NAMES, Library, find
from oneway import Settings
from worker import end_with_the_parent

#: How long one may take, in seconds.
PATIENCE = 120

Figures = dict[str, float]


def measure(name: str, what: str, *arguments: Any) -> Figures:
    """One measurement.

    :raises processes.Failed: it came to nothing.
    """
    command = [sys.executable, __file__, str(os.getpid()), name, what, json.dumps(arguments)]
    try:
        ran = subprocess.run(command, capture_output=True, text=True, check=True, timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        raise processes.Failed(f"{name} took longer than {PATIENCE} s") from None
    except subprocess.CalledProcessError as error:
        raise processes.Failed(f"{name}: {(error.stderr.strip().splitlines() or ['no word'])[-1]}") from None
    figures: Figures = json.loads(ran.stdout)
    return figures


def described() -> dict[str, dict[str, Any]]:
    """What a reader must know of each library."""
    return {name: processes.describe(find(name)) for name in NAMES}


def present() -> int:
    """How many can be measured."""
    return sum(not about["missing"] for about in described().values())


def take_turns(
    title: str, about: dict[str, dict[str, Any]], settings: Settings, measure: Callable[[str], Figures]
) -> dict[str, list[Figures]]:
    """Measure all that *about* describes, round by round; none that is missing. One that fails is missing from then on.

    :return: the figures of each.
    """
    samples: dict[str, list[Figures]] = {name: [] for name in about}
    for number in range(settings.rounds):
        for name in [name for name in about if not about[name]["missing"]]:
            settings.progress(f"{title}: {about[name]['title']}, round {number + 1} of {settings.rounds}")
            try:
                samples[name].append(measure(name))
            except processes.Failed as error:
                about[name]["missing"] = f"failed: {error}"
                samples[name].clear()
    return samples


def summary(samples: list[Figures]) -> dict[str, Any]:
    """Of rates, as the other rows with rates have it, but without CPU time."""
    rates = [sample["rate"] for sample in samples]
    if not rates:
        return {"rate": None, "low": None, "high": None, "rates": [], "cpu": None}
    return {"rate": statistics.median(rates), "low": min(rates), "high": max(rates), "rates": rates, "cpu": None}


def channel(library: Library, capacity: int, timeout: int, n: int) -> Figures:
    """``rate``, messages a second."""
    return {"rate": library.channel(capacity, timeout, n)}


MEASUREMENTS: dict[str, Callable[..., Figures]] = {"channel": channel}

if __name__ == "__main__":
    end_with_the_parent(int(sys.argv[1]))
    name, what, arguments = sys.argv[2:]
    print(json.dumps(MEASUREMENTS[what](find(name), *json.loads(arguments))))

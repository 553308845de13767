"""Each fuzz target for a short, bounded run; ``tests/fuzz/fuzz_wire.py`` says how to let one run for long."""

from __future__ import annotations

import runpy
import subprocess
import sys
from pathlib import Path

import pytest

FUZZER = Path(__file__).with_name("fuzz") / "fuzz_wire.py"
TARGETS = runpy.run_path(str(FUZZER))["TARGETS"]

#: What the fuzzer exits with where atheris is not installed.
NO_ATHERIS = 3


def fuzz(target, directory, *options):
    """Run the fuzzer; what it finds is left in `directory`."""
    command = [sys.executable, str(FUZZER), target, f"-artifact_prefix={directory}/", *options]
    return subprocess.run(command, cwd=directory, capture_output=True, text=True, errors="replace")


@pytest.mark.parametrize("target", TARGETS)
def test_a_short_fuzzing_run_finds_nothing(target, tmp_path):
    run = fuzz(target, tmp_path, "-runs=20000", "-max_total_time=15", "-seed=1")
    if run.returncode == NO_ATHERIS:
        pytest.skip(run.stderr.strip())
    assert run.returncode == 0, run.stderr


@pytest.mark.parametrize("target", TARGETS)
def test_a_target_passes_over_a_few_plain_cases(target):
    for case in (b"", b"\xc0", bytes(16), b"\xff" * 16, b"\x02\x02\x40\x01\xa1\xff\x81\x90\x01"):
        TARGETS[target](case)


def test_an_unknown_target_is_refused_with_the_names_of_those_there_are(tmp_path):
    run = fuzz("nonsense", tmp_path)
    assert run.returncode == 2
    assert all(target in run.stderr for target in TARGETS)

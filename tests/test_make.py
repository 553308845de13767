"""The Makefile: a second run starts at once, and what is missing is said in one line."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from trees import ROOT, copy_of_the_checkout, run

pytestmark = pytest.mark.skipif(not shutil.which("make"), reason="no make on this machine")

#: What a build is made of.
SOURCES = ("pyproject.toml", "setup.py", "protocol/_scan.c", "protocol/_train.c", "protocol/_scan_build.py")


@pytest.fixture
def tree(tmp_path):
    """The checkout, and an environment that looks installed."""
    copy = copy_of_the_checkout(tmp_path / "checkout")
    (copy / ".venv").mkdir()
    for source in SOURCES:
        os.utime(copy / source, (1, 1))
    (copy / ".venv" / ".installed").touch()
    return copy


def dry_run(tree: Path, target: str) -> str:
    return run("make", "--dry-run", target, cwd=tree).stdout


@pytest.mark.parametrize("target", ["run", "demo"])
def test_a_second_run_installs_nothing(tree, target):
    assert "pip" not in dry_run(tree, target)


@pytest.mark.parametrize("source", SOURCES)
def test_a_changed_build_is_installed_again(tree, source):
    later = (tree / ".venv" / ".installed").stat().st_mtime + 10
    os.utime(tree / source, (later, later))
    assert "pip install" in dry_run(tree, "run")


def test_the_broker_takes_the_place_of_its_shell(tree):
    assert "exec .venv/bin/vanilla-broker --listen tcp://127.0.0.1:8264" in dry_run(tree, "run")


def test_another_address_is_told_to_the_second_terminal(tree):
    nowhere = f"unix://{tree}/no/such/folder"
    told = subprocess.run(["make", "run", f"LISTEN={nowhere}"], cwd=tree, capture_output=True, text=True).stdout
    assert f"    export VANILLA_URL={nowhere}" in told.splitlines()


@pytest.mark.parametrize("lacks", ["venv", "python"])
def test_a_missing_package_is_named_in_one_line(tree, lacks):
    shutil.rmtree(tree / ".venv")
    python = tree / "python-without-venv"
    if lacks == "venv":
        python.write_text("#!/bin/sh\nmkdir .venv\nexit 1\n")
        python.chmod(0o755)
    ran = subprocess.run(["make", "run", f"PYTHON={python}"], cwd=tree, capture_output=True, text=True)
    told, from_make = ran.stderr.splitlines()
    assert "apt-get install python3 python3-venv" in told
    assert from_make.startswith("make")
    assert ran.returncode
    assert not (tree / ".venv").exists()


def test_help_names_every_target(tree):
    phony = next(line for line in (ROOT / "Makefile").read_text().splitlines() if line.startswith(".PHONY"))
    told = run("make", "help", cwd=tree).stdout
    assert [target for target in phony.split()[1:] if f"make {target}:" not in told] == []

"""The README's programs run as printed."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

README = Path(__file__).parent.parent / "README.md"
PORT = "127.0.0.1:8264"


def programs():
    """The Python programs in the README: the producer, the worker, and the one that needs no broker."""
    return re.findall(r"```python\n(.*?)```", README.read_text(), re.S)


@pytest.fixture
def url():
    broker = subprocess.Popen(
        [sys.executable, "-m", "vanilla.broker", "--listen", "tcp://127.0.0.1:0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    yield broker.stdout.readline().split()[-1]
    broker.terminate()
    assert broker.wait() == 0
    broker.stdout.close()


def run(program, cwd):
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False, cwd=cwd
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_producer_and_the_worker_run_as_printed(url, tmp_path):
    producer, worker, _ = (program.replace(f"tcp://{PORT}", url) for program in programs())
    assert run(producer, tmp_path) == "pushed 10\n"
    assert run(worker, tmp_path).splitlines() == [f"{number} 5" for number in range(10)]


def test_the_program_without_a_broker_runs_as_printed(tmp_path):
    assert run(programs()[2], tmp_path) == "Hello World\n"


def test_the_commands_that_it_names_are_there():
    makefile = (README.parent / "Makefile").read_text()
    for target in ("run", "test", "demo", "bench", "lint", "test-pypy", "clean", "help"):
        assert re.search(rf"^{target}:", makefile, re.M)


def test_the_documents_that_it_links_to_are_there():
    for link in re.findall(r"\]\(([^)#:]+)\)", README.read_text()):
        assert (README.parent / link).exists(), link

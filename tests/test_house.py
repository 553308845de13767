"""The checks that conftest.py makes of every test do catch what they are there for."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

CONFTEST = Path(__file__).with_name("conftest.py")


def run_pytest(folder: Path, source: str, *before: str) -> subprocess.CompletedProcess[str]:
    """Run one test file under our conftest.py, in a pytest of its own; *before* is a command that starts it."""
    (folder / "conftest.py").write_text(
        CONFTEST.read_text().replace("GRACE = 5.0", "GRACE = 0.2").replace("TRAP = 100.0", "TRAP = 1.0")
    )
    (folder / "test_it.py").write_text(textwrap.dedent(source))
    pytest_alone = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "no:randomly", "-p", "no:xdist"]
    return subprocess.run([*before, *pytest_alone, str(folder)], cwd=folder, capture_output=True, text=True)


@pytest.mark.parametrize(
    ("source", "complaint"),
    [
        ("import subprocess\ndef test_it(): global p; p = subprocess.Popen(['sleep', '600'])", "(sleep 600)"),
        ("import os\ndef test_it(): os.fork() or os._exit(0)", "nobody waited for it"),
        ("import protocol\ndef test_it(): pass", "Import vanilla.protocol"),
        (
            """
            import subprocess, pytest
            @pytest.fixture(scope="module")
            def daemon():
                global process
                process = subprocess.Popen(["sleep", "600"])
                yield
            def test_it(daemon): pass
            """,
            "the session leaves child processes behind",
        ),
    ],
    ids=["running", "zombie", "second-copy", "of-a-module"],
)
def test_a_test_that_breaks_the_house_rules_fails(tmp_path, source, complaint):
    (tmp_path / "protocol.py").write_text("")
    ran = run_pytest(tmp_path, source)
    assert ran.returncode == 1, ran.stdout + ran.stderr
    assert complaint in ran.stdout
    assert "1 passed, 1 error" in ran.stdout


def test_a_test_that_cleans_up_passes(tmp_path):
    ran = run_pytest(
        tmp_path,
        """
        import multiprocessing.resource_tracker, subprocess, pytest
        @pytest.fixture(scope="module")
        def daemon():
            process = subprocess.Popen(["sleep", "600"])
            yield process
            process.kill()
            process.wait()
        def test_it(daemon):
            multiprocessing.resource_tracker.ensure_running()
            subprocess.run(["true"])
            with subprocess.Popen(["sleep", "600"]) as process:
                process.kill()
        def test_again(daemon):
            assert daemon.poll() is None
        """,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_a_trap_that_is_back_fails_and_does_not_hang(tmp_path):
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = trap(name): ...")
    ran = run_pytest(
        tmp_path,
        """
        import time, vanilla
        from pytest import mark
        @mark.trap("an endless wait")
        def test_it(h):
            h.poll.live += 1  # so that it is no deadlock
            h.pipe().recv()
        def test_another():
            time.sleep(1.5)
        """,
    )
    assert ran.returncode == 1, ran.stdout + ran.stderr
    assert "TimeoutError: it has taken 1 s: is the trap back?" in ran.stdout
    assert "1 failed, 1 passed" in ran.stdout


def test_a_run_in_the_background_starts_processes_that_signals_end(tmp_path):
    source = """
        import signal, subprocess

        def test_it():
            for signum in signal.SIGINT, signal.SIGHUP:
                assert subprocess.run(["sh", "-c", f"kill -{int(signum)} $$"]).returncode == -signum
    """
    in_the_background = ["sh", "-c", 'trap "" INT HUP; exec "$@"', "sh"]
    ran = run_pytest(tmp_path, source, *in_the_background)
    assert ran.returncode == 0, ran.stdout

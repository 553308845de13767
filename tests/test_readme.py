"""The README's programs run as printed."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from vanilla.broker.permissions import read_permissions
from vanilla.protocol.terms import TERMS

README = Path(__file__).parent.parent / "README.md"
PORT = "127.0.0.1:8264"


def programs():
    """The Python programs in the README: producer, worker, one that needs no broker, and others."""
    return re.findall(r"```python\n(.*?)```", README.read_text(), re.S)


def those_with(*texts):
    """The one program with each of *texts*, in this order."""
    return [next(program for program in programs() if text in program) for text in texts]


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
    producer, worker = (program.replace(f"tcp://{PORT}", url) for program in programs()[:2])
    assert run(producer, tmp_path) == "pushed 10\n"
    assert run(worker, tmp_path).splitlines() == [f"{number} 5" for number in range(10)]


def test_the_program_without_a_broker_runs_as_printed(tmp_path):
    assert run(programs()[2], tmp_path) == "Hello World\n"


def test_the_program_of_the_library_underneath_runs_as_printed(tmp_path):
    (program,) = those_with("h.process.execv")
    assert run(program, tmp_path) == "b'HELLO' b'4' 144 tick\n[1, 2, 3]\n"


def has_openssl_3():
    found = shutil.which("openssl")
    return found is not None and b"OpenSSL 3" in subprocess.run([found, "version"], capture_output=True).stdout


@pytest.mark.skipif(not has_openssl_3(), reason="no OpenSSL 3 program")
def test_the_certificates_that_it_makes_serve_as_it_says(tmp_path):
    make, use = re.findall(r"```sh\n(new=.*?)```.*?```sh\n(.*?)```", README.read_text(), re.S)[0]
    assert "--tls-client-ca" in use
    subprocess.run(["sh", "-e"], input=make.encode(), cwd=tmp_path, check=True, capture_output=True)
    serve, ask = (line.split()[1:] for line in use.splitlines())
    serve[serve.index("tls://0.0.0.0:8265")] = "tls://localhost:0"
    command = [sys.executable, "-m", "vanilla.broker", *serve]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as broker:
        ask[ask.index("tls://localhost:8265")] = broker.stdout.readline().decode().split()[-1]
        command = [sys.executable, "-m", "vanilla.client", *ask]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, timeout=60)
        broker.terminate()
    assert done.returncode == 0, done.stderr


def test_the_permissions_that_it_shows_are_read_as_they_stand(tmp_path):
    (shown,) = re.findall(r"```toml\n(.*?)```", README.read_text(), re.S)
    (tmp_path / "permissions.toml").write_text(shown)
    permissions = read_permissions(str(tmp_path / "permissions.toml"))
    assert permissions.allow("web", "push", "jobs.mail") and not permissions.allow("web", "push", "jobs")
    assert permissions.allow("", "pull", "news") and not permissions.allow("", "push", "news")
    assert permissions.allow("uid:1000", "admin", "")


def test_the_calculator_and_its_caller_run_as_printed(url, tmp_path):
    calculator, caller = (
        program.replace(f"tcp://{PORT}", url) for program in those_with("class Calculator", "remote.wrap(")
    )
    serving = subprocess.Popen([sys.executable, "-c", calculator], stdout=subprocess.PIPE, text=True, cwd=tmp_path)
    try:
        assert serving.stdout.readline() == "serving\n"
        assert run(caller, tmp_path).splitlines() == ["[0, 2, 4, 6, 8]", "499500", "RAISED TypeError"]
    finally:
        serving.kill()
        serving.wait()
        serving.stdout.close()


def test_requests_in_one_process_run_as_printed(tmp_path):
    (program,) = those_with("def shout(")
    assert run(program, tmp_path) == "HELLO\n"


def test_a_queue_with_options_runs_as_printed(tmp_path):
    (program,) = those_with("vanilla.Rejected")
    assert run(program, tmp_path) == "FULL\n{'capacity': 2, 'overflow': 'reject'}\n"


def test_the_options_of_an_endpoint_are_all_in_its_table():
    table = README.read_text().partition("| option | unless said |")[2].partition("\n\n")[0]
    assert set(re.findall(r"`(\w+)`", "".join(row.split("|")[1] for row in table.splitlines()[2:]))) == set(TERMS)


def test_the_channels_across_processes_run_as_printed(url, tmp_path):
    (program,) = those_with("remote.pipe(")
    assert run(program.replace(f"tcp://{PORT}", url), tmp_path) == "Hello\n{'rate': 10}\nextra 0\n"


def test_the_dead_letters_run_as_printed(tmp_path):
    (program,) = [program for program in programs() if "remote.dead(" in program]
    lines = ["1 {'MAX_ATTEMPTS': 1}", "{'id': 1} MAX_ATTEMPTS 1", "1", "None"]
    assert run(program, tmp_path).splitlines() == lines


def test_the_commands_that_it_names_are_there():
    makefile = (README.parent / "Makefile").read_text()
    for target in ("run", "test", "demo", "bench", "lint", "test-pypy", "clean", "help"):
        assert re.search(rf"^{target}:", makefile, re.M)


def test_the_documents_that_it_links_to_are_there():
    for link in re.findall(r"\]\(([^)#:]+)\)", README.read_text()):
        assert (README.parent / link).exists(), link

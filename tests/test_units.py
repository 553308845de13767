"""The example units for systemd: what they name is there, what they promise holds, and how little they leave open."""

from __future__ import annotations

import configparser
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from programs import BROKER, PATIENCE, said, started

from vanilla.broker.cli import parser
from vanilla.broker.options import Options
from vanilla.protocol.urls import Address

UNITS = Path(__file__).parents[1] / "examples" / "systemd"
SERVICE = UNITS / "vanilla-broker.service"

#: Forbids what MemoryDenyWriteExecute= does, by prctl(2) (PR_SET_MDWE, Linux 6.3), and becomes the program.
LAUNCH = """
import ctypes, os, sys
if ctypes.CDLL(None).prctl(65, 1, 0, 0, 0):
    sys.exit(77)
os.execv(sys.argv[1], sys.argv[1:])
"""


def unit(path):
    # The same key may stand there several times; what this file looks at stands there once.
    read = configparser.ConfigParser(strict=False, interpolation=None, delimiters=("=",), comment_prefixes=("#",))
    read.optionxform = str
    read.read_string(path.read_text())
    return read


def test_the_command_is_one_that_the_program_takes():
    program, *args = unit(SERVICE)["Service"]["ExecStart"].split()
    assert program.endswith("/vanilla-broker")
    assert parser().parse_args(args).config == "/etc/vanilla-broker.toml"


def test_what_the_unit_allows_is_enough_for_the_defaults():
    service = unit(SERVICE)["Service"]
    assert int(service["LimitNOFILE"]) > Options.connections + 100
    assert int(service["TimeoutStopSec"].removesuffix("s")) * 1000 > Options.drain_ms + 5_000
    assert service["Type"] == "notify"


def test_the_sockets_are_local_ones():
    streams = re.findall(r"^ListenStream=(.*)$", (UNITS / "vanilla-broker.socket").read_text(), re.MULTILINE)
    assert len(streams) == 2
    for stream in streams:
        host, _, port = stream.rpartition(":")
        address = Address("unix", path=stream) if stream.startswith("/") else Address("tcp", host, int(port))
        assert address.is_local


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd-analyze is not installed")
def test_systemd_finds_little_left_open():
    argv = ["systemd-analyze", "security", "--offline=true", "--threshold=20", str(SERVICE)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=PATIENCE, check=False)
    if "unrecognized option" in done.stderr:
        pytest.skip("this systemd-analyze cannot look at files (systemd 250 can)")
    level = re.search(r"Overall exposure level for vanilla-broker.service: ([\d.]+)", done.stdout)
    assert level, done.stderr
    assert float(level[1]) < 2.0
    assert done.returncode == 0


@pytest.mark.skipif(platform.python_implementation() != "CPython", reason="a compiler at run time needs such memory")
def test_the_broker_works_where_no_memory_may_become_code(h):
    with tempfile.TemporaryFile() as log:
        argv = [sys.executable, "-c", LAUNCH, *BROKER, "--listen", "tcp://127.0.0.1:0"]
        with started(argv, log) as process:
            line = process.stdout.readline().decode()
            if not line and process.wait(PATIENCE) == 77:
                pytest.skip("this kernel cannot forbid it")
            with h.client.connect(line.split()[-1]) as remote:
                remote.push("jobs").send_many(range(1000))
                assert remote.pull("jobs").recv_many(1000, timeout=PATIENCE * 1000)
            process.terminate()
            assert process.wait(PATIENCE) == 0, said(log)

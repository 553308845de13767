"""What TLS costs: the sides are as those without, their certificate has no file, and what is missing is said."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from benches import bench

NAME = "vanilla-tls"


@pytest.fixture
def installed(load):
    """Skip the test where no certificate can be made."""
    if missing := load("processes").describe(load("sides").find(NAME))["missing"]:
        pytest.skip(missing)


def test_ours_over_tls_is_held_against_ours_without(installed, load, tmp_path):
    path = tmp_path / "results.json"
    ran = bench("--quick", "--json", path, "tls-oneway-256", "tls-request")
    assert (ran.returncode, ran.stderr) == (0, "")
    for row in json.loads(path.read_text())["rows"]:
        assert list(row["sides"]) == [NAME, "vanilla"]
        assert all(side["rate"] > 0 for side in row["sides"].values())
        assert row["ratios"]["vanilla"]["median"] > 0
        assert "OpenSSL" in row["sides"][NAME]["version"]
        assert row["sides"][NAME]["settings"] in ran.stdout


def test_without_what_makes_certificates_the_rows_say_so(load, monkeypatch):
    def missing(package):
        raise LookupError(f"{package} is not installed")

    monkeypatch.setattr(load("sides.tls"), "installed", missing)
    for folder in "sides", "services":
        about = load("processes").describe(load(folder).find(NAME))
        assert about["missing"] == "trustme is not installed"


def test_a_certificate_has_no_file_and_outlives_the_program_that_made_it(load):
    descriptor = int(load("sides.tls").kept("cert", b"a certificate").rpartition("/")[2])
    try:
        read = "import sys; print(open(sys.argv[1]).read(), end='')"
        path = f"/proc/self/fd/{descriptor}"
        ran = subprocess.run([sys.executable, "-c", read, path], capture_output=True, text=True, close_fds=False)
        assert ran.stdout == "a certificate"
        assert os.readlink(path) == "/memfd:cert (deleted)"
    finally:
        os.close(descriptor)

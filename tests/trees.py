"""Copies of the checkout and fresh environments, for what must not depend on the checkout it is run from."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

#: Where each folder of the checkout is once installed, below site-packages.
INSTALLED = {
    "vanilla": "vanilla",
    "protocol": "vanilla/protocol",
    "client": "vanilla/client",
    "broker": "vanilla/broker",
}

#: What a build reads. Not more: the checkout may hold environments and builds of other versions.
READ = ("LICENSE", "MANIFEST.in", "Makefile", "README.md", "pyproject.toml", "setup.py")
READ += ("tests", "docs", "bench", "examples")


def run(*argv: object, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command to its end. A failure is raised with all that it printed.

    :param environment: variables to set, over a copy of ours without what steers Python, make or the compiler.
    """
    steer = ("PYTHON", "VANILLA_", "MAKE", "MFLAGS", "CC", "CFLAGS", "LDFLAGS")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(steer)}
    ran = subprocess.run([*map(str, argv)], cwd=cwd, env={**kept, **environment}, capture_output=True, text=True)
    if ran.returncode:
        raise RuntimeError(f"{argv} exited {ran.returncode}\n{ran.stdout}\n{ran.stderr}")
    return ran


def copy_of_the_checkout(target: Path) -> Path:
    """The checkout's sources in `target`, without anything that was built."""
    target.mkdir(parents=True)
    unwanted = shutil.ignore_patterns("__pycache__", "*.so", "*.o", "*.egg-info", ".*")
    for name in (*INSTALLED, *READ):
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, target / name, ignore=unwanted)
        elif source.exists():
            shutil.copy2(source, target / name)
    return target


def build(kind: str, tree: Path, into: Path, **environment: str) -> tuple[Path, str]:
    """Build the sources in `tree`; what was built, and what the build printed.

    :param kind: ``"sdist"``, ``"wheel"``, or ``"editable"``: the wheel by which pip installs in place.
    :param environment: variables for the build, such as ``CC``.
    """
    into.mkdir(parents=True, exist_ok=True)
    code = f"import sys, setuptools.build_meta as backend; backend.build_{kind}(sys.argv[1])"
    ran = run(sys.executable, "-c", code, into, cwd=tree, **environment)
    (built,) = into.iterdir()
    return built, ran.stdout + ran.stderr


class Environment:
    """A fresh virtual environment in `folder`, away from the checkout; our own pip installs into it."""

    def __init__(self, folder: Path) -> None:
        run(sys.executable, "-m", "venv", "--without-pip", folder, cwd=folder.parent)
        self.bin = folder / "bin"
        self.folder = folder

    def install(self, *what: object, **environment: str) -> str:
        """Install with pip; what it printed."""
        pip = [sys.executable, "-m", "pip", "--python", self.bin / "python", "install", "--no-warn-script-location"]
        return run(*pip, *what, cwd=self.folder, **environment).stdout

    def python(self, code: str, cwd: Path | None = None, **environment: str) -> str:
        """Run `code` as ``python -c`` does, the working folder first on the path; what it printed."""
        return run(self.bin / "python", "-c", code, cwd=cwd or self.folder, **environment).stdout.strip()

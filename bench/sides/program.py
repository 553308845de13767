"""For sides that need a program which pip does not install: a broker's server, a compiler."""

from __future__ import annotations

import os
import re
import shutil
import subprocess

#: Debian keeps some servers where only root looks.
PLACES = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/local/sbin", "/usr/sbin"))


def find_program(name: str) -> str:
    """Its path.

    :raises LookupError: it is not installed; the text says so.
    """
    path = shutil.which(name, path=PLACES)
    if path is None:
        raise LookupError(f"{name} is not installed")
    return path


def version_of(name: str) -> str:
    """The first number with dots that it prints when asked for its version.

    :raises LookupError: it is not installed, or does not run.
    """
    try:
        said = subprocess.run([find_program(name), "--version"], capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        raise LookupError(f"{name} does not run: {error}") from None
    found = re.search(r"\d+(\.\d+)+", said.stdout)
    return found[0] if found else "of an unknown version"

"""mypy over an installed tree: ``python tests/typecheck.py``, as ``make lint`` does.

In the checkout mypy would see four unrelated folders, and every import across them as missing. So the checkout is
installed into a scratch folder, and mypy runs there. Since a mapping gone wrong would make mypy check less and call
that a success, the number of files it checked must be the number of files that are there.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from trees import INSTALLED, ROOT, build, copy_of_the_checkout


def main() -> int:
    """Check the types; 0 if mypy found nothing and saw every file."""
    with tempfile.TemporaryDirectory() as scratch:
        tree = copy_of_the_checkout(Path(scratch, "checkout"))
        expected = sum(1 for folder in INSTALLED for _ in (tree / folder).rglob("*.py"))
        wheel, _ = build("wheel", tree, Path(scratch, "dist"))
        site = Path(scratch, "site")
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(site)
        options = ["--config-file", ROOT / "pyproject.toml", "--cache-dir", ROOT / ".mypy_cache"]
        mypy = [sys.executable, "-m", "mypy", *map(str, options), "--package", "vanilla"]
        ran = subprocess.run(mypy, cwd=site, capture_output=True, text=True)
    print(ran.stdout + ran.stderr, end="")
    checked = re.search(r"(?:checked|found in) (\d+) source file", ran.stdout)
    if checked is None or int(checked[1]) != expected:
        print(f"mypy should have checked {expected} files: are all folders mapped in setup.py?", file=sys.stderr)
        return 1
    return ran.returncode


if __name__ == "__main__":
    sys.exit(main())

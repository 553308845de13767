"""The emulated path, which is that of the tests: they and the benchmarks mean the same by 20 ms and 10 % loss."""

from __future__ import annotations

import sys
from pathlib import Path as File

sys.path.append(str(File(__file__).parents[1] / "tests"))  # behind our own

from netpath import Path, unavailable
from netspace import enter

__all__ = ["Path", "enter", "unavailable"]

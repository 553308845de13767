"""The memory that processes have, and the most that they had: VmHWM of proc(5), the peak of the resident set.

What pages processes share (libraries, most of all) counts in each of them. A program that takes the place of another,
as servers do here, begins anew.
"""

from __future__ import annotations

import re
import resource
from pathlib import Path


def peak(pid: int | str = "self") -> float:
    """Of one process, in MiB; 0 if it is gone."""
    found = re.search(r"^VmHWM:\s*(\d+) kB$", _read(Path(f"/proc/{pid}/status")), re.MULTILINE)
    return int(found[1]) / 1024 if found else 0.0


def resident(pid: int | str = "self") -> int:
    """What a process has in memory now, in bytes; 0 if it is gone."""
    pages = _read(Path(f"/proc/{pid}/statm")).split()
    return int(pages[1]) * resource.getpagesize() if pages else 0


def peak_of_tree(pid: int) -> float:
    """Of a process and of those that it has started and that are still there: the sum of their peaks, in MiB.

    A server may be several processes. What has cut itself loose from them is not found.
    """
    return peak(pid) + sum(peak_of_tree(child) for child in children(pid))


def children(pid: int) -> list[int]:
    """The processes that *pid* has started and that are still there."""
    lists = [_read(path) for path in Path(f"/proc/{pid}/task").glob("*/children")]
    return [int(child) for line in lists for child in line.split()]


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:  # it has ended meanwhile
        return ""

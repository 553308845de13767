"""The demo's material: files, how their tokens are counted, and what makes two counts differ. No queue, no processes.

Names are bytes, as the file system has them: not every name is text.
"""

from __future__ import annotations

import io
import os
import sysconfig
import tokenize
import warnings
from collections.abc import Iterable
from typing import NamedTuple

from .table import plural

#: Folders of other people's packages.
FOREIGN = (b"site-packages", b"dist-packages", b"__pycache__")
#: Folders that ``--quick`` leaves out.
TESTS = (b"test", b"tests", b"idle_test")
#: Differences that are named one by one.
NAMED = 10


class Count(NamedTuple):
    """What came of one file."""

    size: int  # bytes
    tokens: int
    failed: bool  # it could not be tokenized, and counts no tokens


class Totals(NamedTuple):
    """The sums over many files."""

    files: int
    size: int
    tokens: int
    errors: int

    def __str__(self) -> str:
        return ", ".join(map(plural, self, ("file", "byte", "token", "error")))


def standard_library() -> str:
    """The folder of the running Python's standard library."""
    return sysconfig.get_paths()["stdlib"]


def find_files(root: bytes, quick: bool) -> list[bytes]:
    """The names of all .py files below *root*, relative to it, in order.

    :param quick: leave out folders of tests.
    """
    found = []
    unwanted = FOREIGN + TESTS if quick else FOREIGN
    for folder, inner, names in os.walk(root):
        inner[:] = [name for name in inner if name not in unwanted]
        paths = (os.path.join(folder, name) for name in names if name.endswith(b".py"))
        found += [os.path.relpath(path, root) for path in paths if os.path.isfile(path)]
    return sorted(found)


def count_tokens(body: bytes) -> Count:
    """The tokens of one file.

    Whatever `tokenize` raises is a result as well: the standard library has files that are there to be wrong.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of escapes that are no escapes
            return Count(len(body), sum(1 for _ in tokenize.tokenize(io.BytesIO(body).readline)), False)
    except Exception:
        return Count(len(body), 0, True)


def read_file(root: bytes, name: bytes) -> bytes:
    """The bytes of one file."""
    with open(os.path.join(root, name), "rb") as file:
        return file.read()


def totals(counts: Iterable[Count]) -> Totals:
    """Sum up.

    >>> print(totals([Count(10, 3, False), Count(5, 0, True)]))
    2 files, 15 bytes, 3 tokens, 1 error
    """
    sums = [0, 0, 0, 0]
    for count in counts:
        sums = [sums[0] + 1, sums[1] + count.size, sums[2] + count.tokens, sums[3] + count.failed]
    return Totals(*sums)


def differences(brokers: dict[bytes, Count], direct: dict[bytes, Count], how: str = "through the queue") -> list[str]:
    """What is not the same in two counts, a line each: first the totals, then up to `NAMED` files. Empty: none.

    :param how: the first of them was made.
    """
    wrong = [name for name in sorted(brokers.keys() | direct.keys()) if brokers.get(name) != direct.get(name)]
    if not wrong:
        return []
    both = zip(Totals._fields, totals(brokers.values()), totals(direct.values()))
    lines = [f"{field}: {a:,} {how}, {b:,} directly" for field, a, b in both if a != b]
    for name in wrong[:NAMED]:
        lines.append(f"{os.fsdecode(name)}: {_tell(brokers.get(name))} {how}, {_tell(direct.get(name))} directly")
    if len(wrong) > NAMED:
        lines.append(f"and {plural(len(wrong) - NAMED, 'more file')}")
    return lines


def _tell(count: Count | None) -> str:
    if count is None:
        return "missing"
    return f"{plural(count.size, 'byte')}, {'an error' if count.failed else plural(count.tokens, 'token')}"

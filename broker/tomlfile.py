"""A TOML file for people: its values, and for each key at its top the line where it stands.

Parsers of TOML give values without lines. But a document is a row of statements (``key = value``, ``[table]``), each of
which is a document by itself, and none of which a parser takes before its last line: an open string or bracket is an
error. So the parser itself tells where statements end, and what stands inside a string is never taken for a key.
"""

from __future__ import annotations

import difflib
import re
import sys
from collections.abc import Iterable, Iterator
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

#: The longest file, in bytes. Whoever names a longer one has named the wrong file.
LIMIT = 1 << 20

#: How the parsers end what they say. Attributes for that came with Python 3.14.
_PLACE = re.compile(r" \(at (?:line (\d+), column (\d+)|end of document)\)$")


class TomlFile:
    """What a TOML file says.

    :raises ValueError: it is no UTF-8, no TOML, or too long. The text starts with ``FILE:LINE:`` or ``FILE:``.
    :raises OSError: it cannot be read.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        with open(path, "rb") as file:
            content = file.read(LIMIT + 1)
        if len(content) > LIMIT:
            raise ValueError(f"{path}: longer than {LIMIT} bytes, so hardly a configuration")
        self.text = _decode(path, content)
        self.values = parse(path, self.text)
        self._lines: dict[str, int] | None = None

    def where(self, key: str) -> str:
        """``FILE:LINE`` of *key*, which is one of `values`."""
        if self._lines is None:
            self._lines = lines_of_keys(self.text)
        return f"{self.path}:{self._lines[key]}"


def _decode(path: str, content: bytes) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ValueError(f"{path}:{line}: no UTF-8: {error.reason}") from None


def parse(path: str, text: str) -> dict[str, Any]:
    """The values of a document, of which *path* is the file.

    :raises ValueError: it is no TOML. The text starts with ``FILE:LINE:`` or ``FILE:``.
    """
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise ValueError(f"{path}: nested too deeply") from None
    except ValueError as error:  # not only TOMLDecodeError: `int` refuses thousands of digits
        said = str(error)
    place = _PLACE.search(said)
    if place is None:
        raise ValueError(f"{path}: {said}")
    line, column = place.groups()
    if line is None:  # of more use than the file's end is where that begins which has no end
        *_, (begun, _, _) = _statements(text)
        raise ValueError(f"{path}:{begun}: {said}")
    raise ValueError(f"{path}:{line}: {said[: place.start()]} (at column {column})")


def _statements(text: str) -> Iterator[tuple[int, str, dict[str, Any]]]:
    """Each statement of a document, comments and blank lines included: its first line, its text, what it says alone.

    What has no end comes last, and says nothing.
    """
    statement, first = "", 1
    for number, line in enumerate(text.split("\n"), 1):
        statement += line + "\n"
        try:
            parsed = tomllib.loads(statement)
        except ValueError:  # it goes on in the next line
            continue
        yield first, statement, parsed
        statement, first = "", number + 1
    if statement:
        yield first, statement, {}


def lines_of_keys(text: str) -> dict[str, int]:
    """The line, from 1, where each key at the top of a TOML document first stands; a table's is that of its header.

    >>> lines_of_keys('a = 1\\nb = [\\n  "c = 2",\\n]\\n[d.e]\\na = 3\\n')
    {'a': 1, 'b': 2, 'd': 5}

    :param text: a document that the parser takes.
    """
    found: dict[str, int] = {}
    in_table = False
    for first, statement, parsed in _statements(text):
        is_header = statement.lstrip().startswith("[")
        in_table = in_table or is_header
        if is_header or not in_table:
            for key in parsed:
                found.setdefault(key, first)
    return found


def near_miss(name: str, known: Iterable[str]) -> str:
    """`` (did you mean ...?)`` if one of *known* is much like *name*, else nothing."""
    close = difflib.get_close_matches(name, list(known), 1)
    return f" (did you mean {close[0]}?)" if close else ""

"""docs/api/traps.md names the tests that hold each trap, and those tests say so themselves."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
PAGE = TESTS.parent / "docs" / "api" / "traps.md"


def rows():
    """By name, the tests that a row of the table names; in the table's order."""
    found = {}
    for line in PAGE.read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if not line.startswith("|") or cells[0] in ("trap", "---"):
            continue
        name, old, new, tests = cells
        assert name not in found, f"{name} has two rows"
        assert old and new, f"the row of {name} does not say what was, or what is"
        found[name] = sorted(re.findall(r"`([^`]+)`", tests))
    return found


def marks():
    """By name, the tests that carry the marker; and how many marks stand above tests."""
    found, count = defaultdict(list), 0
    for path in TESTS.rglob("test_*.py"):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                for name in filter(None, map(trap, node.decorator_list)):
                    found[name].append(f"{path.relative_to(TESTS.parent)}::{node.name}")
                    count += 1
    return {name: sorted(tests) for name, tests in found.items()}, count


def trap(decorator):
    """The name that ``pytest.mark.trap("name")`` gives; None for other decorators."""
    if not isinstance(decorator, ast.Call) or ast.unparse(decorator.func) != "pytest.mark.trap":
        return None
    (name,) = decorator.args
    return ast.literal_eval(name)


ROWS = rows()
MARKS, COUNT = marks()


@pytest.mark.parametrize("name", ROWS)
def test_a_row_names_the_tests_that_carry_its_marker(name):
    assert ROWS[name], "no test holds it"
    assert ROWS[name] == MARKS.get(name, [])


def test_each_marker_has_a_row():
    assert set(MARKS) <= set(ROWS)


def test_markers_stand_above_tests_and_nowhere_else():
    lines = [line for path in TESTS.rglob("*.py") for line in path.read_text().splitlines()]
    assert sum(line.lstrip().startswith("@pytest.mark.trap(") for line in lines) == COUNT

"""The table of settings: whatever can be set can be set in every way, and the example has all of it."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import pytest

from vanilla.broker.cli import parser
from vanilla.broker.config import FILE_VARIABLE, read
from vanilla.broker.options import Options
from vanilla.broker.settings import GROUPS, PREFIX, SETTINGS

EXAMPLE = Path(__file__).parents[1] / "examples" / "vanilla-broker.toml"

#: What the program is told to do, rather than what holds for it.
ORDERS = {"--help", "-h", "--version", "--config", "--check"}


def test_every_flag_has_a_key_and_a_variable():
    flags = {flag for action in parser()._actions for flag in action.option_strings}
    names = {flag[2:] for flag in flags - ORDERS if not flag.startswith("--no-")}
    assert names == set(SETTINGS)
    variables = {setting.variable for setting in SETTINGS.values()} | {FILE_VARIABLE}
    assert len(variables) == len(SETTINGS) + 1
    assert all(re.fullmatch(PREFIX + "[A-Z]+(_[A-Z]+)*", variable) for variable in variables)


def test_every_option_of_a_broker_is_a_setting():
    assert {setting.field for setting in SETTINGS.values() if setting.field} == {
        field.name for field in fields(Options)
    }


def test_no_key_is_there_twice():
    assert len(SETTINGS) == sum(map(len, GROUPS.values()))


@pytest.mark.parametrize("setting", SETTINGS.values(), ids=list(SETTINGS))
def test_the_default_is_a_value_that_can_be(setting):
    assert setting.kind.accepts(setting.default)


def test_the_example_has_every_setting_with_its_default_and_what_help_says():
    text = EXAMPLE.read_text()
    assert read({}, str(EXAMPLE), {}).held == read({}, None, {}).held, "all of it is commented out"
    words = " ".join(text.replace("\n# ", " ").split())
    for setting in SETTINGS.values():
        assert f" {setting.text} #{setting.key} = " in words


def test_the_example_without_its_comment_signs_is_what_holds_without_it(tmp_path):
    path = tmp_path / "all.toml"
    path.write_text(re.sub(r"^#(?=[a-z])", "", EXAMPLE.read_text(), flags=re.MULTILINE))
    said, without = read({}, str(path), {}), read({}, None, {})
    assert {key: said[key] for key in SETTINGS} == {key: without[key] for key in SETTINGS}
    assert all(held.origin.startswith(f"{path}:") for held in said.held.values())

"""Errors of the wire: stable codes, all of them known and all of them used."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from vanilla.protocol import errors
from vanilla.protocol.connection import FIELDS
from vanilla.protocol.errors import CODES, FAILURES, BadMessage, ProtocolError, Refused, WireError
from vanilla.protocol.frames import FAIL

ROOT = Path(__file__).resolve().parent.parent
SOURCES = {path: path.read_text() for folder in ("protocol", "broker") for path in sorted((ROOT / folder).glob("*.py"))}
SAID = re.compile(r'(?:ProtocolError|Refused)\(\s*"([A-Z_]+)"')


@pytest.mark.parametrize("kind", [ProtocolError, Refused])
def test_an_error_has_a_code_and_prose(kind):
    error = kind("BAD_NAME", "what happened")
    assert (error.code, error.text, str(error)) == ("BAD_NAME", "what happened", "BAD_NAME: what happened")
    assert isinstance(error, WireError)


def test_the_type_says_whether_the_peer_goes():
    assert issubclass(BadMessage, ProtocolError)
    assert not issubclass(Refused, ProtocolError)
    assert BadMessage("x").code == "BAD_MESSAGE"


def test_every_code_that_is_raised_is_in_the_table():
    raised = {code for source in SOURCES.values() for code in SAID.findall(source)}
    assert raised <= set(CODES)


@pytest.mark.parametrize("code", CODES)
def test_every_code_in_the_table_is_used(code):
    others = [source for path, source in SOURCES.items() if path.name != "errors.py" or code == "BAD_MESSAGE"]
    assert any(f'"{code}"' in source for source in others)


@pytest.mark.parametrize("table", [CODES, FAILURES], ids=["codes", "failures"])
def test_codes_are_words_and_their_meaning_is_a_sentence(table):
    assert all(re.fullmatch(r"[A-Z]+(_[A-Z]+)*", code) and text and text[-1] != "." for code, text in table.items())
    assert errors.__doc__


@pytest.mark.parametrize("code", FAILURES)
def test_a_code_of_the_broker_may_stand_in_a_fail_frame(code):
    assert FIELDS[FAIL]["code"].check(code)

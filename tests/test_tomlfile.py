"""TOML files: the lines of their keys, and faults that say where they stand."""

from __future__ import annotations

import json
import platform

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vanilla.broker.tomlfile import LIMIT, TomlFile, lines_of_keys, near_miss

NAMES = st.sampled_from(["a", "b", "capacity", "max-frame", "1", "-"])
#: What stands between statements, or inside of them, and looks like a key.
DISGUISES = ["capacity = 1", "[a]", "'''", '# """', "a.b = 2", "", "\u2028b = 5", "]"]


def text_of(lines):
    return "\n".join(lines).replace("\\", "").replace('"""', '""').replace("'''", "''")


VALUES = st.one_of(
    st.integers().map(str),
    st.sampled_from(["true", "1979-05-27T07:32:00Z", "inf", "[]", "{}", "{ capacity = 1, 'b' = 2 }"]),
    st.text(st.characters(exclude_categories=["Cs", "Cc"])).map(lambda text: json.dumps(text, ensure_ascii=False)),
    st.lists(st.sampled_from(DISGUISES)).map(lambda lines: f'"""\n{text_of(lines)}\n"""'),
    st.lists(st.sampled_from(DISGUISES)).map(lambda lines: f"'''{text_of(lines)}\n'''"),
    st.lists(st.sampled_from(["1", "'capacity = 3'", "[\n2,\n]", "# [b]\n3"])).map(
        lambda items: "[\n" + "".join(f"  {item}, # a = 1\n" for item in items) + "]"
    ),
)
SPELLINGS = st.sampled_from(["{}", '"{}"', "'{}'", "  {}", '\t"{}" '])
GAPS = st.lists(st.sampled_from(["", "# capacity = 2", "   ", '\t# """', "# ["]), max_size=2)


@st.composite
def documents(draw):
    """A document, and the lines of the keys at its top."""
    lines, found, used = [], {}, set()
    for name in draw(st.lists(NAMES, unique=True)):
        lines += draw(GAPS)
        found[name] = len(lines) + 1
        inner = draw(st.sampled_from(["", ".x", " . 'y.z' "]))
        lines += f"{draw(SPELLINGS).format(name)}{inner} = {draw(VALUES)} # c".split("\n")
        if inner and draw(st.booleans()):
            lines.append(f"{name}.more = 1")
        used.add(name)
    for name in draw(st.lists(NAMES, unique=True)):
        if name not in used:
            lines += draw(GAPS)
            found[name] = len(lines) + 1
            lines.append(draw(st.sampled_from(["[{}]", "[[{}]]", "[{}.capacity]", " [ '{}' ] # [a]"])).format(name))
            lines += f"capacity = {draw(VALUES)}\n'a'.b = {draw(VALUES)}".split("\n")
    return draw(st.sampled_from(["\n", "\r\n"])).join([*lines, *draw(GAPS)]), found


@settings(deadline=None)
@given(documents())
def test_the_lines_of_keys_are_those_where_they_stand(document):
    text, found = document
    assert lines_of_keys(text) == found


@pytest.fixture
def write(tmp_path):
    def write(content):
        path = tmp_path / "a.toml"
        path.write_bytes(content)
        return str(path)

    return write


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (b"a = 1\nb = \nc = 3\n", 2),
        (b"a = 1\n\na = 2\n", 3),
        (b"a = 1\na = 2", 2),
        (b'a = 1\nb = """\nc = 3\n\n\n', 2),
        (b"a = [\n1,\n2\n", 1),
        (b"a = 1\n[b\nc = 3\n", 2),
        (b"a = 1 b = 2", 1),
        (b"\n\na", 3),
        (b"a = 1\nb = '\xff'\n", 2),
        (b"a = 1\n[a]\nb = 1\n", 2),
        (b"a = 1\rb = 2\n", 1),
    ],
)
def test_a_file_that_is_no_toml_fails_with_the_line(write, content, line):
    path = write(content)
    with pytest.raises(ValueError) as raised:
        TomlFile(path)
    assert str(raised.value).startswith(f"{path}:{line}: ")
    assert "\n" not in str(raised.value)


BEYOND = {
    "nested": b"a = " + b"[" * 100_000,
    "long": b"#" * (LIMIT + 1),
}
if platform.python_implementation() == "CPython":  # PyPy takes any number of digits
    BEYOND["digits"] = b"a = " + b"1" * 100_000


@pytest.mark.parametrize("content", BEYOND.values(), ids=list(BEYOND))
def test_a_file_beyond_all_measure_is_refused(write, content):
    path = write(content)
    with pytest.raises(ValueError) as raised:
        TomlFile(path)
    assert str(raised.value).startswith(f"{path}: ")


def test_a_file_says_where_its_keys_stand(write):
    path = write(b"# a = 0\na = 1\nb = '''\na = 2'''\n")
    file = TomlFile(path)
    assert file.values == {"a": 1, "b": "a = 2"}
    assert [file.where(key) for key in "ab"] == [f"{path}:2", f"{path}:3"]


def test_a_file_that_is_not_there_is_an_oserror(tmp_path):
    with pytest.raises(FileNotFoundError):
        TomlFile(str(tmp_path / "none.toml"))


def test_a_near_miss_is_offered_and_a_far_one_is_not():
    assert near_miss("capcity", ["capacity", "drain"]) == " (did you mean capacity?)"
    assert near_miss("xyz", ["capacity", "drain"]) == ""

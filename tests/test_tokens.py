"""The token file: what it may hold, who may have access to it, and what a text says about it never."""

from __future__ import annotations

import hashlib
import hmac
import os
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vanilla.broker import files, tokens
from vanilla.broker.tokens import Tokens, check_identity, digest_of, line_of, read_tokens

SECRET = "an example of 32 bytes of secret"
OTHER = "another example of a secret"
COMMAND = [sys.executable, "-m", "vanilla.broker", "token"]


@pytest.fixture
def file(tmp_path):
    """Writes a token file of these lines, with the mode 0600 unless told otherwise: its path."""

    def write(*lines, mode=0o600):
        path = tmp_path / "tokens"
        path.touch(mode=0o600)
        path.write_text("".join(f"{line}\n" for line in lines))
        path.chmod(mode)
        return str(path)

    return write


def fault(path):
    with pytest.raises(ValueError) as caught:
        read_tokens(path)
    assert str(caught.value).startswith(f"{path}:")
    return str(caught.value)


# -- whose token it is


def test_a_token_has_the_identity_of_its_line(file):
    known = read_tokens(file("# who pushes", "", line_of("web", SECRET), line_of("uid", OTHER) + "  "))
    assert (known.identify(SECRET), known.identify(OTHER)) == ("web", "uid")
    assert known.identify(SECRET.encode()) == "web"
    assert len(known) == 2


@pytest.mark.parametrize("wrong", [SECRET[:-1], SECRET + " ", SECRET.upper(), "x" * 43, "web", ""])
def test_another_token_has_none(file, wrong):
    assert read_tokens(file(line_of("web", SECRET))).identify(wrong) is None


def test_the_hash_of_a_token_is_no_token(file):
    assert read_tokens(file(line_of("web", SECRET))).identify(digest_of(SECRET)) is None
    assert read_tokens(file(line_of("web", SECRET))).identify(digest_of(SECRET).hex()) is None


def test_the_file_holds_the_sha256_as_any_tool_computes_it():
    assert line_of("web", SECRET) == f"web: sha256:{hashlib.sha256(SECRET.encode()).hexdigest()}"


def test_an_identity_may_have_several_tokens_so_that_one_can_be_replaced(file):
    known = read_tokens(file(line_of("web", SECRET), line_of("web", OTHER)))
    assert known.identify(SECRET) == known.identify(OTHER) == "web"


@pytest.mark.parametrize("place", [0, 1, 2])
def test_all_entries_are_compared_wherever_the_right_one_stands(monkeypatch, place):
    compared = []

    def compare(a, b):
        compared.append(a)
        return a == b

    monkeypatch.setattr(hmac, "compare_digest", compare)
    entries = [(digest_of(f"token {number}"), str(number)) for number in range(3)]
    assert Tokens(entries).identify(f"token {place}") == str(place)
    assert compared == [digest for digest, _ in entries]


identities = st.text(st.characters(exclude_categories=("Cc", "Cs", "Zs", "Zl", "Zp")), min_size=1, max_size=60).filter(
    lambda text: not text.startswith(("#", "uid:"))
)


@settings(deadline=None)
@given(st.dictionaries(st.binary(min_size=16, max_size=256), identities, min_size=1, max_size=8))
def test_what_is_written_by_line_of_is_read_back(tmp_path_factory, pairs):
    path = tmp_path_factory.mktemp("tokens") / "t"
    path.touch(mode=0o600)
    path.write_text("\n".join(line_of(identity, token) for token, identity in pairs.items()), encoding="utf-8")
    known = read_tokens(str(path))
    assert {token: known.identify(token) for token in pairs} == pairs


# -- a wrong file


@pytest.mark.parametrize(
    "line",
    [
        f"web: {SECRET}",
        SECRET,
        f"{SECRET}: sha256:",
        f"web {line_of('web', SECRET)}",
        line_of("web", SECRET)[:-1],
        line_of("web", SECRET) + "0",
        line_of("web", SECRET).replace(": sha256", ":sha256"),
        line_of("web", SECRET).replace("sha256", "md5"),
        line_of("web", SECRET).replace("web", "uid:0"),
        line_of("web", SECRET).replace("web", "x" * 256),
        line_of("web", SECRET).replace("web", "w\x85b"),
        line_of("web", SECRET).replace("web", "w\x01b"),
    ],
)
def test_a_wrong_line_is_told_by_its_number_and_never_quoted(file, line):
    path = file("# first", line_of("first", OTHER), line)
    said = fault(path)
    assert said.startswith(f"{path}:3: ")
    for word in (SECRET, digest_of(SECRET).hex()[:16], "web"):
        assert word not in said.replace("vanilla-broker", "")


def test_one_token_for_two_identities_is_refused(file):
    said = fault(file(line_of("web", SECRET), line_of("worker", OTHER), line_of("other", SECRET)))
    assert ":3: the same token is in line 1" in said


@pytest.mark.parametrize("lines", [(), ("", "# nobody")])
def test_a_file_without_any_token_is_refused(file, lines):
    assert "no token in it" in fault(file(*lines))


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o602, 0o610, 0o601, 0o644, 0o660])
def test_a_file_to_which_others_have_access_is_refused(file, mode):
    said = fault(file(line_of("web", SECRET), mode=mode))
    assert f"{mode:04o}" in said and "chmod 600" in said


@pytest.mark.parametrize("mode", [0o600, 0o400, 0o700, 0o500])
def test_a_file_for_its_owner_alone_is_fine(file, mode):
    assert len(read_tokens(file(line_of("web", SECRET), mode=mode))) == 1


def test_a_file_of_another_user_is_refused_and_one_of_root_is_fine(file, monkeypatch):
    path = file(line_of("web", SECRET))
    owner = os.stat(path).st_uid
    monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    if owner:
        assert f"belongs to user {owner}" in fault(path)
    else:
        assert read_tokens(path)
    found = os.stat(path)
    fields = list(found)
    fields[4] = owner + 2
    monkeypatch.setattr(os, "fstat", lambda fd: os.stat_result(fields))
    assert f"belongs to user {owner + 2}, not to the broker's ({owner + 1}) or root" in fault(path)


def test_what_systemd_passes_may_show_an_acl_as_the_groups_permission(file, monkeypatch, tmp_path):
    path = file(line_of("web", SECRET), mode=0o440)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path / "elsewhere"))
    assert "0440" in fault(path)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    assert len(read_tokens(path)) == 1
    for mode in 0o444, 0o460, 0o450:
        os.chmod(path, mode)
        assert f"{mode:04o}" in fault(path)


def test_a_file_that_is_not_there_is_told_with_its_name(tmp_path):
    with pytest.raises(OSError, match="cannot read it: No such file"):
        files.read(str(tmp_path / "none"))


@pytest.mark.parametrize("kind", ["folder", "fifo"])
def test_what_is_no_regular_file_is_refused_at_once(tmp_path, kind):
    path = tmp_path / "it"
    path.mkdir() if kind == "folder" else os.mkfifo(path, 0o600)
    with pytest.raises((OSError, ValueError), match=f"{path}: (this is no regular file|cannot read it)"):
        files.read(str(path))


def test_a_file_that_is_no_text_is_refused_and_not_quoted(tmp_path):
    path = tmp_path / "tokens"
    path.touch(mode=0o600)
    path.write_bytes(SECRET.encode() + b"\xff")
    said = fault(str(path))
    assert SECRET not in said and "UTF-8" in said


# -- identities


@pytest.mark.parametrize("identity", ["web", "Web-1.example.org", "a:b", "é", "x" * 255, "ui", "user@host", "*"])
def test_an_identity_is_a_word(identity):
    assert check_identity(identity) == identity


@pytest.mark.parametrize("identity", ["", "a b", " a", "a\n", "a\x00", "a\u2003b", "#a", "uid:1", "é" * 128, "\ud800"])
def test_what_could_be_mistaken_is_no_identity(identity):
    with pytest.raises(ValueError):
        check_identity(identity)


# -- the program


def test_the_program_makes_a_secret_and_its_line(file):
    made = [subprocess.run([*COMMAND, "web"], capture_output=True, text=True, check=True) for _ in range(2)]
    secrets = [done.stdout.removesuffix("\n") for done in made]
    assert all(len(secret) == 43 and "\n" not in secret for secret in secrets)
    assert secrets[0] != secrets[1]
    known = read_tokens(file(*(done.stderr.removesuffix("\n") for done in made)))
    assert [known.identify(secret) for secret in secrets] == ["web", "web"]
    assert secrets[0] not in made[0].stderr


@pytest.mark.parametrize("args", [(), ("",), ("a b",), ("uid:0",), ("a", "b")])
def test_the_program_makes_none_for_what_is_no_identity(args):
    done = subprocess.run([*COMMAND, *args], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert_is_a_comment(done.stderr)


def assert_is_a_comment(said):
    """It may have been appended to the broker's file."""
    assert said.startswith("# vanilla-broker token: ") and said.index("\n") == len(said) - 1


def test_a_token_that_cannot_be_written_has_no_line():
    with open("/dev/full", "w") as full:
        done = subprocess.run([*COMMAND, "web"], stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 1
    assert_is_a_comment(done.stderr)
    assert "No space left" in done.stderr


def test_a_token_that_the_program_makes_is_256_random_bits(monkeypatch, capsys):
    asked = []
    monkeypatch.setattr(tokens.secrets, "token_urlsafe", lambda size: asked.append(size) or "made")
    tokens.main(["web"])
    assert asked == [32]
    assert capsys.readouterr().out == "made\n"

"""Permissions: what patterns match, what rules allow, and what a wrong file is told."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from vanilla.broker.permissions import VERBS, Permissions, Rule, pattern, read_permissions


@pytest.fixture
def file(tmp_path):
    def write(text):
        path = tmp_path / "permissions.toml"
        path.write_text(text, encoding="utf-8")
        return str(path)

    return write


# -- patterns


@pytest.mark.parametrize(
    ("text", "right", "wrong"),
    [
        ("jobs", ["jobs"], ["", "job", "jobs.", "jobs.dead", "xjobs", "Jobs", "jobs\n"]),
        ("jobs.*", ["jobs.", "jobs.dead", "jobs.a.b/c"], ["jobs", "jobsx", "xjobs.a"]),
        ("jobs*", ["jobs", "jobs.dead", "jobsearch"], ["job", "xjobs"]),
        ("*.dead", [".dead", "jobs.dead", "a.b.dead"], ["dead", "jobs.dead.x", "jobsxdead"]),
        ("*", ["", "a", "a.b/c d", "é", "\n"], []),
        ("?*", ["a", "abc"], [""]),
        ("a?c", ["abc", "a.c", "aéc"], ["ac", "abbc", "a"]),
        ("[ab]", ["[ab]"], ["a", "b", ""]),
        ("[!a]*", ["[!a]", "[!a]x"], ["b", "bx"]),
        ("a[", ["a["], ["a"]),
        ("a.c", ["a.c"], ["abc"]),
        ("a\\*", ["a\\", "a\\b"], ["a*"]),
        ("(a|b)+$^", ["(a|b)+$^"], ["a"]),
        ("é", ["é"], ["e\u0301", "É"]),
    ],
)
def test_a_pattern_is_for_a_whole_name(text, right, wrong):
    matched = pattern(text)
    assert [name for name in right if not matched.match(name)] == []
    assert [name for name in wrong if matched.match(name)] == []


def globbed(text, name):
    """What a pattern matches, in the simplest words."""
    if not text:
        return not name
    if text[0] == "*":
        return any(globbed(text[1:], name[at:]) for at in range(len(name) + 1))
    return bool(name) and text[0] in ("?", name[0]) and globbed(text[1:], name[1:])


@settings(deadline=None)
@given(st.text("ab.*?[]!-\\^", max_size=7), st.text("ab.*?[]!-\\^", max_size=9))
@example("*[!a]", "b")
def test_a_pattern_matches_what_its_definition_says(text, name):
    assert bool(pattern(text).match(name)) == globbed(text, name)


@settings(deadline=None)
@given(st.text(max_size=20))
def test_a_name_without_wildcards_matches_itself(name):
    assert "*" in name or "?" in name or bool(pattern(name).match(name))


def test_no_pattern_takes_more_than_linear_time():
    assert not pattern("*a" * 100 + "b").match("a" * 255)  # would not end


# -- rules

RULES = [
    Rule("web-*", "jobs.*", frozenset({"push"})),
    Rule("worker", "jobs.*", frozenset({"pull", "push"})),
    Rule("worker", "log", frozenset({"push"})),
    Rule("*", "public", frozenset({"subscribe"})),
]


@pytest.mark.parametrize(
    ("identity", "verb", "endpoint", "allowed"),
    [
        ("web-1", "push", "jobs.a", True),
        ("web-1", "pull", "jobs.a", False),
        ("web-1", "push", "log", False),
        ("web", "push", "jobs.a", False),
        ("worker", "pull", "jobs.a", True),
        ("worker", "push", "jobs.a", True),
        ("worker", "push", "log", True),
        ("worker", "pull", "log", False),
        ("", "subscribe", "public", True),
        ("web-1", "subscribe", "public", True),
        ("", "push", "jobs.a", False),
        ("", "admin", "", False),
    ],
)
def test_what_no_rule_allows_is_denied(identity, verb, endpoint, allowed):
    permissions = Permissions(RULES)
    for _ in range(2):  # the second time from memory
        assert permissions.allow(identity, verb, endpoint) is allowed
    assert Permissions(reversed(RULES)).allow(identity, verb, endpoint) is allowed


def test_identities_that_are_remembered_do_not_grow_without_end():
    permissions = Permissions(RULES)
    for number in range(3_000):
        assert permissions.allow(f"web-{number}", "push", "jobs.a")
    assert permissions._rules_of.cache_info().currsize <= 1_000


def test_a_rule_with_admin_is_for_the_whole_broker(file):
    path = file('[[rule]]\nidentity = "ops"\nendpoint = "*"\nverbs = ["admin"]')
    assert read_permissions(path).allow("ops", "admin", "")
    assert not read_permissions(path).allow("web", "admin", "")


def test_a_file_without_rules_denies_everything(file):
    permissions = read_permissions(file("# nobody yet\n"))
    assert len(permissions) == 0
    assert not any(permissions.allow("root", verb, "jobs") for verb in VERBS)


def test_a_rule_allows_all_of_its_verbs(file):
    path = file(f'[[rule]]\nidentity = "a"\nendpoint = "*"\nverbs = {list(VERBS)}')
    assert all(read_permissions(path).allow("a", verb, "b") for verb in VERBS)


# -- a wrong file


def rule(**fields):
    lines = {"identity": '"a"', "endpoint": '"b"', "verbs": '["push"]', **fields}
    return "[[rule]]\n" + "".join(f"{key} = {value}\n" for key, value in lines.items() if value is not None)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("a = [1,\n]]\n", ":2: "),
        ("[[rule]]\nidentity = 'a'\nendpoint =\n", ":3: "),
        ("rules = []", "there is no key 'rules'"),
        ("rule = 5", "double brackets"),
        ("[rule]\nidentity = 'a'", "double brackets"),
        ("rule = [5]", "rule 1: a rule is a table"),
        (rule() + rule(verb='"push"'), "rule 2: there is no key 'verb'"),
        (rule() + rule(identity=None), "rule 2: it lacks 'identity'"),
        (rule(endpoint=None), "rule 1: it lacks 'endpoint'"),
        (rule(verbs=None), "rule 1: it lacks 'verbs'"),
        (rule(identity='""'), "rule 1: 'identity' is a pattern, and not empty"),
        (rule(endpoint='""'), "rule 1: 'endpoint' is a pattern, and not empty"),
        (rule(endpoint="5"), "rule 1: 'endpoint'"),
        (rule(identity='["a"]'), "rule 1: 'identity'"),
        (rule(verbs='"push"'), "rule 1: 'verbs' is a list"),
        (rule(verbs="[]"), "rule 1: 'verbs' is a list"),
        (rule(verbs='["push", "fly"]'), "rule 1: there is no verb 'fly'"),
        (rule(verbs='["Push"]'), "rule 1: there is no verb 'Push'"),
        (rule(verbs='[["push"]]'), "rule 1: there is no verb ['push']"),
        (rule() * 3 + rule(verbs='["push", "admin"]'), "rule 4: 'admin' is for the whole broker"),
    ],
)
def test_a_wrong_file_is_told_its_line_or_rule(file, text, complaint):
    path = file(text)
    with pytest.raises(ValueError) as caught:
        read_permissions(path)
    assert str(caught.value).startswith(f"{path}:")
    assert complaint in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", [f"rule = {'[' * 5000}", f"rule = {'9' * 5000}"], ids=["deep", "long"])
def test_what_the_parser_chokes_on_is_told_with_the_files_name(file, text):
    path = file(text)
    with pytest.raises(ValueError) as caught:
        read_permissions(path)
    assert str(caught.value).startswith(path)


def test_a_file_that_is_not_there_is_told_with_its_name(tmp_path):
    with pytest.raises(OSError, match="cannot read it: No such file"):
        read_permissions(str(tmp_path / "none"))

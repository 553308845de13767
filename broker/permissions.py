"""Permissions: which identity may do what with which endpoints, from a TOML file.

The file is a list of rules, of which each allows something; what no rule allows is denied, and their order is of no
matter::

    [[rule]]
    identity = "web-*"
    endpoint = "jobs.*"
    verbs = ["push"]

``identity`` and ``endpoint`` are patterns for whole names. In them ``*`` stands for any number of characters, also
none, and ``?`` for exactly one; everything else, dots, colons and brackets too, stands for itself, and capital letters
are not small ones. So

* ``jobs`` is the endpoint jobs alone; not jobs.dead, where its dead letters go;
* ``jobs.*`` is jobs.dead and jobs.a.b, but not jobs; ``jobs*`` is all of these, and jobsearch;
* ``*`` is everything, and everybody: as an identity also the empty one, of who is anonymous. ``?*`` is everybody who is
  somebody. ``uid:1000`` is user 1000 at a Unix socket.

``verbs`` says what: see `VERBS`. ``admin`` is for the whole broker, so a rule with it has the endpoint ``*``.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Any, NamedTuple

from .files import read
from .tomlfile import parse

#: What a permission may be for. `access.NEEDS` says which frames need which.
VERBS = ("push", "pull", "call", "serve", "subscribe", "admin")
#: The pattern that everything matches.
EVERYTHING = "*"
_KEYS = ("identity", "endpoint", "verbs")
#: Identities whose rules are remembered.
_REMEMBERED = 1_000


class Rule(NamedTuple):
    """Whoever matches ``identity`` may do ``verbs`` with what matches ``endpoint``."""

    identity: str
    endpoint: str
    verbs: frozenset[str]


class Permissions:
    """What a list of rules allows.

    :param rules: see `read_permissions`.
    """

    def __init__(self, rules: Iterable[Rule]) -> None:
        self._rules = [(pattern(rule.identity), pattern(rule.endpoint), rule.verbs) for rule in rules]
        self._rules_of = lru_cache(_REMEMBERED)(self._find_rules)

    def __len__(self) -> int:
        return len(self._rules)

    def allow(self, identity: str, verb: str, endpoint: str) -> bool:
        """May *identity*, the empty text being who is anonymous, do *verb* with *endpoint*?"""
        return any(verb in verbs and matches.match(endpoint) for matches, verbs in self._rules_of(identity))

    def _find_rules(self, identity: str) -> list[tuple[re.Pattern[str], frozenset[str]]]:
        return [(endpoint, verbs) for somebody, endpoint, verbs in self._rules if somebody.match(identity)]


def pattern(text: str) -> re.Pattern[str]:
    """A pattern of a rule as a regular expression, which takes linear time whatever it is matched with."""
    return re.compile(fnmatch.translate(text.replace("[", "[[]")))


def read_permissions(path: str) -> Permissions:
    """The permissions in a file.

    :raises OSError: it cannot be read.
    :raises ValueError: it is no TOML, or a rule is wrong; the text names the line or the rule.
    """
    fields = parse(path, read(path))
    for key in fields:
        if key != "rule":
            raise ValueError(f"{path}: there is no key {key!r}, only [[rule]]")
    rules = fields.get("rule", [])
    if not isinstance(rules, list):
        raise ValueError(f"{path}: a rule starts with [[rule]], in double brackets")
    return Permissions([_rule(f"{path}: rule {number}", each) for number, each in enumerate(rules, 1)])


def _rule(where: str, fields: Any) -> Rule:
    if not isinstance(fields, dict):
        raise ValueError(f"{where}: a rule is a table, which starts with [[rule]]")
    for key in fields:
        if key not in _KEYS:
            raise ValueError(f"{where}: there is no key {key!r}; a rule has {', '.join(_KEYS)}")
    for key in _KEYS:
        if key not in fields:
            raise ValueError(f"{where}: it lacks {key!r}")
    for key in _KEYS[:2]:
        if not isinstance(fields[key], str) or not fields[key]:
            raise ValueError(f"{where}: {key!r} is a pattern, and not empty; everything is {EVERYTHING!r}")
    verbs = fields["verbs"]
    if not isinstance(verbs, list) or not verbs:
        raise ValueError(f"{where}: 'verbs' is a list of one at least of {', '.join(VERBS)}")
    for verb in verbs:
        if verb not in VERBS:
            raise ValueError(f"{where}: there is no verb {verb!r}, only {', '.join(VERBS)}")
    if "admin" in verbs and fields["endpoint"] != EVERYTHING:
        raise ValueError(f"{where}: 'admin' is for the whole broker; give it a rule whose endpoint is {EVERYTHING!r}")
    return Rule(fields["identity"], fields["endpoint"], frozenset(verbs))

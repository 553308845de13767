"""The messages that wait at an endpoint, looked at and dealt with from outside: `Remote.dead`, `Remote.waiting`.

Nothing is opened for that and nothing is taken: the broker does what is asked, within one of its ticks.
"""

from __future__ import annotations

from typing import Any, Callable, NamedTuple

from vanilla.protocol.connection import FIELDS, REASON_CHARACTERS
from vanilla.protocol.frames import ADMIN
from vanilla.protocol.urls import check_name

from .death import Death, read_death
from .packing import unpack

#: Messages that `Waiting.peek` shows unless told otherwise.
SOME = 10
#: How long the broker may take for an answer, in ms.
ANSWER_MS = 10_000


class Count(NamedTuple):
    """What `Waiting.count` found: how many there are, how long the oldest is there in ms (None: there is none), and how
    many died for which reason, the most frequent of these first. Of a hundred reasons, the rest is left out."""

    n: int
    oldest: int | None
    reasons: dict[str, int]


class Moved(NamedTuple):
    """What `Waiting.replay` did: how many ``moved``, how many were to move and are ``left``, and why ("" if none)."""

    moved: int
    left: int
    why: str


class Letter(NamedTuple):
    """A message as it lies in the broker: its packed ``body``, its ``age`` there in ms, how many of its deliveries from
    there have failed, and what it died of, if it is a dead letter."""

    body: bytes
    age: int
    attempts: int
    dead: Death | None

    @property
    def item(self) -> Any:
        """What was sent.

        :raises ValueError: it is nothing that Python can hold.
        """
        try:
            return unpack(b"\x91" + self.body)[0]
        except (TypeError, OverflowError) as error:
            raise ValueError(f"this message cannot be decoded: {error}") from None


class Waiting:
    """The messages that wait at an endpoint, or its dead letters: those that are ready, or delayed. What a consumer has
    been sent and has not settled is not among them. Arguments that cannot be meant are a ValueError.

    To ask wants the permission ``admin``. Each method raises `Refused` (DENIED without it; MISMATCH if the endpoint is
    of a kind that holds no messages; GOING_AWAY: the broker begins no replay any more), `ConnectionLost`, and `Timeout`
    if there is no answer in *timeout* ms. An endpoint that is not there holds nothing.
    """

    def __init__(self, ask: Callable[[int, dict[str, Any], float], Any], name: str, dead: bool) -> None:
        self._ask = ask
        self.name = name
        self._dead = dead

    def __repr__(self) -> str:
        return f"<{'Dead letters' if self._dead else 'What waits'} of {self.name!r}>"

    def _order(self, timeout: float, fields: dict[str, Any]) -> dict[str, Any]:
        given = {key: value for key, value in fields.items() if value is not None}
        _check(given)
        answer: dict[str, Any] = self._ask(ADMIN, {**given, "name": self.name, "dead": self._dead}, timeout)
        return answer

    def count(self, reason: str | None = None, timeout: float = ANSWER_MS) -> Count:
        """How many there are.

        :param reason: count only dead letters that died for this.
        """
        found = self._order(timeout, {"do": "count", "reason": reason})
        return Count(found["n"], found.get("oldest"), found.get("reasons", {}))

    def peek(
        self, n: int = SOME, first: int = 0, reason: str | None = None, timeout: float = ANSWER_MS
    ) -> list[Letter]:
        """Look at *n* of them, the oldest first, without taking them. Those that are delayed come last.

        :param first: how many to pass over.
        :param reason: look only at dead letters that died for this.
        :param timeout: for each page of some hundred.
        """
        _check({"n": n})
        letters: list[Letter] = []
        at: int | None = first
        while at is not None and len(letters) < n:
            page = self._order(timeout, {"do": "peek", "n": n - len(letters), "from": at, "reason": reason})
            letters += map(_letter, page["messages"])
            at = page.get("next")
        return letters

    def purge(self, reason: str | None = None, timeout: float = ANSWER_MS) -> int:
        """Drop them for good, also those that nobody can decode.

        :param reason: drop only dead letters that died for this.
        :return: how many; they count as ``dropped``.
        """
        count: int = self._order(timeout, {"do": "purge", "reason": reason})["n"]
        return count

    def replay(
        self, n: int | None = None, to: str | None = None, reason: str | None = None, timeout: float = ANSWER_MS
    ) -> Moved:
        """Move dead letters back to where they died, as far as there is room: there they are new, and have all their
        attempts before them. Here they count as acknowledged.

        :param n: how many at most; None for all.
        :param to: the work queue to move them to; then other messages move, too.
        :param reason: move only dead letters that died for this.
        """
        done = self._order(timeout, {"do": "replay", "n": n, "to": to, "reason": reason})
        return Moved(done["n"], done.get("left", 0), done.get("text", ""))


def _check(fields: dict[str, Any]) -> None:
    """What the broker would take for a broken protocol is the caller's mistake, and told here.

    :raises ValueError: it is one.
    """
    for key, value in fields.items():
        field = FIELDS[ADMIN][key]
        if not field.check(value):
            raise ValueError(f"{'first' if key == 'from' else key} is {value!r}, but should be: {field.what}")
    if len(fields.get("reason", "")) > REASON_CHARACTERS:
        raise ValueError(f"a reason has {REASON_CHARACTERS} characters at most")
    if "to" in fields:
        check_name(fields["to"])


def _letter(shown: dict[str, Any]) -> Letter:
    return Letter(shown["body"], shown["age"], shown["attempts"], read_death(shown.get("dead")))

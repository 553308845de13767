"""The options of an endpoint: what an OPEN of push or pull may ask of the work queue that it opens, by name.

Both sides check them: a client before it asks, a broker before it believes.
"""

from __future__ import annotations

from typing import Any, Callable, NamedTuple

from .errors import Refused
from .urls import check_name

#: What becomes of producers while the queue is full: they wait, they are told so, or the oldest messages go.
OVERFLOW = ("block", "reject", "drop-oldest")
#: The longest time that may be given, in ms: 34 years.
MAX_MS = 1 << 40
#: How much of a wrong value an error shows, in characters.
_SHOWN = 100


class Term(NamedTuple):
    """One option: ``check`` says whether a value will do, ``is_`` what will, ``what`` what it means."""

    check: Callable[[Any], bool]
    is_: str
    what: str


def _integer(low: int, high: int, text: str, what: str) -> Term:
    return Term(lambda value: type(value) is int and low <= value <= high, f"integer, {low} to {text}", what)


def _is_name(value: Any) -> bool:
    if type(value) is not str:
        return False
    try:
        check_name(value)
    except ValueError:
        return False
    return True


#: Every option. ``docs/protocol.md`` has the same table, and a test compares them.
TERMS: dict[str, Term] = {
    "capacity": _integer(1, 1 << 62, "2^62", "messages that it holds for its consumers"),
    "capacity_bytes": _integer(1, 1 << 62, "2^62", "bytes of packed messages that it holds"),
    "overflow": Term(
        lambda value: type(value) is str and value in OVERFLOW,
        "block, reject or drop-oldest",
        "while it is full: producers wait, or are told FULL, or its oldest messages go",
    ),
    "max_attempts": _integer(1, 1_000_000, "1000000", "deliveries that fail before a message becomes a dead letter"),
    "backoff": _integer(0, 86_400_000, "86400000", "ms until the second delivery; doubles with each further one"),
    "dead": Term(_is_name, "name of an endpoint", "where its dead letters go"),
    "ttl": _integer(0, MAX_MS, "2^40", "ms that a message may wait here, if it does not say itself; 0: for ever"),
    "lease": _integer(0, MAX_MS, "2^40", "ms that a consumer has for a delivery, if it does not say itself; 0: no end"),
    "dedupe_entries": _integer(0, 1_000_000, "1000000", "ids of messages that are remembered"),
    "dedupe": _integer(0, MAX_MS, "2^40", "ms for which they are remembered"),
}


def check_terms(options: dict[Any, Any]) -> dict[str, Any]:
    """*options*, if they are some.

    :raises Refused: BAD_OPTION: there is no such option, or it cannot have this value.
    """
    for key, value in options.items():
        term = TERMS.get(key) if type(key) is str else None
        if term is None:
            text = f"an endpoint has no option {repr(key)[:_SHOWN]}; there are {', '.join(TERMS)}"
            raise Refused("BAD_OPTION", text)
        if not term.check(value):
            text = f"option {key!r} of an endpoint is not right: {repr(value)[:_SHOWN]} is no {term.is_}"
            raise Refused("BAD_OPTION", text)
    return options

"""`vanilla dead`, `vanilla peek` and `vanilla purge`: what waits at an endpoint, for who looks after it."""

from __future__ import annotations

import json
from argparse import Namespace
from typing import Any, Callable

from vanilla.core import Hub

from .commands import connect
from .failed import Failed
from .jsonlines import encode
from .remote import Remote
from .table import columns, duration, plural
from .waiting import Letter, Waiting

#: How much of a message a table shows, in characters.
SHOWN = 80
#: Headings of the tables of messages and of dead letters.
HEADINGS = ["age", "failed", "message"]
DEAD_HEADINGS = ["reason", "failed", "died", "accepted", "last consumer", "message"]
#: Letters that `peek` shows unless told otherwise.
PEEK = 10
#: What the status of the shell is if the command line is wrong, as argparse has it.
USAGE = 2


def dead(args: Namespace) -> None:
    """What is to be done with the dead letters of an endpoint; to count them, if nothing is said."""
    for flag, value, action in (
        ("-n", args.count, ("peek", "replay")),
        ("--to", args.to, ("replay",)),
        ("--yes", args.yes or None, ("purge",)),
    ):
        if value is not None and args.action not in action:
            raise Failed(f"{flag} is for {' and '.join(action)} only", USAGE)
    _run(args, lambda remote: remote.dead(args.name), "dead letter", args.action)


def peek(args: Namespace) -> None:
    """The messages that wait at an endpoint."""
    _run(args, lambda remote: remote.waiting(args.name), "message", "peek")


def purge(args: Namespace) -> None:
    """Drop the messages that wait at an endpoint."""
    _run(args, lambda remote: remote.waiting(args.name), "message", "purge")


def _run(args: Namespace, of: Callable[[Remote], Waiting], noun: str, action: str) -> None:
    with Hub() as hub, connect(hub, args) as remote:
        said = _ACTIONS[action](of(remote), args, noun)
    if said:
        print(said)


def _count(waiting: Waiting, args: Namespace, noun: str) -> str:
    n, oldest, reasons = waiting.count(args.reason)
    if args.json:
        return json.dumps({"name": args.name, "n": n, "oldest": oldest, "reasons": reasons}, ensure_ascii=False)
    head = f"{args.name}: {plural(n, noun)}"
    if oldest is not None:
        head += f", the oldest there for {duration(oldest / 1000)}"
    rows = [[reason, str(count)] for reason, count in reasons.items()]
    return "\n".join([head, "", *columns([["reason", "letters"], *rows])] if rows else [head])


def _peek(waiting: Waiting, args: Namespace, noun: str) -> str:
    letters = waiting.peek(args.count or PEEK, reason=args.reason)
    if args.json:
        return "\n".join(json.dumps(_fields(letter), ensure_ascii=False) for letter in letters)
    if not letters:
        return f"{args.name}: {plural(0, noun)}"
    if any(letter.dead for letter in letters):
        return "\n".join(columns([DEAD_HEADINGS, *map(_dead_row, letters)], left=(0, 4, 5)))
    return "\n".join(columns([HEADINGS, *map(_row, letters)], left=(2,)))


def _fields(letter: Letter) -> dict[str, Any]:
    shown: dict[str, Any] = {"age": letter.age, "attempts": letter.attempts}
    if letter.dead is not None:
        shown["dead"] = letter.dead._asdict()
    line = _line(letter)
    return {**shown, "hex": letter.body.hex()} if line is None else {**shown, "item": json.loads(line)}


def _line(letter: Letter) -> str | None:
    """A message as JSON; None if there is no such form of it."""
    try:
        return encode(letter.item).decode().rstrip("\n")
    except ValueError:
        return None


def _text(letter: Letter) -> str:
    """A message as it stands in a table."""
    line = _line(letter) or f"hex {letter.body.hex()}"
    text = "".join(char if char.isprintable() else "?" for char in line)
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 3]}..."


def _row(letter: Letter) -> list[str]:
    return [duration(letter.age / 1000), str(letter.attempts), _text(letter)]


def _dead_row(letter: Letter) -> list[str]:
    death = letter.dead
    if death is None:  # somebody has pushed it there
        return ["-", "-", "-", "-", "-", _text(letter)]
    ages = [duration(age / 1000) for age in (death.died, death.accepted)]
    return [death.reason, str(death.attempts), *ages, death.last_consumer or "-", _text(letter)]


def _replay(waiting: Waiting, args: Namespace, noun: str) -> str:
    moved, left, why = waiting.replay(args.count, args.to, args.reason)
    if args.json:
        print(json.dumps({"name": args.name, "moved": moved, "left": left, "why": why}, ensure_ascii=False))
        if left:
            raise Failed("")
        return ""
    said = f"{args.name}: {plural(moved, noun)} replayed"
    if left:
        raise Failed(f"{said}, {left} left: {why}")
    return said


def _purge(waiting: Waiting, args: Namespace, noun: str) -> str:
    if not args.yes:
        n = waiting.count(args.reason).n
        raise Failed(f"this would drop {plural(n, noun)} of {args.name!r} for good; say so by --yes")
    n = waiting.purge(args.reason)
    if args.json:
        return json.dumps({"name": args.name, "purged": n}, ensure_ascii=False)
    return f"{args.name}: {plural(n, noun)} purged"


_ACTIONS: dict[str, Callable[[Waiting, Namespace, str], str]] = {
    "count": _count,
    "peek": _peek,
    "replay": _replay,
    "purge": _purge,
}

"""`vanilla declare`: options of an endpoint, from the shell."""

from __future__ import annotations

from argparse import ArgumentParser, ArgumentTypeError, Namespace
from typing import Any, Callable

from vanilla.core import Hub
from vanilla.protocol.terms import OVERFLOW, TERMS, Term

from .commands import connect

#: What stands for a value in the help.
_METAVARS = {
    "capacity": "N",
    "capacity_bytes": "BYTES",
    "max_attempts": "N",
    "dead": "ENDPOINT",
    "dedupe_entries": "N",
}
#: Options whose values are text.
_TEXTS = ("overflow", "dead")


def declare(args: Namespace) -> None:
    """Make an endpoint with options, or see that it has them."""
    options = {name: getattr(args, name) for name in TERMS if getattr(args, name) is not None}
    with Hub() as hub, connect(hub, args) as remote:
        remote.declare(args.name, **options)


def add_options(command: ArgumentParser) -> None:
    """A flag for each option that an endpoint has."""
    for name, term in TERMS.items():
        command.add_argument(
            "--" + name.replace("_", "-"),
            metavar="|".join(OVERFLOW) if name == "overflow" else _METAVARS.get(name, "MS"),
            type=_value(name, term),
            help=term.what,
        )


def _value(name: str, term: Term) -> Callable[[str], Any]:
    def convert(text: str) -> Any:
        value: Any = text if name in _TEXTS else int(text) if text.isdecimal() else None
        if not term.check(value):
            raise ArgumentTypeError(f"{text!r} is no {term.is_}")
        return value

    return convert

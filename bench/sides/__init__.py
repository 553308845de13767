"""The sides of a comparison: ours and its peers, a file each. `side.Side` says what such a file has to offer."""

from __future__ import annotations

from importlib import import_module

from .side import Side


def find(name: str) -> Side:
    """The side called *name*: ``pyzmq`` and ``pyzmq-batched`` are both in pyzmq.py. This imports no peer."""
    sides: dict[str, Side] = import_module(f"{__name__}.{name.partition('-')[0]}").SIDES
    return sides[name]

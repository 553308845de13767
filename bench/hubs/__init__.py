"""Libraries that run tasks in one thread: ours and its peers, a file each. `library.Library` says what one offers."""

from __future__ import annotations

from importlib import import_module

from .library import Library

#: In the order of the tables.
NAMES = ("vanilla", "gevent", "asyncio", "trio")


def find(name: str) -> Library:
    """The library called *name*. This imports no peer."""
    library: Library = import_module(f"{__name__}.{name}").LIBRARY
    return library

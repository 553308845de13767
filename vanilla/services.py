"""Where ``h.NAME`` comes from: the services of vanilla, and those that other packages bring.

A plug-in is an entry point of the group `GROUP`. What goes wrong while one is imported or made is its own error, and
comes out as it is: only a name that nobody has is "no attribute".
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Callable

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

#: The group of entry points: the name is the attribute, the object is called with the hub.
GROUP = "vanilla.plugins"
#: Ours: ``vanilla.NAME.Service`` each. They go before plug-ins.
BUILT_IN = frozenset(("broker", "client", "console", "io", "process", "signal", "tcp", "thread", "tls", "udp", "unix"))

Factory = Callable[[Any], Any]


def find(name: str) -> Factory | None:
    """What makes the service *name* when called with a hub; None if there is none.

    :raises Exception: whatever the import of it raises.
    """
    if name in BUILT_IN:
        factory: Factory = import_module(f"vanilla.{name}").Service
        return factory
    for entry in _entry_points():
        if entry.name == name:
            plugin: Factory = entry.load()
            return plugin
    return None


def _entry_points() -> list[EntryPoint]:
    from importlib import metadata  # here, for it takes as long to import as all of vanilla

    try:
        return list(metadata.entry_points(group=GROUP))
    except TypeError:  # Python 3.9 gives them all, by group
        return list(metadata.entry_points().get(GROUP, ()))  # type: ignore[attr-defined,unused-ignore]

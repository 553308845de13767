"""What libraries do with TCP connections: ours and its peers, a file each. `net.Net` says what one offers."""

from __future__ import annotations

from importlib import import_module

from .net import Net


def find(name: str) -> Net:
    """The one called *name*; what stands behind a hyphen is another way of the same library. This imports no peer."""
    nets: dict[str, Net] = import_module(f"{__name__}.{name.partition('-')[0]}").NETS
    return nets[name]

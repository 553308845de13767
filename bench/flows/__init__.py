"""What fills an emulated path: ours and its peers, a file each. `flow.Flow` says what such a file has to offer."""

from __future__ import annotations

from importlib import import_module

from .flow import Flow


def find(name: str) -> Flow:
    """The one called *name*: ``tcp-reno`` and ``tcp-cubic`` are both in tcp.py. This imports no peer."""
    flows: dict[str, Flow] = import_module(f"{__name__}.{name.partition('-')[0]}").FLOWS
    return flows[name]

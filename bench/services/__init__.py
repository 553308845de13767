"""Requests and replies: ours and its peers, a file each. `service.Service` says what such a file has to offer."""

from __future__ import annotations

from importlib import import_module

from .service import Service


def find(name: str) -> Service:
    """The one called *name*: ``redis`` and ``redis-batched`` are both in redis.py. This imports no peer."""
    services: dict[str, Service] = import_module(f"{__name__}.{name.partition('-')[0]}").SERVICES
    return services[name]

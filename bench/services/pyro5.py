"""Pyro5: methods by name, from a proxy to a daemon without anything between them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Callable

from .service import Calculator, Service


class Pyro5(Service):
    title = "Pyro5"
    package = "Pyro5"
    guarantee = "at most once: the client is told if the connection is lost"
    payload = "serpent: a name and two integers"
    batching = "none: a call and a round trip a request; a proxy has one at a time"
    settings = "no broker: client and server are connected"
    has_broker = False

    def serve(self, address: str, work: str, ready: Callable[[], object]) -> None:
        from Pyro5 import api

        daemon = api.Daemon("127.0.0.1")
        print("listening on", daemon.register(api.expose(Calculator)()), flush=True)
        daemon.requestLoop()

    @contextmanager
    def client(self, address: str, work: str) -> Iterator[Callable[..., Any]]:
        from Pyro5 import api

        with api.Proxy(address) as proxy:
            yield getattr(proxy, work)


SERVICES = {"pyro5": Pyro5()}

"""Ours: the broker program as it is started by hand; a dealer's calls to a router, and methods by name."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Callable

from sides.tls import SETTINGS, become_encrypted_broker, connect_encrypted, encrypted_version
from sides.vanilla import ASLEEP, ASLEEP_SETTINGS

from .service import Calculator, Service

SERVICE = "bench"


class Vanilla(Service):
    title = "vanilla"
    package = "vanilla-broker"
    guarantee = "at most once: a call fails at once if its server is lost, or if none is there"
    batching = "by the library, nothing to write: a call a request; what one turn of a loop has made leaves together"

    #: What the environment of each of its processes has besides.
    environment: dict[str, str] = {}

    def broker(self, size: int) -> None:
        os.environ.update(self.environment)
        os.execv(sys.executable, [sys.executable, "-m", "vanilla.broker", "--listen", "tcp://127.0.0.1:0"])

    def connect(self, hub: Any, address: str) -> Any:
        """The public client's connection."""
        return hub.client.connect(address)

    def serve(self, address: str, work: str, ready: Callable[[], object]) -> None:
        os.environ.update(self.environment)
        import vanilla

        with vanilla.Hub() as h, self.connect(h, address) as remote:
            requests = remote.router(SERVICE)
            h.spawn(answer, requests)
            remote.ping()  # the broker knows of it
            ready()
            h.sleep(float("inf"))

    @contextmanager
    def client(self, address: str, work: str) -> Iterator[Callable[..., Any]]:
        os.environ.update(self.environment)
        import vanilla

        with vanilla.Hub() as h, self.connect(h, address) as remote:
            yield self.caller(remote)

    def caller(self, remote: Any) -> Callable[..., Any]:
        """Gives the Recver of a call's answer."""
        return remote.dealer(SERVICE).call  # type: ignore[no-any-return]

    def one_at_a_time(self, call: Any, tally: Any) -> None:
        super().one_at_a_time(lambda *arguments: call(*arguments).recv(), tally)

    def started(self, client: Any) -> Callable[..., Callable[[], Any]]:
        return lambda *arguments: client(*arguments).recv  # type: ignore[no-any-return]


def answer(requests: Any) -> None:
    """A task: each with what it asks for."""
    for request in requests:
        request.reply(request.item)


class Asleep(Vanilla):
    """Whoever waits sleeps at once, as with most peers."""

    title = "vanilla, no busy polling"
    settings = ASLEEP_SETTINGS
    environment = ASLEEP


class Wrapped(Vanilla):
    """A method by its name."""

    title = "vanilla, wrap"
    payload = "a name and two integers; an integer"
    settings = "concurrency 8"

    def serve(self, address: str, work: str, ready: Callable[[], object]) -> None:
        import vanilla

        with vanilla.Hub() as h, self.connect(h, address) as remote:
            serving = remote.serve(SERVICE, Calculator(), concurrency=8)
            remote.ping()
            ready()
            serving.join()

    def caller(self, remote: Any) -> Callable[..., Any]:
        return remote.wrap(SERVICE).add  # type: ignore[no-any-return]


class Encrypted(Vanilla):
    """Over TLS."""

    title = "vanilla, TLS"
    settings = SETTINGS

    def version(self) -> str:
        return encrypted_version(super().version())

    def broker(self, size: int) -> None:
        become_encrypted_broker()

    def connect(self, hub: Any, address: str) -> Any:
        return connect_encrypted(hub, address)


SERVICES = {"vanilla": Vanilla(), "vanilla-asleep": Asleep(), "vanilla-wrap": Wrapped(), "vanilla-tls": Encrypted()}

"""zerorpc: methods by name over ZeroMQ, from client to server without anything between them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Callable

from sides.server import HOST, free_port

from .service import Calculator, Service


class Zerorpc(Service):
    title = "zerorpc"
    package = "zerorpc"
    guarantee = "at most once: the client is told if its server is lost, by heartbeats"
    payload = "msgpack: a name and bytes, or a name and two integers"
    batching = "by libzmq: queued messages share writes up to 8 KiB; a call a request, a gevent task each at the server"
    settings = "no broker: client and server are connected"
    has_broker = False

    def serve(self, address: str, work: str, ready: Callable[[], object]) -> None:
        import zerorpc

        server = zerorpc.Server(Calculator())
        address = f"tcp://{HOST}:{free_port()}"
        server.bind(address)
        print(f"listening on {address}", flush=True)
        server.run()

    @contextmanager
    def client(self, address: str, work: str) -> Iterator[Callable[..., Any]]:
        import zerorpc

        client = zerorpc.Client(address)
        try:
            yield getattr(client, work)
        finally:
            client.close()

    def started(self, client: Any) -> Callable[..., Callable[[], Any]]:
        asynchronous = {"async": True}  # a keyword by now
        return lambda *arguments: client(*arguments, **asynchronous).get  # type: ignore[no-any-return]


SERVICES = {"zerorpc": Zerorpc()}

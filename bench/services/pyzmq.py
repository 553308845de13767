"""pyzmq: sockets in lock-step, or such as may have many requests under way, through zmq.proxy."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Callable

from .service import Service


class LockStep(Service):
    """REQ -> ROUTER, DEALER -> REP: one request at a time."""

    title = "pyzmq"
    package = "pyzmq"
    guarantee = "none: a request or reply in a process that dies is lost, and its client waits for ever"
    batching = "by libzmq: queued messages share writes up to 8 KiB; REQ and REP, a call a message"
    kinds = "REQ", "REP"

    def broker(self, size: int) -> None:
        import zmq

        context = zmq.Context()
        front, back = context.socket(zmq.ROUTER), context.socket(zmq.DEALER)
        for socket in front, back:
            socket.bind("tcp://127.0.0.1:*")
        print("listening on", front.last_endpoint.decode(), back.last_endpoint.decode(), flush=True)
        zmq.proxy(front, back)

    @contextmanager
    def socket(self, kind: str, address: str) -> Iterator[Any]:
        """A connected one, whose context ends with it and forgets what was not sent."""
        import zmq

        with zmq.Context() as context, context.socket(getattr(zmq, kind)) as socket:
            socket.linger = 0
            socket.connect(address)
            yield socket

    def serve(self, address: str, work: str, ready: Callable[[], object]) -> None:
        with self.socket(self.kinds[1], address.split()[1]) as socket:
            ready()
            self.answer(socket)

    def answer(self, socket: Any) -> None:
        while True:
            socket.send(socket.recv())

    @contextmanager
    def client(self, address: str, work: str) -> Iterator[Any]:
        with self.socket(self.kinds[0], address.split()[0]) as socket:
            yield socket

    def one_at_a_time(self, call: Any, tally: Any) -> None:
        def ask(request: bytes) -> Any:
            call.send(request)
            return call.recv()

        super().one_at_a_time(ask, tally)


class Dealers(LockStep):
    """DEALER -> ROUTER, DEALER -> DEALER, where a worker sends back the frames that say who asked."""

    title = "pyzmq, dealers"
    batching = "by libzmq: queued messages share writes up to 8 KiB; DEALER and DEALER, a call a message"
    kinds = "DEALER", "DEALER"

    def answer(self, socket: Any) -> None:
        while True:
            socket.send_multipart(socket.recv_multipart())

    def started(self, client: Any) -> Callable[..., Callable[[], Any]]:
        send, recv = client.send, client.recv

        def start(request: bytes) -> Callable[[], Any]:
            send(request)
            return recv  # the one worker answers in turn

        return start


SERVICES = {"pyzmq": LockStep(), "pyzmq-dealers": Dealers()}

"""pyzmq: PUSH -> zmq.proxy -> PULL over TCP, as it is usually written, and batched by hand."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Callable

from plan import Plan

from .side import Side

#: A batch made by hand is this large.
BATCH_BYTES = 64 << 10
#: The raised high water mark: messages in each of four queues, if they are not more bytes than our broker would hold.
HIGH_WATER = 100_000
HIGH_WATER_BYTES = 64 << 20


class Pyzmq(Side):
    title = "pyzmq"
    package = "pyzmq"
    guarantee = "none: what is in the queues of a process that dies is lost; a full queue blocks its producers"
    batching = "by libzmq: queued messages share writes up to 8 KiB; a call a message at both ends"

    def _socket(self, context: Any, kind: int, size: int) -> Any:
        return context.socket(kind)

    def broker(self, size: int) -> None:
        import zmq

        context = zmq.Context()
        front, back = self._socket(context, zmq.PULL, size), self._socket(context, zmq.PUSH, size)
        for socket in front, back:
            socket.bind("tcp://127.0.0.1:*")
        print("listening on", front.last_endpoint.decode(), back.last_endpoint.decode(), flush=True)
        zmq.proxy(front, back)

    @contextmanager
    def sender(self, address: str, size: int) -> Iterator[Callable[[bytes], Any]]:
        import zmq

        with zmq.Context() as context:  # leaving waits until the queues are empty
            socket = self._socket(context, zmq.PUSH, size)
            socket.connect(address.split()[0])
            yield socket.send

    @contextmanager
    def recver(self, address: str, size: int) -> Iterator[Callable[[], Any]]:
        import zmq

        with zmq.Context() as context:
            socket = self._socket(context, zmq.PULL, size)
            socket.connect(address.split()[1])
            yield socket.recv


class HighWater(Pyzmq):
    title = "pyzmq, HWM raised"
    settings = f"HWM {HIGH_WATER:,} messages, at most {HIGH_WATER_BYTES >> 20} MiB of them, instead of 1,000"

    def _socket(self, context: Any, kind: int, size: int) -> Any:
        socket = context.socket(kind)
        socket.set_hwm(min(HIGH_WATER, HIGH_WATER_BYTES // size))
        return socket


class Batched(Pyzmq):
    """What a user has to write to get the throughput of batches. The queues then hold batches, not messages."""

    title = "pyzmq, batched by hand"
    payload = "lists of bytes, packed with msgpack"
    batching = f"by the program: msgpack lists of {BATCH_BYTES >> 10} KiB, no time limit; a call a batch"

    def produce(self, send: Callable[[bytes], Any], plan: Plan) -> None:
        from msgpack import packb

        self.produce_lists(lambda batch: send(packb(batch)), plan, max(BATCH_BYTES // plan.size, 1))

    def consume(self, recv: Callable[[], Any], plan: Plan, mark: Callable[[], object]) -> list[int]:
        from msgpack import unpackb

        return self.consume_lists(lambda: unpackb(recv()), plan, mark)


class Maps(Pyzmq):
    """Messages as programs have them, packed by hand."""

    title = "pyzmq, maps"
    payload = "maps, packed and unpacked with msgpack by the program, one by one"

    def produce(self, send: Callable[[Any], Any], plan: Plan) -> None:
        from msgpack import packb

        self.produce_maps(lambda item: send(packb(item)), plan)

    def consume(self, recv: Callable[[], Any], plan: Plan, mark: Callable[[], object]) -> list[int]:
        from msgpack import unpackb

        return self.consume_maps(lambda: unpackb(recv()), plan, mark)


class MapsHighWater(Maps, HighWater):
    title = "pyzmq, maps, HWM raised"


SIDES = {
    "pyzmq": Pyzmq(),
    "pyzmq-hwm": HighWater(),
    "pyzmq-batched": Batched(),
    "pyzmq-maps": Maps(),
    "pyzmq-maps-hwm": MapsHighWater(),
}

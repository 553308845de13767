"""Ours: the broker program as it is started by hand, and the public client."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Callable

from plan import Plan, check

from .side import Side
from .tls import SETTINGS, become_encrypted_broker, connect_encrypted, encrypted_version

#: The lists of `Many` are of so many bytes, as those that `pyzmq` batches by hand.
BATCH_BYTES = 64 << 10
#: What `Asleep` is told.
ASLEEP = {"VANILLA_BUSY_POLL": "0"}
ASLEEP_SETTINGS = "VANILLA_BUSY_POLL=0 in all three processes: they sleep at once when there is nothing to do"


class Vanilla(Side):
    title = "vanilla"
    package = "vanilla-broker"
    guarantee = (
        "confirmed to the producer; kept in the broker's memory until acknowledged; redelivered when a consumer dies; "
        "a full queue blocks its producers"
    )
    batching = "by the library, nothing to write: a call a message at both ends"

    #: What the broker is told besides where to listen.
    options: tuple[str, ...] = ()
    #: What the environment of each of its processes has besides.
    environment: dict[str, str] = {}

    def broker(self, size: int) -> None:
        os.environ.update(self.environment)
        listen = "--listen", "tcp://127.0.0.1:0"
        os.execv(sys.executable, [sys.executable, "-m", "vanilla.broker", *listen, *self.options])

    def connect(self, hub: Any, address: str) -> Any:
        """The public client's connection."""
        return hub.client.connect(address)

    @contextmanager
    def sender(self, address: str, size: int) -> Iterator[Callable[[Any], Any]]:
        os.environ.update(self.environment)
        import vanilla

        with vanilla.Hub() as self.hub, self.connect(self.hub, address) as remote:
            jobs = remote.push("bench")
            yield self.send_of(jobs)
            jobs.sync()

    @contextmanager
    def recver(self, address: str, size: int) -> Iterator[Callable[[], Any]]:
        os.environ.update(self.environment)
        import vanilla

        with vanilla.Hub() as h, self.connect(h, address) as remote:
            yield self.recv_of(remote.pull("bench"), size)

    def sleep(self, seconds: float) -> None:
        self.hub.sleep(seconds * 1000)

    def send_of(self, jobs: Any) -> Callable[[Any], Any]:
        return jobs.send  # type: ignore[no-any-return]

    def recv_of(self, jobs: Any, size: int) -> Callable[[], Any]:
        return jobs.recv  # type: ignore[no-any-return]


class Asleep(Vanilla):
    """Whoever waits sleeps at once, as with most peers."""

    title = "vanilla, no busy polling"
    settings = ASLEEP_SETTINGS
    environment = ASLEEP


class Many(Vanilla):
    """Lists of messages at both ends, for programs that have many at hand."""

    title = "vanilla, many at a call"
    payload = "lists of bytes, packed and unpacked by the library"
    batching = f"by the library: send_many of lists of {BATCH_BYTES >> 10} KiB, recv_many of up to as much"

    def send_of(self, jobs: Any) -> Callable[[Any], Any]:
        return jobs.send_many  # type: ignore[no-any-return]

    def recv_of(self, jobs: Any, size: int) -> Callable[[], Any]:
        recv_many, most = jobs.recv_many, max(BATCH_BYTES // size, 1)
        return lambda: recv_many(most)

    def produce(self, send: Callable[[Any], Any], plan: Plan) -> None:
        self.produce_lists(send, plan, max(BATCH_BYTES // plan.size, 1))

    def consume(self, recv: Callable[[], Any], plan: Plan, mark: Callable[[], object]) -> list[int]:
        return self.consume_lists(recv, plan, mark)


class Maps(Vanilla):
    """Messages as programs have them."""

    title = "vanilla, maps"
    payload = "maps, packed and unpacked by the library"

    def produce(self, send: Callable[[Any], Any], plan: Plan) -> None:
        self.produce_maps(send, plan)

    def consume(self, recv: Callable[[], Any], plan: Plan, mark: Callable[[], object]) -> list[int]:
        return self.consume_maps(recv, plan, mark)


class Deep(Many):
    """With a queue as deep as those that hold lists: 1,000 lists of 64 KiB are some millions of small messages."""

    title = "vanilla, many at a call, queue raised"
    settings = "capacity 1,000,000 messages instead of 100,000; 64 MiB as ever"
    options = "--capacity", "1000000"


class Leased(Vanilla):
    """Each message is leased, and acknowledged by itself once the program is done with it."""

    title = "vanilla, leased"
    guarantee = (
        "confirmed to the producer; kept in the broker's memory until the program acknowledges it; redelivered, and "
        "marked so, when it refuses or dies, or lets its lease of 30 s run out; a full queue blocks its producers"
    )
    payload = "bytes, in a delivery"
    batching = "by the library, nothing to write: a call a message at both ends, and one more that acknowledges it"

    @contextmanager
    def recver(self, address: str, size: int) -> Iterator[Callable[[], Any]]:
        import vanilla

        with vanilla.Hub() as h, self.connect(h, address) as remote:
            yield self.recv_of(remote.pull("bench", ack=True, lease=30_000), size)

    def consume(self, recv: Callable[[], Any], plan: Plan, mark: Callable[[], object]) -> list[int]:
        waits = []
        for number in range(plan.blocks):
            if number == plan.warm_blocks:
                mark()
            delivery = recv()
            waits.append(check(delivery.item, number, plan.size))
            delivery.ack()
            for _ in range(plan.block - 1):
                recv().ack()
        delivery = recv()
        waits.append(check(delivery.item, plan.blocks, plan.size))
        delivery.ack()
        return waits[plan.warm_blocks :]


class Encrypted(Vanilla):
    """Over TLS, by a certificate that is made for the occasion."""

    title = "vanilla, TLS"
    settings = SETTINGS

    def version(self) -> str:
        return encrypted_version(super().version())

    def broker(self, size: int) -> None:
        become_encrypted_broker()

    def connect(self, hub: Any, address: str) -> Any:
        return connect_encrypted(hub, address)


SIDES = {
    "vanilla": Vanilla(),
    "vanilla-asleep": Asleep(),
    "vanilla-many": Many(),
    "vanilla-many-deep": Deep(),
    "vanilla-maps": Maps(),
    "vanilla-tls": Encrypted(),
    "vanilla-leased": Leased(),
}

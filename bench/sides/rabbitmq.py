"""RabbitMQ: a classic transient queue, published to with pipelined confirms, consumed with prefetch and range acks.

Both ends are pika's SelectConnection, whose callbacks are how pika does both. Its BlockingConnection waits for each
confirm by itself, and even without confirms it publishes no faster.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice, repeat
from pathlib import Path
from typing import Any, Callable

from pace import Pace
from plan import Plan, check, stamp

from .server import HOST, become, free_port, listening, scratch_folder
from .side import Side, installed

#: Where packages keep the server, a folder for its version. What is in the PATH is a script that changes the user.
PLACE = Path("/usr/lib/rabbitmq/lib")
SERVER = "rabbitmq-server"
NODE = "vanilla-bench@localhost"
QUEUE = "bench"
#: Messages without a confirm at which the producer waits: as many as an endpoint of ours holds.
WINDOW = 10_000
#: Messages that the consumer may have without having acknowledged them; it does so a quarter at a time.
PREFETCH = 10_000
#: The same of one that acknowledges each by itself.
EACH_PREFETCH = 1_000


def server() -> Path:
    """The script that becomes the server.

    :raises LookupError: it is not installed.
    """
    found = sorted(PLACE.glob(f"rabbitmq_server-*/sbin/{SERVER}"))
    if not found:
        raise LookupError(f"{SERVER} is not installed")
    return found[-1]


def environment(folder: str, port: int, cluster_port: int) -> dict[str, str]:
    """What makes the server keep to *folder* and its own ports, and take the place of its scripts.

    Erlang would start a daemon, epmd, that tells nodes the ports of other nodes, and stays. A node that knows the one
    port there is needs none.
    """
    nowhere = os.path.join(folder, "none")
    return {
        "HOME": folder,
        "ERL_CRASH_DUMP": os.devnull,
        "RABBITMQ_MNESIA_BASE": folder,
        "RABBITMQ_LOG_BASE": folder,
        "RABBITMQ_LOGS": "-",
        "RABBITMQ_CONF_ENV_FILE": nowhere,
        "RABBITMQ_CONFIG_FILE": nowhere,
        "RABBITMQ_ADVANCED_CONFIG_FILE": nowhere,
        "RABBITMQ_ENABLED_PLUGINS_FILE": nowhere,
        "RABBITMQ_NODENAME": NODE,
        "RABBITMQ_NODE_IP_ADDRESS": HOST,
        "RABBITMQ_NODE_PORT": str(port),
        "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": f"-sname {NODE} -start_epmd false -erl_epmd_port {cluster_port}"
        f" -kernel inet_dist_use_interface {{{HOST.replace('.', ',')}}}",
        "RUNNING_UNDER_SYSTEMD": "true",  # the scripts then leave stopping it to whoever started it
    }


def messages(plan: Plan) -> Iterator[bytes]:
    """All of *plan*."""
    payload = bytes(plan.size)
    for number in range(plan.blocks):
        yield stamp(number, plan.size)
        yield from repeat(payload, plan.block - 1)
    yield stamp(plan.blocks, plan.size)


class End:
    """A connection with one channel, and the queue. Its loop runs only while something is waited for."""

    def __init__(self, address: str) -> None:
        from pika import ConnectionParameters, SelectConnection

        host, port = listening(address)
        self.closing = False
        self.connection = SelectConnection(
            ConnectionParameters(host, port),
            on_open_callback=lambda connection: connection.channel(on_open_callback=self._opened),
            on_open_error_callback=self._closed,
            on_close_callback=self._closed,
        )
        self.run()

    def run(self) -> None:
        """Until somebody stops the loop; what a callback raises is raised here."""
        self.connection.ioloop.start()

    def stop(self, _: Any = None) -> None:
        self.connection.ioloop.stop()

    def close(self) -> None:
        self.closing = True
        self.connection.close()
        self.run()

    def _opened(self, channel: Any) -> None:
        self.channel = channel
        channel.queue_declare(QUEUE, callback=self._declared)

    def _declared(self, _: Any) -> None:
        """Prepare what is left, then `stop`."""
        raise NotImplementedError

    def _closed(self, _: Any, reason: Exception) -> None:
        if not self.closing:
            raise reason
        self.stop()


class Publisher(End):
    """Publishes whenever a confirm comes, so that about `WINDOW` messages are without one."""

    def _declared(self, _: Any) -> None:
        self.sent = self.confirmed = 0
        self.channel.confirm_delivery(self._confirm, callback=self.stop)

    def publish(self, plan: Plan) -> None:
        """Publish all of *plan*, and wait until all are confirmed."""
        self.messages, self.last = messages(plan), plan.all_messages
        self._fill()
        self.run()

    def pace(self, plan: Plan) -> list[int]:
        """The same, of stamps only, each when it is due: how late each was, in ns."""
        self.messages, self.last = iter(()), plan.all_messages
        pace = Pace(plan.period)

        def send() -> None:
            pace.go()
            self.channel.basic_publish("", QUEUE, stamp(self.sent, plan.size))
            self.sent += 1
            if self.sent < self.last:
                self.connection.ioloop.call_later(max(pace.early(), 0), send)

        send()
        self.run()
        return pace.late

    def _fill(self) -> None:
        publish = self.channel.basic_publish
        for message in islice(self.messages, self.confirmed + WINDOW - self.sent):
            publish("", QUEUE, message)
            self.sent += 1

    def _confirm(self, frame: Any) -> None:
        if frame.method.NAME != "Basic.Ack":
            raise AssertionError("the server refused a message")
        self.confirmed = frame.method.delivery_tag  # one queue confirms in order
        self._fill()
        if self.confirmed == self.last:
            self.stop()


class Taker(End):
    """Takes messages in a callback, counts them, and looks at the first of each block."""

    prefetch = PREFETCH

    def _declared(self, _: Any) -> None:
        self.count = 0
        self.channel.basic_qos(prefetch_count=self.prefetch)
        self.channel.basic_consume(QUEUE, self._take, callback=self.stop)

    def consume(self, plan: Plan, mark: Callable[[], object]) -> list[int]:
        """Until the last message of *plan* is there, and acknowledged: see `Side.consume`."""
        self.plan, self.mark = plan, mark
        self.waits: list[int] = []
        self.run()
        return self.waits[plan.warm_blocks :]

    def _take(self, channel: Any, method: Any, properties: Any, message: bytes) -> None:
        if not self.count % self.plan.block:
            self._look(message, self.count // self.plan.block)
        self.count += 1
        self._settle(channel, method.delivery_tag)

    def _settle(self, channel: Any, tag: int) -> None:
        if not self.count % (self.prefetch // 4) or self.count == self.plan.all_messages:
            channel.basic_ack(tag, multiple=True)

    def _look(self, message: bytes, number: int) -> None:
        if number == self.plan.warm_blocks:
            self.mark()
        self.waits.append(check(message, number, self.plan.size))
        if number == self.plan.blocks:
            self.stop()


class EachTaker(Taker):
    """Acknowledges each by itself."""

    prefetch = EACH_PREFETCH

    def _settle(self, channel: Any, tag: int) -> None:
        channel.basic_ack(tag)


class Rabbitmq(Side):
    title = "RabbitMQ"
    package = "pika"
    guarantee = (
        "confirmed to the producer; kept in the server's memory until acknowledged; redelivered when a consumer dies; "
        "the queue grows while there is memory, then its producers are blocked"
    )
    batching = "none: three writes (one a frame) and a callback a message; a confirm or an acknowledgement is for many"
    settings = (
        f"classic transient queue; SelectConnection, up to {WINDOW:,} messages without a confirm, prefetch {PREFETCH:,}"
    )

    taker: type[Taker] = Taker

    def version(self) -> str:
        return f"{server().parts[-3].partition('-')[2]}, pika {installed(self.package)}"

    def broker(self, size: int) -> None:
        program, port = server(), free_port()
        os.environ.update(environment(scratch_folder(), port, free_port()))
        become(str(program), port)

    @contextmanager
    def sender(self, address: str, size: int) -> Iterator[Any]:
        end = Publisher(address)
        yield end
        end.close()

    @contextmanager
    def recver(self, address: str, size: int) -> Iterator[Any]:
        end = self.taker(address)
        yield end
        end.close()

    def produce(self, send: Any, plan: Plan) -> None:
        send.publish(plan)

    def pace(self, send: Any, plan: Plan) -> list[int]:
        return send.pace(plan)  # type: ignore[no-any-return]

    def consume(self, recv: Any, plan: Plan, mark: Callable[[], object]) -> list[int]:
        return recv.consume(plan, mark)  # type: ignore[no-any-return]


class Each(Rabbitmq):
    title = "RabbitMQ, each acknowledged"
    batching = "none: three writes (one a frame) and a callback a message, and one that acknowledges it"
    settings = (
        f"classic transient queue; SelectConnection, up to {WINDOW:,} messages without a confirm, "
        f"prefetch {EACH_PREFETCH:,}"
    )
    taker = EachTaker


SIDES = {"rabbitmq": Rabbitmq(), "rabbitmq-each": Each()}

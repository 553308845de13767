"""What every side of a comparison offers. A new peer is one file beside this one, with a table ``SIDES`` of these.

The file must load where the peer is not installed: it imports it in the methods, which run in processes of their own.
"""

from __future__ import annotations

import time
from contextlib import AbstractContextManager
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Callable

from pace import Pace
from plan import Plan, check, check_map, stamp, stamp_map


def installed(package: str) -> str:
    """The version of a distribution.

    :raises LookupError: it is not installed; the text says so.
    """
    try:
        return version(package)
    except PackageNotFoundError:
        raise LookupError(f"{package} is not installed") from None


class Side:
    """One side. The texts are what a reader must know before comparing its figures with others."""

    #: What to call it in a table.
    title = ""
    #: The distribution that must be installed; empty if it needs none.
    package = ""
    #: What becomes of messages when a process dies.
    guarantee = ""
    #: What is handed to send and comes out of recv.
    payload = "bytes"
    #: How messages share writes, and who has to do it.
    batching = ""
    #: Whatever is not at its default.
    settings = "defaults"

    def version(self) -> str:
        """What is installed; empty if nothing is needed.

        :raises LookupError: it is not installed; the text says so.
        """
        return installed(self.package) if self.package else ""

    def broker(self, size: int) -> None:
        """Be the broker, in this process, until killed; print ``listening on ADDRESS`` once ready.

        :param size: of the messages, in bytes.
        """
        raise NotImplementedError

    def sender(self, address: str, size: int) -> AbstractContextManager[Callable[[bytes], Any]]:
        """Connect; gives the bound method that sends one message. Leaving waits until all have left this process."""
        raise NotImplementedError

    def recver(self, address: str, size: int) -> AbstractContextManager[Callable[[], Any]]:
        """Connect; gives the bound method that receives one message."""
        raise NotImplementedError

    def produce_lists(self, send: Callable[[list[bytes]], Any], plan: Plan, most: int) -> None:
        """Send all messages of *plan*, in lists of *most*, which are made a message at a time."""
        payload = bytes(plan.size)
        batch: list[bytes] = []
        for number in range(plan.blocks):
            for place in range(plan.block):
                batch.append(payload if place else stamp(number, plan.size))
                if len(batch) >= most:
                    send(batch)
                    batch = []
        batch.append(stamp(plan.blocks, plan.size))
        send(batch)

    def consume_lists(self, recv: Callable[[], list[bytes]], plan: Plan, mark: Callable[[], object]) -> list[int]:
        """Receive all messages of *plan* in lists, and look at each message; see `consume`."""
        start = plan.warm_blocks * plan.block
        waits: list[int] = []
        count = 0
        while count < plan.all_messages:
            for message in recv():
                if not count % plan.block:
                    if count == start:
                        mark()
                    waits.append(check(message, count // plan.block, plan.size))
                count += 1
        return waits[plan.warm_blocks :]

    def produce_maps(self, send: Callable[[dict[str, Any]], Any], plan: Plan) -> None:
        """Send all messages of *plan*, a call each, as maps."""
        payload = stamp_map(0)
        for number in range(plan.blocks):
            send(stamp_map(number))
            for _ in range(plan.block - 1):
                send(payload)
        send(stamp_map(plan.blocks))

    def consume_maps(self, recv: Callable[[], Any], plan: Plan, mark: Callable[[], object]) -> list[int]:
        """Receive all messages of *plan*, a call each, as maps; see `consume`."""
        waits = []
        for number in range(plan.blocks):
            if number == plan.warm_blocks:
                mark()
            waits.append(check_map(recv(), number))
            for _ in range(plan.block - 1):
                recv()
        waits.append(check_map(recv(), plan.blocks))
        return waits[plan.warm_blocks :]

    def produce(self, send: Callable[[bytes], Any], plan: Plan) -> None:
        """Send all messages of *plan*, a call each."""
        payload = bytes(plan.size)
        for number in range(plan.blocks):
            send(stamp(number, plan.size))
            for _ in range(plan.block - 1):
                send(payload)
        send(stamp(plan.blocks, plan.size))

    def sleep(self, seconds: float) -> None:
        """Wait, as a program of this side does between two sends."""
        time.sleep(seconds)

    def pace(self, send: Callable[[bytes], Any], plan: Plan) -> list[int]:
        """Send all messages of *plan*, which has stamps only, each when it is due.

        :return: how late each was, in ns.
        """
        pace = Pace(plan.period)
        for number in range(plan.all_messages):
            if (early := pace.early()) > 0:
                self.sleep(early)
            pace.go()
            send(stamp(number, plan.size))
        return pace.late

    def consume(self, recv: Callable[[], Any], plan: Plan, mark: Callable[[], object]) -> list[int]:
        """Receive all messages of *plan*, a call each, and call *mark* between the warm-up and the rest.

        :return: how long each stamp of that rest was on its way, in ns.
        """
        waits = []
        for number in range(plan.blocks):
            if number == plan.warm_blocks:
                mark()
            waits.append(check(recv(), number, plan.size))
            for _ in range(plan.block - 1):
                recv()
        waits.append(check(recv(), plan.blocks, plan.size))
        return waits[plan.warm_blocks :]

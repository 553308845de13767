"""What every side of a comparison offers. A new peer is one file beside this one, with a table ``SIDES`` of these.

The file must load where the peer is not installed: it imports it in the methods, which run in processes of their own.
"""

from __future__ import annotations

import time
from contextlib import AbstractContextManager
from functools import partial
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
        """`produce`, of maps."""
        self._produce(send, plan, stamp_map(0), stamp_map)

    def consume_maps(self, recv: Callable[[], Any], plan: Plan, mark: Callable[[], object]) -> list[int]:
        """`consume`, of maps."""
        return self._consume(recv, plan, mark, check_map)

    def produce(self, send: Callable[[bytes], Any], plan: Plan) -> None:
        """Send all messages of *plan*, a call each."""
        self._produce(send, plan, bytes(plan.size), partial(stamp, size=plan.size))

    def _produce(self, send: Callable[[Any], Any], plan: Plan, payload: Any, stamped: Callable[[int], Any]) -> None:
        for number in range(plan.blocks):
            send(stamped(number))
            for _ in range(plan.block - 1):
                send(payload)
        send(stamped(plan.blocks))

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
        return self._consume(recv, plan, mark, partial(check, size=plan.size))

    def _consume(
        self, recv: Callable[[], Any], plan: Plan, mark: Callable[[], object], look: Callable[[Any, int], int]
    ) -> list[int]:
        waits = []
        for number in range(plan.blocks):
            if number == plan.warm_blocks:
                mark()
            waits.append(look(recv(), number))
            for _ in range(plan.block - 1):
                recv()
        waits.append(look(recv(), plan.blocks))
        return waits[plan.warm_blocks :]

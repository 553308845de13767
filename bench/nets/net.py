"""What every library offers that has connections. A new peer is one file beside this one, with a table ``NETS``.

The file must load where the peer is not installed: it imports it in the methods, which run in processes of their own.
Each method is written as a user of that library would write it, with everything it offers to be quick. All connections
are TCP, on 127.0.0.1.
"""

from __future__ import annotations

from typing import Callable

from sides import Side
from sides.server import HOST

__all__ = ["CHUNK", "HOST", "Net"]

#: What is read at a time at most, by all of them: ours reads no more.
CHUNK = 65536


class Net(Side):
    """One library, or one way of it. The texts are what a reader must know before comparing its figures with others."""

    #: What it imports, if that is to be done before a clock runs.
    module = ""
    guarantee = "none needed: no messages"
    payload = "bytes of a stream"
    batching = "none: what is read at once is written at once"

    def echo(self, listening: Callable[[int], None]) -> None:
        """Listen, say on which port, and send back on each connection what comes on it. For ever."""
        raise NotImplementedError

    def copy(self, source: int, target: int) -> None:
        """Connect to the ports *source* and *target*, send to the one what comes from the other until that ends, then
        close both. All must have left this process."""
        raise NotImplementedError

    def keep(self, receive: bool, listening: Callable[[int], None], kept: Callable[[], None]) -> None:
        """Listen, say on which port, and keep each connection that comes. For ever.

        :param receive: on each of them a task waits for something to come, which never does; else nobody does.
        :param kept: called for each, before its task waits.
        """
        raise NotImplementedError

"""What every side of the rows of an emulated path offers. A new peer is one file beside this one, with a table
``FLOWS``.

The file must load where the peer is not installed: it imports it in the methods, which run in processes of their own,
in one of the two network namespaces that the path connects.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from typing import Callable

from gauge import BLOCK_BYTES, Gauge, block
from sides.side import Side

#: What goes into a stream with one write.
CHUNK_BLOCKS = 16


class Flow(Side):
    """One side. The texts are as those of other sides: what a reader must know before comparing."""

    guarantee = "all bytes, in order, while both processes live"
    payload = f"blocks of {BLOCK_BYTES:,} bytes in a stream"
    batching = f"by hand: {CHUNK_BLOCKS} blocks in a write"

    #: Is there a broker at the far end, beside the receiver? It is ready before that is started.
    has_broker = False

    def broker(self, host: str, port: int) -> None:
        """Be the broker, in this process, until killed; print ``listening on ...`` once ready.

        :param host: of the far end of the path.
        """
        raise NotImplementedError

    def receive(self, host: str, port: int, ready: Callable[[], Gauge]) -> None:
        """Receive all that comes, and give it to the gauge, until that is over.

        :param host, port: where to listen, or where the broker does.
        :param ready: to be called once the sender may come; waits for when to begin.
        """
        raise NotImplementedError

    def send(self, host: str, port: int, ready: Callable[[], object]) -> None:
        """Connect, call *ready*, and send blocks until killed."""
        raise NotImplementedError


def chunks() -> Iterator[bytes]:
    """All blocks, as streams are written: some at a time."""
    for first in count(0, CHUNK_BLOCKS):
        yield b"".join(block(number) for number in range(first, first + CHUNK_BLOCKS))

"""Where subscribers report how far they are, so that their publisher can wait for them: memory that all share.

    | blocks that subscriber 0 has, u64 | subscriber 1, u64 | ...

It has no file: the processes open it by the descriptor of the one that measures.
"""

from __future__ import annotations

import mmap
import os
import time
from typing import Callable

#: Blocks that may be under way to the slowest subscriber: 8,000 messages, to many subscribers no fewer than 2,000, and
#: to all together so many.
MOST, LEAST, TO_ALL = 80, 20, 800
#: How long a publisher that waits sleeps, in seconds, and how long it waits in all.
PAUSE, PATIENCE = 0.0002, 20.0
_SLOT_BYTES = 8


class Board:
    """The reports of so many subscribers.

    :ivar slots: how many blocks each has.
    :ivar window: how many may be under way.
    """

    def __init__(self, descriptor: int, subscribers: int) -> None:
        self.window = max(min(MOST, TO_ALL // subscribers), LEAST)
        self.slots = memoryview(mmap.mmap(descriptor, subscribers * _SLOT_BYTES)).cast("Q")

    @property
    def delivered(self) -> int:
        """Blocks, to all of them."""
        return sum(self.slots)

    def wait(self, blocks: int, sleep: Callable[[float], object]) -> int:
        """Until every subscriber has so many.

        :param sleep: how the caller waits, in seconds.
        :return: how many every subscriber has.
        :raises AssertionError: they do not come.
        """
        deadline = 0.0
        while (least := min(self.slots)) < blocks:
            deadline = deadline or time.monotonic() + PATIENCE
            if time.monotonic() > deadline:
                raise AssertionError(f"a subscriber has {least:,} blocks, and {blocks:,} were to come")
            sleep(PAUSE)
        return least


def new_board(subscribers: int) -> int:
    """The descriptor of one, all zeros."""
    descriptor = os.memfd_create("board", 0)
    os.ftruncate(descriptor, subscribers * _SLOT_BYTES)
    return descriptor


def board_of(path: str, subscribers: int) -> Board:
    """That of another process, by its path in /proc."""
    descriptor = os.open(path, os.O_RDWR)
    try:
        return Board(descriptor, subscribers)
    finally:
        os.close(descriptor)

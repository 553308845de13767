"""What every library offers. A new peer is one file beside this one, with its ``LIBRARY``, and a name in `hubs.NAMES`.

The file must load where the peer is not installed: it imports it in the methods, which run in processes of their own.
Each method is written as a user of that library would write it, with everything it offers to be quick.
"""

from __future__ import annotations

from sides import Side


class Library(Side):
    """One library. The texts are what a reader must know before comparing its figures with others."""

    guarantee = "none needed: one process"
    payload = "Python objects, handed over"
    batching = "none: a call a message at both ends, two tasks of one thread"

    def channel(self, capacity: int, timeout: int, n: int) -> float:
        """Pass *n* numbers from one task to another.

        :param capacity: how many the channel holds, 0: none, each waits until it is taken.
        :param timeout: ms that each call may wait at most, which they never do; -1: no limit, in the quickest way.
        :return: messages a second.
        """
        raise NotImplementedError

"""What every side of the rows of calls offers. A new peer is one file beside this one, with a table ``SERVICES``.

The file must load where the peer is not installed: it imports it in the methods, which run in processes of their own.
"""

from __future__ import annotations

from collections import deque
from contextlib import AbstractContextManager
from itertools import islice
from typing import Any, Callable

from plan import now
from sides.side import Side
from tally import Tally


class Calculator:
    """What is called by name."""

    def add(self, a: int, b: int) -> int:
        return a + b

    def echo(self, request: bytes) -> bytes:
        return request


class Service(Side):
    """One side. The texts are as those of other sides: what a reader must know before comparing."""

    #: Is there a process between client and server? If not, the server says where it listens.
    has_broker = True

    def serve(self, address: str, work: str, ready: Callable[[], object]) -> None:
        """Answer requests until killed, and call *ready* once they can come.

        :param address: of the broker; empty if there is none: then print ``listening on ADDRESS``.
        :param work: a key of `tally.ASKS`.
        """
        raise NotImplementedError

    def client(self, address: str, work: str) -> AbstractContextManager[Any]:
        """Connect; gives what `one_at_a_time` and `many` need."""
        raise NotImplementedError

    def one_at_a_time(self, call: Any, tally: Tally) -> None:
        """Make the calls of *tally*; *call* is what `client` gave: here a function that returns the answer."""
        check = tally.check
        for arguments, answer in tally:
            made = now()
            check(call(*arguments), answer, made)

    def many(self, start: Any, tally: Tally, most: int) -> None:
        """Make them with up to *most* unanswered; *start* is what `client` gave: what `started` takes."""
        check, started = tally.check, self.started(start)
        pending: deque[tuple[Callable[[], Any], Any, int]] = deque()
        for arguments, answer in tally:
            if len(pending) == most:
                finish, due, made = pending.popleft()
                check(finish(), due, made)
            made = now()
            pending.append((started(*arguments), answer, made))
        for finish, due, made in pending:
            check(finish(), due, made)

    def started(self, client: Any) -> Callable[..., Callable[[], Any]]:
        """A function that makes a call and returns another, which waits for the answer.

        :raises LookupError: it has one call at a time.
        """
        raise LookupError("has one call at a time")


def many_in_lists(send: Callable[[list[Any]], object], recv: Callable[[], list[Any]], tally: Tally, most: int) -> None:
    """As `Service.many`, of requests that are sent in lists: as many as there were answers in the last one received."""
    calls = iter(tally)
    pending: deque[tuple[Any, int]] = deque()
    room = most
    while True:
        made = now()
        requests = list(islice(calls, room))
        if requests:
            send([request for (request,), _ in requests])
            pending.extend((answer, made) for _, answer in requests)
        if not pending:
            return
        replies = recv()
        room = len(replies)
        for reply in replies:
            tally.check(reply, *pending.popleft())

"""What a client that calls asks for, for how long, and how it is proved that each answer is to its own question.

A request is 16 bytes that come back as they are, so an answer that is lost, doubled or somebody else's is found out:

    | number, u64 | when it was made, u64: CLOCK_MONOTONIC, ns |

or the sum of two small integers. Each call that counts is timed, from just before it is made until its answer is there.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Callable

from percentile import percentiles
from plan import STAMP, now


@dataclass(frozen=True)
class Load:
    """One measurement.

    :ivar seconds: that count, and ``warm`` those that go before.
    :ivar at_a_time: calls without an answer that one client has, at most.
    :ivar work: what is asked for, a key of `ASKS`.
    :ivar one_core: do all processes share one?
    """

    seconds: float
    warm: float
    at_a_time: int = 1
    work: str = "echo"
    one_core: bool = False


def echo(number: int) -> tuple[tuple[Any, ...], Any]:
    """The same 16 bytes."""
    request = STAMP.pack(number, now())
    return (request,), request


def add(number: int) -> tuple[tuple[Any, ...], Any]:
    """The sum of two integers that msgpack packs into a byte each."""
    a, b = number % 50, 3
    return (a, b), a + b


#: The name of a work -> what its call *number* takes, and its answer.
ASKS: dict[str, Callable[[int], tuple[tuple[Any, ...], Any]]] = {"echo": echo, "add": add}


class Tally:
    """The calls of one client. Iterating gives what to ask and what the answer is, until the time is over.

    :ivar waits: how long each call took whose answer has come, in ns.
    """

    def __init__(self, load: Load) -> None:
        self.waits: list[int] = []
        self._load = load
        self._ask = ASKS[load.work]
        #: When what counts began and ended, in ns, and how many answers had come by then.
        self._begun = self._ended = (0, 0)

    def __iter__(self) -> Iterator[tuple[tuple[Any, ...], Any]]:
        ask, number = self._ask, 0
        for seconds in self._load.warm, self._load.seconds:
            self._begun = now(), len(self.waits)
            end = self._begun[0] + round(seconds * 1e9)
            while now() < end:
                yield ask(number)
                number += 1
        self._ended = now(), len(self.waits)

    def check(self, reply: Any, answer: Any, made: int) -> None:
        """This *reply* has come just now to the call that was made at *made*."""
        if reply != answer:
            raise AssertionError(f"an answer was lost, doubled or mixed up: {reply!r} instead of {answer!r}")
        self.waits.append(now() - made)

    def figures(self, cpu: float) -> dict[str, Any]:
        """``rate``, answers a second; ``latency``, median and p99 in ms of those that count; ``cpu`` as it is given, in
        seconds; ``calls``, all that were answered.

        :raises AssertionError: too few calls were answered.
        """
        (begun, before), (ended, after) = self._begun, self._ended
        if after <= before:
            raise AssertionError("no call was answered in time")
        return {
            "rate": (after - before) / (ended - begun) * 1e9,
            "latency": percentiles(self.waits[before:after]),
            "cpu": cpu,
            "calls": len(self.waits),
        }

"""What `vanilla bench` has found for one size of messages, as a row of a table and as JSON."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Callable

from .histogram import Histogram
from .table import number, plural


@dataclass
class Result:
    """One size.

    :ivar size: of a message, in bytes.
    :ivar complete: it was not interrupted.
    :ivar sent: messages that were sent, and are confirmed if it is complete.
    :ivar received: messages that were received, the queue's rest included.
    :ivar lost: messages of those sent that are known to be lost, where that is allowed (``?reliable=0``).
    :ivar rate: messages a second that were received while there was sending.
    :ivar cpu: CPU seconds of all "pushers", of all "pullers", and of the "broker" if it tells, by these names.
    :ivar waits: how long those messages that tell were on their way, in ns.
    """

    size: int
    complete: bool
    sent: int
    received: int
    lost: int
    rate: float
    cpu: dict[str, float | None]
    waits: Histogram = field(repr=False)

    @property
    def fault(self) -> str:
        """What is wrong with it, for people; empty if nothing is."""
        missing = self.sent - self.lost - self.received
        if not self.complete or not missing:
            return ""
        if missing > 0:
            return f"{plural(missing, 'message')} of {self.sent:,} of {self.size} bytes missing"
        return f"{plural(-missing, 'message')} of {self.size} bytes came twice"

    def cpu_a_million(self, who: str) -> float | None:
        """CPU seconds a million received messages."""
        used = self.cpu.get(who)
        return None if used is None or not self.received else used / self.received * 1e6

    def wait(self, part: float) -> float | None:
        """What *part* of the messages that tell were not longer on their way than, in ms."""
        found = self.waits.quantile(part)
        return None if found is None else found / 1e6

    def as_json(self) -> dict[str, Any]:
        """For programs; None is what is not known."""
        return {
            "size": self.size,
            "complete": self.complete,
            "sent": self.sent,
            "received": self.received,
            "lost": self.lost,
            "messages_per_second": round(self.rate, 1),
            "bytes_per_second": round(self.rate * self.size, 1),
            "cpu_seconds_per_million": {who: _rounded(self.cpu_a_million(who)) for who in WHO},
            "latency_ms": {
                "messages": self.waits.total,
                "p50": _rounded(self.wait(0.5)),
                "p99": _rounded(self.wait(0.99)),
            },
        }

    def row(self) -> str:
        """A line of the table."""
        notes = [f"{self.lost:,} of {self.sent:,} lost"] * bool(self.lost) + ["interrupted"] * (not self.complete)
        return _line([write(self) for _, _, write in COLUMNS]) + (f"  ({', '.join(notes)})" if notes else "")


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def figure(value: float | None) -> str:
    """In three digits, or all before the point if there are more.

    >>> figure(None), figure(0.1234), figure(12.34), figure(1234.5)
    ('-', '0.12', '12.3', '1,234')
    """
    if value is None:
        return "-"
    return f"{value:.2f}" if value < 10 else f"{value:.1f}" if value < 100 else f"{value:,.0f}"


#: Whose CPU time it tells.
WHO = ("pushers", "pullers", "broker")

#: Two lines of heading, and what stands below.
COLUMNS: tuple[tuple[str, str, Callable[[Result], str]], ...] = (
    ("bytes", "", lambda result: str(result.size)),
    ("msgs/s", "received", lambda result: number(result.rate)),
    ("MB/s", "received", lambda result: figure(result.rate * result.size / 1e6)),
    ("CPU s/M", "pushers", lambda result: figure(result.cpu_a_million("pushers"))),
    ("CPU s/M", "pullers", lambda result: figure(result.cpu_a_million("pullers"))),
    ("CPU s/M", "broker", lambda result: figure(result.cpu_a_million("broker"))),
    ("latency", "p50 ms", lambda result: figure(result.wait(0.5))),
    ("latency", "p99 ms", lambda result: figure(result.wait(0.99))),
)
#: Rows are printed one by one, so that they cannot be fitted.
WIDTH = 8


def heading() -> str:
    """The two lines above the rows."""
    return "\n".join(_line([column[i] for column in COLUMNS]) for i in (0, 1))


def _line(cells: list[Any]) -> str:
    return "  ".join(cell.rjust(WIDTH) for cell in cells)

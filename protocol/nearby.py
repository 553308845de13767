"""Congestion control between two addresses of one machine, where there is no path to fill and nothing to congest."""

from __future__ import annotations

from .congestion import TICK, DeliveryRate
from .recovery import Sample

#: Bytes: more than any peer takes. What its kernel holds, and its window, bound what is in flight.
NO_WINDOW = 1 << 40
#: Round trips that are measured before a path is believed to be short.
TRIALS = 16


class Nearby:
    """Lets everything leave at once: on loopback the receiver's buffers are all there is, and their size is known.

    What is measured there are the ticks and the turns of two processes, so a rate that is kept to, or a timer that
    paces, would only make batches small. But behind an address on loopback may be a relay, and a path behind that. It
    shows by a loss, or by round trips of which none is short: from then on a `DeliveryRate` has its place.
    """

    __slots__ = ("_behind", "_datagram", "_least", "_trials", "free")

    def __init__(self, datagram: int) -> None:
        self._datagram = datagram
        self._least = float("inf")
        self._trials = 0
        self._behind: DeliveryRate | None = None
        #: The path is known to be short, and did not lose anything yet.
        self.free = False

    @property
    def window(self) -> int:
        return NO_WINDOW if self._behind is None else self._behind.window

    @property
    def pacing_rate(self) -> float:
        return 0.0 if self._behind is None else self._behind.pacing_rate

    def resize(self, datagram: int) -> None:
        self._datagram = datagram
        if self._behind is not None:
            self._behind.resize(datagram)

    def on_sent(self, now: float, in_flight: int) -> None:
        if self._behind is not None:
            self._behind.on_sent(now, in_flight)

    def on_ack(self, sample: Sample) -> None:
        if self._behind is not None:
            self._behind.on_ack(sample)
        elif self._trials < TRIALS and sample.rtt:
            self._trials += 1
            self._least = min(self._least, sample.rtt)
            if self._trials == TRIALS:
                self.free = self._least <= TICK
                if not self.free:
                    self._behind = DeliveryRate(self._datagram, sample.now)

    def on_loss(self, now: float, lost: int, sent: float, persistent: bool) -> None:
        if self._behind is None:
            self.free = False
            self._behind = DeliveryRate(self._datagram, now)
        self._behind.on_loss(now, lost, sent, persistent)

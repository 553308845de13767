"""NewReno after RFC 9002, section 7 and appendix B: the reference that the default controller is measured against."""

from __future__ import annotations

from .recovery import Sample

#: Appendix B.1; in datagrams: the window at first, and the least.
INITIAL_DATAGRAMS = 10
LEAST_DATAGRAMS = 2
LOSS_REDUCTION = 0.5
#: 7.7: faster than a window a round trip, so that pacing alone does not leave the window unused.
PACING = 1.25
PACING_SLOW_START = 2.0


class NewReno:
    """A window that grows by a datagram a round trip, and halves once in each round trip that loses.

    :param datagram: the length of a full datagram, in bytes.
    """

    free = False
    __slots__ = ("_datagram", "_recovery_start", "_smoothed", "_threshold", "_used", "window")

    def __init__(self, datagram: int, now: float) -> None:
        self._datagram = datagram
        self._threshold = float("inf")
        self._recovery_start = float("-inf")
        self._smoothed = 0.0
        #: What was in flight at most since the last acknowledgement: 7.8, a window that is not used does not grow.
        self._used = 0
        self.window = INITIAL_DATAGRAMS * datagram

    def resize(self, datagram: int) -> None:
        self.window = max(self.window, self.window * datagram // self._datagram)
        self._datagram = datagram

    def on_sent(self, now: float, in_flight: int) -> None:
        self._used = max(self._used, in_flight)

    def on_ack(self, sample: Sample) -> None:
        self._smoothed = sample.smoothed
        used = max(self._used, sample.before)
        self._used = sample.in_flight
        if sample.sent <= self._recovery_start or used < self.window / 2:
            return
        if self.window < self._threshold:
            self.window += sample.acked
        else:
            self.window += max(self._datagram * sample.acked // self.window, 1)

    def on_loss(self, now: float, lost: int, sent: float, persistent: bool) -> None:
        if sent > self._recovery_start:
            self._recovery_start = now
            self.window = max(int(self.window * LOSS_REDUCTION), LEAST_DATAGRAMS * self._datagram)
            self._threshold = self.window
        if persistent:
            self.window = LEAST_DATAGRAMS * self._datagram
            self._recovery_start = float("-inf")

    @property
    def pacing_rate(self) -> float:
        if not self._smoothed:
            return 0.0
        gain = PACING_SLOW_START if self.window < self._threshold else PACING
        return gain * self.window / self._smoothed

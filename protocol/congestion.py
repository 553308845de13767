"""How fast a session sends: what a congestion controller is, and the default one.

`DeliveryRate` is in the manner of BBR (draft-ietf-ccwg-bbr): it models the path as a rate and a round-trip time,
measures both, and sends at that rate with a little more than their product in flight. So it does not fill a
bottleneck's buffer in order to find it, and a packet that a bad link drops means nothing to it.

Losses that do mean something are told from others by the queue: a router drops when its buffer is full, so the packets
around the lost one took longer than those that met no queue. Only a round trip that lost packets *and* met a queue
counts as congestion, and puts a cap on what is in flight; probing raises it again. This is what the draft does with a
threshold of 2 % of loss (``BBRLossThresh``), which a link of 10 % random loss would always pass. What round trips
differ by from one to the next is no queue: processes that come late to their datagrams do that, and a queue that makes
a router drop has stood for a while. And a probe is for a quarter more of what *arrives*: where a fifth is lost,
sending a quarter more than arrived before is no probe at all, and the rate would only ever fall.

Where a path is shorter than the ticks of the two processes at its ends, they, and not the path, are what there is to be
filled: the round-trip time that the window is computed with is at least `TICK`.
"""

from __future__ import annotations

from collections import deque
from typing import Callable, Protocol

from .newreno import NewReno
from .recovery import Sample


class Controller(Protocol):
    """``window`` is how many bytes may be in flight, ``pacing_rate`` how many may leave in a second; 0: any number.
    ``free``: any number may do both, and the controller need not be told of what leaves, or is acknowledged.

    Bytes are those of datagrams, times are `now` of the transport, in seconds.
    """

    @property
    def free(self) -> bool: ...

    @property
    def window(self) -> int: ...

    @property
    def pacing_rate(self) -> float: ...

    def resize(self, datagram: int) -> None:
        """Full datagrams have *datagram* bytes from now on; the window is as many of them as before, or more."""

    def on_sent(self, now: float, in_flight: int) -> None:
        """Datagrams have left, and so much is in flight with them."""

    def on_ack(self, sample: Sample) -> None:
        """Packets were acknowledged. What was lost with it was said by `on_loss` before."""

    def on_loss(self, now: float, lost: int, sent: float, persistent: bool) -> None:
        """*lost* bytes were lost, the last of which had left at *sent*. *persistent*: RFC 9002, 7.6."""


INITIAL_DATAGRAMS = 32
LEAST_DATAGRAMS = 4
#: 2/ln 2: the least gain with which the rate doubles in each round trip.
STARTUP_GAIN = 2.89
DRAIN_GAIN = 1 / STARTUP_GAIN
#: The rate has stopped growing when so many round trips did not add a quarter.
STARTUP_ROUNDS = 3
STARTUP_GROWTH = 1.25
#: One entry a round trip: probe for more, drain what that has queued, cruise.
CYCLE = (1.25, 0.75, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0)
WINDOW_GAIN = 2.0
#: A little less than what was measured, so that a queue does not stand.
MARGIN = 0.99
RATE_ROUNDS = 10
#: Seconds: how long the shortest round trip is believed, and how long is waited for another. The draft has 5 as well
#: (``BBR.ProbeRTTInterval``); BBRv1's 10 costs 2 % less and lets a flow that fills a deep buffer have twice as much for
#: as long.
RTT_LIFE = 5.0
PROBE_RTT_TIME = 0.2
PROBE_RTT_GAIN = 0.5
#: Seconds: see above.
TICK = 0.002
#: A round trip has met a queue if it took longer than the shortest by so much, as a factor and in seconds.
QUEUE_FACTOR = 1.1
QUEUE_TIME = 0.0005
#: And by so many times what round trips differ by, a mean deviation of which each sample is an eighth.
QUEUE_DEVIATIONS = 3.0
DEVIATION_SHARE = 0.125
#: Of a round trip's bytes: less loss than this is no congestion.
LOSS = 0.02
#: Loss that is none is a mean of which each round trip is an eighth; more than this is not made up for.
RANDOM_SHARE = 0.125
MOST_RANDOM = 0.3
#: What a cap is cut to.
REDUCTION = 0.7
HEADROOM = 0.85

STARTUP, DRAIN, CYCLING, PROBE_RTT = "startup", "drain", "cycling", "probe rtt"
GAINS = {STARTUP: STARTUP_GAIN, DRAIN: DRAIN_GAIN, PROBE_RTT: 1.0}


class DeliveryRate:
    """A controller that sends as fast as it was seen to arrive.

    :param datagram: the length of a full datagram, in bytes.
    """

    free = False
    __slots__ = (
        "_aggregate",
        "_aggregate_from",
        "_aggregated",
        "_cap",
        "_cap_growth",
        "_datagram",
        "_delivered",
        "_deviation",
        "_full",
        "_full_rounds",
        "_lost",
        "_next_round",
        "_phase",
        "_phase_from",
        "_probe_until",
        "_queued",
        "_random",
        "_rates",
        "_round",
        "_round_from",
        "_rtt",
        "_rtt_from",
        "_smoothed",
        "_top",
        "mode",
        "rate",
        "window",
    )

    def __init__(self, datagram: int, now: float) -> None:
        self._datagram = datagram
        self.mode = STARTUP
        self.window = INITIAL_DATAGRAMS * datagram
        #: The path's, in bytes a second: the largest of `RATE_ROUNDS` rounds, each of which has one entry at most.
        self.rate = 0.0
        self._rates: deque[tuple[int, float]] = deque()
        self._rtt = 0.0
        self._rtt_from = now
        self._smoothed = 0.0
        self._deviation = 0.0
        self._round = 0
        self._next_round = 0
        self._round_from = 0  # bytes delivered when it began
        self._delivered = 0
        #: Bytes lost in this round; the shortest round trip in it; what was in flight at most.
        self._lost = 0
        self._queued = float("inf")
        self._top = 0
        #: The share of bytes that is lost at random.
        self._random = 0.0
        self._full = 0.0
        self._full_rounds = 0
        self._phase = 0
        self._phase_from = now
        self._probe_until = 0.0
        #: The most that may be in flight, after congestion.
        self._cap = float("inf")
        self._cap_growth = 1
        #: Acknowledgements come in lumps: how much more came than the rate would have it.
        self._aggregate: deque[tuple[int, float]] = deque()
        self._aggregate_from = now
        self._aggregated = 0.0

    # -- the controller

    @property
    def pacing_rate(self) -> float:
        paced = self._gain() * self.rate * MARGIN
        if self.mode != STARTUP or not self._smoothed:
            return paced
        return max(paced, STARTUP_GAIN * INITIAL_DATAGRAMS * self._datagram / self._smoothed)

    def _gain(self) -> float:
        if self.mode != CYCLING:
            return GAINS[self.mode]
        gain = CYCLE[self._phase]
        return gain / (1 - self._random) if gain > 1 else gain

    def resize(self, datagram: int) -> None:
        self.window = max(self.window, self.window * datagram // self._datagram)
        self._datagram = datagram

    def on_sent(self, now: float, in_flight: int) -> None:
        if in_flight > self._top:
            self._top = in_flight

    def on_loss(self, now: float, lost: int, sent: float, persistent: bool) -> None:
        self._lost += lost
        if persistent:
            self.window = LEAST_DATAGRAMS * self._datagram

    def on_ack(self, sample: Sample) -> None:
        now = sample.now
        self._smoothed = sample.smoothed
        self._delivered = sample.delivered
        if sample.rtt:
            self._measure(sample.rtt, now)
        new_round = sample.prior >= self._next_round
        if new_round:
            self._end_round(sample)
        if sample.rate and (not sample.limited or sample.rate >= self.rate):
            self._add_rate(sample.rate)
        self._lump(sample)
        if new_round and self.mode == STARTUP and not sample.limited:
            self._check_full()
        self._move(sample)
        self._set_window(sample)

    # -- the model

    def _measure(self, rtt: float, now: float) -> None:
        self._deviation += (abs(self._smoothed - rtt) - self._deviation) * DEVIATION_SHARE
        self._queued = min(self._queued, rtt)
        if rtt <= self._rtt or not self._rtt:
            self._rtt, self._rtt_from = rtt, now
        elif now - self._rtt_from > RTT_LIFE and self.mode != PROBE_RTT and self.rate:
            if self.mode == STARTUP:
                self._full = self.rate
            self.mode = PROBE_RTT
            self._probe_until = 0.0

    def _add_rate(self, rate: float) -> None:
        rates = self._rates
        while rates and rates[-1][1] <= rate:
            rates.pop()
        rates.append((self._round, rate))
        self.rate = rates[0][1]

    def _end_round(self, sample: Sample) -> None:
        congested = self._congested()
        self._round += 1
        self._next_round = sample.delivered
        while len(self._rates) > 1 and self._rates[0][0] <= self._round - RATE_ROUNDS:
            self._rates.popleft()
            self.rate = self._rates[0][1]
        if congested:
            self._cap = max(self._cap_bytes() * REDUCTION, self._product(1.0))
            self._cap_growth = 1
            if self.mode == STARTUP:
                self.mode = DRAIN
            elif self.mode == CYCLING and self._phase == 0:
                self._enter(1, sample.now)
        elif self.mode == CYCLING and self._phase == 0 and self._top >= self._cap:
            self._cap += self._cap_growth * self._datagram
            self._cap_growth *= 2
        self._round_from = sample.delivered
        self._lost = 0
        self._queued = float("inf")
        self._top = sample.in_flight

    def _cap_bytes(self) -> float:
        return min(self._cap, self._top)

    def _congested(self) -> bool:
        """The round that ends has lost packets in a queue. What it lost otherwise, it lost at random."""
        share = self._lost / max(self._delivered - self._round_from + self._lost, 1)
        least = self._rtt * QUEUE_FACTOR + QUEUE_TIME + self._deviation * QUEUE_DEVIATIONS
        if share > LOSS and least < self._queued < float("inf"):
            return True
        self._random += (min(share, MOST_RANDOM) - self._random) * RANDOM_SHARE
        return False

    def _lump(self, sample: Sample) -> None:
        """How far acknowledgements run ahead of the rate (the draft's extra_acked)."""
        expected = self.rate * (sample.now - self._aggregate_from)
        if self._aggregated <= expected:
            self._aggregated, self._aggregate_from, expected = 0.0, sample.now, 0.0
        self._aggregated += sample.acked
        extra = min(self._aggregated - expected, self.window)
        lumps = self._aggregate
        while lumps and (lumps[-1][1] <= extra):
            lumps.pop()
        lumps.append((self._round, extra))
        while lumps[0][0] <= self._round - RATE_ROUNDS:
            lumps.popleft()

    def _product(self, gain: float) -> float:
        """Bytes that fill the path, times *gain*."""
        return max(gain * self.rate * max(self._rtt, TICK), LEAST_DATAGRAMS * self._datagram)

    # -- what to do

    def _check_full(self) -> None:
        if self.rate >= self._full * STARTUP_GROWTH:
            self._full = self.rate
            self._full_rounds = 0
            return
        self._full_rounds += 1
        if self._full_rounds >= STARTUP_ROUNDS:
            self.mode = DRAIN

    def _enter(self, phase: int, now: float) -> None:
        self._phase = phase % len(CYCLE)
        self._phase_from = now

    def _move(self, sample: Sample) -> None:
        now = sample.now
        if self.mode == DRAIN and sample.in_flight <= self._product(1.0):
            self.mode = CYCLING
            self._enter(2, now)
        elif self.mode == CYCLING:
            over = now - self._phase_from > self._rtt
            gain = CYCLE[self._phase]
            if gain > 1:
                over = over and (bool(self._lost) or sample.before >= min(self._product(gain), self._cap))
            elif gain < 1:
                over = over or sample.in_flight <= self._product(1.0)
            if over:
                self._enter(self._phase + 1, now)
        elif self.mode == PROBE_RTT:
            self._probe_rtt(sample)

    def _probe_rtt(self, sample: Sample) -> None:
        """With little in flight, see how long the path is, for a while and a round at least."""
        if not self._probe_until:
            if sample.in_flight <= self._product(PROBE_RTT_GAIN):
                self._probe_until = sample.now + PROBE_RTT_TIME
                self._rtt = sample.rtt or self._rtt
        elif sample.rtt:
            self._rtt = min(self._rtt, sample.rtt)
        if self._probe_until and sample.now >= self._probe_until:
            self._rtt_from = sample.now
            self.mode = CYCLING if self._full_rounds >= STARTUP_ROUNDS or self._cap < float("inf") else STARTUP
            self._enter(2, sample.now)

    def _set_window(self, sample: Sample) -> None:
        if not self.rate:
            self.window += sample.acked
            return
        if self.mode == PROBE_RTT:
            self.window = int(self._product(PROBE_RTT_GAIN))
            return
        gain = STARTUP_GAIN if self.mode in (STARTUP, DRAIN) else WINDOW_GAIN
        extra = self._aggregate[0][1] if self._aggregate else 0.0
        goal = self._product(gain) + extra
        cap = self._cap
        if self.mode == CYCLING and self._phase != 0:
            cap *= HEADROOM
        goal = max(min(goal, cap), LEAST_DATAGRAMS * self._datagram)
        if self.mode == STARTUP:
            self.window = max(self.window, int(min(self.window + sample.acked, goal)))
        else:
            self.window = int(min(self.window + sample.acked, goal))


#: What the option ``controller`` of a session may be.
CONTROLLERS: dict[str, Callable[[int, float], Controller]] = {"delivery": DeliveryRate, "newreno": NewReno}

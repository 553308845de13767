"""What is in flight: round-trip times, what was lost, and when to ask (RFC 9002, sections 5 and 6; 7.6).

Nothing is kept for each packet. Packets that are sent at one instant, full ones, with consecutive bytes of the stream,
are one `Run`; acknowledgements come as ranges, and cut runs. So the cost is that of trains and of holes, not of
packets.

Where we differ from the RFC:
* there is one packet number space and no handshake in it;
* a packet that comes after it was declared lost widens both thresholds (6.1 allows it), so that a path that reorders
  does not look like one that loses;
* the PTO backs off to `MAX_PTO` at most: a session that was cut off goes on soon after it can.

The delivery rate is sampled after draft-cheng-iccrg-delivery-rate-estimation: a run remembers how much was delivered,
and when, at the time it was sent.

Invariants:
1. ``runs`` ascend by number and do not overlap, as do ``gone``; ``firsts`` of either are the runs' first numbers.
2. ``in_flight`` is the sum of `Run.wire` of ``runs``, ``flying`` that of their counts. What is gone is not in flight.
3. A packet is in ``runs`` from being sent until it is acknowledged, lost, or given up; once, and then in ``gone`` at
   most.
4. ``serial`` counts what must be acknowledged. Two runs are neighbours by serial if nothing that must was between them.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import Any, NamedTuple

from .arrivals import DELAY
from .packets import OVERHEAD_BYTES

#: Seconds. Before the first sample; the RFC says 0.333, for the internet, not for a broker's peers.
INITIAL_RTT = 0.1
#: A first guess is not shorter: of a peer that has a session to make, maybe one of thousands that come at once.
LEAST_GUESS = 0.010
#: The timers of a loop are not finer.
GRANULARITY = 0.001
#: How late an acknowledgement may be by the receiver's intent, its loop's ticks included.
ACK_DELAY = 0.010
MAX_PTO = 2.0
#: No PTO is shorter, whatever was measured.
LEAST_PTO = GRANULARITY + ACK_DELAY
PACKET_THRESHOLD = 3
MOST_PACKET_THRESHOLD = 256
TIME_THRESHOLD = 9 / 8
MOST_TIME_THRESHOLD = 2.0
#: Of persistent congestion, in PTOs.
PERSISTENT = 3
#: Runs that are lost and may still come.
MOST_GONE = 256


class Run:
    """Packets ``first`` up to ``end`` (exclusive), sent at ``time``, which carry the stream from ``offset`` to
    ``stop``: ``each`` bytes in each, the last one perhaps fewer. ``note`` is what else a run of one packet carries, and
    ``beside`` how many bytes of that count as the stream's do. ``wire`` are the bytes of the datagrams: of items other
    than a STREAM what is ``beside``."""

    __slots__ = (
        "beside",
        "delivered",
        "delivered_time",
        "each",
        "end",
        "first",
        "first_sent",
        "limited",
        "note",
        "offset",
        "serial",
        "stop",
        "time",
        "wire",
    )

    def __init__(self, first: int, end: int, serial: int, offset: int, each: int, stop: int, time: float) -> None:
        self.first = first
        self.end = end
        self.serial = serial
        self.offset = offset
        self.each = each
        self.stop = stop
        self.time = time
        self.delivered = 0
        self.delivered_time = 0.0
        self.first_sent = 0.0
        self.limited = False
        self.note: Any = None
        self.beside = 0
        self.wire = stop - offset + OVERHEAD_BYTES * (end - first)

    def part(self, first: int, end: int) -> Run:
        """The packets from *first* up to *end* of this one."""
        if first == self.first and end == self.end:
            return self
        offset = self.offset + (first - self.first) * self.each
        stop = self.stop if end == self.end else offset + (end - first) * self.each
        part = Run(first, end, self.serial + first - self.first, offset, self.each, stop, self.time)
        part.delivered, part.delivered_time = self.delivered, self.delivered_time
        part.first_sent, part.limited, part.note = self.first_sent, self.limited, self.note
        return part


class Runs:
    """Runs, ascending (invariant 1)."""

    __slots__ = ("firsts", "runs")

    def __init__(self) -> None:
        self.runs: list[Run] = []
        self.firsts: list[int] = []

    def add(self, run: Run) -> None:
        """Add a run above all others."""
        self.runs.append(run)
        self.firsts.append(run.first)

    def insert(self, run: Run) -> None:
        at = bisect_right(self.firsts, run.first)
        self.runs.insert(at, run)
        self.firsts.insert(at, run.first)

    def cut(self, first: int, last: int, into: list[Run]) -> None:
        """Take the packets *first* to *last* out, *into* a list."""
        runs, firsts = self.runs, self.firsts
        begin = bisect_right(firsts, first) - 1
        if begin < 0 or runs[begin].end <= first:
            begin += 1
        stop, count = begin, len(runs)
        while stop < count and firsts[stop] <= last:
            stop += 1
        if begin == stop:
            return
        stay: list[Run] = []
        low, high = runs[begin], runs[stop - 1]
        if low.first < first:
            stay.append(low.part(low.first, first))
        if high.end > last + 1:
            stay.append(high.part(last + 1, high.end))
        for run in runs[begin:stop]:
            into.append(run.part(max(run.first, first), min(run.end, last + 1)))
        runs[begin:stop] = stay
        firsts[begin:stop] = [run.first for run in stay]

    def __len__(self) -> int:
        return len(self.runs)


class Sample(NamedTuple):
    """What an acknowledgement says of the path, for a congestion controller. Bytes are those of datagrams."""

    now: float
    acked: int  # bytes that this one acknowledges
    lost: int  # bytes that are lost by it
    in_flight: int  # bytes, after it
    before: int  # bytes in flight before it
    delivered: int  # bytes acknowledged in all
    prior: int  # the same, when the newest packet of this acknowledgement was sent
    sent: float  # and when that was
    rate: float  # delivery rate in bytes a second; 0 if there is no sample
    limited: bool  # the rate is the application's, not the path's
    rtt: float  # the latest round trip in seconds, without the peer's `PATIENCE`; 0 if this one has none
    smoothed: float


class Outcome(NamedTuple):
    """``spurious`` runs had been declared lost."""

    acked: list[Run]
    lost: list[Run]
    spurious: list[Run]
    sample: Sample | None


class Recovery:
    """The packets of one session that its peer must acknowledge.

    :ivar next: the number of the next packet.
    :ivar backoff: PTOs since the last acknowledgement.
    """

    __slots__ = (
        "_delivered",
        "_delivered_time",
        "_first_sent",
        "_gone",
        "_largest",
        "_limited_until",
        "_loss_time",
        "_measured_from",
        "_packet_threshold",
        "_sent",
        "_serial",
        "_time",
        "_time_threshold",
        "_variance",
        "backoff",
        "flying",
        "in_flight",
        "latest",
        "min_rtt",
        "next",
        "sampled",
        "smoothed",
    )

    def __init__(self, now: float) -> None:
        self.next = 0
        self.backoff = 0
        self.in_flight = self.flying = 0
        self.latest = self.min_rtt = 0.0
        self.smoothed = INITIAL_RTT
        #: There was a sample of the round-trip time.
        self.sampled = False
        self._measured_from = 0
        self._variance = INITIAL_RTT / 2
        self._sent = Runs()
        self._gone = Runs()
        self._largest = -1
        self._serial = 0
        #: When the newest packet was sent that must be acknowledged.
        self._time = now
        self._loss_time: float | None = None
        self._packet_threshold = PACKET_THRESHOLD
        self._time_threshold = TIME_THRESHOLD
        self._delivered = 0
        self._delivered_time = self._first_sent = now
        self._limited_until = -1

    # -- sending

    def sent(
        self, now: float, count: int, offset: int, each: int, stop: int, note: object = None, beside: int = 0
    ) -> int:
        """*count* packets leave, which must be acknowledged: the number of the first."""
        first = self.next
        self.next += count
        run = Run(first, self.next, self._serial, offset, each, stop, now)
        if not self.flying:
            self._first_sent = self._delivered_time = now
        run.delivered, run.delivered_time, run.first_sent = self._delivered, self._delivered_time, self._first_sent
        run.limited = self._limited_until >= self._delivered
        run.note = note
        run.beside = beside
        run.wire += beside
        self._sent.add(run)
        self._serial += count
        self._time = now
        self.in_flight += run.wire
        self.flying += count
        return first

    def guess(self, rtt: float) -> None:
        """Before the first sample: a round trip takes about *rtt*, in seconds (RFC 9002, 6.2.2)."""
        self.smoothed = max(rtt, LEAST_GUESS)
        self._variance = self.smoothed / 2

    def number(self) -> int:
        """The number of a packet that nobody has to acknowledge."""
        self.next += 1
        return self.next - 1

    def limit(self) -> None:
        """There was nothing to send, though there was room: what is measured next is the application's rate."""
        self._limited_until = self._delivered + self.in_flight or 1

    # -- acknowledgements

    def acknowledged(self, ranges: list[tuple[int, int]], delay: float, now: float) -> Outcome:
        """The peer has the packets of *ranges* (first, last), ascending, the last one for *delay* seconds."""
        before = self.in_flight
        acked: list[Run] = []
        spurious: list[Run] = []
        sent, gone = self._sent, self._gone
        largest = ranges[-1][1]
        if gone.runs:
            for first, last in ranges:
                if last >= gone.firsts[0]:
                    gone.cut(first, last, spurious)
                    if not gone.runs:
                        break
            if spurious:
                self._widen(spurious)
        for first, last in ranges:
            if not sent.runs:
                break
            if last >= sent.firsts[0]:
                sent.cut(first, last, acked)
        if largest > self._largest:
            self._largest = largest
        if not acked:
            return Outcome(acked, self._lost(now) if spurious else [], spurious, None)
        newest = acked[-1]
        size, rtt = self._land(acked, largest, delay, now)
        rate = self._rate(newest, now)
        lost = self._lost(now)
        sample = Sample(
            now, size, sum(run.wire for run in lost), self.in_flight, before, self._delivered, newest.delivered,
            newest.time, rate, newest.limited, rtt, self.smoothed,
        )  # fmt: skip
        return Outcome(acked, lost, spurious, sample)

    def acknowledged_first(self, first: int, largest: int, delay: float, now: float) -> list[Run] | None:
        """As `acknowledged`, without a sample, of one range of packets, *first* to *largest*, if they are the oldest
        in flight, in whole runs, none above them was acknowledged, and none below them, or among them, counts as lost.
        The runs; None if it is not so, or one was never sent: then nothing was done."""
        sent, gone = self._sent, self._gone
        count = bisect_right(sent.firsts, largest)
        if not self._largest <= largest < self.next or (gone.runs and gone.runs[-1].end > first):
            return None
        if count and (sent.firsts[0] < first or sent.runs[count - 1].end - 1 > largest):
            return None
        self._largest = largest
        acked = sent.runs[:count]
        if not acked:
            return acked
        del sent.runs[:count], sent.firsts[:count]
        self._land(acked, largest, delay, now)
        self._loss_time = None
        return acked

    def _land(self, acked: list[Run], largest: int, delay: float, now: float) -> tuple[int, float]:
        """*acked* have come, by an acknowledgement of which *largest* is the newest: how many bytes they are, and the
        round trip that a controller sees; 0 if this one says nothing of it."""
        newest = acked[-1]
        rtt = 0.0
        if newest.end - 1 == largest and newest.first >= self._measured_from:
            rtt = self._measure(now - newest.time, delay)
        size = 0
        for run in acked:
            size += run.wire
            self.flying -= run.end - run.first
        self.in_flight -= size
        self._delivered += size
        self._delivered_time = now
        self._first_sent = newest.time
        self.backoff = 0
        return size, rtt

    def _measure(self, rtt: float, delay: float) -> float:
        """RFC 9002, 5.3: what a controller sees of a round trip of *rtt*, the end of which the peer put off by *delay*.
        It puts off for longer what comes alone, and of that the path knows nothing. More than `ACK_DELAY` it may not
        claim: a queue that it hid as its own delay would be no congestion."""
        delay = min(delay, ACK_DELAY)
        self.latest = rtt = max(rtt, 1e-6)
        if not self.sampled:
            self.sampled = True
            self.min_rtt = self.smoothed = rtt
            self._variance = rtt / 2
        else:
            if rtt < self.min_rtt:
                self.min_rtt = rtt
            adjusted = rtt - delay if rtt >= self.min_rtt + delay else rtt
            self._variance += (abs(self.smoothed - adjusted) - self._variance) / 4
            self.smoothed += (adjusted - self.smoothed) / 8
        return max(rtt - (delay - DELAY), 1e-6) if delay > DELAY else rtt

    def _rate(self, newest: Run, now: float) -> float:
        interval = max(newest.time - newest.first_sent, now - newest.delivered_time)
        if interval <= 0 or interval < self.min_rtt:
            return 0.0
        return (self._delivered - newest.delivered) / interval

    def _widen(self, spurious: list[Run]) -> None:
        behind = max(self._largest - run.first for run in spurious) + 1
        self._packet_threshold = min(max(self._packet_threshold, behind), MOST_PACKET_THRESHOLD)
        self._time_threshold = min(self._time_threshold * 1.1, MOST_TIME_THRESHOLD)

    # -- loss

    def _lost(self, now: float) -> list[Run]:
        """Declare lost what is (RFC 9002, 6.1), and say when the next one would be."""
        self._loss_time = None
        sent = self._sent
        lost: list[Run] = []
        if not sent.runs or sent.firsts[0] > self._largest:
            return lost
        wait = max(self._time_threshold * max(self.smoothed, self.latest), GRANULARITY)
        behind = self._largest - self._packet_threshold  # this one, and all before it
        for run in sent.runs:
            if run.first > self._largest:
                break
            if run.time + wait <= now:  # as `_loss_time` has it, or rounding would have us called again and again
                last = min(run.end - 1, self._largest)
            else:
                last = min(run.end - 1, behind)
                if last < run.end - 1 and run.first <= self._largest and self._loss_time is None:
                    self._loss_time = run.time + wait
            if last >= run.first:
                lost.append(run.part(run.first, last + 1))
        for run in lost:
            sent.cut(run.first, run.end - 1, [])
            self._give_up(run)
        return lost

    def _give_up(self, run: Run) -> None:
        self.in_flight -= run.wire
        self.flying -= run.end - run.first
        self._gone.insert(run)
        if len(self._gone) > MOST_GONE:
            del self._gone.runs[: MOST_GONE // 2], self._gone.firsts[: MOST_GONE // 2]

    def give_up_all(self) -> list[Run]:
        """The path is another one: whatever is in flight on the old one counts as lost, and nothing is known."""
        lost = self._sent.runs[:]
        self._sent = Runs()
        for run in lost:
            self._give_up(run)
        self._loss_time = None
        self.backoff = 0
        self.sampled = False
        self.smoothed, self._variance = INITIAL_RTT, INITIAL_RTT / 2
        self._measured_from = self.next
        return lost

    def persistent(self, lost: list[Run]) -> bool:
        """Whether so much time lies between lost packets, with nothing acknowledged between, that it is persistent
        congestion (RFC 9002, 7.6)."""
        if not self.sampled or not lost:
            return False
        enough = PERSISTENT * (self.smoothed + max(4 * self._variance, GRANULARITY) + ACK_DELAY)
        begin = last = lost[0]
        for run in lost[1:]:
            if run.serial != last.serial + last.end - last.first:
                begin = run
            last = run
            if last.time - begin.time > enough:
                return True
        return False

    # -- timers

    @property
    def pto(self) -> float:
        """How long to wait for an acknowledgement, in seconds, without back-off (RFC 9002, 6.2)."""
        return self.smoothed + max(4 * self._variance, GRANULARITY) + ACK_DELAY

    def rests(self, until: float) -> bool:
        """Whether `due` has nothing to say before *until*: at a glance, so False may as well mean that it may have."""
        return self._loss_time is None and (not self.flying or until <= self._time + LEAST_PTO)

    def next_time(self) -> float | None:
        """When `due` has something to say."""
        if self._loss_time is not None:
            return self._loss_time
        if not self.flying:
            return None
        if not self.backoff:
            return self._time + self.pto
        return self._time + min(self.pto * (1 << min(self.backoff, 16)), max(self.pto, MAX_PTO))

    def due(self, now: float) -> tuple[list[Run], bool]:
        """What is lost by now, and whether to send a probe."""
        at = self.next_time()
        if at is None or now < at:
            return [], False
        if self._loss_time is not None:
            return self._lost(now), False
        self.backoff += 1
        self._time = now
        return [], True

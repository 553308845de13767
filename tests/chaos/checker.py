"""Compares what producers saw confirmed with what consumers saw and settled, and says what must not be.

The promises that are checked (all of them for consumers that settle):

1. What was confirmed is done by somebody, or found among the dead letters: else it is *lost*.
2. What somebody gets was sent: else it is *invented*.
3. A job comes without ``redelivered`` once at most: else it is a *silent* repetition.
4. First deliveries of one producer to one consumer come in the order in which they were sent: else they are
   *disordered*.

What was sent and not confirmed may arrive or not. What was done may come again, marked: its acknowledgement may not
have left.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from journal import BURIED, CONFIRMED, DONE, GOT, SEND, Event, Job


@dataclass
class Verdict:
    """What a run came to.

    :ivar marked, unmarked: jobs that came more than once, with ``redelivered`` set from the second time on, and not.
    :ivar redeliveries: deliveries that had it set.
    :ivar waits: from a job's send to its first delivery, in ns.
    """

    sent: int = 0
    confirmed: int = 0
    done: int = 0
    buried: int = 0
    marked: int = 0
    unmarked: int = 0
    redeliveries: int = 0
    lost: list[Job] = field(default_factory=list)
    invented: list[Job] = field(default_factory=list)
    silent: list[Job] = field(default_factory=list)
    disordered: list[Job] = field(default_factory=list)
    waits: list[int] = field(default_factory=list)

    @property
    def faults(self) -> dict[str, list[Job]]:
        """What must not be, by the names above; empty if all is well."""
        kinds = {name: getattr(self, name) for name in ("lost", "invented", "silent", "disordered")}
        return {name: jobs for name, jobs in kinds.items() if jobs}

    def __str__(self) -> str:
        text = (
            f"{self.sent:,} sent, {self.confirmed:,} confirmed, {self.done:,} done, {self.buried:,} dead; "
            f"{len(self.lost):,} lost; repeated: {self.marked:,} with redelivered, {self.unmarked:,} without; "
            f"{self.redeliveries:,} redeliveries"
        )
        if self.waits:
            text += f"; waited {milliseconds(self.waits, 50)} (p50), {milliseconds(self.waits, 99)} (p99)"
        return text


def judge(events: Iterable[Event]) -> Verdict:
    """What *events*, in the order of time, come to."""
    verdict = Verdict()
    sent: dict[Job, int] = {}
    confirmed: dict[str, int] = {}
    got: Counter[Job] = Counter()
    plain: Counter[Job] = Counter()
    settled: set[Job] = set()
    buried: set[Job] = set()
    last: dict[tuple[str, str], int] = {}
    for event in events:
        job = event.job
        producer, number = job
        if event.what == SEND:
            sent[job] = event.at
        elif event.what == CONFIRMED:
            confirmed[producer] = max(confirmed.get(producer, -1), number)
        elif event.what == DONE:
            settled.add(job)
        elif event.what == BURIED:
            buried.add(job)
        elif event.what == GOT:
            got[job] += 1
            if job in sent and got[job] == 1:
                verdict.waits.append(event.at - sent[job])
            if event.marked:
                verdict.redeliveries += 1
                continue
            plain[job] += 1
            if plain[job] == 1 and number < last.get((event.who, producer), -1):
                verdict.disordered.append(job)
            last[event.who, producer] = number
    # A consumer's line may stand before its producer's: what arrived at all was sent, if that was written at any time.
    verdict.invented = sorted({*got, *buried} - set(sent))
    verdict.silent = sorted(job for job, times in plain.items() if times > 1)
    promised = [(producer, number) for producer, end in confirmed.items() for number in range(end + 1)]
    verdict.lost = sorted(job for job in promised if job not in settled and job not in buried)
    verdict.sent, verdict.confirmed = len(sent), len(promised)
    verdict.done, verdict.buried = len(settled), len(buried)
    verdict.unmarked = len(verdict.silent)
    verdict.marked = sum(1 for times in got.values() if times > 1) - verdict.unmarked
    return verdict


def percentile(waits: list[int], percent: int) -> int:
    """The one of *waits* that so many percent of them do not exceed, by nearest rank."""
    return sorted(waits)[max(-(-len(waits) * percent // 100), 1) - 1]


def milliseconds(waits: list[int], percent: int) -> str:
    """A percentile of times in ns, for people."""
    return f"{percentile(waits, percent) / 1e6:,.1f} ms"

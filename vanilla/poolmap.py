"""`TaskPool.map`: results of a pool's tasks, no faster than their reader.

    items -> feeder -> a job each -> line -> collector -> the reader

Two tasks beside those of the pool: one takes items, one hands results to the reader, for each may wait while the other
could go on.

Invariants:
1. Taken and not yet received are as many items as permits of ``_window`` are out: at most the pool's size. So there is
   always room in ``_line``, for what *items* itself raises as well: the attempt has a permit, too.
2. ``_line`` holds results as they come; if they are to keep their order it holds, for each item in its turn, a channel
   on which its result comes.
3. ``_line`` is closed once the last result has its place in it: when there are no more items and, without an order, no
   more jobs.
4. The reader's end is referred to nowhere: to drop it closes the channel to it, and ends all this (`_end`).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Callable

from .channel import Channel
from .exception import Halt, is_failure
from .job import MAP, Job, Places
from .message import Pair, Recver, Sender
from .selection import EMPTY
from .semaphore import Semaphore

if TYPE_CHECKING:
    from .core import Task


class Mapping:
    """One call of `TaskPool.map`."""

    def __init__(self, places: Places, f: Callable[[Any], Any], items: Iterable[Any], ordered: bool) -> None:
        if isinstance(items, Pair):
            items = items.recver
        self._places = places
        self._hub = places._hub
        self._f = f
        self._ordered = ordered
        #: Do exceptions and the end of *items* come as those of a channel?
        self._from_channel = isinstance(items, Recver)
        self._take: Callable[[], Any] = items._take if isinstance(items, Recver) else iter(items).__next__
        self._window = Semaphore(self._hub, places.size)
        self._line = Channel(self._hub, places.size, "line of results")
        #: Those that are not done, and where the result of each goes.
        self._jobs: dict[Job, Channel] = {}
        #: There are no more items...
        self._fed = False
        #: ...because of this, if it is an error.
        self._last: Any = EMPTY
        self._tasks: list[Task] = []

    def start(self) -> Recver:
        """Begin. Returns the reader's end."""
        channel = Channel(self._hub, 0, f"map of {getattr(self._f, '__qualname__', self._f)}")
        self._sender = Sender(channel)
        self._tasks = [self._hub.spawn(self._feed), self._hub.spawn(self._collect)]
        # Not at once: a collection may drop the reader's end anywhere, even between a task's last look at what is
        # pending and its parking.
        self._sender.onclose(lambda: self._hub.at_edge(self._end))
        return Recver(channel)

    # -- the feeder

    def _feed(self) -> None:
        try:
            self._last = self._feed_all()
        except BaseException as error:  # cancelled, or a ctrl-C: to the reader that is not to look like the end
            self._last = RuntimeError(f"{type(error).__name__} has ended a map before its last item")
            raise
        finally:
            self._fed = True
            self._finish()

    def _feed_all(self) -> Any:
        """Take items until there are no more. Returns what *items* raised, or `EMPTY`."""
        try:
            while self._feed_one():
                pass
            return EMPTY
        except StopIteration:
            return EMPTY
        except Halt as error:
            return EMPTY if self._from_channel else error
        except BaseException as error:
            if not is_failure(error):
                raise
            return error

    def _feed_one(self) -> bool:
        """Take an item and begin its job. False: nobody reads any more."""
        self._window.acquire()
        if self._sender.halted:
            return False
        item = self._take()
        if self._from_channel and isinstance(item, BaseException):
            self._append().give_nowait(item)
            return True
        self._places.take(MAP)
        if self._sender.halted:
            self._places.give_back()
            return False
        self._places.begin(self._job(item))
        return True

    def _job(self, item: Any) -> Job:
        job = Job(self._places, self._f, (item,), {}, self._deliver)
        self._jobs[job] = self._append()
        return job

    def _append(self) -> Channel:
        """Where the next item's result goes."""
        if not self._ordered:
            return self._line
        place = Channel(self._hub, 1, "place in a line of results")
        self._line.give_nowait(place)
        return place

    # -- the jobs

    def _deliver(self, job: Job, outcome: Any) -> None:
        place = self._jobs.pop(job)
        if self._sender.halted:
            job.unheard(outcome)
            return
        if isinstance(outcome, (Halt, StopIteration)):
            outcome, cause = RuntimeError(f"{job.task} raised {outcome!r}"), outcome
            outcome.__cause__ = cause
        place.give_nowait(outcome)
        self._finish()

    def _finish(self) -> None:
        """Close the line if nothing is to come; see invariant 3."""
        if self._fed and (self._ordered or not self._jobs):
            if self._last is not EMPTY:
                self._append().give_nowait(self._last)
                self._last = EMPTY
            self._line.close()

    # -- the collector

    def _collect(self) -> None:
        try:
            while True:
                self._sender.send(self._next())  # no name for the result here: it would live until the next one comes
                self._window.release()
        except Halt:
            pass
        finally:
            self._sender.close()

    def _next(self) -> Any:
        result = self._line.wait_item(-1)
        return result.wait_item(-1) if self._ordered else result

    # -- the end

    def _end(self) -> None:
        """The channel to the reader was closed: by the collector, when all is done, or by the reader."""
        for task in self._tasks:
            task.cancel()
        for job in list(self._jobs):
            job.cancel()

"""What a `TaskPool` runs, and the places in it."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Any, Callable

from greenlet import GreenletExit

from .exception import Cancelled, Stop
from .semaphore import Semaphore

if TYPE_CHECKING:
    from .core import Hub, Task

#: In the slot of a task that waits for a place: what for. A closed pool refuses calls...
CALL = "call"
#: ...but what has begun before goes on.
MAP = "map"
#: How many of those that are busy a description names.
NAMED = 3


class Job:
    """One call in a pool: what to do, and who is told what came of it. It is the function of its own task.

    :param deliver: called with this and what *f* returned or raised, once its place is free again.
    """

    __slots__ = ("__qualname__", "_call", "_deliver", "_places", "f", "task", "withdrawn")

    task: Task

    def __init__(
        self,
        places: Places,
        f: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        deliver: Callable[[Job, Any], object],
    ) -> None:
        self.__qualname__ = getattr(f, "__qualname__", None) or repr(f)
        self._places = places
        self.f = f
        self._call: tuple[tuple[Any, ...], dict[str, Any]] | None = (args, kwargs)
        self._deliver = deliver
        #: It is not to begin.
        self.withdrawn = False

    def __call__(self) -> None:
        # No name for the outcome here: of an error, whose frames refer to this one, it would make a cycle; see core,
        # invariant 4.
        self._deliver(self, self._run())

    def unheard(self, outcome: Any) -> None:
        """Nobody is left who wants to know the *outcome*: an error is logged."""
        hub = self._places._hub
        if isinstance(outcome, Exception) and not (isinstance(outcome, Stop) and hub.stopping):
            hub.failed(self.f, outcome)

    def _run(self) -> Any:
        """What *f* returned or raised."""
        try:
            return self._invoke()
        except (KeyboardInterrupt, SystemExit) as error:
            text = f"{self.task} was ended by {type(error).__name__}, which goes to the main task"
            self._places._hub.interrupt_main(error)
            return RuntimeError(text)
        except GreenletExit as error:
            if not isinstance(error, Cancelled):  # the hub itself went away
                raise
            error.over = True
            return error
        except BaseException as error:
            return error
        finally:
            self._places.leave(self.task)

    def _invoke(self) -> Any:
        assert self._call is not None
        args, kwargs = self._call
        self._call = None
        return None if self.withdrawn else self.f(*args, **kwargs)

    def cancel(self) -> None:
        """Raise `Cancelled` in it where it waits; if it has not begun it never will."""
        if self._call is None:
            self.task.cancel()
        else:  # and not cancelled, or it could not give its place back
            self.withdrawn = True


class Places(Semaphore):
    """The places of a pool, and who has them."""

    __slots__ = ("running", "size", "waiters")

    def __init__(self, hub: Hub, size: int) -> None:
        super().__init__(hub, size)
        self.size = size
        #: In the order in which they were made. (Who was handed a place and has not begun has it all the same.)
        self.running: dict[Task, None] = {}
        #: Who waits until nothing runs.
        self.waiters: list[Any] = []

    def take(self, what: str) -> None:
        """Wait for a place and take it, for a `CALL` or a `MAP`.

        :raises Exception: it was for what was refused meanwhile.
        """
        if self.value:
            self.value -= 1
        else:
            self._wait(-1, what)

    def refuse(self, what: str, error: Callable[[], Exception]) -> None:
        """Raise *error* in all who wait for a place for *what*."""
        for waiter in [waiter for waiter in self._line if waiter.value == what]:
            self._line.remove(waiter)
            waiter.error = error()
            self._hub.ready.append(waiter)

    def begin(self, job: Job) -> None:
        """Start *job* at a place that was taken."""
        try:
            job.task = self._hub.spawn(job)
        except BaseException:
            self.give_back()
            raise
        self.running[job.task] = None

    def leave(self, task: Task) -> None:
        """The job that *task* ran is done."""
        del self.running[task]
        self.give_back()

    def give_back(self) -> None:
        """A place that was taken is free again."""
        self.release()
        if self.value == self.size:
            self._hub.ready.extend(self.waiters)
            self.waiters.clear()

    def describe(self, waiter: Any) -> str:
        return f"a place in {self.tell()}"

    def tell(self) -> str:
        """The pool, and who is busy in it, for people."""
        names = [str(task) for task in islice(self.running, NAMED)]
        if len(self.running) > NAMED:
            names.append(f"{len(self.running) - NAMED} more")
        return f"a pool of {self.size} that is busy with {', '.join(names) or 'nothing'}"

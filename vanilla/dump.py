"""What the tasks of a hub are doing, for people: `Hub.dump`, and the text of a deadlock."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from .task import Fiber, Outsider, Task, monotonic
from .timers import INFINITY

if TYPE_CHECKING:
    from types import FrameType

    from .core import Hub

#: Lines of code that are shown of each task, from where it waits outwards.
DEEP = 8
#: The package whose frames are left out, but for the folders that use it as anybody else does.
PACKAGE = "vanilla"
USERS = ("vanilla.client", "vanilla.broker")
#: Where the frames of a task end.
BOTTOM = Fiber.run.__code__


def dump(hub: Hub) -> str:
    """`Hub.dump`."""
    now = monotonic()
    waiters = sorted(hub.waiters(), key=_order)
    counts = f"{len(hub.tasks)} tasks, {len(hub.timers)} timers, {len(hub.poll.handlers)} descriptors"
    paragraphs = ["\n".join(["; ".join(_says(waiter, now)), *_lines(waiter)]) for waiter in waiters]
    return "\n\n".join([counts, *paragraphs])


def who_waits(hub: Hub) -> str:
    """Who is parked, on what and where, in one line."""
    parked = [waiter for waiter in hub.waiters() if waiter.on is not None]
    return "; ".join(f"{waiter} waits for {waiter.on.describe(waiter)}{_place(waiter)}" for waiter in parked)


def _order(waiter: Any) -> int:
    """Outsiders first, then tasks as they were made."""
    task = waiter if isinstance(waiter, (Outsider, Task)) else waiter.task
    return task.number if isinstance(task, Task) else 0


def _says(waiter: Any, now: float) -> Iterator[str]:
    """What a waiter is doing, in pieces."""
    if waiter.on is None:
        state = "runs" if not isinstance(waiter, Task) and waiter.runs() else "is ready"
        yield f"{waiter} {'has not begun' if isinstance(waiter, Task) else state}"
        return
    yield f"{waiter} waits for {waiter.on.describe(waiter)}"
    if waiter.home is None or waiter.due >= INFINITY:
        yield f"for {_time(now - waiter.since)}"
    else:
        yield f"for {_time(now - waiter.due + waiter.timeout / 1000)}"
        yield f"for {_time(waiter.due - now)} more at most"


def _time(seconds: float) -> str:
    """
    >>> _time(0.0123), _time(75.25), _time(7260)
    ('12 ms', '75.2 s', '2.0 h')
    """
    seconds = max(seconds, 0)
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    return f"{seconds:.1f} s" if seconds < 3600 else f"{seconds / 3600:.1f} h"


def _frames(waiter: Any) -> Iterator[FrameType]:
    """Where it stands: the frames of its code, without ours, from the innermost outwards."""
    frame = None if isinstance(waiter, Task) else sys._getframe() if waiter.runs() else waiter.greenlet().gr_frame
    ours = []
    found = False
    seen = set()
    # PyPy goes on with the frames of whoever switched last, and round and round.
    while frame is not None and frame.f_code is not BOTTOM and frame not in seen:
        seen.add(frame)
        name = frame.f_globals.get("__name__", "")
        if name.partition(".")[0] != PACKAGE or name.startswith(USERS):
            found = True
            yield frame
        else:
            ours.append(frame)
        frame = frame.f_back
    if not found:
        yield from ours[-1:]


def _lines(waiter: Any) -> list[str]:
    lines = [f"    {_where(frame)} in {frame.f_code.co_name}" for frame in _frames(waiter)]
    return lines[:DEEP] + ([f"    and {len(lines) - DEEP} more"] if len(lines) > DEEP else [])


def _place(waiter: Any) -> str:
    for frame in _frames(waiter):
        return f" ({_where(frame)})"
    return ""


def _where(frame: FrameType) -> str:
    return f"{frame.f_code.co_filename}:{frame.f_lineno}"

"""Tracebacks that are kept, without what their frames hold: an end in there would not count as dropped."""

from __future__ import annotations

import inspect
from types import TracebackType

#: Code whose frames may be in use by others, though an error has passed through them.
_SUSPENDED = inspect.CO_GENERATOR | inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR


def clear_frames(trace: TracebackType | None) -> None:
    """Forget the locals of the frames of *trace*, but for those that run.

    It does not touch generators, as `traceback.clear_frames` does: to clear the frame of one ends it, and one that has
    caught the error may go on. One that has not is over, and has no locals left.
    """
    while trace is not None:
        frame = trace.tb_frame
        if not frame.f_code.co_flags & _SUSPENDED:
            try:
                frame.clear()
            except RuntimeError:
                pass  # it runs
        trace = trace.tb_next

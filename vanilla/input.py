"""What the Stream of a descriptor refers to: reads when somebody receives, and cuts what it has read."""

from __future__ import annotations

from typing import Any

from .cutter import Cut, Cutter
from .exception import Abandoned, Closed, ConnectionLost, Halt
from .line import CHUNK, Half, Line
from .poll import IN
from .selection import EMPTY

#: Bytes read at once at most once `CHUNK` has come at once, as from a peer that sends a file: a third is saved. To ask
#: for so many each time would be dear: the allocator fetches what is over its threshold from the kernel.
MOST = 262144


class Input(Half, Cutter):
    """The incoming direction of a `Line`."""

    __slots__ = ("closers", "drained", "error", "halt", "line", "size")

    def __init__(self, line: Line) -> None:
        Cutter.__init__(self, line.hub, line.name, line.breathe)
        self.bind(line)
        line.input = self
        #: What the next read takes at most.
        self.size = CHUNK
        #: Has the last read taken all that the kernel had? It most likely has no more before it says so.
        self.drained = False

    # -- receiving

    def take_nowait(self) -> Any:
        self.drained = False  # who may not wait has to look
        return super().take_nowait()

    def more(self, cut: Cut, timeout: float) -> Any:
        if self.drained and timeout != 0 and self.halt is None:
            return EMPTY  # the loop polls before it looks at timers again, and tells what has come meanwhile
        chunk = self._read() if self.halt is None else None
        if chunk is None:
            if self.halt is not None:
                raise self.ended("receive")
            return EMPTY
        if cut == self.whole:
            return chunk
        self.data += chunk
        return cut()

    def want(self) -> None:
        if self.halt is None:
            self.line.want(IN)
        else:
            self._end_all()

    def relax(self) -> None:
        self.line.relax()

    def readable(self) -> None:
        """The descriptor may have something."""
        if not self.recvers or self.halt is not None:
            return
        chunk = self._read()
        if chunk is not None:
            self.feed(chunk)
        elif self.halt is not None:
            self._end_all()

    def _read(self) -> bytes | None:
        """What is there, or None; then the stream may have ended."""
        try:
            chunk: bytes = self.line.transport.recv(self.size)
        except (BlockingIOError, InterruptedError):
            return None
        except OSError as error:
            self._lost(self.line.lose(error))
            return None
        if chunk:
            got = len(chunk)
            self.line.streak += 1 + got // CHUNK
            self.drained = got < self.size and self.line.whole
            self.size = MOST if got >= CHUNK and self.line.whole else CHUNK  # a file always has as many
            return chunk
        output = self.line.output
        if output is not None and output.error is not None:
            self._lost(ConnectionLost(output.error))  # the kernel tells of a reset once, and it has told the sender
        else:
            self._end(None)
        return None

    def _lost(self, error: ConnectionLost) -> None:
        output = self.line.output
        if output is not None:
            output.lost(error)
        self._end(error)

    # -- the end

    def _end(self, error: ConnectionLost | None) -> None:
        self.halted(error)
        self.line.settle()

    def _end_all(self) -> None:
        """Nothing more will come: those who wait get what there is, if they are content with it."""
        self.serve()
        while self.recvers:
            self.refuse(self.ended("receive"))

    def close(self, halt: type[Halt] = Closed) -> None:
        """Nothing more is read. What was can still be received."""
        if self.halt is None:
            self.halted(None)
            self._end_all()
            self.line.settle()
            self.line.relax()

    def abandon_by_recver(self) -> None:
        self.close(Abandoned)

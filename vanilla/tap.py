"""The bytes of a Stream that come from another Recver, whichever it is: of a channel, a map, a broker's endpoint.

A Tap stands in the queue of the other Recver's channel where a select would stand (`selection.Case`), and only while
somebody waits at the Stream: so nothing is taken out of there that nobody has asked for. What it takes is handed out,
or stays in `Cutter.data`.

Invariants:
1. ``case`` stands in the channel's queue, or is None.
2. While somebody waits at the Stream, ``case`` is there, or `want` is about to be called at the tick's edge. Not at
   once: who hands us an item is in the middle of its own work.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Callable, cast

from .cutter import Cut, Cutter
from .exception import Closed, Halt, Timeout
from .selection import EMPTY, Case

if TYPE_CHECKING:
    from .message import Recver
    from .selection import Selection


class Tap(Cutter):
    """What a Stream over *source* refers to. The end of the one is the end of the other."""

    __slots__ = ("asked", "case", "source")

    #: As a select it is one that waits, for else it stands nowhere.
    live = True

    def __init__(self, source: Recver) -> None:
        state = source._state
        breathe = state.breathe if isinstance(state, Cutter) else _go_on
        super().__init__(source.hub, f"a stream over a {state.kind}", breathe)
        self.source = source
        self.case: Case | None = None
        #: `want` is at work, or about to be.
        self.asked = False

    @property
    def halt(self) -> type[Halt] | None:
        halt: type[Halt] | None = self.source._state.halt
        return halt

    @property
    def kind(self) -> str:
        kind: str = self.source._state.kind
        return kind

    # -- receiving

    def take_nowait(self) -> Any:
        if self.recvers:
            return EMPTY
        return self.whole() if self.data else self._gather(self.whole, self.source._try)

    def more(self, cut: Cut, timeout: float) -> Any:
        return self._gather(cut, self.source._state.take_nowait if timeout != 0 else self._poll)

    def _poll(self) -> Any:
        try:
            return self.source._state.wait_item(0)
        except Timeout:
            return EMPTY

    def _gather(self, cut: Cut, take: Callable[[], Any]) -> Any:
        while True:
            item = take()
            if item is EMPTY:
                return EMPTY
            piece = to_bytes(item)
            if not isinstance(piece, bytes):
                return piece
            self.data += piece
            got = cut()
            if got is not EMPTY:
                return got

    def want(self) -> None:
        self.asked = True
        state, me = self.source._state, cast("Selection", self)
        while self.recvers and self.case is None:
            self.case = Case(me, None, state, False)
            try:
                state.watch_recv(self.case)
            except Exception as error:  # nothing will come any more
                self.fail(self.case, error)
        self.asked = False

    def relax(self) -> None:
        case = self.case
        if case is not None and not self.recvers:
            self.case = None
            case.state.forget(case)

    # -- what a select is to the case

    def fire(self, case: Case, item: Any) -> bool:
        """*case*, already taken out of its queue, has an item, which is taken."""
        self.case = None
        piece = to_bytes(item)
        if not isinstance(piece, bytes):
            self.deal(piece)
            self.serve()
        elif piece:
            self.feed(piece)
        self._ask_again()
        return True

    def fail(self, case: Case, error: Exception) -> None:
        """*case*, already taken out of its queue, will have none. The next of those who wait gets an error of its
        own."""
        self.case = None
        self.refuse(error)
        self._ask_again()

    def _ask_again(self) -> None:
        if self.recvers and not self.asked:
            self.asked = True
            self.hub.at_edge(self.want)

    # -- the end

    def close(self, halt: type[Halt] = Closed) -> None:
        self.source.close()

    def abandon_by_recver(self) -> None:
        """The Stream was dropped, and with it *source*, unless somebody else has it."""

    def onclose(self, f: Callable[..., object], *args: Any) -> None:
        self.source.onclose(f, *args)


def _go_on() -> None:
    """Senders and receivers of one process let each other run."""


def to_bytes(item: Any) -> bytes | BaseException:
    """An item as a piece of a stream; an exception that was sent, or that says why it is none."""
    if isinstance(item, (bytes, BaseException)):
        return item
    try:
        return item.encode() if isinstance(item, str) else bytes(memoryview(item))
    except TypeError:
        return TypeError(f"a Stream cuts bytes and str, and was sent what is neither: {type(item).__name__}")
    except UnicodeEncodeError as error:
        return error

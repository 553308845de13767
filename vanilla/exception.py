"""Everything that vanilla raises, and what it says about the one who gets it.

``Halt`` means that a channel has come to its end: iteration over a Recver ends on it in silence. ``Timeout`` and
``ConnectionLost`` stand apart from it on purpose: an iteration that ended on one of those would hide a failure.
"""

from __future__ import annotations

import greenlet


class Halt(Exception):
    """No more will come, or be taken, at this end. Parent of `Stop`, `Closed` and `Abandoned`.

    ``end`` is the end that halted when the error comes out of `Hub.select`, else None.
    """

    end: object = None


class Stop(Halt):
    """The hub was stopped, or every task waits for something that cannot happen (the text says who waits for what)."""


class Closed(Halt):
    """The channel was closed, at this end or at the other."""


class Abandoned(Halt):
    """The other end was dropped without being closed, so that nobody is left to send or to receive."""


class Timeout(Exception):
    """The time given to a call is over. A send was not sent, a recv has taken nothing: both may be tried again."""


class ConnectionLost(Exception):
    """The connection to a peer is gone, or could not be made. The text names the peer and the reason."""


class Rejected(Exception):
    """A send failed, and would fail again: what it was about is not in the queue, or nobody can say whether it is.

    ``code`` is stable and for programs, ``text`` for people. FULL: the queue is full, and its option says that it is to
    say so. TOO_BIG: the message is larger than the broker takes (this one is a ValueError, too). DENIED: the broker
    takes nothing from this sender. UNKNOWN_PRODUCER: messages were sent, the connection was lost before they were
    confirmed, and the broker does not know any more which of them it had: they may have arrived or not, and what is
    sent next is taken. NO_SPACE and STORE_FAILED: it cannot keep it.
    """

    def __init__(self, code: str, text: str) -> None:
        Exception.__init__(self, f"{code}: {text}")  # and not what else a subclass may be
        self.code = code
        self.text = text


class Refused(Exception):
    """The broker does not do what was asked: it refuses a channel, or an answer. The connection goes on.

    ``code`` is stable and for programs, ``text`` for people. MISMATCH: the endpoint is of another kind. CONFLICT,
    BAD_OPTION: its options are others, or there are none such. DENIED: we may not. TAKEN: that end is somebody else's.
    TOO_MANY: a limit of the broker. GOING_AWAY: the broker is about to end.
    """

    def __init__(self, code: str, text: str) -> None:
        Exception.__init__(self, f"{code}: {text}")
        self.code = code
        self.text = text


class RemoteError(Exception):
    """A call failed: at the server, or because no server could answer it.

    ``code`` is stable and for programs, ``text`` for people. If an exception was raised at the server, ``type`` is the
    name of its type, and ``trace`` where it was raised, if the call asked for that. ``by_broker``: the broker says so,
    and not the server.
    """

    def __init__(self, code: str, text: str, type: str = "", trace: str = "", by_broker: bool = False) -> None:
        super().__init__(f"{code}: {type + ': ' if type else ''}{text}")
        self.code = code
        self.text = text
        self.type = type
        self.trace = trace
        self.by_broker = by_broker


class Busy(RuntimeError):
    """A second task waits at an end that is made for one. Use `dealer`, `router` or `channel` for many."""


class Forked(RuntimeError):
    """A Hub, or a connection, was used in a child of the process that made it. Make a new one after the fork."""


class Cancelled(greenlet.GreenletExit):
    """Raised inside a task that was cancelled, where it waits, and by ``join`` of such a task.

    It is no `Exception`, so that ``except Exception`` in a worker's loop does not swallow it.

    :ivar over: has it ended its task? Who meets it then is not cancelled, but has joined one that was.
    """

    over = False


def is_failure(error: BaseException) -> bool:
    """Has what was called failed with *error*? Else it ends the task that has called it, or the program."""
    return isinstance(error, Exception) or (isinstance(error, Cancelled) and error.over)

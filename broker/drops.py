"""What the kernel drops of the datagrams for one listener and its sessions, because its buffers are full.

A session makes it good, so nobody sees it but by its slowness. The kernel counts it a socket; nobody is called, so it
is looked up now and then.
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any, Callable

from vanilla.datagram import dropped
from vanilla.offload import BUFFER_BYTES

if TYPE_CHECKING:
    from vanilla.core import Hub
    from vanilla.timers import Timer
    from vanilla.udpsocket import UDPSocket

#: How often it is looked up, in ms.
PAUSE = 5_000
#: Linux counts its own bookkeeping in a buffer, and doubles for it what is asked for (socket(7)).
DOUBLED = 2


class Drops:
    """Of a listener's socket, and of all its sessions, those that are gone as well.

    :param sessions: those that are there.
    :param say: told in one sentence, when there are more than before.
    """

    def __init__(
        self, hub: Hub, sock: socket.socket, sessions: dict[int, UDPSocket], say: Callable[[str], object]
    ) -> None:
        self._hub = hub
        self._sock = sock
        self._sessions = sessions
        self._say = say
        self._gone = 0
        self._seen = 0
        #: Bytes of a receive buffer that the kernel has given, as it counts what is asked for.
        self.granted = sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) // DOUBLED
        self._timer: Timer | None = hub.after(PAUSE, self._look)

    @property
    def count(self) -> int:
        """How many, since the listener began."""
        return self._gone + self._own() + sum(session.dropped for session in self._sessions.values())

    def _own(self) -> int:
        try:
            return dropped(self._sock)
        except OSError:  # a kernel that does not say
            return 0

    def leave(self, session: UDPSocket) -> None:
        """*session* is about to be closed, and no more among the others."""
        self._gone += session.dropped

    def _look(self) -> None:
        self._timer = self._hub.after(PAUSE, self._look)
        count = self.count
        if count > self._seen:
            more, self._seen = count - self._seen, count
            self._say(f"the kernel has dropped {more} datagrams for want of room in its buffers{self._advice()}")

    def _advice(self) -> str:
        if self.granted >= BUFFER_BYTES:
            return f" of {BUFFER_BYTES} bytes: this process cannot read as fast as they come"
        return (
            f": it gives {self.granted} bytes to each socket of the {BUFFER_BYTES} that were asked for; "
            f"to have them, run sysctl -w net.core.rmem_max={BUFFER_BYTES}, and start the broker again"
        )

    def describe(self) -> dict[str, Any]:
        return {"dropped": self.count, "buffer": self.granted, "buffer_wanted": BUFFER_BYTES}

    def close(self) -> None:
        """Look no more. Twice does nothing."""
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()

"""What a link sends and gets beside its stream: of a session that was dialled with ``?reliable=0``.

Messages of push and publish channels leave so, and those of subscriptions come so: once, or not at all. The rest of
what these channels say, and all other channels, are on the stream.

The broker counts what has come and what is lost, and says so (ACK, and NACK with the code LOST): it alone knows. What
it cannot know is what was lost behind all that has come. So when the transport knows what became of all that left, some
of it being lost, each channel says up to where it has sent (SENT).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from vanilla.protocol.frames import COUNTED_BYTES, HEAD_BYTES, Buffer
from vanilla.protocol.loose import LOOSE_FRAME_BYTES, ONE_DATAGRAM

if TYPE_CHECKING:
    from vanilla.udpsocket import UDPSocket

    from .link import Link
    from .push import PushState

#: The longest frame of several messages, counted as its length field does: the loss of a datagram is that of its own
#: messages alone, so.
FRAME_LIMIT = ONE_DATAGRAM - HEAD_BYTES + COUNTED_BYTES
#: The longest message, in bytes.
MESSAGE_LIMIT = LOOSE_FRAME_BYTES - HEAD_BYTES


class Beside:
    """Of one connection of *link*, over *sock*."""

    __slots__ = ("_frames", "_link", "_senders", "_sock")

    def __init__(self, link: Link, sock: UDPSocket) -> None:
        self._link = link
        self._sock = sock
        self._frames = sock.transport.loosen()
        #: Who has sent something.
        self._senders: dict[PushState, None] = {}
        sock.onloose = self._heard

    @property
    def full(self) -> bool:
        """Does so much wait to leave that no more is to be put?"""
        return self._frames.full

    def put(self, sender: PushState, frame: Sequence[Buffer], position: int, count: int) -> None:
        """Send *count* messages of *sender* as *frame* with the next flush.

        :param position: bytes of messages that went before on this channel.
        """
        self._senders[sender] = None
        self._frames.put(frame, position, count)

    def forget(self, sender: PushState) -> None:
        """*sender* is at its end."""
        self._senders.pop(sender, None)

    def flush(self) -> bool:
        """Send what was put: was there anything?"""
        waits = self._frames.waits
        if waits:
            self._sock.leave()
        return waits

    def take(self) -> None:
        """Give the channels what has come."""
        link = self._link
        for position, data in self._frames.take():
            event = link.connection.beside(data)
            state: Any = None if event is None else link.live(event.channel)
            if event is not None and state is not None:
                state.came(event._replace(payload=memoryview(bytearray(event.payload))), position)

    def _heard(self) -> None:
        """There is room again, or nothing is on its way any more and some of it is lost."""
        link = self._link
        if link.beside is self and not link.down:
            if self._frames.pending:  # it is news no more
                self._frames.due = True
            else:
                for sender in self._senders:
                    sender.account()
            link.relieve()
            link.flush()

"""What a link asks of the states behind remote ends."""

from __future__ import annotations

from typing import Protocol


class Speaker(Protocol):
    """What a link asks of who has something to say."""

    def emit(self) -> bool:
        """Put what there is to say into the link's output. True: ask again at the next edge."""


class ChannelState(Speaker, Protocol):
    """What a link asks of who has a channel."""

    id: int

    def close(self) -> None:
        """Say that this channel is done with, and tell everybody who waits."""

    def lose(self) -> None:
        """The link has ended: tell everybody who waits."""

    def suspend(self) -> None:
        """The connection is lost, and there will be another one. Twice does no harm."""

    def reopen(self) -> None:
        """There is: `Link.reopen` the channel, and say what is to be said on it."""

    def opened(self, first: int) -> None:
        """The broker has opened the channel, and *first* is its first number."""

    def drained(self) -> None:
        """There is room in the output again."""

    def refused(self, code: str, text: str) -> None:
        """The broker has ended this channel."""

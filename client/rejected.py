"""Why a send failed for good: `vanilla.exception.Rejected`, where another kind of error is expected as well."""

from __future__ import annotations

from vanilla.exception import Refused, Rejected
from vanilla.protocol.errors import REJECTIONS


class TooBig(Rejected, ValueError):
    """A message is larger than the broker takes."""

    def __init__(self, text: str) -> None:
        super().__init__("TOO_BIG", text)


class Unwelcome(Rejected, Refused):
    """The broker refuses the channel, and with it what was sent on it and is not confirmed."""


def refusal(code: str, text: str) -> Refused:
    """What a Sender raises when the broker has ended its channel.

    It is `Rejected` as well if *code* says that the messages are the reason, or who sends them.
    """
    return Unwelcome(code, text) if code in REJECTIONS else Refused(code, text)

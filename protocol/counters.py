"""What is counted of a UDP session, for status."""

from __future__ import annotations


class Counters:
    """What has happened on a session."""

    __slots__ = (
        "bad",
        "duplicates",
        "lost",
        "lost_bytes",
        "moves",
        "probes",
        "received",
        "received_bytes",
        "retransmitted",
        "retransmitted_bytes",
        "sent",
        "sent_bytes",
        "spurious",
        "strangers",
    )

    def __init__(self) -> None:
        #: Datagrams, and their bytes.
        self.sent = self.sent_bytes = self.received = self.received_bytes = 0
        self.lost = self.lost_bytes = self.retransmitted = self.retransmitted_bytes = 0
        #: Packets that came after they had been declared lost; that came twice; that were asked for.
        self.spurious = self.duplicates = self.probes = 0
        #: Datagrams that were malformed; that had a wrong token. Changes of address.
        self.bad = self.strangers = self.moves = 0

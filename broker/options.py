"""What can be set on a broker: one flat record, each field with its unit and the reason of its default."""

from __future__ import annotations

from dataclasses import dataclass, fields

from vanilla.protocol.frames import FRAME_LIMIT, HELLO_LIMIT, MAX_FRAME_LIMIT
from vanilla.protocol.packets import DATAGRAM_BYTES, MAX_DATAGRAM_BYTES
from vanilla.protocol.scan import DEPTH, MOST_DEPTH


@dataclass(frozen=True)
class Options:
    """Options of a `Broker`. Times are in ms, sizes in bytes.

    :raises ValueError: a value is out of its range; the text names it.
    """

    #: Messages that an endpoint holds for its consumers, delayed ones and unused credit included.
    capacity: int = 100_000
    #: The same in bytes of packed messages.
    capacity_bytes: int = 64 << 20
    #: The longest frame, and so nearly the longest message.
    frame_bytes: int = FRAME_LIMIT
    #: How deep a message may nest: a list in a list is 2.
    depth: int = DEPTH
    #: How long a new connection may take for its hello.
    hello_ms: int = 2_000
    #: How long a session over UDP lasts of which nothing is heard. Four times in it a peer that is silent is asked, and
    #: answers if its process runs; so a process that computes for less than a minute keeps its session.
    udp_idle_ms: int = 60_000
    #: Connections at a time.
    connections: int = 10_000
    #: Connections of one IPv4 address, one /64 of IPv6, or one user of a Unix socket. As many as there are in all, for
    #: behind a NAT or a proxy, and on loopback, clients share an address, and strangers are bounded by ``handshakes``.
    connections_per_address: int = 10_000
    #: Connections whose hello has not come, at a time; beyond it the oldest goes. A quarter of all, so that strangers
    #: leave room for others, and more than clients that all come at once have under way.
    handshakes: int = 2_500
    #: Channels of one connection: one for each endpoint it pushes to and each pull.
    channels: int = 20_000
    #: Endpoints at a time.
    endpoints: int = 100_000
    #: What it holds in all: messages and unused credit of all endpoints, unsent output, frames under way. At the limit
    #: producers wait. So much that a producer on each of 10,000 connections can hold its first credit; on a small
    #: machine it should be less, half of its memory say.
    memory: int = 1 << 31
    #: Unsent output of one connection from which on it gets no deliveries and is not read, until half of it has left.
    output_bytes: int = 1 << 20
    #: What the consumers of one connection may leave unsettled, whatever credit they give.
    unsettled_bytes: int = 64 << 20
    #: Deliveries that fail before a message becomes a dead letter.
    max_attempts: int = 5
    #: How long a message waits after its first failed delivery; doubles with each further one.
    backoff_ms: int = 1_000
    #: The longest datagram that a session over UDP sends or takes; 0: 15,900 on loopback, else 1,200, which every path
    #: carries.
    udp_datagram: int = 0
    #: How long SIGTERM leaves consumers to take and settle what is there.
    drain_ms: int = 10_000
    #: Records of producers that are gone (`producers`), 300 bytes each; beyond it the one longest gone is forgotten...
    producers: int = 100_000
    #: ...and how long one is kept: a client that comes back later cannot send again what was not confirmed.
    producer_ttl_ms: int = 86_400_000
    #: PEM files of tls:// listeners: the certificate, its key if that is not in the same file, and the authorities of
    #: clients' certificates, which every client then needs.
    tls_cert: str = ""
    tls_key: str = ""
    tls_client_ca: str = ""
    #: The file of tokens (`tokens`); without one, nobody has to say who they are.
    token_file: str = ""
    #: The file of permissions (`permissions`); without one, everybody may do everything.
    permissions: str = ""
    #: Listen on addresses that other machines reach, without encryption or authentication.
    insecure: bool = False

    def __post_init__(self) -> None:
        for field in fields(self):
            wrong = fault(field.name, getattr(self, field.name))
            if wrong:
                raise ValueError(f"{field.name} {wrong}")
        least = 4 * self.frame_bytes
        if self.memory < least:
            raise ValueError(f"memory is {self.memory}, but must be at least four times frame_bytes, which is {least}")
        if not self.tls_cert and (self.tls_key or self.tls_client_ca):
            raise ValueError(f"{'tls_key' if self.tls_key else 'tls_client_ca'} is of no use without tls_cert")

    @property
    def authenticates(self) -> bool:
        """Does who connects from another machine have to show who it is?"""
        return bool(self.tls_client_ca or self.token_file)


def fault(name: str, value: int | str) -> str:
    """What is wrong with *value* for the option *name*, to be put behind its name; "" if nothing is."""
    if isinstance(value, str):
        return ""
    low, high = _RANGES.get(name, (0, 1 << 62))
    if low <= value <= high or (not value and name in _CHOOSING):
        return ""
    return f"is {value}, but must be from {low} to {high}"


#: Of these 0 is in range, too: the broker chooses.
_CHOOSING = ("udp_datagram",)
_RANGES = {
    "capacity": (1, 1 << 62),
    "capacity_bytes": (1, 1 << 62),
    "frame_bytes": (HELLO_LIMIT, MAX_FRAME_LIMIT),
    "depth": (1, MOST_DEPTH),
    "hello_ms": (1, 3_600_000),
    "udp_idle_ms": (100, 86_400_000),
    "connections": (1, 1 << 20),
    "connections_per_address": (1, 1 << 20),
    "handshakes": (1, 1 << 20),
    "channels": (1, 1 << 31),
    "endpoints": (1, 1 << 31),
    "memory": (1 << 20, 1 << 62),
    "output_bytes": (HELLO_LIMIT, 1 << 40),
    "unsettled_bytes": (HELLO_LIMIT, 1 << 40),
    "max_attempts": (1, 1_000_000),
    "backoff_ms": (0, 86_400_000),
    "udp_datagram": (DATAGRAM_BYTES, MAX_DATAGRAM_BYTES),
    "drain_ms": (0, 86_400_000),
    "producers": (0, 1 << 31),
    "producer_ttl_ms": (0, 1 << 53),
}

"""What the broker tells about itself: status pages, totals, and the last lines of its log."""

from __future__ import annotations

import logging
import time
from bisect import bisect_right
from typing import TYPE_CHECKING, Any

from vanilla.protocol.frames import STATUS, pack_control
from vanilla.udpsocket import UDPSocket

from .session import describe_peer
from .udplistener import UDPListener

if TYPE_CHECKING:
    from .broker import Broker
    from .endpoint import Endpoint

log = logging.getLogger("vanilla.broker")

#: Sessions over UDP that a status tells of.
SESSIONS = 16
#: How old the sums over all endpoints in a status may be, in seconds.
FRESH = 0.05
#: Endpoints on a page of a status at most.
PAGE = 100
#: What the map of one endpoint takes at most: a name of 255 bytes, its kind, 20 numbers and their keys, what was
#: dropped for which reason, and its options, of which one is a name.
ENTRY_BYTES = 1400


class Totals:
    """The counters of endpoints that are gone."""

    def __init__(self) -> None:
        self.accepted = self.acknowledged = self.dead = self.dropped = 0
        self._described: tuple[float, dict[str, Any]] | None = None

    def add(self, endpoint: Endpoint) -> None:
        """*endpoint* goes."""
        self.accepted += endpoint.accepted
        self.acknowledged += endpoint.acknowledged
        self.dead += endpoint.dead
        self.dropped += endpoint.dropped

    def describe(self, broker: Broker) -> dict[str, Any]:
        """`describe_broker`, worked out anew once in `FRESH` seconds: it looks at every endpoint."""
        now = broker.now()
        if self._described is None or now - self._described[0] > FRESH:
            self._described = now, describe_broker(broker)
        return self._described[1]


def status_page(broker: Broker, request: int, after: str) -> bytes:
    """One STATUS frame, in the order of names, behind *after*."""
    most = min(PAGE, max(broker.options.frame_bytes // 2 // ENTRY_BYTES, 1))
    names = broker.names
    start = bisect_right(names, after)
    page = names[start : start + most]
    now = broker.now()
    fields: dict[str, Any] = {
        "broker": broker.totals.describe(broker),
        "endpoints": [describe(broker.endpoints[name], now) for name in page],
    }
    if len(names) > start + most:
        fields["next"] = page[-1]
    return pack_control(STATUS, 0, request, fields)


def describe_broker(broker: Broker) -> dict[str, Any]:
    """What holds for all of it."""
    totals = broker.totals
    broker.memory.weigh()
    live = broker.endpoints.values()
    return {
        "agent": broker.agent,
        "uptime": round(broker.now() - broker.started, 3),
        "cpu": round(time.process_time(), 3),
        "connections": len(broker.sessions),
        "endpoints": len(broker.endpoints),
        "draining": broker.draining,
        "buffered": broker.memory.used,
        "memory": broker.memory.limit,
        "producers": len(broker.producers),
        "refused": dict(broker.door.refusals.counts),
        "unsent": sum(session.out.unsent for session in broker.sessions),
        "accepted": totals.accepted + sum(endpoint.accepted for endpoint in live),
        "acknowledged": totals.acknowledged + sum(endpoint.acknowledged for endpoint in live),
        "dead": totals.dead + sum(endpoint.dead for endpoint in live),
        "dropped": totals.dropped + sum(endpoint.dropped for endpoint in live),
        "udp": describe_udp(broker),
        "udp_listeners": [
            {"url": str(address), **listener.describe()}
            for listener, address in broker.listeners
            if isinstance(listener, UDPListener)
        ],
    }


def describe_udp(broker: Broker) -> list[dict[str, Any]]:
    """The sessions over UDP: `SESSIONS` of them at most, those that have lost most first. Times are in ms; ``loose`` is
    of one that was dialled with ?reliable=0 (`Beside.describe`)."""
    found = [
        # where it is now, and not where it came from
        (describe_peer(session.sock.transport.address), session.sock, session.sock.transport, session.beside)
        for session in broker.sessions
        if isinstance(session.sock, UDPSocket)
    ]
    found.sort(key=lambda one: -one[2].counters.lost)
    return [
        {
            "peer": peer,
            "reliable": beside is None,
            "loose": {} if beside is None else beside.describe(),
            "sent": transport.counters.sent,
            "received": transport.counters.received,
            "lost": transport.counters.lost,
            "retransmitted": transport.counters.retransmitted,
            "duplicates": transport.counters.duplicates,
            "bad": transport.counters.bad + transport.counters.strangers,
            "dropped": sock.dropped,
            "moves": transport.counters.moves,
            "rtt": round(transport.rtt * 1000, 3),
            "min_rtt": round(transport.min_rtt * 1000, 3),
            "rate": round(transport.rate),
        }
        for peer, sock, transport, beside in found[:SESSIONS]
    ]


def describe(endpoint: Endpoint, now: float) -> dict[str, Any]:
    """One endpoint. ``bytes`` is what its ready, delayed and unsettled messages take; ages are in seconds."""
    endpoint.work_out_rates(now)
    oldest = endpoint.oldest()
    return {
        "name": endpoint.name,
        "kind": endpoint.kind.partition(" ")[2],
        "ready": endpoint.ready_n,
        "delayed": endpoint.delayed_n,
        "in_flight": endpoint.flight_n,
        "accepted": endpoint.accepted,
        "acknowledged": endpoint.acknowledged,
        "dead": endpoint.dead,
        "dropped": endpoint.dropped,
        "drops": endpoint.drops,
        "duplicates": endpoint.duplicates,
        "missed": endpoint.missed,
        "lost": endpoint.lost,
        "bytes": endpoint.ready_b + endpoint.delayed_b + endpoint.flight_b,
        "rate_in": round(endpoint.rate_in, 1),
        "rate_out": round(endpoint.rate_out, 1),
        "oldest": None if oldest is None else round(now - oldest, 3),
        "pushers": len(endpoint.pushers),
        "pullers": len(endpoint.pullers),
        "granted": endpoint.granted_n,
        "capacity": endpoint.capacity,
        "capacity_bytes": endpoint.capacity_b,
        "options": endpoint.terms.beside(endpoint.broker.terms),
    }


def log_rest(broker: Broker) -> bool:
    """Log what is left, an endpoint a line. True: nothing is."""
    rest: list[Endpoint] = [endpoint for endpoint in broker.endpoints.values() if not endpoint.empty]
    for endpoint in rest:
        log.warning(
            "endpoint %r: left: ready %d, delayed %d, in flight %d",
            endpoint.name,
            endpoint.ready_n,
            endpoint.delayed_n,
            endpoint.flight_n,
        )
    return not rest

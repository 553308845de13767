"""What a broker says of itself, as a table for people."""

from __future__ import annotations

from typing import Any, Callable


def number(value: float) -> str:
    """In three to four digits.

    >>> number(0), number(999), number(1234.5), number(20_000_000)
    ('0', '999', '1.2k', '20M')
    """
    return _scaled(value, 1000, ("", "k", "M", "G", "T"))


def size(value: float) -> str:
    """Bytes, in binary multiples.

    >>> size(512), size(1 << 20), size(1536)
    ('512', '1Mi', '1.5Ki')
    """
    return _scaled(value, 1024, ("", "Ki", "Mi", "Gi", "Ti"))


def _scaled(value: float, base: int, units: tuple[str, ...]) -> str:
    unit = 0
    while round(value, 1) >= base and unit < len(units) - 1:
        value /= base
        unit += 1
    digits = f"{value:.1f}" if value < 10 else f"{value:.0f}"
    return digits.replace(".0", "") + units[unit]


def duration(seconds: float | None) -> str:
    """A time span, in its largest unit.

    >>> duration(None), duration(0.25), duration(90), duration(7200)
    ('-', '0.2 s', '1.5 min', '2 h')
    """
    if seconds is None:
        return "-"
    for length, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= length:
            return f"{seconds / length:.1f} {unit}".replace(".0 ", " ")
    return f"{seconds:.1f} s"


def plural(count: int, noun: str) -> str:
    """So many of them.

    >>> plural(1, "file"), plural(1234, "file"), plural(2, "process")
    ('1 file', '1,234 files', '2 processes')
    """
    ending = "" if count == 1 else "es" if noun.endswith("s") else "s"
    return f"{count:,} {noun}{ending}"


#: Heading, field, how it is written. Large counters are exact: people compare them.
COLUMNS: tuple[tuple[str, str, Callable[[Any], str]], ...] = (
    ("endpoint", "name", str),
    ("kind", "kind", str),
    ("ready", "ready", str),
    ("delayed", "delayed", str),
    ("in flight", "in_flight", str),
    ("accepted", "accepted", str),
    ("acknowledged", "acknowledged", str),
    ("dropped", "dropped", str),
    ("missed", "missed", str),
    ("dead", "dead", str),
    ("bytes", "bytes", size),
    ("in/s", "rate_in", number),
    ("out/s", "rate_out", number),
    ("oldest", "oldest", duration),
    ("pushers", "pushers", str),
    ("pullers", "pullers", str),
)


def table(status: dict[str, Any], url: str) -> str:
    """The answer of `Remote.status`, as lines."""
    broker = status["broker"]
    state = "draining, " if broker["draining"] else ""
    lines = [
        f"{broker['agent']} at {url}: {state}up {duration(broker['uptime'])}, "
        f"{plural(broker['connections'], 'connection')} (this is one), {plural(broker['endpoints'], 'endpoint')}",
        f"since its start: {broker['accepted']} accepted, {broker['acknowledged']} acknowledged, "
        f"{broker['dropped']} dropped, {broker['dead']} dead",
    ]
    if "memory" in broker:
        lines.append(f"buffered: {size(broker['buffered'])} of {size(broker['memory'])} at most")
    refused = broker.get("refused")
    if refused:
        lines.append("refused: " + ", ".join(f"{count} by {limit}" for limit, count in sorted(refused.items())))
    lines += map(_listener, broker.get("udp_listeners", []))
    lines += map(_session, broker.get("udp", []))
    if status["endpoints"]:
        lines += ["", *_rows(status["endpoints"])]
    notes = [note for endpoint in status["endpoints"] for note in _notes(endpoint)]
    if notes:
        lines += ["", *notes]
    return "\n".join(lines)


def _listener(udp: dict[str, Any]) -> str:
    """What a listener of udp:// has dropped, and the kernel.

    >>> bad = {"malformed": 3, "unknown": 0, "cookie": 1}
    >>> _listener({"url": "udp://127.0.0.1:4", "sessions": 2, "bad": bad, "dropped": 0})
    'udp://127.0.0.1:4: 2 sessions, bad datagrams: 3 malformed, 1 cookie'
    >>> more = {"dropped": 7, "buffer": 212_992, "buffer_wanted": 4 << 20}
    >>> _listener({"url": "udp://127.0.0.1:4", "sessions": 1, "bad": {}, **more})
    'udp://127.0.0.1:4: 1 session, dropped by the kernel 7 (its buffers have 208Ki, wanted 4Mi)'
    """
    text = f"{udp['url']}: {plural(udp['sessions'], 'session')}"
    bad = ", ".join(f"{count} {why}" for why, count in udp["bad"].items() if count)
    if bad:
        text += f", bad datagrams: {bad}"
    if udp["dropped"]:
        text += f", dropped by the kernel {udp['dropped']}"
        if udp["buffer"] < udp["buffer_wanted"]:
            text += f" (its buffers have {size(udp['buffer'])}, wanted {size(udp['buffer_wanted'])})"
    return text


def _session(udp: dict[str, Any]) -> str:
    """One over UDP; of what the broker has sent to it.

    >>> counts = {"sent": 200, "lost": 3, "retransmitted": 4, "received": 9}
    >>> _session({"peer": "127.0.0.1:4", "rtt": 0.25, "rate": 2e6, **counts})
    'udp 127.0.0.1:4: round trip 0.25 ms, 1.9Mi/s, sent 200, lost 3 (1.5 %), repeated 4, received 9'
    >>> loose = {"missing": 5, "sent": 100, "acknowledged": 98, "lost": 2}
    >>> _session({"peer": "127.0.0.1:4", "rtt": 0.25, "rate": 2e6, "reliable": False, "loose": loose, **counts})[96:]
    'reliable=0: lost 5 messages from there, 2 of 100 to there'
    >>> _session({"peer": "127.0.0.1:4", "rtt": 0.25, "rate": 0, **counts})
    'udp 127.0.0.1:4: round trip 0.25 ms, not paced, sent 200, lost 3 (1.5 %), repeated 4, received 9'
    """
    rate = f"{size(udp['rate'])}/s" if udp["rate"] else "not paced"
    lost = 100 * udp["lost"] / max(udp["sent"], 1)
    loose = udp.get("loose")
    tail = (
        f"; reliable=0: lost {plural(loose['missing'], 'message')} from there, "
        f"{loose['lost']} of {loose['sent']} to there"
        if loose
        else ""
    )
    return (
        f"udp {udp['peer']}: round trip {udp['rtt']:g} ms, {rate}, sent {udp['sent']}, "
        f"lost {udp['lost']} ({lost:.1f} %), repeated {udp['retransmitted']}, received {udp['received']}{tail}"
    )


def _notes(endpoint: dict[str, Any]) -> list[str]:
    """What is not the same for all, a line each.

    >>> _notes({"name": "jobs", "options": {"capacity": 5, "overflow": "reject"}, "drops": {"overflow": 2}})
    ['options of jobs: capacity 5, overflow reject', 'dropped from jobs: 2 by overflow']
    >>> _notes({"name": "jobs"}), _notes({"name": "jobs", "lost": 3})
    ([], ['lost on the way to jobs: 3 messages'])
    """
    notes = []
    options, drops = endpoint.get("options"), endpoint.get("drops")
    if options:
        notes.append(f"options of {endpoint['name']}: " + ", ".join(f"{key} {value}" for key, value in options.items()))
    if drops:
        notes.append(f"dropped from {endpoint['name']}: " + ", ".join(f"{n} by {why}" for why, n in drops.items()))
    if endpoint.get("lost"):
        notes.append(f"lost on the way to {endpoint['name']}: {plural(endpoint['lost'], 'message')}")
    return notes


def _rows(endpoints: list[dict[str, Any]]) -> list[str]:
    rows = [[heading for heading, _, _ in COLUMNS]]
    rows += [[write(endpoint[field]) for _, field, write in COLUMNS] for endpoint in endpoints]
    return columns(rows)


def columns(rows: list[list[str]], left: tuple[int, ...] = (0,)) -> list[str]:
    """Rows of cells as lines.

    :param left: the columns that are text; the others are numbers.

    >>> columns([["name", "n"], ["a", "100"]])
    ['name    n', 'a     100']
    """
    widths = [max(map(len, column)) for column in zip(*rows)]
    return [
        "  ".join(
            cell.ljust(width) if number in left else cell.rjust(width)
            for number, (cell, width) in enumerate(zip(row, widths))
        ).rstrip()
        for row in rows
    ]

"""What can be set on the program ``vanilla-broker``: one table, from which come the flags, the variables and the keys.

A setting with the key ``max-frame`` is the flag ``--max-frame``, the environment variable ``VANILLA_BROKER_MAX_FRAME``
and the key ``max-frame`` of the file. `config` reads them.
"""

from __future__ import annotations

from typing import Any, Callable, NamedTuple

from vanilla.busypoll import LOOK_US

from .options import Options

#: What the names of all environment variables start with.
PREFIX = "VANILLA_BROKER_"

DEFAULT_URL = "tcp://127.0.0.1:8264"
LEVELS = ("debug", "info", "warning", "error")

_SWITCHES = {"true": True, "false": False, "yes": True, "no": False, "on": True, "off": False, "1": True, "0": False}


class Kind(NamedTuple):
    """What a setting's value can be."""

    #: For "must be ...".
    name: str
    #: Reads a variable; ValueError or KeyError if that is none.
    read: Callable[[str], Any]
    #: Is a value of the file one?
    accepts: Callable[[Any], bool]


def _read_level(text: str) -> str:
    return LEVELS[LEVELS.index(text)]


def _read_urls(text: str) -> list[str]:
    return [url.strip() for url in text.split(",")]


INTEGER = Kind("an integer", int, lambda value: type(value) is int)
SWITCH = Kind("true or false", lambda text: _SWITCHES[text.lower()], lambda value: type(value) is bool)
FILE = Kind("a path", str, lambda value: type(value) is str)
LEVEL = Kind(f"one of {', '.join(LEVELS)}", _read_level, lambda value: value in LEVELS)
URLS = Kind(
    "a list of one or more URLs",
    _read_urls,
    lambda value: type(value) is list and value != [] and all(type(url) is str for url in value),
)


class Setting(NamedTuple):
    """One row of the table."""

    key: str
    kind: Kind
    metavar: str
    #: What --help says.
    text: str
    #: The field of `Options` that it sets; "" if it is the program's own.
    field: str = ""
    #: What holds unless told otherwise, if there is no field, which has a default of its own.
    own_default: Any = None

    @property
    def flag(self) -> str:
        return f"--{self.key}"

    @property
    def variable(self) -> str:
        return PREFIX + self.key.upper().replace("-", "_")

    @property
    def default(self) -> Any:
        return getattr(Options, self.field) if self.field else self.own_default


#: The settings, by the group in which --help and the printed configuration show them.
GROUPS = {
    "where it listens": (
        Setting(
            "listen",
            URLS,
            "URL",
            "tcp://, tls:// or udp://HOST:PORT (port 0: any free one), or unix:///PATH; there may be several",
            own_default=[DEFAULT_URL],
        ),
        Setting(
            "insecure",
            SWITCH,
            "",
            "allow addresses that other machines reach, without encryption (tcp://, udp://) or authentication (tls://)",
            "insecure",
        ),
    ),
    "TLS": (
        Setting(
            "tls-cert",
            FILE,
            "FILE",
            "certificate of tls:// listeners, and those between it and its authority (PEM)",
            "tls_cert",
        ),
        Setting("tls-key", FILE, "FILE", "its key, without a passphrase, if that is not in the same file", "tls_key"),
        Setting(
            "tls-client-ca",
            FILE,
            "FILE",
            "authorities: each client of tls:// needs a certificate of theirs, or a token if there is a file of them",
            "tls_client_ca",
        ),
    ),
    "who may do what": (
        Setting(
            "token-file",
            FILE,
            "FILE",
            "hashes of tokens, a line each; `vanilla-broker token IDENTITY` makes them",
            "token_file",
        ),
        Setting(
            "permissions",
            FILE,
            "FILE",
            "who may do what: rules in TOML; without it, everybody may do everything",
            "permissions",
        ),
    ),
    "UDP": (
        Setting(
            "udp-datagram",
            INTEGER,
            "BYTES",
            "the longest datagram of a session, if its client takes it; 0: 15,900 on loopback, else 1,200",
            "udp_datagram",
        ),
    ),
    "endpoints": (
        Setting("capacity", INTEGER, "N", "messages that an endpoint holds before its producers wait", "capacity"),
        Setting("capacity-bytes", INTEGER, "BYTES", "the same in bytes of packed messages", "capacity_bytes"),
        Setting(
            "max-attempts", INTEGER, "N", "failed deliveries before a message becomes a dead letter", "max_attempts"
        ),
        Setting(
            "backoff",
            INTEGER,
            "MS",
            "ms before the first redelivery of a refused message; doubles each time",
            "backoff_ms",
        ),
    ),
    "limits": (
        Setting("max-frame", INTEGER, "BYTES", "longest frame, and so nearly the longest message", "frame_bytes"),
        Setting("depth", INTEGER, "N", "how deep a message may nest", "depth"),
        Setting("hello-timeout", INTEGER, "MS", "ms that a new connection may take for its hello", "hello_ms"),
        Setting("udp-idle", INTEGER, "MS", "ms of silence after which a session over UDP ends", "udp_idle_ms"),
        Setting("connections", INTEGER, "N", "connections at a time", "connections"),
        Setting(
            "connections-per-address",
            INTEGER,
            "N",
            "connections of one address, or one Unix user",
            "connections_per_address",
        ),
        Setting(
            "handshakes",
            INTEGER,
            "N",
            "connections at a time that have not said hello; beyond it the oldest goes",
            "handshakes",
        ),
        Setting("channels", INTEGER, "N", "channels of one connection", "channels"),
        Setting("endpoints", INTEGER, "N", "endpoints at a time", "endpoints"),
        Setting(
            "producers",
            INTEGER,
            "N",
            "producers that are gone of which it knows what they had sent",
            "producers",
        ),
        Setting("producer-ttl", INTEGER, "MS", "ms after which it forgets that", "producer_ttl_ms"),
        Setting(
            "memory",
            INTEGER,
            "BYTES",
            "what it holds in all before producers wait, whatever their endpoints hold",
            "memory",
        ),
        Setting(
            "output-bytes",
            INTEGER,
            "BYTES",
            "unsent output from which on a connection gets no deliveries",
            "output_bytes",
        ),
        Setting(
            "unsettled-bytes",
            INTEGER,
            "BYTES",
            "what the consumers of one connection may leave unsettled",
            "unsettled_bytes",
        ),
    ),
    "the program": (
        Setting("drain", INTEGER, "MS", "ms that SIGTERM leaves consumers to take what is there", "drain_ms"),
        Setting(
            "busy-poll",
            INTEGER,
            "US",
            "us for which it looks for what comes, before it sleeps, where something came soon each time; 0: never",
            own_default=LOOK_US,
        ),
        Setting("log-level", LEVEL, "LEVEL", "what is logged on stderr", own_default="info"),
        Setting(
            "console",
            FILE,
            "PATH",
            "a Unix socket, for this user only, with an interactive Python inside; who connects can do all it can do",
            own_default="",
        ),
    ),
}

#: All of them, by key.
SETTINGS = {setting.key: setting for group in GROUPS.values() for setting in group}

"""``vanilla-broker``: the broker as a program.

stdout gets one line a listener when it is ready, and nothing else; logs go to stderr, a line an event.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
from typing import Any, NoReturn

import vanilla
from vanilla import busypoll
from vanilla.core import Hub
from vanilla.memory import keep_freed_memory
from vanilla.protocol.scan import KIND
from vanilla.signal import subscribe

from . import systemd, tokens
from .broker import LEAVE_MS, Broker
from .config import DEFAULT, FILE_VARIABLE, SYSTEMD, Config, Wrong, check, read, strays
from .options import Options
from .settings import FILE, GROUPS, INTEGER, LEVEL, LEVELS, SWITCH, URLS, Kind, Setting

log = logging.getLogger("vanilla.broker")

#: The status where nobody reads the output: as of a program that SIGPIPE ends.
NO_READER = 141
#: How long the process may take to go once all is said, in ms.
END_MS = 5_000

DESCRIPTION = """\
A message broker: named endpoints over TCP, TLS and Unix sockets.

Each setting can also be given as an environment variable (--max-frame is VANILLA_BROKER_MAX_FRAME; several URLs are
separated by commas) or as a key of the --config file (max-frame). A flag goes before the variable, that before the
file, the file before the default. Sockets that systemd passes replace --listen."""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(
        prog="vanilla-broker",
        description=DESCRIPTION,
        epilog="SIGTERM and SIGINT end it in good order (see --drain); a second one ends it at once. SIGHUP has it "
        "read certificates, tokens and permissions anew; SIGUSR1 has it log what its tasks are doing.\n"
        "`vanilla-broker token --help` tells how to make tokens.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("--version", action="version", version=f"vanilla-broker {vanilla.__version__} ({KIND} scanner)")
    p.add_argument("--config", metavar="FILE", help=f"a TOML file with settings (or {FILE_VARIABLE})")
    p.add_argument("--check", action="store_true", help="only say what would hold and why, or what is wrong, and end")
    for title, settings in GROUPS.items():
        group = p.add_argument_group(title)
        for setting in settings:
            group.add_argument(setting.flag, dest=setting.key, **_ARGUMENTS[setting.kind], **_help(setting))
    return p


#: How argparse reads a flag of each kind.
_ARGUMENTS: dict[Kind, dict[str, Any]] = {
    INTEGER: {"type": int},
    SWITCH: {"action": argparse.BooleanOptionalAction},
    FILE: {},
    LEVEL: {"choices": LEVELS},
    URLS: {"action": "append"},
}


def _help(setting: Setting) -> dict[str, Any]:
    default = " ".join(setting.default) if setting.kind is URLS else str(setting.default)
    text = {"help": setting.text if setting.kind in (SWITCH, FILE) else f"{setting.text} (default {default})"}
    return {"metavar": setting.metavar, **text} if setting.metavar else text


def give_up(*faults: str) -> NoReturn:
    """A line each on stderr, exit status 1."""
    for fault in faults:
        print(f"vanilla-broker: {fault}", file=sys.stderr)
    raise SystemExit(1)


def show(config: Config) -> None:
    """*config* on stdout. Who reads only its beginning ends this program as others, without a word."""
    try:
        print(config, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes once more at its exit
        raise SystemExit(NO_READER) from None
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        give_up(f"stdout: {error.strerror}")


def main(argv: list[str] | None = None) -> None:
    """The program. Exits with 0 after SIGTERM or SIGINT, with 1 if it cannot start or was told twice to end."""
    argv = sys.argv[1:] if argv is None else argv
    if argv[:1] == ["token"]:
        tokens.main(argv[1:])
        return
    args = parser().parse_args(argv)
    try:
        config = read(vars(args), args.config)
        if config.held["busy-poll"].origin == DEFAULT and os.environ.get(busypoll.VARIABLE):
            config.give("busy-poll", busypoll.look_us(None), busypoll.VARIABLE)  # of all programs of ours
        passed = systemd.take_sockets()
        if passed:
            config.give("listen", [str(address) for _, address in passed], SYSTEMD)
        check(config)
    except Wrong as wrong:
        give_up(*wrong.faults)
    except ValueError as error:
        give_up(str(error))
    if args.check:
        show(config)
        for stray in strays(os.environ):
            print(f"vanilla-broker: {stray}", file=sys.stderr)
        return
    logging.basicConfig(
        stream=sys.stderr, level=config["log-level"].upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    for stray in strays(os.environ):
        log.warning("%s", stray)
    keep_freed_memory()
    with Hub(config["busy-poll"]) as hub:
        serve(hub, make(hub, config.options), config["listen"], passed, config["console"])


def make(hub: Hub, options: Options) -> Broker:
    """A `Broker`, or the program's end with one line that says why."""
    try:
        return Broker(hub, options)
    except ValueError as error:
        give_up(str(error))
    except OSError as error:
        give_up(error.strerror or str(error))


def serve(hub: Hub, broker: Broker, urls: list[str], passed: list[systemd.Passed], console: str) -> None:
    """Listen at the sockets that were *passed*, else at *urls*, and for people at *console*, until a signal comes."""
    manager = systemd.Manager()
    ended = hub.state()
    signals: list[int] = []

    def end(signum: int) -> None:
        signals.append(signum)
        if len(signals) == 1:
            ended.send(True)
        else:
            log.warning("told twice to end: ending at once")
            broker.hurry()

    for signum in signal.SIGTERM, signal.SIGINT:
        subscribe(hub, signum, lambda signum=signum: end(signum))  # type: ignore[misc]
    subscribe(hub, signal.SIGHUP, lambda: reload(broker, manager))
    subscribe(hub, signal.SIGUSR1, lambda: log.critical("SIGUSR1: %s", hub.dump()))  # a level that is always on
    with broker:
        if console:
            open_console(hub, broker, console)
        for sock, address in passed:
            announce(broker.adopt(sock, address))
        for url in [] if passed else urls:
            announce(listen(broker, url))
        manager.watch(hub)
        manager.ready(f"listening on {', '.join(broker.urls)}")
        ended.recv()
        name, ms = signal.Signals(signals[0]).name, broker.options.drain_ms
        log.info("%s: ending; consumers have %d ms to take what is left, unless it is told again", name, ms)
        manager.stopping(ms + LEAVE_MS + END_MS, f"ending; consumers have {ms} ms to take what is left")
        broker.drain()
    if len(signals) > 1:
        raise SystemExit(1)


def reload(broker: Broker, manager: systemd.Manager) -> None:
    """`Broker.reload`, of which the service manager is told."""
    with manager.reloading("reading certificates, tokens and permissions anew"):
        broker.reload()


def listen(broker: Broker, url: str) -> str:
    """`Broker.listen`, or the program's end with one line that says why."""
    try:
        return broker.listen(url)
    except ValueError as error:
        give_up(str(error))
    except OSError as error:
        give_up(error.strerror or str(error))


def open_console(hub: Hub, broker: Broker, path: str) -> None:
    """A console in which ``broker`` is the broker, or the program's end with one line that says why."""
    try:
        hub.console.listen(path, {"broker": broker})
    except OSError as error:
        give_up(f"console: {error.strerror or error}")
    log.info("console at %s", path)


def announce(url: str) -> None:
    """Say that it is ready. That nobody reads it, or that a disk is full, is no reason to end."""
    try:
        print(f"listening on {url}", flush=True)
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

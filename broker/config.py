"""What holds for the program: of flag, environment variable, file and default the first that is there.

All that is wrong is found in one go, and each fault says where it stands: ``FILE:LINE``, the variable or the flag.
"""

from __future__ import annotations

import difflib
import json
import os
from collections.abc import Iterator, Mapping
from typing import Any, Callable, NamedTuple

from vanilla.busypoll import look_us
from vanilla.certificates import ServerFiles, check_authorities
from vanilla.protocol.urls import parse

from .exposure import check_exposure
from .options import Options, fault
from .permissions import read_permissions
from .settings import GROUPS, PREFIX, SETTINGS, Setting
from .tokens import read_tokens
from .tomlfile import TomlFile, near_miss

#: Names the file, as --config does. The file has no key for itself.
FILE_VARIABLE = f"{PREFIX}CONFIG"

#: The origin of what nobody has set, and of what the service manager has given us instead.
DEFAULT, SYSTEMD = "default", "systemd"

#: How much alike two variables are, by `difflib`, for one to be taken for a slip of the other.
CLOSE = 0.75

#: Longer values push no column to the right.
COLUMN = 60


class Wrong(Exception):
    """The configuration is wrong: ``faults`` says what, a line each."""

    def __init__(self, faults: list[str]) -> None:
        super().__init__("\n".join(faults))
        self.faults = faults


class Held(NamedTuple):
    """A value, whence it is, and how a line starts that says what is wrong with it."""

    value: Any
    origin: str
    place: str


class Config:
    """What holds, by key."""

    def __init__(self, held: dict[str, Held]) -> None:
        self.held = held

    def __getitem__(self, key: str) -> Any:
        return self.held[key].value

    def give(self, key: str, value: Any, origin: str) -> None:
        """Put *value* before what holds for *key*."""
        self.held[key] = Held(value, origin, f"{key} from {origin}")

    @property
    def options(self) -> Options:
        """What the broker is told."""
        return Options(**{setting.field: self[key] for key, setting in SETTINGS.items() if setting.field})

    def __str__(self) -> str:
        """A file that says the same, with the origin of each value beside it."""
        lines = {key: f"{key} = {toml(held.value)}" for key, held in self.held.items()}
        width = max(len(line) for line in lines.values() if len(line) <= COLUMN)
        groups = []
        for title, settings in GROUPS.items():
            rows = [f"{lines[key]:{width}}  # {self.held[key].origin}" for key, *_ in settings]
            groups.append("\n".join([f"# {title}", *rows]))
        return "\n\n".join(groups)


def toml(value: Any) -> str:
    """A value as a TOML file writes it.

    >>> toml(["tcp://127.0.0.1:8264"]), toml(True), toml(5)
    ('["tcp://127.0.0.1:8264"]', 'true', '5')
    """
    # JSON leaves two things as they are that TOML wants escaped, or has not at all: DEL and lone surrogates.
    text = json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return text.encode(errors="backslashreplace").decode()


def read(flags: Mapping[str, Any], path: str | None, environ: Mapping[str, str] = os.environ) -> Config:
    """Put together what holds.

    :param flags: values by key; None for a flag that was not given.
    :param path: the file that --config names; that of `FILE_VARIABLE` if None.
    :raises Wrong: a value cannot be, also one that another overrides; or the file cannot be read.
    """
    path = path or environ.get(FILE_VARIABLE) or None
    faults: list[str] = []
    held = {key: Held(setting.default, DEFAULT, key) for key, setting in SETTINGS.items()}
    for source in (_from_file(path, faults), _from_environment(environ, faults), _from_flags(flags)):
        for setting, entry in source:
            wrong = fault(setting.field, entry.value) if setting.field else ""
            if wrong:
                faults.append(f"{entry.place} {wrong}")
            held[setting.key] = entry
    config = Config(held)
    if not faults:
        faults += _of_several(config)
    if faults:
        raise Wrong(faults)
    return config


def _of_several(config: Config) -> list[str]:
    """What is wrong with values that are right one by one: `Options` names the first of them."""
    try:
        config.options  # noqa: B018
    except ValueError as error:
        field, _, wrong = str(error).partition(" ")
        places = (config.held[key].place for key, setting in SETTINGS.items() if setting.field == field)
        return [f"{next(places, field)} {wrong}"]
    return []


def _from_file(path: str | None, faults: list[str]) -> Iterator[tuple[Setting, Held]]:
    if path is None:
        return
    try:
        file = TomlFile(path)
    except OSError as error:
        faults.append(f"{path}: {error.strerror}")
        return
    except ValueError as error:
        faults.append(str(error))
        return
    for key, value in file.values.items():
        where = file.where(key)
        setting = SETTINGS.get(key)
        if setting is None:
            faults.append(f"{where}: {_unknown(key, value)}")
        elif not setting.kind.accepts(value):
            faults.append(f"{where}: {key} must be {setting.kind.name}")
        else:
            yield setting, Held(value, where, f"{where}: {key}")


def _unknown(key: str, value: Any) -> str:
    """The value is not shown: it may be a secret under a wrong name."""
    tables = "; all keys stand at the top of the file, in no table" if isinstance(value, (dict, list)) else ""
    return f"{json.dumps(key)} is no setting{near_miss(key, SETTINGS)}{tables}"


def _from_environment(environ: Mapping[str, str], faults: list[str]) -> Iterator[tuple[Setting, Held]]:
    for setting in SETTINGS.values():
        text = environ.get(setting.variable)
        if not text:  # empty is as good as not there: scripts cannot always tell them apart
            continue
        try:
            value = setting.kind.read(text)
        except (ValueError, KeyError):
            faults.append(f"{setting.variable} must be {setting.kind.name}")
        else:
            yield setting, Held(value, setting.variable, setting.variable)


def _from_flags(flags: Mapping[str, Any]) -> Iterator[tuple[Setting, Held]]:
    for setting in SETTINGS.values():
        value = flags.get(setting.key)
        if value is not None:
            yield setting, Held(value, setting.flag, setting.flag)


def check(config: Config) -> None:
    """Look at what the values name, as far as that goes without doing it: no port is opened.

    :raises Wrong: something will not work.
    """
    faults = []
    for key, look in CHECKS.items():
        try:
            look(config)
        except OSError as error:
            faults.append(f"{config.held[key].place}: {error.strerror or error}")
        except ValueError as error:
            faults.append(f"{config.held[key].place}: {error}")
    if faults:
        raise Wrong(faults)


def _check_listen(config: Config) -> None:
    ours = config.held["listen"].origin != SYSTEMD
    for url in config["listen"]:
        address = parse(url)
        check_exposure(address, config.options.authenticates, config.options.insecure)
        if address.scheme == "tls" and not config["tls-cert"]:
            raise ValueError(f"{url}: tls:// needs a certificate, see tls-cert")
        folder = os.path.dirname(address.path)
        if ours and folder and not os.path.isdir(folder):
            raise ValueError(f"{url}: there is no folder {folder}")


def _check_certificates(config: Config) -> None:
    if config["tls-cert"]:
        ServerFiles(config["tls-cert"], config["tls-key"])


def _check_authorities(config: Config) -> None:
    if config["tls-client-ca"]:
        check_authorities(config["tls-client-ca"])


def _check_console(config: Config) -> None:
    folder = os.path.dirname(config["console"])
    if folder and not os.path.isdir(folder):
        raise ValueError(f"there is no folder {folder}")


#: What looks at a value, by key. A fault is raised as ValueError or OSError.
CHECKS: dict[str, Callable[[Config], object]] = {
    "listen": _check_listen,
    "tls-cert": _check_certificates,
    "tls-client-ca": _check_authorities,
    "token-file": lambda config: config["token-file"] and read_tokens(config["token-file"]),
    "permissions": lambda config: config["permissions"] and read_permissions(config["permissions"]),
    "console": _check_console,
    "busy-poll": lambda config: look_us(config["busy-poll"]),
}


def strays(environ: Mapping[str, str]) -> list[str]:
    """Variables whose names are nearly those of settings, a line each.

    Others with our prefix are nobody's fault: where a service is called ``vanilla-broker``, Kubernetes sets
    ``VANILLA_BROKER_PORT`` and more.
    """
    known = [setting.variable for setting in SETTINGS.values()] + [FILE_VARIABLE]
    ends = [name[len(PREFIX) :] for name in known]
    found = []
    for name in sorted(environ):
        if name.startswith(PREFIX) and name not in known:
            close = difflib.get_close_matches(name[len(PREFIX) :], ends, 1, CLOSE)
            found += [f"{name} is no setting (did you mean {PREFIX}{end}?)" for end in close]
    return found

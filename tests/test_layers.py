"""The layers: who may import what, read from the sources themselves.

| layer      | may import                                  | never                                   |
|------------|---------------------------------------------|-----------------------------------------|
| `protocol` | stdlib, msgpack, its own scanner            | any clock, socket, thread, the others   |
| `vanilla`  | stdlib, greenlet                            | the other three (by name on a Hub only) |
| `client`   | stdlib, msgpack, vanilla, protocol          | broker                                  |
| `broker`   | stdlib, msgpack, tomli, vanilla, protocol   | client                                  |

Across folders the import is by the installed name (``vanilla.protocol.frames``), inside a folder it is relative. What
stands under ``if TYPE_CHECKING:`` does not run, so it may cross layers, but by the same names.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parent.parent

#: What "sans-I/O" leaves out of the standard library.
CLOCKS_AND_IO = frozenset(
    "_thread asyncio concurrent datetime http multiprocessing sched select selectors signal socket socketserver "
    "sqlite3 ssl subprocess threading time timeit urllib.error urllib.request".split()
)


class Layer(NamedTuple):
    """One row of the table above."""

    package: str  # its installed name
    ours: frozenset[str]  # which other layers it may import
    others: frozenset[str]  # which distributions besides ours
    banned: frozenset[str] = frozenset()  # which parts of the standard library it must not import


LAYERS = {
    "protocol": Layer("vanilla.protocol", frozenset(), frozenset({"msgpack"}), CLOCKS_AND_IO),
    "vanilla": Layer("vanilla", frozenset(), frozenset({"greenlet"})),
    "client": Layer("vanilla.client", frozenset({"vanilla", "protocol"}), frozenset({"msgpack"})),
    "broker": Layer("vanilla.broker", frozenset({"vanilla", "protocol"}), frozenset({"msgpack"})),
}

#: Files that have needs of their own, and why.
EXTRA = {
    "protocol/_scan_build.py": {"cffi"},  # runs when the scanner is built, never when vanilla runs
    "broker/tomlfile.py": {"tomllib", "tomli"},  # one of them: before Python 3.11 tomllib is no part of the library
}

STDLIB = frozenset(getattr(sys, "stdlib_module_names", ())) | CLOCKS_AND_IO


class Import(NamedTuple):
    """One imported name: absolute, and how it was written."""

    name: str
    relative: bool
    typing_only: bool
    line: int


def layer_of(name: str) -> str | None:
    """Which layer an absolute module name belongs to, or None if it is not ours."""
    parts = name.split(".")
    if parts[0] != "vanilla":
        return None
    return parts[1] if len(parts) > 1 and parts[1] in LAYERS else "vanilla"


def is_type_checking(test: ast.expr) -> bool:
    return "TYPE_CHECKING" in (getattr(test, "id", ""), getattr(test, "attr", ""))


def imports_of(node: ast.AST, module: str, is_package: bool, typing_only: bool = False) -> Iterator[Import]:
    """Every import under `node`, wherever it stands, of the module named `module`."""
    if isinstance(node, ast.Import):
        for alias in node.names:
            yield Import(alias.name, False, typing_only, node.lineno)
    elif isinstance(node, ast.ImportFrom):
        base = node.module or ""
        if node.level:
            above = module.split(".")
            above = above[: len(above) - node.level + is_package]
            base = ".".join([*above, base] if base else above)
        for alias in node.names:  # `from vanilla import client` imports vanilla.client
            yield Import(f"{base}.{alias.name}", bool(node.level), typing_only, node.lineno)
    elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
        called = getattr(node.func, "id", getattr(node.func, "attr", ""))
        if called in ("__import__", "import_module") and isinstance(node.args[0].value, str):
            yield Import(node.args[0].value, False, typing_only, node.lineno)
    for field, value in ast.iter_fields(node):
        typed = typing_only or (isinstance(node, ast.If) and field == "body" and is_type_checking(node.test))
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST):
                yield from imports_of(child, module, is_package, typed)


def fault(found: Import, folder: str, extra: set[str]) -> str | None:
    """What is wrong with one import in the layer of `folder`; None if nothing is."""
    layer, top, target = LAYERS[folder], found.name.split(".")[0], layer_of(found.name)
    if found.relative:
        return None if target == folder else "leaves its folder: write the installed name"
    if target == folder:
        return "is inside its folder: write it relatively"
    if top in LAYERS and top != "vanilla":
        return f"is a second copy of every class: write vanilla.{top}"
    if found.typing_only:
        return None
    if target is not None:
        return None if target in layer.ours else f"is a layer that {folder} must not import"
    if any(f"{found.name}.".startswith(f"{banned}.") for banned in layer.banned):
        return f"is a clock or I/O, which {folder} must not import"
    return None if top in STDLIB | layer.others | extra else f"is not in the standard library, nor allowed in {folder}"


def faults(source: str, path: str) -> list[str]:
    """What the file at `path` (from the checkout's top) imports and may not, one line for each."""
    folder, *inner = Path(path).with_suffix("").parts
    is_package = inner[-1] == "__init__"
    module = ".".join([LAYERS[folder].package, *(inner[:-1] if is_package else inner)])
    return [
        f"{path}:{found.line}: {found.name} {wrong}"
        for found in imports_of(ast.parse(source), module, is_package)
        if (wrong := fault(found, folder, EXTRA.get(path, set())))
    ]


def sources() -> list[str]:
    return sorted(str(path.relative_to(ROOT)) for folder in LAYERS for path in (ROOT / folder).rglob("*.py"))


needs_stdlib_names = pytest.mark.skipif(
    sys.version_info < (3, 10), reason="sys.stdlib_module_names came with Python 3.10"
)


@needs_stdlib_names
def test_every_import_keeps_to_its_layer():
    assert sources()
    wrong = [line for path in sources() for line in faults((ROOT / path).read_text(encoding="utf-8"), path)]
    assert not wrong, "\n" + "\n".join(wrong)


@needs_stdlib_names
@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("protocol/frames.py", "import time"),
        ("protocol/frames.py", "from time import monotonic"),
        ("protocol/frames.py", "import socket"),
        ("protocol/frames.py", "import os, selectors"),
        ("protocol/frames.py", "from urllib import request"),
        ("protocol/frames.py", "import concurrent.futures"),
        ("protocol/frames.py", "import greenlet"),
        ("protocol/frames.py", "import cffi"),
        ("protocol/frames.py", "import vanilla"),
        ("protocol/frames.py", "from vanilla import core"),
        ("protocol/frames.py", "from .. import core"),
        ("protocol/frames.py", "from vanilla.protocol import errors"),
        ("protocol/frames.py", "from protocol import errors"),
        ("protocol/frames.py", "def late():\n    import time"),
        ("protocol/frames.py", "try:\n    import ujson\nexcept ImportError:\n    pass"),
        ("vanilla/core.py", "import msgpack"),
        ("vanilla/core.py", "import vanilla.protocol.frames"),
        ("vanilla/core.py", "from vanilla import client"),
        ("vanilla/core.py", "from .client import connect"),
        ("vanilla/core.py", "from . import broker"),
        ("vanilla/core.py", "from vanilla.message import Pair"),
        ("vanilla/core.py", "import vanilla"),
        ("vanilla/__init__.py", "from . import client"),
        ("vanilla/core.py", "importlib.import_module('vanilla.broker')"),
        ("vanilla/core.py", "__import__('protocol')"),
        ("client/link.py", "from vanilla.broker import options"),
        ("client/link.py", "from ..broker import options"),
        ("client/link.py", "from ..protocol import frames"),
        ("client/link.py", "from vanilla.client import rpc"),
        ("client/link.py", "if TYPE_CHECKING:\n    from broker import options"),
        ("client/link.py", "if TYPE_CHECKING:\n    pass\nelse:\n    from vanilla.broker import options"),
        ("broker/session.py", "import vanilla.client"),
        ("broker/store/sqlite.py", "from ...protocol import frames"),
        ("broker/store/sqlite.py", "from vanilla.broker import options"),
        ("broker/store/__init__.py", "from ...client import link"),
    ],
)
def test_an_import_across_layers_is_caught(path, source):
    assert len(faults(source, path)) == 1


@needs_stdlib_names
@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("protocol/frames.py", "import struct, msgpack\nfrom . import errors\nfrom ._scan import ffi, lib"),
        ("protocol/urls.py", "from urllib.parse import urlsplit"),
        ("protocol/__init__.py", "from . import errors\nfrom .frames import Frame"),
        ("protocol/_scan_build.py", "from cffi import FFI"),
        ("vanilla/core.py", "import time, socket, greenlet\nfrom .message import Pair\nfrom . import poll"),
        ("vanilla/core.py", "importlib.import_module(f'vanilla.{name}')"),
        ("vanilla/core.py", "if TYPE_CHECKING:\n    from vanilla.client import Client"),
        ("vanilla/core.py", "if typing.TYPE_CHECKING:\n    import vanilla.broker"),
        ("client/link.py", "import vanilla\nfrom vanilla.protocol import frames\nfrom .rpc import Remote"),
        ("client/__main__.py", "from .cli import main"),
        ("broker/session.py", "from vanilla.message import Pair\nfrom vanilla.protocol.frames import Frame"),
        ("broker/store/sqlite.py", "import sqlite3\nfrom .contract import Store\nfrom ..options import Options"),
        ("broker/store/__init__.py", "from .contract import Store\nfrom .. import batch"),
    ],
)
def test_an_import_that_keeps_to_its_layer_passes(path, source):
    assert faults(source, path) == []

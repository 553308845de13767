"""The flags of ``vanilla`` for tls://, and the variables that stand in for them."""

from __future__ import annotations

import os
from argparse import ArgumentParser, Namespace
from typing import Any

from vanilla.protocol.urls import parse

#: flag, argument of `Service.connect`, variable, what --help says.
FLAGS = (
    ("--tls-ca", "ca", "VANILLA_TLS_CA", "for tls://: who may have signed the broker's certificate (PEM)"),
    ("--tls-cert", "cert", "VANILLA_TLS_CERT", "for tls://: our own certificate, if the broker wants one (PEM)"),
    ("--tls-key", "key", "VANILLA_TLS_KEY", "for tls://: its key, if that is not in the same file"),
)
DEFAULTS = {"ca": "those of the system", "cert": "none", "key": "in the certificate's file"}


def add_flags(parser: ArgumentParser) -> None:
    for flag, field, variable, text in FLAGS:
        parser.add_argument(
            flag, dest=f"tls_{field}", metavar="FILE", help=f"{text} (default: ${variable}, or {DEFAULTS[field]})"
        )


def files(args: Namespace) -> dict[str, Any]:
    """What `Service.connect` is to be told: the flags, and for a tls:// URL the variables. (These may be meant for
    another broker than one in the clear.)"""
    chosen = {field: getattr(args, f"tls_{field}") for _, field, _, _ in FLAGS}
    if parse(args.url).scheme == "tls":
        chosen = {field: chosen[field] or os.environ.get(variable) for _, field, variable, _ in FLAGS}
    return {field: path for field, path in chosen.items() if path is not None}

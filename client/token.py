"""The client's token: given, or read from a file that holds nothing else."""

from __future__ import annotations

import logging
import os
import stat
from typing import Union

from vanilla.protocol.connection import TOKEN_BYTES

log = logging.getLogger("vanilla.client")

Path = Union[str, "os.PathLike[str]"]


def token_of(token: str | bytes | None, token_file: Path | None) -> bytes | None:
    """The token to show, if there is one. No text that is raised or logged has any part of it.

    :param token: itself; text counts as its UTF-8.
    :param token_file: a file that holds it; blanks and newlines around it do not count.
    :raises TypeError: *token* is neither text nor bytes.
    :raises ValueError: both are given, or it is too short or too long.
    :raises OSError: the file cannot be read.
    """
    if token is not None and token_file is not None:
        raise ValueError("give a token or a token_file, not both")
    where = "the token"
    if token_file is not None:
        where = f"{os.fspath(token_file)}: the token in it"
        token = _read(token_file)
    if token is None:
        return None
    if not isinstance(token, (str, bytes)):
        raise TypeError(f"a token is bytes or str, not {type(token).__name__}")
    shown = token.encode() if isinstance(token, str) else token
    if len(shown) not in TOKEN_BYTES:
        raise ValueError(f"{where} has {len(shown)} bytes; a token has {TOKEN_BYTES[0]} to {TOKEN_BYTES[-1]}")
    return shown


def _read(path: Path) -> bytes:
    with open(path, "rb") as file:
        if os.fstat(file.fileno()).st_mode & (stat.S_IROTH | stat.S_IWOTH):
            log.warning("%s: every user of this machine has access to this token; chmod 600 it", os.fspath(path))
        return file.read(4096).strip()

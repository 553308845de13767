"""Reading the files that say who may do what: whole, at the start and on SIGHUP, and secret ones only if they are."""

from __future__ import annotations

import os
import stat


def read(path: str, private: bool = False) -> str:
    """The text of a file.

    :param private: nobody but its owner may have any access to it, and the owner is the user of this process or root.
    :raises OSError: it cannot be read; the text names it.
    :raises ValueError: it is no regular file, not private, or no UTF-8; the text names it.
    """
    try:
        # Non-blocking: to open a FIFO would wait for a writer. What was opened is looked at, not what is there now.
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        with open(fd, "rb") as file:
            found = os.fstat(fd)
            if not stat.S_ISREG(found.st_mode):
                raise ValueError(f"{path}: this is no regular file")
            if private:
                _check_private(path, found)
            data = file.read()
    except OSError as error:
        raise OSError(error.errno, f"{path}: cannot read it: {error.strerror}") from None
    try:
        return data.decode()
    except UnicodeDecodeError:  # its text would quote the file
        raise ValueError(f"{path}: this is no text in UTF-8") from None


def _check_private(path: str, found: os.stat_result) -> None:
    mode = stat.S_IMODE(found.st_mode)
    if found.st_uid not in (0, os.geteuid()):
        raise ValueError(f"{path}: it belongs to user {found.st_uid}, not to the broker's ({os.geteuid()}) or root")
    if mode & 0o077 & ~_shown_for_acl(path):
        raise ValueError(f"{path}: its mode is {mode:04o}, so others have access to it; chmod 600 it")


def _shown_for_acl(path: str) -> int:
    """The permissions that a file may show, and yet be private.

    What systemd passes by ``LoadCredential=`` belongs to root, and an ACL lets the service's user read it, which the
    mode shows as the group's permission (systemd.exec(5), acl(5)). Only systemd writes to that folder.
    """
    folder = os.environ.get("CREDENTIALS_DIRECTORY")
    return stat.S_IRGRP if folder and os.path.dirname(os.path.abspath(path)) == os.path.abspath(folder) else 0

"""How the process uses memory, for programs (never for the library, whose host decides for itself)."""

from __future__ import annotations

import ctypes

_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3


def keep_freed_memory(trim: int = 64 << 20, mmap: int = 4 << 20) -> bool:
    """Tell glibc not to hand freed blocks back to the kernel at once, only to fault them in again for the next message.

    A relay of 64 KiB messages went from 13.6k to 18.9k a second by it.

    :param trim: bytes that may lie free at the top of the heap (M_TRIM_THRESHOLD of mallopt(3)).
    :param mmap: blocks of this many bytes and more are mapped, and unmapped, one by one (M_MMAP_THRESHOLD).
    :return: False where there is no such call (musl).
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return bool(mallopt and mallopt(_M_TRIM_THRESHOLD, trim) and mallopt(_M_MMAP_THRESHOLD, mmap))

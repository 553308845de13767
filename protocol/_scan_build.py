"""Builds ``vanilla.protocol._scan`` from ``_scan.c``, by cffi in API mode.

setuptools runs this file from the project's root, by ``cffi_modules=["protocol/_scan_build.py:ffibuilder"]``. It is not
part of the package at run time, so it may import what only a build needs.
"""

from __future__ import annotations

from pathlib import Path

from cffi import FFI

ffibuilder = FFI()
ffibuilder.cdef(
    """
    struct vanilla_scanned { int64_t passed; int64_t at; };

    static struct vanilla_scanned vanilla_scan(const uint8_t *body, int64_t size, int64_t offset, int64_t count,
                                               int64_t max_bytes, int64_t depth);
    static int vanilla_holds(const uint8_t *body, int64_t size, int64_t offset, int64_t count, int64_t depth);
    """
)
ffibuilder.set_source(
    "vanilla.protocol._scan",  # not "protocol._scan": that folder is installed as this package
    Path(__file__).with_name("_scan.c").read_text(encoding="utf-8"),
    extra_compile_args=["-O2"],
)

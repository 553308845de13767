"""Builds ``vanilla.protocol._scan`` from ``_scan.c`` and ``_train.c``, by cffi in API mode.

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

    static int vanilla_strip(const uint8_t *train, int64_t size, int64_t segment, uint8_t *bodies, int64_t room);
    static int vanilla_fill(uint8_t *train, int64_t size, uint64_t number, uint64_t token, uint64_t offset,
                            const uint8_t *data, int64_t length, int64_t at, int64_t count, int64_t each);
    """
)
ffibuilder.set_source(
    "vanilla.protocol._scan",  # not "protocol._scan": that folder is installed as this package
    "\n".join(Path(__file__).with_name(name).read_text(encoding="utf-8") for name in ("_scan.c", "_train.c")),
    extra_compile_args=["-O2"],
)

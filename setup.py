"""How four folders become one package, and how the C scanner is built where it can be.

The checkout keeps ``vanilla/ protocol/ client/ broker/`` side by side; installed, the last three live inside
``vanilla``, so that no ``client.py`` of a user can shadow ours. The scanner is optional: whatever goes wrong with its
build ends in a warning, and ``vanilla.protocol.scan`` uses its Python twin. Metadata is in pyproject.toml.
"""

from __future__ import annotations

import sys

from setuptools import find_packages, setup
from setuptools.command.build_ext import build_ext

FOLDERS = {
    "vanilla": "vanilla",
    "vanilla.protocol": "protocol",
    "vanilla.client": "client",
    "vanilla.broker": "broker",
}

NO_SCANNER = """
********************************************************************************************************
vanilla: the C scanner was not built ({reason}).
vanilla works all the same, with the scanner's Python twin: the broker then uses more CPU a message.
For the fast one install a compiler and Python's headers (Debian: apt-get install gcc python3-dev),
then install vanilla again.
********************************************************************************************************
"""


def packages() -> list[str]:
    """Every package of the distribution: the mapped folders and what they hold."""
    return [
        name
        for package, folder in FOLDERS.items()
        for name in [package, *(f"{package}.{inner}" for inner in find_packages(folder))]
    ]


def warn(reason: object) -> None:
    print(NO_SCANNER.format(reason=reason), file=sys.stderr)


def scanner() -> list[str]:
    """The cffi modules to build: none where cffi itself is missing."""
    try:
        import cffi  # noqa: F401
    except ImportError as missing:
        warn(missing)
        return []
    return ["protocol/_scan_build.py:ffibuilder"]


class OptionalBuild(build_ext):
    """Builds the scanner, or warns and goes on."""

    def finalize_options(self) -> None:
        super().finalize_options()
        for extension in self.extensions or []:
            extension.optional = True  # so that an absent result is not missed later

    def build_extension(self, extension) -> None:
        try:
            super().build_extension(extension)
        except Exception as failed:  # compilers fail in many ways; none of them may stop an install
            warn(failed)


setup(
    package_dir=FOLDERS,
    packages=packages(),
    package_data={"vanilla": ["py.typed"]},
    include_package_data=False,  # else MANIFEST.in would put the C file into the wheel
    cffi_modules=scanner(),
    cmdclass={"build_ext": OptionalBuild},
)

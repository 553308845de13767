"""Every example in a docstring runs.

pytest's own ``--doctest-modules`` would import ``protocol/frames.py`` as ``protocol.frames``, with or without
``--pyargs``: a second copy of every class. So the modules are imported here by their installed names.
"""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import pytest

# One by one: installed in place, the mapped folders are not inside vanilla's folder, and a walk would not find them.
PACKAGES = ("vanilla", "vanilla.protocol", "vanilla.client", "vanilla.broker")


def module_names() -> list[str]:
    """The names of all our modules, but for those that run or build something when imported."""
    names = set(PACKAGES)
    for package in PACKAGES:
        path = importlib.import_module(package).__path__
        names.update(found.name for found in pkgutil.walk_packages(path, f"{package}."))
    return sorted(name for name in names if not name.endswith((".__main__", "._scan_build", "._scan")))


@pytest.mark.parametrize("name", module_names())
def test_the_examples_in_docstrings_run(name):
    failed, _ = doctest.testmod(importlib.import_module(name), optionflags=doctest.ELLIPSIS)
    assert failed == 0

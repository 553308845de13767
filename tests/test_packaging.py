"""The package as users get it: sdist, wheel and a fresh environment, with and without a compiler.

Each test is a trap that was met: four folders that install as one package, a C file that a sdist forgets, markers that
only show on another Python, and names such as ``client`` that anybody's file may have.
"""

from __future__ import annotations

import email
import re
import shutil
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest
from trees import INSTALLED, ROOT, Environment, build, copy_of_the_checkout, run

pytestmark = pytest.mark.xdist_group("packaging")

#: Whether the scanner can be built on this machine.
COMPILER = bool(shutil.which("gcc")) and Path(sysconfig.get_path("include"), "Python.h").exists()

KIND = "import vanilla.protocol.scan as scan; print(scan.KIND)"


def files_of_the_checkout() -> set[str]:
    """Every Python file of the four folders, by its installed name."""
    return {
        f"{installed}/{path.relative_to(ROOT / folder).as_posix()}"
        for folder, installed in INSTALLED.items()
        for path in (ROOT / folder).rglob("*.py")
    }


@pytest.fixture(scope="module")
def sdist(tmp_path_factory):
    """An sdist of the checkout."""
    folder = tmp_path_factory.mktemp("sdist")
    return build("sdist", copy_of_the_checkout(folder / "checkout"), folder / "dist")[0]


@pytest.fixture(scope="module")
def unpacked(sdist, tmp_path_factory):
    """What the sdist holds: all that is there to build a wheel from."""
    folder = tmp_path_factory.mktemp("unpacked")
    with tarfile.open(sdist) as archive:
        archive.extraction_filter = getattr(tarfile, "data_filter", None)  # asked for since Python 3.12
        archive.extractall(folder)
    (tree,) = folder.iterdir()
    return tree


@pytest.fixture(scope="module")
def wheel(unpacked, tmp_path_factory):
    """A wheel from the sdist, with whatever compiler is here."""
    folder = tmp_path_factory.mktemp("wheel")
    return build("wheel", shutil.copytree(unpacked, folder / "tree"), folder / "dist")[0]


@pytest.fixture(scope="module")
def fresh(wheel, tmp_path_factory):
    """A fresh environment with the wheel and what it depends on."""
    environment = Environment(tmp_path_factory.mktemp("fresh") / "environment")
    environment.install(wheel)
    return environment


def test_the_sdist_has_all_that_a_build_and_the_tests_need(unpacked):
    held = {str(path.relative_to(unpacked)) for path in unpacked.rglob("*") if path.is_file()}
    needed = {
        "protocol/_scan.c",
        "protocol/_train.c",
        "protocol/_scan_build.py",
        "vanilla/py.typed",
        "LICENSE",
        "Makefile",
        "tests/trees.py",
    }
    sources = {
        str(path.relative_to(ROOT)) for folder in (*INSTALLED, "tests") for path in (ROOT / folder).rglob("*.py")
    }
    assert (needed | sources) - held == set()
    assert not [name for name in held if name.endswith((".so", ".pyc"))]


def test_the_wheel_has_every_module_once_and_only_inside_vanilla(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if ".dist-info/" not in name]
    assert {name for name in names if name.endswith(".py")} == files_of_the_checkout()
    assert len(set(names)) == len(names)
    assert {name.split("/")[0] for name in names} == {"vanilla"}
    assert not [name for name in names if name.endswith(".c")]


def test_the_types_are_shipped(wheel):
    with zipfile.ZipFile(wheel) as archive:
        assert "vanilla/py.typed" in archive.namelist()


@pytest.mark.parametrize(
    ("implementation", "python", "expected"),
    [
        ("CPython", "3.9", {"greenlet", "cffi", "msgpack>=1.1.1,<1.2", "tomli"}),
        ("CPython", "3.10", {"greenlet", "cffi", "msgpack>=1.2.1", "tomli"}),
        ("CPython", "3.13", {"greenlet", "cffi", "msgpack>=1.2.1"}),
        ("PyPy", "3.9", {"msgpack>=1.1.1,<1.2", "tomli"}),
        ("PyPy", "3.11", {"msgpack>=1.1.1,<1.2"}),
    ],
)
def test_each_python_gets_its_own_dependencies(wheel, implementation, python, expected):
    requirements = pytest.importorskip("packaging.requirements")
    specifiers = pytest.importorskip("packaging.specifiers")
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        metadata = email.message_from_bytes(archive.read(name))
    machine = {"platform_python_implementation": implementation, "python_version": python, "extra": ""}
    wanted = {
        (requirement.name, requirement.specifier)
        for requirement in map(requirements.Requirement, metadata.get_all("Requires-Dist"))
        if requirement.marker is None or requirement.marker.evaluate(machine)
    }
    assert {name for name, _ in wanted} == {re.split("[<>]", text)[0] for text in expected}
    assert dict(wanted)["msgpack"] == specifiers.SpecifierSet(
        next(t for t in expected if "msgpack" in t)[len("msgpack") :]
    )


def test_the_version_is_written_once(fresh):
    code = "import vanilla, importlib.metadata as m; print(vanilla.__version__ == m.version('vanilla-broker'))"
    assert fresh.python(code) == "True"


def test_with_a_compiler_the_c_scanner_serves(fresh):
    assert fresh.python(KIND) == ("c" if COMPILER else "python")


@pytest.mark.parametrize("lacking", [{"CC": "/bin/false"}, {"CC": "no-such-compiler"}], ids=["fails", "absent"])
def test_without_a_compiler_the_build_warns_and_the_python_twin_serves(unpacked, fresh, tmp_path, lacking):
    tree = shutil.copytree(unpacked, tmp_path / "tree")
    wheel, printed = build("wheel", tree, tmp_path / "dist", **lacking)
    assert "the C scanner was not built" in printed
    environment = Environment(tmp_path / "environment")
    environment.install("--no-deps", wheel)
    dependencies = fresh.python("import sysconfig; print(sysconfig.get_path('platlib'))")
    code = f"import sys; sys.path.append({dependencies!r}); {KIND}; print(scan.__file__)"
    kind, file = environment.python(code).split()
    assert kind == "python"
    assert file.startswith(str(tmp_path))


def test_an_install_in_place_maps_the_folders_and_finds_the_scanner(tmp_path):
    tree = copy_of_the_checkout(tmp_path / "checkout")
    environment = Environment(tmp_path / "environment")
    environment.install(build("editable", tree, tmp_path / "dist")[0])
    kind, file = environment.python(f"{KIND}; print(scan.__file__)").split()
    assert file == str(tree / "protocol" / "scan.py")
    assert kind == ("c" if COMPILER else "python")
    assert bool(list(tree.glob("protocol/_scan*.so"))) == (kind == "c")


def test_a_users_own_client_py_shadows_nothing(fresh, tmp_path):
    for name in INSTALLED:
        if name != "vanilla":
            (tmp_path / f"{name}.py").write_text(f"mine = '{name}'")
    code = (
        "import client, protocol, broker, vanilla, vanilla.client, vanilla.protocol, vanilla.broker\n"
        "h = vanilla.Hub()\n"
        "assert (client.mine, protocol.mine, broker.mine) == ('client', 'protocol', 'broker')\n"
        "assert h.client.connect and h.broker.listen\n"
        "print(vanilla.client.__file__)"
    )
    assert fresh.python(code, cwd=tmp_path).startswith(str(fresh.folder))


@pytest.mark.parametrize("module", [name.replace("/", ".") for name in INSTALLED.values()])
def test_an_installed_package_is_that_of_its_environment(fresh, module):
    file = fresh.python(f"import {module} as package; print(package.__file__)")
    assert file.startswith(str(fresh.folder))


@pytest.mark.parametrize("program", ["vanilla", "vanilla-broker", "-m vanilla.client", "-m vanilla.broker"])
def test_a_program_starts_and_prints_its_help(fresh, program):
    words = program.split()
    argv = [fresh.bin / "python", *words] if words[0] == "-m" else [fresh.bin / words[0]]
    assert "usage" in run(*argv, "--help", cwd=fresh.folder).stdout.lower()

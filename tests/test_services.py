"""``h.NAME``: the services of vanilla, and plug-ins."""

from __future__ import annotations

import sys
import typing
from importlib import import_module

import pytest

from vanilla import Hub, core
from vanilla.services import BUILT_IN


@pytest.fixture
def plug(tmp_path, monkeypatch):
    """Installs a package that has an entry point."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def plug(name, source, value="fancy_plugin:Service"):
        (tmp_path / "fancy_plugin.py").write_text(source)
        info = tmp_path / "fancy_plugin-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: fancy-plugin\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[vanilla.plugins]\n{name} = {value}\n")
        monkeypatch.delitem(sys.modules, "fancy_plugin", raising=False)

    yield plug
    sys.modules.pop("fancy_plugin", None)


@pytest.mark.parametrize("name", sorted(BUILT_IN))
def test_a_service_of_vanilla_is_found_by_name_and_made_once(h, name):
    service = getattr(h, name)
    assert type(service) is import_module(f"vanilla.{name}").Service
    assert getattr(h, name) is service


def test_every_service_of_vanilla_has_its_type_written_down():
    assert set(BUILT_IN) <= set(typing.get_type_hints(Hub, vars(core), _Anything()))


class _Anything(dict):
    """Names that are there for the type checker only."""

    def __missing__(self, name):
        return object


def test_a_plug_in_is_found_by_its_entry_point_and_made_once_for_each_hub(h, plug):
    plug("fancy", "class Service:\n    def __init__(self, hub): self.hub = hub")
    assert h.fancy.hub is h
    assert h.fancy is h.fancy
    with Hub() as other:
        assert other.fancy is not h.fancy


def test_a_service_of_vanilla_goes_before_a_plug_in_of_its_name(h, plug):
    plug("tcp", "raise RuntimeError('not to be imported')")
    assert type(h.tcp).__module__ == "vanilla.tcp"


@pytest.mark.parametrize(
    ("source", "error"),
    [
        ("import not_installed_anywhere", ModuleNotFoundError),
        ("from os import no_such_name", ImportError),
        ("class Service:\n    def __init__(self, hub): raise KeyError('what the plug-in says')", KeyError),
        ("def Service(hub): hub.no_such_service", AttributeError),
        ("syntax error", SyntaxError),
        ("class Other: pass", AttributeError),
    ],
)
def test_a_plug_ins_own_error_is_shown_as_it_is(h, plug, source, error):
    plug("fancy", source)
    with pytest.raises(error) as raised:
        _ = h.fancy
    assert "a Hub has no attribute or service 'fancy'" not in str(raised.value)


@pytest.mark.parametrize("unknown", ["no_such_service", "exception", "core", "_private"])
def test_an_unknown_name_is_an_attribute_error(h, unknown):
    with pytest.raises(AttributeError, match=unknown):
        getattr(h, unknown)
    assert not hasattr(h, unknown)

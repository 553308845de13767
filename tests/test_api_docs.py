"""docs/api says what is so: its examples run, its links lead somewhere, and each signature is the code's."""

from __future__ import annotations

import doctest
import importlib
import inspect
import re
from pathlib import Path

import pytest

API = Path(__file__).parent.parent / "docs" / "api"

#: What is before the dot in a heading of a page, and what that is in the code.
OWNERS = {
    ("hub.md", "h"): "vanilla.core:Hub",
    ("hub.md", "task"): "vanilla.task:Task",
    ("messages.md", "h"): "vanilla.core:Hub",
    ("messages.md", "sender"): "vanilla.message:Sender",
    ("messages.md", "recver"): "vanilla.message:Recver",
    ("messages.md", "end"): "vanilla.message:End",
    ("messages.md", "stream"): "vanilla.message:Stream",
    ("messages.md", "vanilla.message"): "vanilla.message:",
    ("process.md", "h.process"): "vanilla.process:Service",
    ("process.md", "child"): "vanilla.process:Child",
    ("signal.md", "h.signal"): "vanilla.signal:Service",
    ("streams.md", "h.io"): "vanilla.io:Service",
    ("streams.md", "h.tcp"): "vanilla.tcp:Service",
    ("streams.md", "h.tls"): "vanilla.tls:Service",
    ("streams.md", "h.udp"): "vanilla.udp:Service",
    ("streams.md", "h.unix"): "vanilla.unix:Service",
    ("thread.md", "h.thread"): "vanilla.thread:Service",
    ("thread.md", "pool"): "vanilla.workers:Workers",
    ("console.md", "h.console"): "vanilla.console:Service",
    ("tasks.md", "h"): "vanilla.core:Hub",
    ("tasks.md", "pool"): "vanilla.taskpool:TaskPool",
    ("tasks.md", "event"): "vanilla.event:Event",
    ("tasks.md", "lock"): "vanilla.lock:RLock",
    ("tasks.md", "condition"): "vanilla.condition:Condition",
    ("tasks.md", "semaphore"): "vanilla.semaphore:Semaphore",
    ("tasks.md", "timer"): "vanilla.schedule:TaskTimer",
    ("tasks.md", "schedule"): "vanilla.schedule:Schedule",
}

HEADING = re.compile(r"^##+ `(?P<owner>[\w.]+)\.(?P<name>\w+)\((?P<parameters>.*)\)`$", re.M)


def pages():
    return sorted(page.name for page in API.glob("*.md"))


def examples(page):
    """The Python programs of a page that show what they give."""
    return [
        block for block in re.findall(r"^```python\n(.*?)^```", (API / page).read_text(), re.M | re.S) if ">>>" in block
    ]


def headings():
    return [
        pytest.param(page, *found.group("owner", "name", "parameters"), id=f"{page}:{found['owner']}.{found['name']}")
        for page in pages()
        for found in HEADING.finditer((API / page).read_text())
    ]


@pytest.mark.parametrize("page", [page for page in pages() if examples(page)])
def test_the_examples_of_a_page_run(page):
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    for number, block in enumerate(examples(page)):
        test = doctest.DocTestParser().get_doctest(block, {}, f"{page}, example {number + 1}", page, 0)
        said: list[str] = []
        assert runner.run(test, out=said.append).failed == 0, "".join(said)


@pytest.mark.parametrize(("page", "owner", "name", "parameters"), headings())
def test_a_signature_is_the_codes(page, owner, name, parameters):
    module, _, cls = OWNERS[page, owner].partition(":")
    found = importlib.import_module(module)
    function = getattr(getattr(found, cls) if cls else found, name)
    signature = inspect.signature(function)
    told = [
        str(parameter.replace(annotation=inspect.Parameter.empty))
        for parameter in signature.parameters.values()
        if parameter.name != "self"
    ]
    assert parameters == ", ".join(told)


@pytest.mark.parametrize("page", pages())
def test_links_lead_to_files(page):
    for link in re.findall(r"\]\(([^)#]+)", (API / page).read_text()):
        assert link.startswith("https://") or (API / link).exists(), link

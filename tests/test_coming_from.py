"""docs/api/coming-from.md: each line of what one writes here runs."""

from __future__ import annotations

import contextvars
import os
import re
import signal
import time
from pathlib import Path

import pytest

import vanilla
from vanilla.poll import POLLIN

PAGE = Path(__file__).parent.parent / "docs" / "api" / "coming-from.md"


def rows():
    """Of each table, what was written there, and the lines that are written here."""
    found, section = [], ""
    for line in PAGE.read_text().splitlines():
        if line.startswith("## "):
            section = line[3:]
        elif line.startswith("|") and not line.startswith(("|---", "| there |")):
            there, here, _ = (cell.strip() for cell in line.strip("|").split("|"))
            found.append(pytest.param(re.findall(r"`([^`]+)`", here), id=f"{section}: {there}"))
    return found


def f(*args, **kwargs):
    """Anybody's function."""
    return args[0] if args else None


@pytest.fixture
def names(h, tmp_path):
    """What the page says the names of its tables are."""
    ch, finite, other = h.channel(8), h.queue(2), h.queue(2)
    for each in ch, finite, other:
        each.send(1)
    finite.close()
    read, write = os.pipe()
    os.write(write, b"x")
    server = h.tcp.listen()

    @server.consume
    def echo(conn):
        for data in conn.recver:
            conn.send(data)

    broker = h.broker.listen("tcp://127.0.0.1:0")
    names = {
        "broker": broker,
        "ch": ch,
        "conn": h.tcp.connect(server.port),
        "contextvars": contextvars,
        "ends": [ch, other.recver],
        "f": f,
        "fd": read,
        "h": h,
        "ob": "text",
        "path": str(tmp_path / "socket"),
        "POLLIN": POLLIN,
        "port": server.port,
        "recver": finite.recver,
        "remote": h.client.connect(broker.urls[0]),
        "sender": other.sender,
        "signal": signal,
        "task": h.spawn(f, 1),
        "time": time,
        "unixtime": time.time(),
        "url": broker.urls[0],
        "vanilla": vanilla,
        "x": "x",
    }
    yield names
    for made in list(names.values()):
        if isinstance(made, vanilla.Hub) and made is not h:
            made.stop()
        elif hasattr(made, "ping"):
            made.close(linger=0)
    broker.close()
    for fd in read, write:
        os.close(fd)


@pytest.mark.parametrize("lines", rows())
def test_what_one_writes_here_runs(names, lines):
    for line in lines:
        exec(line, names)


def test_the_page_has_a_table_for_each():
    sections = re.findall(r"^## (.*)$", PAGE.read_text(), re.M)
    assert sections == ["vanilla 0.1", "greenhouse", "gevent", "asyncio", "ZeroMQ"]
    assert len(rows()) > 100

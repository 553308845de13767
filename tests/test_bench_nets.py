"""The rows of what libraries do with ends, threads and connections: each that is installed does it, and what goes wrong
is found out. No test minds how fast anything is."""

from __future__ import annotations

import json
import os
import re
import socket
import struct
import threading

import pytest
from benches import BENCH, bench, needs_cores

pytestmark = needs_cores

LIBRARIES = ("vanilla", "gevent", "asyncio", "trio")
#: All in bench/nets/, by the tables at the ends of its files.
NETS = sorted(
    name
    for path in BENCH.glob("nets/*.py")
    for table in re.findall(r"^NETS = {(.*)}$", path.read_text(), re.MULTILINE)
    for name in re.findall(r'"([^"]+)":', table)
)


def skip_without(load, name: str, kind: str) -> None:
    missing = load("processes").describe(load(kind).find(name))["missing"]
    if missing:
        pytest.skip(missing)


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    """What a quick run of these rows says and keeps."""
    path = tmp_path_factory.mktemp("bench") / "results.json"
    ran = bench("--quick", "--json", path, "select", "threads", "echo", "copy", "memory")
    assert (ran.returncode, ran.stderr) == (0, "")
    return ran, json.loads(path.read_text())["rows"]


def test_sides_that_are_installed_have_figures(quick, load):
    ran, rows = quick
    table = load("table")
    assert [row["name"] for row in rows] == ["select"] * 4 + ["threads"] * 2 + ["echo", "copy"] + ["memory"] * 3
    for row in rows:
        assert row["title"] in ran.stdout
        lines = table.LAYOUTS[row["kind"]].lines(row)
        assert {len(line) for line in lines} == {len(table.LAYOUTS[row["kind"]].head)}
        assert len(lines) == len(row["sides"])
        for name, side in row["sides"].items():
            assert name in LIBRARIES or name in NETS
            if name.partition("-")[0] in ("vanilla", "asyncio", "plain"):
                assert side["missing"] == ""
                assert side.get("rate", 1) > 0


def test_of_a_quick_run_no_goal_can_be_told(quick):
    _, rows = quick
    found = [row["met"] for row in rows if "met" in row]
    assert found == [None] * 4 + [{"gevent": None}, {"plain": None}]


@pytest.mark.parametrize("name", NETS)
def test_each_net_is_a_side_of_a_row(load, name):
    echoes, copies = load("echoes"), load("copies")
    assert name in {*echoes.NAMES, *copies.NAMES}


@pytest.mark.parametrize(
    "name", ["vanilla", "gevent", "asyncio", "asyncio-buffered", "asyncio-streams", "trio", "plain"]
)
def test_each_net_that_is_installed_echoes(load, name):
    skip_without(load, name, "nets")
    found = load("echoes").measure(name, 0.01, 0.01)
    assert found["rate"] > 0
    assert found["cpu"]["server"] >= 0


@pytest.mark.parametrize("name", NETS)
def test_each_net_that_is_installed_copies_all_of_a_stream(load, name):
    skip_without(load, name, "nets")
    assert load("copies").measure(name, 3)["rate"] > 0


@pytest.mark.parametrize("title", [1, 2], ids=["idle", "receives"])
@pytest.mark.parametrize("name", ["vanilla", "gevent", "asyncio", "asyncio-streams", "trio", "plain"])
def test_each_net_that_is_installed_keeps_connections(load, name, title):
    kept = load("kept")
    if name not in kept.TITLES[list(kept.TITLES)[title]]:
        pytest.skip("not a side of that row")
    skip_without(load, name, "nets")
    assert kept.connections(name, 20, title == 2)["kib"] >= 0


@pytest.mark.parametrize("name", LIBRARIES)
def test_each_library_that_is_installed_calls_in_threads(load, name):
    skip_without(load, name, "hubs")
    found = load("alone").measure(name, "threads", 3, 2)
    assert 0 < found["median"] <= found["p99"]
    assert found["rate"] > 0


@pytest.mark.parametrize("how", [(False, False, False), (True, False, False), (True, False, True), (True, True, False)])
@pytest.mark.parametrize("name", LIBRARIES)
def test_each_library_that_is_installed_chooses_the_end_that_is_ready(load, name, how):
    skip_without(load, name, "hubs")
    for ends in 1, 2, 5:
        assert load("alone").measure(name, "select", ends, *how, 0.0)["rate"] > 0


@pytest.mark.parametrize("name", LIBRARIES)
def test_each_library_that_is_installed_has_tasks_that_wait(load, name):
    skip_without(load, name, "hubs")
    assert load("alone").measure(name, "parked", 50)["kib"] >= 0


def test_each_end_is_chosen_as_often(load):
    load("hubs")
    from hubs.library import Picks

    for ends in 2, 100:
        order = Picks(ends, 3 * ends, True, False, False).order()
        assert sorted(order) == sorted([*range(ends)] * 3)
        assert order[:ends] != sorted(order[:ends]) or ends == 2


def test_an_end_that_was_not_ready_fails_the_measurement(load):
    load("hubs")
    from hubs.library import Calls, Picks

    with pytest.raises(AssertionError, match="end 1 was ready, and end 2 was chosen"):
        Picks(2, 1, False, False, False).check(1, 2)
    with pytest.raises(AssertionError, match="another's result"):
        Calls(1, 1).end(0, 1, 1)


def test_a_call_that_nobody_answers_fails_the_measurement(load):
    class Broken:
        def threads(self, calls):
            pass

    with pytest.raises(AssertionError, match="not answered"):
        load("alone").threads(Broken(), 1, 1)


class Echo(threading.Thread):
    """A server for one connection that answers by *answer* of what came."""

    def __init__(self, answer) -> None:
        super().__init__(daemon=True)
        self.answer = answer
        self.server = socket.create_server(("127.0.0.1", 0))
        self.port = self.server.getsockname()[1]
        self.start()

    def run(self) -> None:
        with self.server, self.server.accept()[0] as sock:
            try:
                while data := sock.recv(65536):
                    for piece in self.answer(data):
                        sock.sendall(piece)
            except OSError:
                pass  # who asked has gone


def test_who_asks_looks_at_each_answer(load):
    netfar = load("netfar")
    for answer in (lambda data: [b"x" * len(data)], lambda data: [data[:3], b"?"], lambda data: [data + data]):
        with pytest.raises(SystemExit, match="an answer is not what was asked"):
            netfar.Asker(Echo(answer).port, 1, 64).ask(5.0)


def test_an_answer_may_come_in_pieces(load):
    asker = load("netfar").Asker(Echo(lambda data: [data[:3], data[3:]]).port, 1, 64)
    assert asker.ask(0.05) > 0


def test_who_asks_waits_for_an_answer_at_least(load):
    assert load("netfar").Asker(Echo(lambda data: [data]).port, 1, 64).ask(0.0) == 1


def test_a_question_that_is_answered_twice_is_found_out(load):
    last = []

    def answer(data):
        last.append(data)
        return [last[0]]  # the first again and again

    with pytest.raises(SystemExit, match="an answer is not what was asked"):
        load("netfar").Asker(Echo(answer).port, 1, 64).ask(5.0)


@pytest.mark.parametrize(
    ("blocks", "why"),
    [
        ([0], "ended too early|not in its place"),
        ([1, 0], "not in its place"),
        ([0, 0], "in its place"),
        ([0, 1, 2], "more came"),
    ],
    ids=["lost", "swapped", "doubled", "more"],
)
def test_the_sink_knows_each_block(load, monkeypatch, blocks, why):
    netfar = load("netfar")
    here, there = socket.socketpair()
    monkeypatch.setattr(netfar, "accept", lambda: here)
    monkeypatch.setattr(netfar, "say", lambda what: None)
    monkeypatch.setattr(netfar.socket, "MSG_TRUNC", 0)  # a Unix socket keeps what it would throw away

    def send() -> None:
        with there:
            for number in blocks:
                try:
                    there.sendall(struct.pack(">Q", number).ljust(netfar.BLOCK, b"\0"))
                except OSError:
                    return

    sender = threading.Thread(target=send)
    sender.start()
    try:
        with pytest.raises(SystemExit, match=why):
            netfar.sink("2")
    finally:
        sender.join()


def test_goals_are_about_those_whom_they_name(load, monkeypatch):
    echoes, copies = load("echoes"), load("copies")
    settings = load("oneway").Settings(2, 1.0, False, lambda _: None)
    monkeypatch.setattr(load("processes"), "describe", lambda side: {"title": side.title, "missing": ""})
    for module, rival, least in (echoes, "gevent", 1.0), (copies, "plain", 0.8):
        for factor, met in (1.01, True), (0.99, False):
            rates = {"vanilla": least * factor * 100.0}
            monkeypatch.setattr(
                module,
                "measure",
                lambda name, *_, r=rates: {"rate": r.get(name, 100.0), "cpu": {"server": 1.0, "copy": 1.0}},
            )
            (row,) = module.rows(settings)
            assert row["met"] == {rival: met}
            shown = {line[1]: line[-1] for line in module.lines_of(row)}
            assert shown[row["sides"][rival]["title"]] == f"{least:g}x: {'met' if met else 'not met'}"
            assert sum(bool(cell) for cell in shown.values()) == 1


@pytest.mark.parametrize(("few", "met"), [(299.0, True), (301.0, False)])
def test_the_goal_of_select_is_about_how_much_dearer_many_ends_are(load, monkeypatch, few, met):
    selects = load("selects")
    monkeypatch.setattr(load("processes"), "describe", lambda side: {"title": side.title, "missing": ""})
    monkeypatch.setattr(load("alone"), "measure", lambda name, what, ends, *_: {"rate": few if ends == 2 else 100.0})
    for row in selects.rows(load("oneway").Settings(2, 1.0, False, lambda _: None)):
        assert row["met"] is met
        assert selects.lines_of(row)[0][-2] == f"3x at most: {'met' if met else 'not met'}"


def test_a_side_that_fails_or_is_missing_has_no_figures(load, monkeypatch):
    settings = load("oneway").Settings(1, 1.0, False, lambda _: None)

    def fail(*_):
        raise load("processes").Failed("it broke")

    def version(_):
        raise LookupError("gevent is not installed")

    for kind in "hubs", "nets":
        monkeypatch.setattr(type(load(kind).find("gevent")), "version", version)
    monkeypatch.setattr(load("alone"), "measure", fail)
    for module in "echoes", "copies":
        monkeypatch.setattr(load(module), "measure", fail)
    monkeypatch.setattr(load("kept"), "connections", fail)
    for module in "selects", "threadcalls", "echoes", "copies", "kept":
        for row in load(module).rows(settings):
            lines = load("table").LAYOUTS[row["kind"]].lines(row)
            for name, line in zip(row["sides"], lines):
                said = "gevent is not installed" if name == "gevent" else "failed: it broke"
                if "not installed" in row["sides"][name]["missing"]:
                    said = row["sides"][name]["missing"]
                assert [cell for cell in line if cell and cell != row["title"]] == [line[1], said]


def test_the_measured_process_leaves_the_last_core_to_the_far_ends(load, monkeypatch):
    netside = load("netside")
    set_to = []
    monkeypatch.setattr(os, "sched_setaffinity", lambda pid, cores: set_to.append(cores))
    for cores in {0, 1, 3}, {2}:
        monkeypatch.setattr(os, "sched_getaffinity", lambda pid, c=cores: c)
        netside.leave_a_core()
    assert set_to == [{0, 1}, {2}]

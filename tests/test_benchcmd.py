"""``vanilla bench``: its counts, its table, how it ends, and that neither processes nor messages stay behind."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import socket
from contextlib import contextmanager

import pytest
from lossy import Proxy
from peers import PATIENCE, until
from programs import broker, environment, gone, group, read_all, running, vanilla, wait_until

from vanilla.client.benchresult import Result, heading
from vanilla.client.benchtrial import empty, look_at
from vanilla.client.histogram import Histogram

NO_READER = 141
#: A bench that goes on until something ends it.
LONG = ("--size", "256", "--seconds", "600")


@pytest.fixture(scope="module")
def url():
    with broker() as (url, _):
        yield url


@pytest.fixture
def remote(h, url):
    with h.client.connect(url) as remote:
        yield remote


def bench(url, *args):
    return vanilla("bench", "--url", url, *args)


def as_json(url, *args):
    status, out, err = bench(url, "--json", *args)
    assert (status, err, out.count("\n")) == (0, "", 1)
    said = json.loads(out)
    assert said["complete"]
    for each in said["sizes"]:
        assert each["complete"]
        assert each["sent"] == each["received"] > 0
    return said


def rows(out):
    """The table's rows: the first cell of each, and the others."""
    lines = out.splitlines()
    assert lines[1:3] == heading().splitlines()
    return [(int(line.split()[0]), line.split()[1:]) for line in lines[3:]]


@contextmanager
def under_way(h, remote, url, name, *args, **popen):
    """A bench that has begun: it, and its children as [(pid, command)]."""
    with running("bench", "--url", url, "--name", name, *args, **popen) as program:
        until(h, lambda: look_at(remote, name).get("acknowledged"))
        children = group(program.process.pid)
        assert all("benchwork" in command for _, command in children)
        yield program, children
        wait_until(lambda: all(gone(pid) for pid, _ in children))


# -- what it measures


def test_each_size_is_a_row_and_the_queue_is_gone(url, remote):
    status, out, err = bench(url, "--seconds", "0.2", "--size", "8,256,65536")
    assert (status, err) == (0, "")
    assert out.startswith("1 pusher, 1 puller; as fast as it goes, 0.2 s a size; queue 'bench.")
    table = rows(out)
    assert [size for size, _ in table] == [8, 256, 65536]
    assert all(len(cells) == 7 for _, cells in table)
    assert [cells[5:] == ["-", "-"] for _, cells in table] == [True, False, False]  # too small to carry a time
    assert re.search(r"'(bench\.\w+)'", out)[1] not in {each["name"] for each in remote.status()["endpoints"]}


def test_json_is_one_object_with_all_figures(url):
    said = as_json(url, "--seconds", "0.2", "--size", "16,4096")
    assert (said["url"], said["pushers"], said["pullers"], said["rate"], said["many"]) == (url, 1, 1, None, None)
    assert said["seconds"] == 0.2
    assert [each["size"] for each in said["sizes"]] == [16, 4096]
    for each in said["sizes"]:
        assert each["bytes_per_second"] == pytest.approx(each["messages_per_second"] * each["size"], rel=0.01)
        assert set(each["cpu_seconds_per_million"]) == {"pushers", "pullers", "broker"}
        assert each["cpu_seconds_per_million"]["pushers"] > 0
        assert each["latency_ms"]["messages"] == -(-each["sent"] // 100)
        assert 0 < each["latency_ms"]["p50"] <= each["latency_ms"]["p99"]


def test_a_rate_is_kept_and_below_1000_each_message_tells_its_time(url):
    (found,) = as_json(url, "--seconds", "1", "--size", "16", "--rate", "200", "--pushers", "2")["sizes"]
    assert 200 <= found["sent"] <= 402  # fewer if the machine does something else
    assert found["latency_ms"]["messages"] == found["received"]


def test_a_high_rate_is_kept(url):
    (found,) = as_json(url, "--seconds", "0.5", "--size", "16", "--rate", "20000")["sizes"]
    assert 5_000 <= found["sent"] <= 10_020


@pytest.mark.parametrize("many", [(), ("--many", "30"), ("--many", "1000")])
def test_several_push_and_several_pull(url, many):
    args = "--pushers", "2", "--pullers", "3", "--size", "16,1000", "--seconds", "0.2"
    said = as_json(url, *args, *many)
    assert (said["pushers"], said["pullers"], said["many"]) == (2, 3, int(many[1]) if many else None)
    for each in said["sizes"]:
        assert each["sent"] % (int(many[1]) if many else 1) == 0


def test_lists_at_a_rate(url):
    (found,) = as_json(url, "--seconds", "0.5", "--size", "16", "--rate", "1000", "--many", "50")["sizes"]
    assert found["sent"] % 50 == 0
    assert 250 <= found["sent"] <= 550
    assert found["latency_ms"]["messages"] == found["sent"] // 50


def test_large_messages_go_one_by_one(url):
    (found,) = as_json(url, "--seconds", "0.2", "--size", "1000000")["sizes"]
    assert found["latency_ms"]["messages"] == found["received"]


@pytest.mark.parametrize(
    ("steal", "fault"),
    [
        (True, r"1 message of [\d,]+ of 16 bytes missing"),
        (False, "1 message of 16 bytes came twice"),
    ],
)
def test_a_message_too_few_or_too_many_is_an_error(url, h, remote, name, steal, fault):
    args = "--name", name, "--size", "16,32", "--seconds", "1", "--rate", "500"
    with running("bench", "--url", url, *args) as program:
        until(h, lambda: look_at(remote, name).get("pushers"))
        if steal:
            with remote.pull(name) as jobs:
                jobs.recv(timeout=PATIENCE)
                remote.ping()  # it is acknowledged
        else:
            with remote.push(name) as jobs:
                jobs.send(bytes(16))
        status, err = program.end()
        out = program.process.stdout.read().decode()
    assert (status, err.count("\n")) == (1, 1)
    assert re.fullmatch(f"vanilla bench: {fault}\n", err)
    assert [size for size, _ in rows(out)] == [16]


def test_what_the_way_loses_is_no_error_where_it_may_be_lost(h):
    with broker(listen="udp://127.0.0.1:0") as (url, _):
        proxy = Proxy(h, url, lost=0.1, doubled=0, late=0)
        args = "--url", f"{proxy.url}?reliable=0", "--json", "--seconds", "1", "--size", "4096", "--rate", "500"
        with running("bench", *args) as program:
            until(h, lambda: program.process.poll() is not None)
            assert program.end() == (0, "")
            (found,) = json.loads(program.process.stdout.read())["sizes"]
        proxy.close()
    assert found["lost"] > 0
    assert found["sent"] == found["received"] + found["lost"]


# -- what it refuses


def test_a_queue_that_is_not_empty_is_refused_and_left_alone(url, remote, name):
    jobs = remote.push(name)
    jobs.send_many([1, 2, 3])
    jobs.sync()
    refused = f"vanilla bench: the queue {name!r} is not empty: 3 ready, 0 delayed, 0 in flight\n"
    assert bench(url, "--name", name, "--seconds", "0.2") == (1, "", refused)
    with remote.pull(name) as pull:
        assert [pull.recv(timeout=PATIENCE) for _ in range(3)] == [1, 2, 3]


def test_a_queue_that_others_use_is_refused(url, remote, name):
    with remote.pull(name):
        remote.ping()
        refused = f"vanilla bench: the queue {name!r} is in use: 0 pushers, 1 puller\n"
        assert bench(url, "--name", name, "--seconds", "0.2") == (1, "", refused)


def test_messages_that_no_broker_takes_are_refused_at_once(url):
    status, out, err = bench(url, "--size", "16,2000000")
    assert (status, out, err.count("\n")) == (1, "", 1)
    assert err.startswith("vanilla bench: messages of 2000000 bytes are too big: the broker takes up to 1048")


def test_the_largest_message_that_is_not_refused_goes_through(url):
    most = int(bench(url, "--size", "2000000")[2].split()[-1])
    (found,) = as_json(url, "--size", str(most), "--seconds", "0.05")["sizes"]
    assert found["size"] == most


def test_without_a_broker_it_is_one_line():
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        status, out, err = bench(f"tcp://127.0.0.1:{nobody.getsockname()[1]}")
    assert (status, out, err.count("\n")) == (1, "", 1)
    assert "to start a broker: vanilla-broker" in err


def test_a_broker_that_refuses_the_endpoint_is_one_line(h):
    with broker("--endpoints", "1") as (url, _), h.client.connect(url) as remote, remote.pull("other"):
        remote.ping()
        status, _, err = bench(url, "--seconds", "0.2")
        assert (status, err.count("\n")) == (1, 1)
        assert re.match(r"vanilla bench: pu(ll|sh)er 1 ended with status 1: .*TOO_MANY", err)


@pytest.mark.parametrize(
    "args",
    [
        ("--size", "0"),
        ("--size", "16,"),
        ("--size", "x"),
        ("--pushers", "0"),
        ("--pullers", "-1"),
        ("--rate", "0"),
        ("--rate", "nan"),
        ("--seconds", "inf"),
        ("--many", "0"),
        ("--name", "a\nb"),
    ],
)
def test_wrong_arguments_are_named_and_status_2(args):
    status, out, err = vanilla("bench", *args)
    assert (status, out) == (2, "")
    assert args[0] in err.splitlines()[-1]


def test_help_names_options_units_and_defaults():
    status, out, err = vanilla("bench", "--help")
    assert (status, err) == (0, "")
    text = " ".join(out.split())
    words = "--size BYTES", "default 16,256,4096,65536", "--pushers N", "--pullers N", "--rate N", "--seconds S"
    for word in (*words, "default 5", "--many N", "--name NAME", "--json", "--url URL", "one clock", "a second"):
        assert word in text


# -- how it ends


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_however_it_ends_no_process_stays_behind(url, h, remote, name, tmp_path, signum):
    args = "--pushers", "2", "--pullers", "2", *LONG
    with under_way(h, remote, url, name, *args, env=environment(TMPDIR=str(tmp_path))) as (program, children):
        assert len(children) == 4
        program.process.send_signal(signum)
        status, err = program.end()
    assert (status, err) == ({signal.SIGINT: 130, signal.SIGKILL: -9}.get(signum, 128 + signum), "")
    if signum != signal.SIGKILL:
        assert look_at(remote, name) == {}
        assert list(tmp_path.iterdir()) == []
    else:
        assert empty(remote, name, PATIENCE) == 0


def interrupted(url, *args):
    """What a bench says on stdout if ctrl-C ends it when it has received something."""
    ours, theirs = pty.openpty()
    with running("bench", "--url", url, *args, *LONG, stderr=theirs, env=environment(TERM="xterm")) as program:
        os.close(theirs)
        shown = b""
        while not re.search(rb" [1-9][\d.]*[kM]? received/s", shown):
            shown += os.read(ours, 65536)
        program.process.send_signal(signal.SIGINT)
        assert program.end()[0] == 130
        out = program.process.stdout.read().decode()
    assert re.fullmatch(r"(\r[^\r\n]*)*\r\x1b\[K", shown.decode() + read_all(ours))
    os.close(ours)
    return out


def test_ctrl_c_tells_what_was_found_so_far(url):
    out = interrupted(url)
    ((size, cells),) = rows(out)
    assert (size, cells[-1], cells[4]) == (256, "(interrupted)", "-")


def test_ctrl_c_tells_it_in_json(url):
    said = json.loads(interrupted(url, "--json"))
    assert not said["complete"]
    (found,) = said["sizes"]
    assert not found["complete"]
    assert found["received"] > 0


def test_the_broker_killed_in_the_middle_is_one_line(h, name):
    with broker() as (url, process), h.client.connect(url) as remote:
        with under_way(h, remote, url, name, "--pushers", "2", *LONG) as (program, _):
            process.kill()
            status, err = program.end()
            out = program.process.stdout.read().decode()
    assert (status, err) == (1, f"vanilla bench: {url}: the broker closed the connection\n")
    assert rows(out) == []


@pytest.mark.parametrize("victim", ["push", "pull"])
def test_a_process_that_dies_unasked_is_named_and_the_queue_is_emptied(url, h, remote, name, victim):
    with under_way(h, remote, url, name, *LONG) as (program, children):
        (pid,) = (pid for pid, command in children if f"benchwork {victim}" in command)
        os.kill(pid, signal.SIGKILL)
        status, err = program.end()
    assert (status, err) == (1, f"vanilla bench: {victim}er 1 ended with status -9\n")
    assert look_at(remote, name) == {}


def test_a_reader_that_goes_ends_it(url, h, remote, name):
    args = "--size", "16,256,16", "--seconds", "0.2"
    with running("bench", "--url", url, "--name", name, *args) as program:
        program.process.stdout.readline()
        program.process.stdout.close()
        assert program.end() == (NO_READER, "")
    assert look_at(remote, name) == {}


# -- progress


def test_without_a_terminal_there_is_no_progress(url):
    status, out, err = bench(url, "--seconds", "0.3", "--size", "16")
    assert (status, err) == (0, "")
    assert not re.search(r"[\r\x1b]", out)


def test_on_a_terminal_a_line_tells_the_rates(url):
    ours, theirs = pty.openpty()
    there = environment(TERM="xterm", COLUMNS="80")
    args = "--url", url, "--seconds", "0.7", "--size", "16"
    with running("bench", *args, stdin=theirs, stdout=theirs, stderr=theirs, env=there) as program:
        os.close(theirs)
        shown = read_all(ours)
        assert program.end()[0] == 0
    os.close(ours)
    assert re.search(r"\r16 bytes: [\d.]+ of 0.7 s, [\d.]+[kM]? sent/s, [\d.]+[kM]? received/s\x1b\[K", shown)
    assert re.search(r"\r\x1b\[K +16 +[\d.]+[kM]? .*\r\n\r\x1b\[K$", shown)


# -- the result


def result(**changes):
    waits = Histogram()
    waits.add(1_000_000)
    cpu = {"pushers": 2.0, "pullers": 1.0, "broker": None}
    counts = {"sent": 10, "received": 10, "lost": 0}
    given = {"size": 16, "complete": True, **counts, "rate": 5.0, "cpu": cpu, "waits": waits}
    return Result(**{**given, **changes})


def test_what_is_missing_or_came_twice_is_counted():
    assert result().fault == ""
    assert result(received=7).fault == "3 messages of 10 of 16 bytes missing"
    assert result(received=12).fault == "2 messages of 16 bytes came twice"
    assert result(received=7, complete=False).fault == ""


def test_what_is_known_to_be_lost_is_not_missing_but_told():
    assert result(received=7, lost=3).fault == ""
    assert result(received=7, lost=2).fault == "1 message of 10 of 16 bytes missing"
    assert result(received=8, lost=3).fault == "1 message of 16 bytes came twice"
    assert result(received=7, lost=3).as_json()["lost"] == 3
    assert result(received=7, lost=3).row().endswith("  (3 of 10 lost)")
    assert result(received=7, lost=3, complete=False).row().endswith("  (3 of 10 lost, interrupted)")


def test_a_broker_that_does_not_tell_its_cpu_time_has_none():
    assert result().row().split() == ["16", "5", "0.00", "200,000", "100,000", "-", "1.00", "1.00"]
    assert result().as_json()["cpu_seconds_per_million"] == {"pushers": 200_000, "pullers": 100_000, "broker": None}


def test_where_nothing_came_there_are_no_figures():
    assert result(received=0, rate=0, waits=Histogram()).row().split()[3:] == ["-"] * 5

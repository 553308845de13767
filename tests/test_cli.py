"""``vanilla push``, ``pull`` and ``status`` as processes: what they print, and how they end."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import socket
import subprocess
from contextlib import ExitStack, contextmanager
from datetime import datetime, timezone

import pytest
from peers import PATIENCE, until
from programs import PATIENCE as SECONDS
from programs import VANILLA, broker, environment, running, vanilla

import vanilla as package
from vanilla.client.jsonlines import decode, encode
from vanilla.client.table import table
from vanilla.protocol.frames import ACK, CREDIT, DATA, HELLO, OPEN, Keeper, pack_control

NO_READER = 141


@pytest.fixture(scope="module")
def url():
    with broker("--backoff", "0", listen="tcp://127.0.0.1:0") as (url, _):
        yield url


@pytest.fixture
def remote(h, url):
    with h.client.connect(url) as remote:
        yield remote


def endpoint(remote, name):
    """What the broker says of it; an empty map if it is not there."""
    return {each["name"]: each for each in remote.status()["endpoints"]}.get(name, {})


def push(url, name, *lines):
    data = "".join(f"{line}\n" for line in lines).encode()
    assert vanilla("push", name, "--url", url, input=data) == (0, "", "")


# -- push and pull


def test_what_is_pushed_is_confirmed_and_can_be_pulled(url, remote, name):
    values = ['{"id": 1}', '"tëxt"', "3", "[1.5, null, true]", "", "  ", '{"a": {"b": []}}']
    push(url, name, *values)
    assert endpoint(remote, name)["ready"] == 5
    status, out, err = vanilla("pull", name, "-n", "5", "--url", url)
    assert (status, err) == (0, "")
    assert [json.loads(line) for line in out.splitlines()] == [json.loads(value) for value in values if value.strip()]
    assert "tëxt" in out
    assert endpoint(remote, name) == {}


def test_pull_takes_as_many_as_it_is_told_and_acknowledges_them(url, remote, name):
    push(url, name, *range(100))
    assert vanilla("pull", name, "-n", "3", "--url", url) == (0, "0\n1\n2\n", "")
    left = endpoint(remote, name)
    assert (left["ready"], left["acknowledged"], left["in_flight"]) == (97, 3, 0)
    assert vanilla("pull", name, "-n", "1", "--url", url) == (0, "3\n", "")


def test_the_url_comes_from_the_environment_unless_it_is_given(url, name):
    there = environment(VANILLA_URL=url)
    assert vanilla("push", name, input=b"1\n", env=there) == (0, "", "")
    elsewhere = environment(VANILLA_URL="tcp://127.0.0.1:1")
    assert vanilla("pull", name, "-n", "1", "--url", url, env=elsewhere) == (0, "1\n", "")


@pytest.mark.parametrize("kind", ["file", "null", "pipe", "terminal", "socket"])
def test_push_reads_whatever_stdin_is(url, remote, name, tmp_path, kind):
    count = 0 if kind == "null" else 3
    data = b"1\n2\n3\n"
    if kind == "file":
        (tmp_path / "lines").write_bytes(data)
        with open(tmp_path / "lines", "rb") as file:
            ended = vanilla("push", name, "--url", url, stdin=file)
    elif kind == "null":
        ended = vanilla("push", name, "--url", url)
    elif kind == "pipe":
        ended = vanilla("push", name, "--url", url, input=data)
    else:
        theirs, ours = pty.openpty()[::-1] if kind == "terminal" else map(socket.socket.detach, socket.socketpair())
        os.write(ours, data + (b"\x04" if kind == "terminal" else b""))
        if kind == "socket":
            os.close(ours)
        ended = vanilla("push", name, "--url", url, stdin=theirs)
        os.close(theirs)
        if kind == "terminal":
            os.close(ours)
    assert ended == (0, "", "")
    assert endpoint(remote, name).get("ready", 0) == count


def test_a_last_line_without_its_end_is_a_line(url, remote, name):
    assert vanilla("push", name, "--url", url, input=b"1\n2") == (0, "", "")
    assert endpoint(remote, name)["ready"] == 2


def test_many_lines_all_arrive_in_order(url, name, tmp_path):
    lines = [json.dumps({"id": i}) for i in range(50_000)]
    (tmp_path / "lines").write_text("\n".join(lines))
    with open(tmp_path / "lines", "rb") as file, running("push", name, "--url", url, stdin=file) as push:
        assert vanilla("pull", name, "-n", str(len(lines)), "--url", url) == (0, "\n".join(lines) + "\n", "")
        assert push.end() == (0, "")


def test_each_line_leaves_when_it_is_read(url, remote, name):
    with running("push", name, "--url", url) as push:
        jobs = remote.pull(name)
        for i in range(5):
            push.process.stdin.write(b'{"id": %d}\n' % i)
            assert jobs.recv(timeout=PATIENCE) == {"id": i}
        push.process.stdin.write(b"[1,")
        push.process.stdin.write(b"2]\n")
        assert jobs.recv(timeout=PATIENCE) == [1, 2]
        push.process.stdin.close()
        assert push.end() == (0, "")


def test_each_message_is_printed_when_it_comes(url, remote, name):
    jobs = remote.push(name)
    with running("pull", name, "--url", url) as pull:
        for i in range(5):
            jobs.send(i)
            jobs.sync()
            assert pull.process.stdout.readline() == b"%d\n" % i


# -- what is no JSON


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        (b"{nonsense}", "column 2"),
        (b"[1, 2", "column"),
        (b"1 2", "Extra data"),
        (b"NaN", "NaN"),
        (b"[-Infinity]", "Infinity"),
        (b"1e999", "1e999"),
        (b"18446744073709551616", "msgpack cannot hold this"),
        (b'{"a": -9223372036854775809}', "msgpack cannot hold this"),
        (b'"\xff"', "utf-8"),
        (b'"\\ud800"', "surrogates"),
        (b"[" * 65 + b"]" * 65, "deep"),
        (b"[" * 100_000, "deep"),
        (b'{"$bytes": "?"}', "base64"),
        (b'{"$bytes": 1}', "base64"),
        (b'"' + b"x" * (1 << 20) + b'"', "too big"),
    ],
    ids=lambda value: value.decode(errors="replace")[:12] if isinstance(value, bytes) else None,
)
def test_a_line_that_cannot_be_sent_is_named_and_those_before_it_are_sent(url, remote, name, line, complaint):
    status, out, err = vanilla("push", name, "--url", url, input=b"1\n\n2\n" + line + b"\n3\n")
    assert (status, out) == (1, "")
    assert err.startswith("vanilla push: line 4: ")
    assert complaint in err
    assert err.endswith("; all 2 messages sent are confirmed\n")
    assert err.count("\n") == 1
    assert endpoint(remote, name)["ready"] == 2


def test_what_json_lacks_is_written_in_json(url, remote, name):
    at = datetime(2026, 11, 21, 10, 30, tzinfo=timezone.utc)
    jobs = remote.push(name)
    jobs.send({1: b"\x00\xff", None: at, b"k": [True, {at: 1, 2.5: 2}], "s": 1 << 63})
    jobs.sync()
    status, out, err = vanilla("pull", name, "-n", "1", "--url", url)
    assert (status, err) == (0, "")
    assert json.loads(out) == {
        "1": {"$bytes": "AP8="},
        "null": "2026-11-21T10:30:00+00:00",
        '{"$bytes": "aw=="}': [True, {"2026-11-21T10:30:00+00:00": 1, "2.5": 2}],
        "s": 1 << 63,
    }


def test_nan_is_refused_and_goes_back(url, remote, name):
    jobs = remote.push(name)
    jobs.send([1, float("nan")])
    jobs.sync()
    status, out, err = vanilla("pull", name, "-n", "1", "--url", url)
    assert (status, out, err.count("\n")) == (1, "", 1)
    assert "NaN" in err
    with remote.pull(name, ack=True).recv(timeout=PATIENCE) as delivery:
        assert (delivery.redelivered, delivery.attempts) == (True, 2)


def test_pull_into_push_moves_bytes_unharmed(url, remote, name):
    jobs = remote.push(name)
    jobs.send({"body": b"\x00\xff", "name": "$bytes"})
    jobs.sync()
    out = vanilla("pull", name, "-n", "1", "--url", url)[1]
    push(url, name, out.strip())
    assert remote.pull(name).recv(timeout=PATIENCE) == {"body": b"\x00\xff", "name": "$bytes"}


@pytest.mark.parametrize("value", [{"$bytes": 1, "a": 2}, {"a": "$bytes"}, ["$bytes"], "$bytes"])
def test_only_a_map_of_the_one_key_stands_for_bytes(value):
    assert decode(encode(value)) == value


# -- how they end


@pytest.mark.parametrize("command", [["push", "jobs"], ["pull", "jobs"], ["status"]])
def test_without_a_broker_it_is_one_line_and_status_1(command):
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        url = f"tcp://127.0.0.1:{nobody.getsockname()[1]}"
        status, out, err = vanilla(*command, "--url", url)
    assert (status, out) == (1, "")
    advice = f" (to start a broker: vanilla-broker --listen {url})"
    assert err == f"vanilla {command[0]}: {url}: connection refused{advice}\n"


def test_only_where_no_broker_is_one_is_told_how_to_start_it(tmp_path):
    there = f"unix://{tmp_path}/s"
    assert vanilla("status", "--url", there)[2].endswith(f" (to start a broker: vanilla-broker --listen {there})\n")
    (tmp_path / "s").write_text("no socket, and in the way of one")
    (tmp_path / "s").chmod(0)
    for url in f"unix://{tmp_path}/s/s", "tcp://no-such-host.invalid:1":
        status, out, err = vanilla("status", "--url", url)
        assert (status, out, err.count("\n")) == (1, "", 1)
        assert "vanilla-broker" not in err


def test_a_closed_stderr_leaves_stdout_alone(url):
    shell = ["sh", "-c", 'exec "$@" 2>&-', "sh", *VANILLA, "status", "--url", "tcp://127.0.0.1:1"]
    ran = subprocess.run(shell, stdout=subprocess.PIPE, timeout=SECONDS, check=False)
    assert (ran.returncode, ran.stdout) == (1, b"")


def test_a_peer_that_is_no_broker_is_one_line_and_status_1():
    with socket.create_server(("127.0.0.1", 0)) as server:
        with running("status", "--url", f"tcp://127.0.0.1:{server.getsockname()[1]}") as status:
            with server.accept()[0] as peer:
                peer.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
                code, err = status.end()
    assert (code, err.count("\n")) == (1, 1)


@pytest.mark.parametrize(
    ("args", "complaint"),
    [
        ((), "COMMAND"),
        (("push",), "NAME"),
        (("push", ""), "1 to 255 bytes"),
        (("push", "a\nb"), "control characters"),
        (("pull", "jobs", "-n", "0"), "no number from 1 on"),
        (("pull", "jobs", "-n", "x"), "no number from 1 on"),
        (("pull", "jobs", "--timeout", "-5"), "--timeout"),
        (("status", "--url", "nonsense"), "tcp://, tls://, udp:// or unix://"),
        (("demo", "--workers", "0"), "no number from 1 on"),
    ],
)
def test_wrong_arguments_are_named_and_status_2(args, complaint):
    status, out, err = vanilla(*args)
    assert (status, out) == (2, "")
    assert complaint in err.splitlines()[-1]


def test_pull_ends_if_nothing_comes_in_time(url, name):
    push(url, name, 1)
    status, out, err = vanilla("pull", name, "--timeout", "50", "--url", url)
    assert (status, out, err) == (1, "1\n", "vanilla pull: nothing came in 50 ms\n")


@pytest.mark.parametrize("args", [["push"], ["pull"]])
def test_ctrl_c_ends_it_without_a_traceback(url, remote, h, name, args):
    with running(*args, name, "--url", url) as program:
        until(h, lambda: endpoint(remote, name))
        if args == ["push"]:
            program.process.stdin.write(b"1\n2\n")
            until(h, lambda: endpoint(remote, name)["ready"] == 2)
        program.process.send_signal(signal.SIGINT)
        status, err = program.end()
    assert status == 130
    told = "vanilla push: interrupted; all 2 messages sent are confirmed\n"
    assert err == (told if args == ["push"] else "")


def test_pull_ends_quietly_when_its_reader_goes_and_keeps_nothing(url, remote, name):
    with running("pull", name, "--url", url) as pull:
        push(url, name, 1)
        assert pull.process.stdout.readline() == b"1\n"
        pull.process.stdout.close()
        assert pull.end() == (NO_READER, "")
    push(url, name, 2)
    assert endpoint(remote, name)["ready"] == 1


def test_what_could_not_be_written_is_not_acknowledged(url, remote, h, name):
    push(url, name, *range(10))
    read, write = os.pipe()
    os.close(read)
    ended = vanilla("pull", name, "--url", url, stdout=write)
    os.close(write)
    assert ended == (NO_READER, "", "")
    until(h, lambda: endpoint(remote, name)["ready"] == 10)


def test_a_full_disk_is_one_line_and_loses_nothing(url, remote, h, name):
    push(url, name, *range(10))
    with open("/dev/full", "wb") as full:
        status, _, err = vanilla("pull", name, "--url", url, stdout=full)
    assert (status, err.count("\n")) == (1, 1)
    assert "No space left" in err
    until(h, lambda: endpoint(remote, name)["ready"] == 10)


def test_a_slow_reader_does_not_keep_messages_from_others(url, remote, h, name):
    lines = ['"' + "x" * 1000 + '"'] * 1000  # more than a pipe holds
    push(url, name, *lines)
    with running("pull", name, "--url", url):
        others = remote.pull(name)
        until(h, lambda: endpoint(remote, name)["acknowledged"] > 0)
        got = 0
        while endpoint(remote, name)["ready"] or endpoint(remote, name)["in_flight"] > 1:
            try:
                others.recv(timeout=10)
                got += 1
            except package.Timeout:
                pass
        assert got > 500
        assert endpoint(remote, name)["in_flight"] == 1  # the one whose line waits for room


def test_a_closed_stdin_or_stdout_is_one_line(url, name):
    for closing, args in (("<&-", "push"), (">&-", "pull")):
        shell = ["sh", "-c", f'exec "$@" {closing}', "sh", *VANILLA, args, name, "--url", url]
        ran = subprocess.run(shell, stderr=subprocess.PIPE, timeout=SECONDS, check=False)
        assert (ran.returncode, ran.stderr.count(b"\n")) == (1, 1), ran.stderr


@pytest.mark.parametrize(
    ("sent", "account"),
    [
        (0, "nothing was sent"),
        (1, "the one message sent is confirmed"),
        (2, "all 2 messages sent are confirmed"),
    ],
)
def test_push_tells_when_the_broker_dies_while_it_waits_for_input(h, name, sent, account):
    with broker() as (url, process), h.client.connect(url) as remote:
        with running("push", name, "--url", url) as push:
            until(h, lambda: endpoint(remote, name))
            push.process.stdin.write(b"1\n" * sent)
            until(h, lambda: endpoint(remote, name)["ready"] == sent)
            remote.ping()  # the confirms have left before the answer
            process.kill()
            status, err = push.end()
    assert (status, err.count("\n")) == (1, 1)
    assert err.endswith(f"; {account}\n")


def test_push_tells_when_the_broker_dies_while_the_queue_is_full(h, name):
    with broker("--capacity", "5") as (url, process), h.client.connect(url) as remote:
        with running("push", name, "--url", url) as push:
            push.process.stdin.write(b"1\n" * 20)
            until(h, lambda: endpoint(remote, name).get("ready") == 5)
            remote.ping()
            process.kill()
            status, err = push.end()
    assert (status, err.count("\n")) == (1, 1)
    assert err.endswith("; all 5 messages sent are confirmed; from line 6 on nothing was sent\n")


@contextmanager
def forgetful_broker():
    """Its URL, a function that takes so many messages of who connects and confirms only the first, and what to close
    to let it go."""

    def serve(count):
        peer = server.accept()[0]
        stack.enter_context(peer)
        peer.settimeout(SECONDS)
        peer.sendall(pack_control(HELLO, 0, 0, {"v": 1, "id": b"b" * 16, "frame": 1 << 20}))
        reader, taken = Keeper(1 << 20, bytearray(1 << 16)), 0
        while taken < count:
            got = peer.recvmsg_into(reader.buffers())[0]
            assert got
            for kind, channel, _, messages, _ in reader.received(got):
                if kind == OPEN:
                    peer.sendall(pack_control(CREDIT, channel, 0, {"n": count, "b": 1 << 20, "epoch": 0}))
                taken += messages if kind == DATA else 0
        peer.sendall(pack_control(ACK, 1, 0, {"r": [0, 1]}))

    with ExitStack() as stack:
        server = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        yield f"tcp://127.0.0.1:{server.getsockname()[1]}", serve, stack


@pytest.mark.parametrize(
    ("count", "account"),
    [(2, "1 of 2 messages sent is not confirmed"), (3, "2 of 3 messages sent are not confirmed")],
)
@pytest.mark.parametrize("end", ["ctrl-C", "the broker goes"])
def test_push_tells_how_many_are_not_confirmed(name, count, account, end):
    with forgetful_broker() as (url, serve, stack), running("push", name, "--url", url) as push:
        push.process.stdin.write(b"1\n" * count)
        push.process.stdin.close()
        serve(count)
        if end == "ctrl-C":
            push.process.send_signal(signal.SIGINT)
        else:
            stack.close()
        status, err = push.end()
    assert (status, err.count("\n")) == (130 if end == "ctrl-C" else 1, 1)
    assert err.endswith(f"; {account}\n")


def test_ctrl_c_while_the_queue_is_full_says_from_where_on_nothing_was_sent(url, h, name):
    with broker("--capacity", "5") as (url, _), h.client.connect(url) as remote:
        with running("push", name, "--url", url) as push:
            push.process.stdin.write(b"1\n" * 20)
            until(h, lambda: endpoint(remote, name).get("ready") == 5)
            push.process.send_signal(signal.SIGINT)
            status, err = push.end()
        told = "interrupted; all 5 messages sent are confirmed; from line 6 on nothing was sent"
        assert (status, err) == (130, f"vanilla push: {told}\n")
        assert endpoint(remote, name)["ready"] == 5


def test_push_says_once_that_it_waits_for_room(h, name):
    with broker("--capacity", "5") as (url, _), h.client.connect(url) as remote:
        with running("push", name, "--url", url) as push:
            push.process.stdin.write(b"1\n" * 20)
            push.process.stdin.close()
            until(h, lambda: push.said)
            jobs = remote.pull(name)
            assert [jobs.recv(timeout=PATIENCE) for _ in range(20)] == [1] * 20
            assert push.end() == (0, f"vanilla push: queue {name!r} is full; waiting for room\n")
            assert push.process.stdout.read() == b""


def test_a_line_without_an_end_is_refused_when_no_message_can_be_so_long(h, name):
    with broker("--max-frame", "65536") as (url, _), h.client.connect(url) as remote:
        with running("push", name, "--url", url) as push:
            push.process.stdin.write(b'1\n2\n"')
            fed, room = 0, 16 << 20  # far more than it may take
            try:
                while fed < room:
                    fed += push.process.stdin.write(b"x" * 65536)
            except BrokenPipeError:
                pass
            assert fed < room
            status, err = push.end()
        assert (status, err.count("\n")) == (1, 1)
        assert re.match(r"vanilla push: line 3: longer than \d+ bytes; the broker takes messages of up to 65\d+", err)
        assert err.endswith("; all 2 messages sent are confirmed\n")
        assert endpoint(remote, name)["ready"] == 2


def test_a_message_that_is_longer_as_a_line_than_the_broker_takes_is_sent(h, name):
    with broker("--max-frame", "65536") as (url, _), h.client.connect(url) as remote:
        text = "\0" * 60_000
        push(url, name, json.dumps(text))
        assert remote.pull(name).recv(timeout=PATIENCE) == text


def test_a_stdin_that_cannot_be_read_is_one_line(url, name):
    with open(os.devnull, "wb") as unreadable:
        ended = vanilla("push", name, "--url", url, stdin=unreadable)
    assert ended == (1, "", "vanilla push: cannot read stdin: Bad file descriptor; nothing was sent\n")


@pytest.mark.parametrize(
    ("count", "doubt"),
    [
        (1, "; the one message written may come again"),
        (3, "; the last of the 3 messages written may come again"),
    ],
)
@pytest.mark.parametrize("end", ["ctrl-C", "the broker dies"])
def test_pull_tells_what_may_come_again(h, name, count, doubt, end):
    with broker() as (url, process), h.client.connect(url) as remote:
        push(url, name, *range(count))
        with running("pull", name, "--url", url) as pull:
            for _ in range(count):
                pull.process.stdout.readline()
            until(h, lambda: endpoint(remote, name).get("acknowledged") == count)
            if end == "ctrl-C":
                process.send_signal(signal.SIGSTOP)
                pull.process.send_signal(signal.SIGINT)
            else:
                process.kill()
            status, err = pull.end()
        process.kill()
    assert (status, err.count("\n")) == (130 if end == "ctrl-C" else 1, 1)
    assert err.startswith(f"vanilla pull: {url}: ")
    assert err.endswith(f"{doubt}\n")


def test_pull_tells_when_the_broker_dies(h, name):
    with broker() as (url, process), h.client.connect(url) as remote:
        with running("pull", name, "--url", url) as pull:
            until(h, lambda: endpoint(remote, name))
            process.kill()
            status, err = pull.end()
    assert (status, err) == (1, f"vanilla pull: {url}: the broker closed the connection\n")


def test_a_broker_that_refuses_the_endpoint_is_one_line(name):
    with broker("--endpoints", "1") as (url, _):
        push(url, "first", 1)
        for command in "push", "pull":
            status, out, err = vanilla(command, name, "--url", url, input=b"1\n")
            assert (status, out, err.count("\n")) == (1, "", 1)
            assert "TOO_MANY" in err


# -- status, version, help


def test_status_is_a_table_for_people(url, remote, name):
    push(url, name, 1, 2)
    status, out, err = vanilla("status", "--url", url)
    assert (status, err) == (0, "")
    assert out.startswith(f"vanilla-broker/{package.__version__} at {url}: up ")
    heading, row = (line for line in out.splitlines() if line.startswith(("endpoint ", name + " ")))
    columns = re.split(r"\s{2,}", heading.strip())
    row = dict(zip(columns, re.split(r"\s{2,}", row.strip())))
    assert {key: row[key] for key in ("ready", "delayed", "in flight", "accepted", "acknowledged", "dropped")} == {
        "ready": "2",
        "delayed": "0",
        "in flight": "0",
        "accepted": "2",
        "acknowledged": "0",
        "dropped": "0",
    }
    assert {"dead", "bytes", "in/s", "out/s", "oldest", "pushers", "pullers"} < set(columns)
    assert row["oldest"].endswith(" s")
    assert "\x1b" not in out


def test_status_is_json_for_programs(url, remote, name):
    push(url, name, 1, 2)
    status, out, err = vanilla("status", "--json", "--url", url)
    assert (status, err, out.count("\n")) == (0, "", 1)
    said = json.loads(out)
    assert said["broker"]["connections"] >= 2
    assert said["broker"]["cpu"] > 0
    (mine,) = [each for each in said["endpoints"] if each["name"] == name]
    assert set(mine) >= {"ready", "delayed", "in_flight", "accepted", "acknowledged", "dropped", "dead", "bytes"}
    assert set(mine) >= {"rate_in", "rate_out", "oldest", "pushers", "pullers"}
    assert mine["ready"] == 2


def test_the_table_of_a_broker_without_endpoints_is_two_lines():
    broker = dict.fromkeys(("accepted", "acknowledged", "dropped", "dead", "endpoints"), 0)
    broker.update(agent="it", uptime=7200.0, connections=1, draining=True)
    assert table({"broker": broker, "endpoints": []}, "tcp://x:1").splitlines() == [
        "it at tcp://x:1: draining, up 2 h, 1 connection (this is one), 0 endpoints",
        "since its start: 0 accepted, 0 acknowledged, 0 dropped, 0 dead",
    ]


def test_the_table_says_what_is_buffered_and_who_was_refused():
    broker = dict.fromkeys(("accepted", "acknowledged", "dropped", "dead", "endpoints"), 0)
    broker.update(agent="it", uptime=1.0, connections=1, draining=False)
    broker.update(buffered=1 << 20, memory=1 << 30, refused={"hello_ms": 3, "connections": 1})
    lines = table({"broker": broker, "endpoints": []}, "tcp://x:1").splitlines()
    assert lines[2:] == ["buffered: 1Mi of 1Gi at most", "refused: 1 by connections, 3 by hello_ms"]


def test_version_says_which_scanner_is_in_use():
    status, out, _ = vanilla("--version")
    assert status == 0
    assert re.fullmatch(rf"vanilla {re.escape(package.__version__)} \((c|python) scanner\)\n", out)


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ((), ("push", "pull", "status", "bench", "demo", "--version")),
        (("push",), ("NAME", "--url", "default: $VANILLA_URL, or tcp://127.0.0.1:8264", "$bytes", "NaN", "64 bits")),
        (("pull",), ("-n N", "--timeout MS", "ms", "$bytes", "NaN", "ISO 8601", "default: wait for ever")),
        (("status",), ("--json", "--url")),
        (("demo",), ("--workers N", "default 2", "--path DIR", "--quick", "--kill")),
    ],
)
def test_help_names_options_units_and_defaults(args, words):
    status, out, err = vanilla(*args, "--help")
    assert (status, err) == (0, "")
    text = " ".join(out.split())
    assert [word for word in words if word not in text] == []
    assert all(len(line) <= 120 for line in out.splitlines())


@pytest.mark.parametrize("args", [["--help"], ["--version"], ["status"]])
def test_output_that_nobody_reads_is_no_traceback(url, args):
    read, write = os.pipe()
    os.close(read)
    status, _, err = vanilla(*args, stdout=write, env=environment(VANILLA_URL=url))
    os.close(write)
    # Where Python does not buffer its output, argparse passes over the error.
    assert status in ((NO_READER,) if args == ["status"] else (NO_READER, 0))
    assert err == ""


@pytest.mark.parametrize("argv", [["peek", "jobs"], ["dead", "jobs", "replay"], ["pull", "jobs"], ["sub", "news"]])
def test_more_messages_than_there_are_numbers_for_is_a_wrong_argument(argv):
    done = subprocess.run([*VANILLA, *argv, "-n", "9" * 30], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "no number from 1 on" in done.stderr and "Traceback" not in done.stderr

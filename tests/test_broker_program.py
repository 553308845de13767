"""``vanilla-broker`` as a process: what it prints, how it ends, and what it does without descriptors."""

from __future__ import annotations

import os
import re
import resource
import signal
import socket
import subprocess
import sys
import time

import pytest
from peers import PATIENCE, Peer, until

import vanilla
from vanilla.broker.settings import GROUPS, SETTINGS, URLS
from vanilla.protocol.frames import GO_AWAY

COMMAND = [sys.executable, "-m", "vanilla.broker"]


class Program:
    """A broker process; its stderr goes to a file, so that it never blocks on it."""

    def __init__(self, log, *args, **popen):
        self.log = log
        with open(log, "ab") as stderr:
            self.process = subprocess.Popen(
                [*COMMAND, *args], stdout=subprocess.PIPE, stderr=stderr, text=True, **popen
            )

    def url(self):
        line = self.process.stdout.readline()
        assert line.startswith("listening on "), self.log.read_text()
        return line[len("listening on ") :].strip()

    def end(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self.process.stdout.close()


@pytest.fixture
def start(tmp_path):
    """Starts broker processes, and ends them after the test."""
    programs = []

    def start(*args, **popen):
        programs.append(Program(tmp_path / f"{len(programs)}.log", *args, **popen))
        return programs[-1]

    yield start
    for program in programs:
        program.end()


def exit_status(h, program):
    """Wait for its end, while the hub goes on."""
    until(h, lambda: program.process.poll() is not None)
    return program.process.returncode


def test_it_says_where_it_listens_a_line_a_listener_and_nothing_else(h, start, tmp_path):
    program = start("--listen", "tcp://127.0.0.1:0", "--listen", f"unix://{tmp_path}/s")
    urls = [program.url(), program.url()]
    assert re.fullmatch(r"tcp://127\.0\.0\.1:[1-9]\d+", urls[0])
    assert urls[1] == f"unix://{tmp_path}/s"
    for url in urls:
        with h.client.connect(url) as remote:
            remote.ping()
    program.process.terminate()
    assert exit_status(h, program) == 0
    assert program.process.stdout.read() == ""
    assert not os.path.exists(f"{tmp_path}/s")


def test_help_names_every_setting_in_its_group_with_its_default():
    wide = {**os.environ, "COLUMNS": "500"}
    text = subprocess.run([*COMMAND, "--help"], capture_output=True, text=True, check=True, env=wide).stdout
    for title, group in GROUPS.items():
        section = " ".join(text.partition(f"\n{title}:\n")[2].partition("\n\n")[0].split())
        for setting in group:
            assert setting.flag in section.replace(",", "").split()
            assert setting.text in section
    words = " ".join(text.split())
    for setting in SETTINGS.values():
        default = setting.default[0] if setting.kind is URLS else setting.default
        assert setting.kind.name in ("true or false", "a path") or f"(default {default})" in words
    assert "SIGHUP" in words and "SIGUSR1" in words and "token --help" in words


def test_version_says_which_scanner_is_in_use():
    text = subprocess.run([*COMMAND, "--version"], capture_output=True, text=True, check=True).stdout
    assert re.fullmatch(rf"vanilla-broker {re.escape(vanilla.__version__)} \((c|python) scanner\)\n", text)


def failure(*args):
    done = subprocess.run([*COMMAND, *args], capture_output=True, text=True, check=False, timeout=60)
    assert done.stdout == ""
    return done.returncode, done.stderr


def test_an_address_in_use_is_one_line_and_status_1():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        status, said = failure("--listen", f"tcp://127.0.0.1:{taken.getsockname()[1]}")
    assert status == 1
    assert said.count("\n") == 1
    assert "in use" in said


@pytest.mark.parametrize("url", ["tcp://0.0.0.0:0", "tcp://[::]:0", "tcp://192.0.2.1:0"])
def test_an_address_that_others_reach_is_one_line_and_status_1(url):
    status, said = failure("--listen", url)
    assert (status, said.count("\n")) == (1, 1)
    assert "--insecure" in said


@pytest.mark.parametrize("args", [("--listen", "nonsense"), ("--capacity", "0"), ("--max-frame", "10")])
def test_a_wrong_value_is_one_line_and_status_1(args):
    status, said = failure(*args)
    assert (status, said.count("\n")) == (1, 1)
    assert (args[0] if args[0] != "--listen" else args[1]) in said


def test_insecure_lets_it_listen_everywhere(h, start):
    assert start("--insecure", "--listen", "tcp://0.0.0.0:0").url().startswith("tcp://0.0.0.0:")


def test_the_log_level_can_be_set(h, start):
    program = start("--listen", "tcp://127.0.0.1:0", "--log-level", "debug")
    h.client.connect(program.url()).close()
    until(h, lambda: "closed by the peer" in program.log.read_text())


def test_sigusr1_has_it_log_what_its_tasks_are_doing_and_go_on(h, start):
    program = start("--listen", "tcp://127.0.0.1:0", "--log-level", "error")
    url = program.url()
    program.process.send_signal(signal.SIGUSR1)
    until(h, lambda: "the main task waits for recv on a state; for " in program.log.read_text())
    assert re.search(r"broker/cli\.py:\d+ in serve", program.log.read_text())
    h.client.connect(url).close()


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_in_good_order(h, start, signum):
    program = start("--listen", "tcp://127.0.0.1:0")
    url = program.url()
    remote = h.client.connect(url)
    jobs, back = remote.push("jobs"), remote.pull("jobs", ack=True)
    for i in range(100):
        jobs.send(i)
    first = back.recv(timeout=PATIENCE)
    program.process.send_signal(signum)
    until(h, lambda: remote.link.recv() == "going_away")
    with pytest.raises(vanilla.ConnectionLost):
        h.client.connect(url)
    first.ack()
    for i in range(1, 100):
        with back.recv(timeout=PATIENCE) as delivery:
            assert delivery.item == i
    jobs.sync(timeout=PATIENCE)
    assert exit_status(h, program) == 0
    until(h, lambda: remote.link.recv() == "lost")
    assert "left:" not in program.log.read_text()


def test_what_is_left_is_logged_an_endpoint_a_line(h, start):
    program = start("--listen", "tcp://127.0.0.1:0", "--drain", "100")
    remote = h.client.connect(program.url())
    for name, count in (("one", 1), ("two", 2)):
        sender = remote.push(name)
        for i in range(count):
            sender.send(i)
        sender.sync(timeout=PATIENCE)
    back = remote.pull("two", ack=True)
    held = back.recv(timeout=PATIENCE)
    program.process.terminate()
    assert exit_status(h, program) == 0
    log = program.log.read_text()
    assert "endpoint 'one': left: ready 1, delayed 0, in flight 0" in log
    assert "endpoint 'two': left: ready 1, delayed 0, in flight 1" in log
    assert held.item == 0


def test_a_second_signal_ends_it_at_once(h, start):
    program = start("--listen", "tcp://127.0.0.1:0", "--drain", "3600000")
    remote = h.client.connect(program.url())
    jobs, back = remote.push("jobs"), remote.pull("jobs", ack=True)
    jobs.send(1)
    held = back.recv(timeout=PATIENCE)
    program.process.terminate()
    until(h, lambda: remote.link.recv() == "going_away")
    assert program.process.poll() is None
    program.process.terminate()
    assert exit_status(h, program) == 1
    assert held.item == 1


def test_a_producer_that_goes_on_while_the_broker_drains_loses_nothing_confirmed(h, start):
    program = start("--listen", "tcp://127.0.0.1:0")
    url = program.url()
    pushing, pulling = (h.client.connect(url, reconnect=False) for _ in range(2))
    jobs, got = pushing.push("jobs"), set()

    def push():
        for i in range(1_000_000):
            jobs.send(i)

    def pull():
        for item in pulling.pull("jobs"):
            got.add(item)

    tasks = [h.spawn(push), h.spawn(pull)]
    until(h, lambda: len(got) > 1_000)
    program.process.terminate()
    for task in tasks:
        with pytest.raises(vanilla.ConnectionLost):
            task.join(timeout=PATIENCE)
    assert exit_status(h, program) == 0
    confirmed = jobs._state._confirmed
    assert confirmed > 1_000
    assert set(range(confirmed)) <= got


def test_out_of_descriptors_it_waits_burns_no_cpu_and_recovers(h, start):
    program = start(
        "--listen", "tcp://127.0.0.1:0", preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40))
    )
    url = program.url()
    remote = h.client.connect(url)
    jobs, back = remote.push("jobs"), remote.pull("jobs")
    crowd = [Peer(h, url, hello=False) for _ in range(60)]
    until(h, lambda: "cannot accept" in program.log.read_text())

    def cpu():
        with open(f"/proc/{program.process.pid}/stat") as f:
            fields = f.read().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    before, then = cpu(), time.monotonic()
    for i in range(20):
        jobs.send(i)
        assert back.recv(timeout=PATIENCE) == i
        h.sleep(25)
    assert cpu() - before < (time.monotonic() - then) / 2
    for peer in crowd:
        peer.close()
    with h.client.connect(url, timeout=PATIENCE) as another:
        another.ping()
    until(h, lambda: "accepting connections again" in program.log.read_text())
    assert program.log.read_text().count("cannot accept") == 1


def test_who_started_it_need_not_read_what_it_says(h, start):
    read, write = os.pipe()
    os.close(read)
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    port = sock.getsockname()[1]
    sock.close()
    process = subprocess.Popen(
        [*COMMAND, "--listen", f"tcp://127.0.0.1:{port}"], stdout=write, stderr=subprocess.DEVNULL
    )
    os.close(write)
    try:

        def up():
            try:
                h.client.connect(f"tcp://127.0.0.1:{port}").close()
            except vanilla.ConnectionLost:
                return False
            return True

        until(h, up)
    finally:
        process.terminate()
        assert process.wait() == 0


def test_peers_are_told_how_long_it_waits(h, start):
    program = start("--listen", "tcp://127.0.0.1:0", "--drain", "300")
    url = program.url()
    peer = Peer(h, url)
    peer.open(1, "pull", "jobs")
    with h.client.connect(url) as remote:
        remote.push("jobs").send(1)
    program.process.terminate()
    assert 0 < peer.fields(GO_AWAY)["drain"] <= 300
    assert peer.gone()
    peer.close()
    assert exit_status(h, program) == 0


def test_a_console_is_there_if_it_is_asked_for_and_knows_the_broker(h, start, tmp_path):
    path = f"{tmp_path}/console"
    program = start("--listen", "tcp://127.0.0.1:0", "--console", path)
    url = program.url()
    with h.unix.connect(path) as conn:
        conn.recv_partition(">>> ", PATIENCE * 1000)
        conn.send("broker.urls\n")
        assert conn.recv_line(PATIENCE * 1000).decode() == repr([url])
        program.process.terminate()
        assert exit_status(h, program) == 0
    assert not os.path.exists(path)


def test_no_console_is_there_unless_it_is_asked_for(h, start):
    program = start("--listen", "tcp://127.0.0.1:0")
    program.url()
    assert "console" not in program.log.read_text()


def test_a_console_that_cannot_be_is_one_line_and_status_1(tmp_path):
    path = tmp_path / "console"
    path.write_text("mine")
    status, said = failure("--listen", "tcp://127.0.0.1:0", "--console", str(path))
    assert (status, said.count("\n")) == (1, 1)
    assert str(path) in said and path.read_text() == "mine"
    status, said = failure("--console", f"{tmp_path}/no/such")
    assert (status, said) == (1, f"vanilla-broker: --console: there is no folder {tmp_path}/no\n")

"""Tokens and permissions as users meet them: the two programs, their files, SIGHUP, and no secret anywhere else."""

from __future__ import annotations

import json
import logging
import os
import signal
import tempfile
from contextlib import contextmanager
from pathlib import Path

import pytest
from peers import PATIENCE
from programs import BROKER, broker, environment, running, said, started, vanilla, wait_until

from vanilla.exception import ConnectionLost, Refused

PUSH_ALL = '[[rule]]\nidentity = "web"\nendpoint = "*"\nverbs = ["push", "pull"]\n'
PULL_OPS = '[[rule]]\nidentity = "ops"\nendpoint = "*"\nverbs = ["pull"]\n'


def made(folder, identity):
    """A token as users make it, with the shell: the client's file, and the secret; its line goes to the broker's."""
    client, lines = folder / f"{identity}.token", folder / "tokens"
    script = f'umask 077; "$@" token {identity} >{client} 2>>{lines}'
    with tempfile.TemporaryFile() as log, started(["sh", "-c", script, "sh", *BROKER], log) as process:
        assert process.wait(60) == 0
    return client, client.read_text().strip()


@pytest.fixture
def web(tmp_path):
    """(file, secret) of a token whose line is in tmp_path/tokens."""
    return made(tmp_path, "web")


@contextmanager
def logging_broker(*args, listen="tcp://127.0.0.1:0"):
    """As `programs.broker`, with its log: url, process, and a function that returns what it has said."""
    with tempfile.TemporaryFile() as stderr:
        with started([*BROKER, "--listen", listen, "--drain", "500", "--log-level", "debug", *args], stderr) as process:
            line = process.stdout.readline().decode()
            assert line.startswith("listening on "), said(stderr)
            yield line.split()[-1], process, lambda: said(stderr)
            process.terminate()
            assert process.wait(60) == 0


# -- the start


def failure(*args):
    """How a broker that does not start ends."""
    with tempfile.TemporaryFile() as stderr:
        with started([*BROKER, "--listen", "tcp://127.0.0.1:0", *args], stderr) as process:
            status = process.wait(60)
            assert process.stdout.read() == b""
        return status, said(stderr)


@pytest.mark.parametrize("flag", ["--token-file", "--permissions"])
def test_a_file_that_is_not_there_is_one_line_and_status_1(tmp_path, flag):
    assert failure(flag, f"{tmp_path}/none") == (
        1,
        f"vanilla-broker: {flag}: {tmp_path}/none: cannot read it: No such file or directory\n",
    )


def test_a_token_file_that_others_can_read_is_one_line_and_status_1(tmp_path, web):
    (tmp_path / "tokens").chmod(0o644)
    status, text = failure("--token-file", f"{tmp_path}/tokens")
    assert (status, text.count("\n")) == (1, 1)
    assert f"{tmp_path}/tokens: its mode is 0644" in text


def test_wrong_permissions_are_one_line_and_status_1(tmp_path):
    (tmp_path / "p").write_text(PUSH_ALL + '[[rule]]\nidentity = "x"\nendpoint = "y"\nverbs = ["peek"]\n')
    status, text = failure("--permissions", f"{tmp_path}/p")
    assert (status, text.count("\n")) == (1, 1)
    assert f"{tmp_path}/p: rule 2: there is no verb 'peek'" in text


# -- a client's command line


def test_the_programs_of_the_client_show_their_token(tmp_path, web):
    file, _ = web
    with broker("--token-file", f"{tmp_path}/tokens") as (url, _):
        flag = "--token-file", str(file)
        assert vanilla("push", "jobs", "--url", url, *flag, input=b"1\n2\n") == (0, "", "")
        env = environment(VANILLA_TOKEN_FILE=str(file))
        assert vanilla("pull", "jobs", "-n", "1", "--url", url, env=env) == (0, "1\n", "")
        relative = environment(VANILLA_TOKEN_FILE=file.name)
        assert vanilla("pull", "jobs", "-n", "1", "--url", url, env=relative, cwd=tmp_path) == (0, "2\n", "")
        assert vanilla("status", "--url", url, *flag)[0] == 0
        flag = "--token-file", file.name  # its processes run elsewhere
        status, out, err = vanilla(
            "bench", "--url", url, "--size", "16", "--seconds", "0.1", "--json", *flag, cwd=tmp_path
        )
        assert (status, json.loads(out)["complete"]) == (0, True), err


def test_a_flag_goes_before_the_environment_and_an_empty_variable_is_none(tmp_path, web):
    env = environment(VANILLA_TOKEN_FILE="/none/such")
    with broker("--token-file", f"{tmp_path}/tokens") as (url, _):
        assert vanilla("status", "--url", url, "--token-file", str(web[0]), env=env)[0] == 0
        status, _, err = vanilla("status", "--url", url, env=env)
        assert (status, err) == (1, "vanilla status: /none/such: No such file or directory\n")
        status, _, err = vanilla("status", "--url", url, env=environment(VANILLA_TOKEN_FILE=""))
        assert status == 1 and err.count("\n") == 1 and "DENIED: this broker wants a token" in err


def test_a_command_that_is_refused_says_why_in_one_line(tmp_path, web):
    (tmp_path / "p").write_text(PULL_OPS)
    with broker("--permissions", f"{tmp_path}/p", "--token-file", f"{tmp_path}/tokens") as (url, _):
        for command, verb in ("status", "admin"), ("push jobs", "push"), ("pull jobs", "pull"):
            status, out, err = vanilla(*command.split(), "--url", url, "--token-file", str(web[0]), input=b"1\n")
            assert (status, out, err.count("\n")) == (1, "", 1)
            assert f"DENIED: web has no permission '{verb}'" in err


def test_a_file_without_a_token_is_one_line(tmp_path):
    (tmp_path / "t").write_text("short")
    (tmp_path / "t").chmod(0o600)
    status, _, err = vanilla("status", "--token-file", f"{tmp_path}/t")
    assert (status, err) == (1, f"vanilla status: {tmp_path}/t: the token in it has 5 bytes; a token has 16 to 256\n")


# -- SIGHUP


def test_sighup_reads_tokens_and_permissions_anew(h, tmp_path, web):
    permissions = tmp_path / "permissions.toml"
    permissions.write_text(PUSH_ALL)
    args = "--token-file", f"{tmp_path}/tokens", "--permissions", str(permissions)
    with logging_broker(*args) as (url, process, log):

        def reload(lines):
            process.send_signal(signal.SIGHUP)
            wait_until(lambda: log().count("reload: ") == lines)

        remote = h.client.connect(url, token_file=web[0])
        jobs = remote.push("jobs")
        jobs.send(1)
        jobs.sync(timeout=PATIENCE)

        (tmp_path / "tokens").unlink()
        ops, _ = made(tmp_path, "ops")
        permissions.write_text(PULL_OPS)
        reload(2)
        assert f"INFO vanilla.broker: reload: tokens: 1 in {tmp_path}/tokens" in log()
        assert f"INFO vanilla.broker: reload: permissions: 1 rules in {permissions}" in log()
        with pytest.raises(ConnectionLost, match="DENIED"):
            h.client.connect(url, token_file=web[0])
        jobs.send(2)  # the channel is open
        jobs.sync(timeout=PATIENCE)
        with pytest.raises(Refused, match="DENIED: web has"):  # a new one is judged by the new rules
            remote.pull("jobs").recv(timeout=PATIENCE)
        with h.client.connect(url, token_file=ops) as other:
            back = other.pull("jobs")
            assert [back.recv(timeout=PATIENCE) for _ in range(2)] == [1, 2]

        permissions.write_text("[[rule]")
        (tmp_path / "tokens").chmod(0o666)
        reload(4)
        bad = [line for line in log().splitlines() if " ERROR " in line]
        assert len(bad) == 2
        assert f"tokens stay as they were: {tmp_path}/tokens: its mode is 0666" in bad[0]
        assert f"permissions stay as they were: {permissions}:1: " in bad[1]
        with h.client.connect(url, token_file=ops) as other, pytest.raises(Refused, match="DENIED: ops has"):
            other.push("jobs").send(1)
        remote.close(linger=0)


def test_sighup_ends_no_broker_that_has_nothing_to_read_anew(h):
    with logging_broker() as (url, process, log):
        with h.client.connect(url) as remote:
            process.send_signal(signal.SIGHUP)
            wait_until(lambda: "reload: there is nothing to read anew" in log())
            remote.ping()


# -- no secret anywhere


def found_in(secret, texts):
    """Where a secret is, as it is or in hexadecimal."""
    needles = secret.encode(), secret.encode().hex().encode()
    return [where for where, text in texts.items() if any(needle in text for needle in needles)]


def test_no_secret_is_in_a_log_an_argument_or_an_environment(h, tmp_path, web, caplog):
    caplog.set_level(logging.DEBUG)
    file, secret = web
    assert len(secret) == 43
    env = environment(VANILLA_TOKEN_FILE=str(file))
    (tmp_path / "wrong").write_text("w" * 43)
    (tmp_path / "wrong").chmod(0o600)
    texts = {}

    def look_at(who, pid):
        for each in "cmdline", "environ":
            texts[f"{who}: {each}"] = Path(f"/proc/{pid}/{each}").read_bytes()

    with logging_broker("--token-file", f"{tmp_path}/tokens") as (url, process, log):
        with running("pull", "jobs", "--url", url, env=env, stdout=-1) as client:
            assert vanilla("push", "jobs", "--url", url, env=env, input=b"1\n") == (0, "", "")
            assert os.read(client.process.stdout.fileno(), 100) == b"1\n"
            look_at("client", client.process.pid)
            look_at("broker", process.pid)
            client.process.send_signal(signal.SIGINT)
            texts["client: stderr"] = client.end()[1].encode()
        with running("bench", "--url", url, "--size", "16", "--seconds", "60", "--token-file", str(file)) as bench:
            children = Path(f"/proc/{bench.process.pid}/task/{bench.process.pid}/children")
            wait_until(lambda: len(children.read_text().split()) == 2)
            for number, pid in enumerate(children.read_text().split()):
                look_at(f"bench {number}", pid)
            bench.process.send_signal(signal.SIGINT)
            texts["bench: stderr"] = bench.end()[1].encode()
        texts["denied: stderr"] = vanilla("status", "--url", url, "--token-file", f"{tmp_path}/wrong")[2].encode()
        with pytest.raises(ConnectionLost) as caught:
            h.client.connect(url, token=secret[:-1])
        texts["exception"] = repr(caught.value).encode()
        h.client.connect(url, token=secret).close()
        process.send_signal(signal.SIGHUP)
        wait_until(lambda: "reload: " in log())
        texts["broker: log"] = log().encode()
    texts["our log"] = caplog.text.encode()
    assert b"'web'" in texts["broker: log"] and texts["broker: log"].count(b"DENIED") == 2
    assert all(str(file).encode() in texts[each] for each in ("client: environ", "bench 0: cmdline"))
    assert found_in(secret, {"here": b"x" + secret.encode()}) == ["here"]
    for each in secret, secret[:-1], "w" * 43:
        assert found_in(each, texts) == []
    assert secret not in (tmp_path / "tokens").read_text()

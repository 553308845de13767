"""``vanilla pub``, ``sub``, ``set`` and ``get`` as processes: what they print, and how they end."""

from __future__ import annotations

import json
import signal

import pytest
from peers import PATIENCE, until
from programs import broker, running, vanilla, wait_until


@pytest.fixture(scope="module")
def url():
    with broker(listen="tcp://127.0.0.1:0") as (url, _):
        yield url


@pytest.fixture
def remote(h, url):
    with h.client.connect(url) as remote:
        yield remote


def endpoint(remote, name):
    return {each["name"]: each for each in remote.status()["endpoints"]}.get(name, {})


def test_what_is_published_is_printed_by_all_who_subscribe(url, remote, name):
    with running("sub", name, "-n", "3", "--url", url) as one, running("sub", name, "-n", "3", "--url", url) as two:
        wait_until(lambda: endpoint(remote, name).get("pullers") == 2)
        assert vanilla("pub", name, "--url", url, input=b'1\n"\xc3\xa4"\n{"a": null}\n') == (0, "", "")
        for sub in (one, two):
            assert sub.end() == (0, "")
            assert [json.loads(line) for line in sub.pipes[1]] == [1, "ä", {"a": None}]


def test_pub_ends_when_the_broker_has_all_whoever_subscribes(url, name):
    lines = b"".join(b"%d\n" % number for number in range(10_000))
    assert vanilla("pub", name, "--url", url, input=lines) == (0, "", "")


def test_pub_names_the_line_that_is_no_json(url, name):
    status, _, err = vanilla("pub", name, "--url", url, input=b"1\n{\n")
    assert status == 1
    assert err.startswith("vanilla pub: line 2:")


def test_sub_says_how_many_it_has_missed(url, remote, h, name):
    """Nobody reads its output for a while: what it cannot keep is missed."""
    with running("sub", name, "--url", url) as sub:
        wait_until(lambda: endpoint(remote, name).get("pullers") == 1)
        news = remote.broadcast(name)
        sent = 0
        while not endpoint(remote, name)["missed"]:
            news.send_many([b"x" * 50_000] * 100)
            news.sync(timeout=PATIENCE)
            sent += 100
        news.send("end")
        news.sync(timeout=PATIENCE)
        printed = 0
        while sub.pipes[1].readline():
            printed += 1
            if "missed" in sub.said:
                break
        assert printed < sent
        assert "messages: they came faster than they were read" in sub.said


def test_sub_ends_with_its_timeout(url, name):
    assert vanilla("sub", name, "--timeout", "50", "--url", url) == (1, "", "vanilla sub: nothing came in 50 ms\n")


def test_ctrl_c_ends_sub_and_get_follow_and_set_hold(url, remote, name):
    for argv in ("sub", name), ("get", f"{name}.state", "--follow"), ("set", f"{name}.hold", "1", "--hold"):
        with running(*argv, "--url", url) as command:
            key = "pullers" if argv[0] == "sub" else "pushers"
            wait_until(lambda argv=argv, key=key: endpoint(remote, argv[1]).get(key) == 1)
            if argv[0] == "get":
                state = remote.state(argv[1])
                state.send("value")
                state.sync(timeout=PATIENCE)
                assert command.pipes[1].readline() == b'"value"\n'
            command.process.send_signal(signal.SIGINT)
            assert command.end() == (130, "")


def test_nobody_who_reads_ends_sub(url, remote, name):
    with running("sub", name, "--url", url) as sub:
        wait_until(lambda: endpoint(remote, name).get("pullers") == 1)
        sub.pipes[1].close()
        assert sub.end() == (141, "")


def test_set_and_get(url, remote, h, name):
    state = remote.state(name)
    remote.ping()
    assert vanilla("set", name, '{"limit": 5}', "--url", url) == (0, "", "")
    until(h, lambda: state.recv(timeout=PATIENCE) == {"limit": 5})
    assert vanilla("get", name, "--url", url) == (0, '{"limit": 5}\n', "")


def test_set_needs_no_permission_to_ask_the_broker(name, tmp_path):
    rules = tmp_path / "permissions.toml"
    rules.write_text("[[rule]]\nidentity = '*'\nendpoint = '*'\nverbs = ['push', 'subscribe']\n")
    with broker("--permissions", str(rules)) as (url, _):
        assert vanilla("set", name, "1", "--url", url) == (0, "", "")


def test_set_says_that_the_value_goes_when_nobody_else_is_attached(url, name):
    status, out, err = vanilla("set", name, "1", "--url", url)
    assert (status, out) == (0, "")
    assert "nobody else is attached" in err and "--hold" in err
    assert vanilla("get", name, "--timeout", "50", "--url", url) == (1, "", "vanilla get: nothing came in 50 ms\n")


def test_set_hold_keeps_the_value(url, name):
    with running("set", name, "[1, 2]", "--hold", "--url", url):
        assert vanilla("get", name, "--url", url) == (0, "[1, 2]\n", "")


@pytest.mark.parametrize(("value", "wrong"), [("{", 2), ("NaN", 2), ("", 2), (str(1 << 70), 1)])
def test_set_refuses_what_is_no_value(url, name, value, wrong):
    status, out, err = vanilla("set", name, value, "--url", url)
    assert (status, out) == (wrong, "")
    assert err.startswith("vanilla set: this ")
    assert err.count("\n") == 1


def test_get_follow_prints_each_change(url, remote, h, name):
    state = remote.state(name)
    state.send(0)
    state.sync(timeout=PATIENCE)
    with running("get", name, "--follow", "--url", url) as get:
        for number in range(3):
            assert get.pipes[1].readline() == b"%d\n" % number
            state.send(number + 1)
            state.sync(timeout=PATIENCE)


def attached(url):
    """How many there are at each endpoint."""
    said = json.loads(vanilla("status", "--json", "--url", url)[1])
    return [each["pushers"] + each["pullers"] for each in said["endpoints"]]


def test_when_the_broker_goes_they_say_so(name):
    with broker() as (url, process), running("sub", name, "--url", url) as sub:
        with running("get", f"{name}.g", "--follow", "--url", url) as get:
            with running("set", f"{name}.s", "1", "--hold", "--url", url) as hold:
                wait_until(lambda: attached(url) == [1, 1, 1])
                process.kill()
                process.wait()
                for command in (sub, get, hold):
                    status, err = command.end()
                    assert status == 1
                    assert "the broker" in err

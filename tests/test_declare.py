"""``vanilla declare`` as a process: what it settles, and how it ends."""

from __future__ import annotations

import pytest
from peers import PATIENCE
from programs import broker, vanilla

from vanilla.client.table import table
from vanilla.protocol.terms import TERMS


@pytest.fixture(scope="module")
def url():
    with broker(listen="tcp://127.0.0.1:0") as (url, _):
        yield url


@pytest.fixture
def remote(h, url):
    with h.client.connect(url) as remote:
        yield remote


def endpoint(remote, name):
    return {each["name"]: each for each in remote.status()["endpoints"]}[name]


def test_declare_settles_options_and_says_nothing(url, remote, name):
    args = ["--capacity", "5", "--overflow", "reject", "--dead", "graveyard", "--lease", "30000"]
    assert vanilla("declare", name, *args, "--url", url) == (0, "", "")
    options = {"capacity": 5, "overflow": "reject", "dead": "graveyard", "lease": 30_000}
    assert endpoint(remote, name)["options"] == options


def test_declare_twice_is_no_conflict_and_another_value_is_one(url, remote, name):
    assert vanilla("declare", name, "--capacity", "5", "--url", url)[0] == 0
    assert vanilla("declare", name, "--capacity", "5", "--url", url)[0] == 0
    status, out, err = vanilla("declare", name, "--capacity", "6", "--url", url)
    assert (status, out, err.count("\n")) == (1, "", 1)
    assert "CONFLICT" in err and "is 5 here, and 6 was asked for" in err


@pytest.mark.parametrize(
    ("args", "complaint"),
    [
        (("--capacity", "0"), "'0' is no integer, 1 to 2^62"),
        (("--capacity", "many"), "'many' is no integer"),
        (("--overflow", "spill"), "'spill' is no block, reject or drop-oldest"),
        (("--dead", "a\nb"), "is no name of an endpoint"),
        (("--capactiy", "5"), "--capactiy"),
    ],
)
def test_a_wrong_option_is_named_and_status_2(url, args, complaint):
    status, out, err = vanilla("declare", "jobs", *args, "--url", url)
    assert (status, out) == (2, "")
    assert complaint in err


def test_help_tells_of_each_option():
    text = " ".join(vanilla("declare", "--help")[1].split())
    assert [name for name in TERMS if "--" + name.replace("_", "-") not in text] == []


def test_push_ends_where_a_queue_that_rejects_is_full_and_says_what_is_in_it(url, remote, name):
    remote.declare(name, capacity=2, overflow="reject")
    status, out, err = vanilla("push", name, "--url", url, input=b"1\n2\n3\n4\n")
    assert (status, out, err.count("\n")) == (1, "", 1)
    assert "line 3: FULL" in err and "2 messages sent" in err
    assert endpoint(remote, name)["ready"] == 2


def test_the_table_of_status_has_the_options_and_why_messages_were_dropped_below_it(url, remote, name):
    remote.declare(name, capacity=2, overflow="drop-oldest")
    jobs = remote.push(name)
    for number in range(5):
        jobs.send(number, PATIENCE)
    jobs.sync(PATIENCE)
    out = vanilla("status", "--url", url)[1].splitlines()
    assert f"options of {name}: capacity 2, overflow drop-oldest" in out
    dropped = endpoint(remote, name)["dropped"]
    assert dropped >= 3 and f"dropped from {name}: {dropped} by overflow" in out


def test_a_table_without_options_has_no_lines_below_it():
    broker = dict.fromkeys(("accepted", "acknowledged", "dropped", "dead", "endpoints"), 0)
    broker.update(agent="it", uptime=7200.0, connections=1, draining=False)
    assert len(table({"broker": broker, "endpoints": []}, "tcp://x:1").splitlines()) == 2

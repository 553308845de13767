"""``vanilla dead``, ``peek`` and ``purge`` as processes: what they print, and how they end."""

from __future__ import annotations

import json
import re

import pytest
from peers import PATIENCE
from programs import broker, vanilla


@pytest.fixture(scope="module")
def url():
    with broker("--max-attempts", "1", "--capacity", "20", listen="tcp://127.0.0.1:0") as (url, _):
        yield url


@pytest.fixture
def remote(h, url):
    with h.client.connect(url) as remote:
        yield remote


@pytest.fixture
def jobs(remote, name):
    """The name of an endpoint, which is emptied at the end, and so are its dead letters."""
    yield name
    remote.dead(name).purge()
    remote.waiting(name).purge()


def bury(remote, name, *items):
    jobs = remote.push(name)
    jobs.send_many(list(items))
    jobs.sync()
    with remote.pull(name, ack=True) as back:
        for _ in items:
            back.recv(timeout=PATIENCE).nack()
    remote.ping()


def rows(out):
    return [re.split(r"\s{2,}", line.strip()) for line in out.splitlines()]


def run(url, *args):
    return vanilla(*args, "--url", url)


def test_dead_letters_are_counted_in_a_table(url, remote, jobs):
    assert run(url, "dead", jobs) == (0, f"{jobs}: 0 dead letters\n", "")
    bury(remote, jobs, 1, 2, 3)
    status, out, err = run(url, "dead", jobs)
    assert (status, err) == (0, "")
    head, gap, heading, row = out.splitlines()
    assert re.fullmatch(rf"{re.escape(jobs)}: 3 dead letters, the oldest there for [\d.]+ s", head) and not gap
    assert (heading.split(), row.split()) == (["reason", "letters"], ["MAX_ATTEMPTS", "3"])
    assert run(url, "dead", f"{jobs}.dead")[1].startswith(f"{jobs}.dead: 3 dead letters, ")
    assert run(url, "dead", jobs, "--reason", "OTHER") == (0, f"{jobs}: 0 dead letters\n", "")


def test_a_count_is_json_for_programs(url, remote, jobs):
    assert json.loads(run(url, "dead", jobs, "--json")[1]) == {"name": jobs, "n": 0, "oldest": None, "reasons": {}}
    bury(remote, jobs, 1)
    status, out, err = run(url, "dead", jobs, "count", "--json")
    said = json.loads(out)
    assert (status, err, out.count("\n")) == (0, "", 1)
    assert 0 <= said.pop("oldest") < PATIENCE
    assert said == {"name": jobs, "n": 1, "reasons": {"MAX_ATTEMPTS": 1}}


def test_a_peek_shows_letters_and_takes_none(url, remote, jobs):
    bury(remote, jobs, {"id": 1}, b"raw", float("inf"), "x" * 200, "\x9b31m")
    for _ in range(2):
        status, out, err = run(url, "dead", jobs, "peek")
        assert (status, err) == (0, "")
    heading, *found = rows(out)
    assert heading == ["reason", "failed", "died", "accepted", "last consumer", "message"]
    assert [row[0:2] for row in found] == [["MAX_ATTEMPTS", "1"]] * 5
    assert all("vanilla/" in row[4] for row in found)
    assert [row[5] for row in found] == [
        '{"id": 1}',
        '{"$bytes": "cmF3"}',
        "hex cb7ff0000000000000",
        '"' + "x" * 76 + "...",
        '"?31m"',
    ]
    assert len(rows(run(url, "dead", jobs, "peek", "-n", "2")[1])) == 3
    assert run(url, "dead", jobs, "peek", "--reason", "OTHER") == (0, f"{jobs}: 0 dead letters\n", "")


def test_a_peek_for_programs_is_a_line_of_json_each(url, remote, jobs):
    bury(remote, jobs, {"id": 1}, float("nan"))
    status, out, err = run(url, "dead", jobs, "peek", "--json")
    first, second = map(json.loads, out.splitlines())
    assert (status, err) == (0, "")
    assert (first["item"], first["attempts"]) == ({"id": 1}, 0)
    assert (first["dead"]["endpoint"], first["dead"]["reason"], first["dead"]["attempts"]) == (jobs, "MAX_ATTEMPTS", 1)
    assert "item" not in second and second["hex"] == "cb7ff8000000000000"


def test_letters_are_replayed_where_they_died(url, remote, jobs):
    bury(remote, jobs, 1, 2, 3)
    assert run(url, "dead", jobs, "replay", "-n", "1") == (0, f"{jobs}: 1 dead letter replayed\n", "")
    assert run(url, "dead", jobs, "replay") == (0, f"{jobs}: 2 dead letters replayed\n", "")
    assert vanilla("pull", jobs, "-n", "3", "--url", url) == (0, "1\n2\n3\n", "")


def test_letters_that_stay_are_an_error(url, remote, jobs):
    bury(remote, jobs, *range(3))
    remote.push(jobs).send_many(list(range(20)))
    remote.push(jobs).sync()
    status, out, err = run(url, "dead", jobs, "replay")
    assert (status, out) == (1, "")
    assert err == f"vanilla dead: {jobs}: 0 dead letters replayed, 3 left: '{jobs}' is full\n"
    status, out, err = run(url, "dead", jobs, "replay", "--json")
    assert (status, json.loads(out), err) == (
        1,
        {"name": jobs, "moved": 0, "left": 3, "why": f"'{jobs}' is full"},
        "",
    )
    there = f"{jobs}.more"
    assert run(url, "dead", jobs, "replay", "--to", there)[:2] == (0, f"{jobs}: 3 dead letters replayed\n")
    assert json.loads(run(url, "purge", there, "--yes", "--json")[1]) == {"name": there, "purged": 3}


def test_a_purge_wants_to_be_meant(url, remote, jobs):
    bury(remote, jobs, 1, 2)
    status, out, err = run(url, "dead", jobs, "purge")
    assert (status, out) == (1, "")
    assert err == f"vanilla dead: this would drop 2 dead letters of '{jobs}' for good; say so by --yes\n"
    assert run(url, "dead", jobs, "purge", "--yes", "--reason", "OTHER") == (
        0,
        f"{jobs}: 0 dead letters purged\n",
        "",
    )
    assert run(url, "dead", jobs, "purge", "--yes") == (0, f"{jobs}: 2 dead letters purged\n", "")
    assert remote.dead(jobs).count().n == 0


def test_any_work_queue_can_be_peeked_at_and_purged(url, remote, jobs):
    remote.push(jobs).send_many([1, "two"])
    remote.push(jobs).sync()
    status, out, _ = run(url, "peek", jobs)
    heading, *found = rows(out)
    assert (status, heading) == (0, ["age", "failed", "message"])
    assert [row[1:] for row in found] == [["0", "1"], ["0", '"two"']]
    assert [json.loads(line)["item"] for line in run(url, "peek", jobs, "-n", "1", "--json")[1].splitlines()] == [1]
    assert run(url, "purge", jobs)[0] == 1
    assert run(url, "purge", jobs, "--yes") == (0, f"{jobs}: 2 messages purged\n", "")
    assert run(url, "peek", jobs) == (0, f"{jobs}: 0 messages\n", "")


def test_the_words_of_an_order_stand_in_any_order(url, remote, jobs):
    bury(remote, jobs, 1)
    assert run(url, "dead", "--json", jobs, "-n", "1", "replay")[0] == 0


@pytest.mark.parametrize(
    ("args", "text"),
    [
        (["-n", "3"], "-n is for peek and replay only"),
        (["purge", "-n", "3", "--yes"], "-n is for peek and replay only"),
        (["peek", "--to", "x"], "--to is for replay only"),
        (["replay", "--yes"], "--yes is for purge only"),
    ],
)
def test_a_flag_of_another_word_is_refused(url, name, args, text):
    assert run(url, "dead", name, *args) == (2, "", f"vanilla dead: {text}\n")


def test_an_endpoint_of_another_kind_is_an_error(h, url, remote, name):
    with remote.state(name) as limit:
        limit.send(1)
        limit.sync()
        status, out, err = run(url, "peek", name)
        assert (status, out) == (1, "")
        assert err.startswith(f"vanilla peek: MISMATCH: '{name}' is a state")


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (
            "dead",
            ("NAME.dead", "count", "peek", "replay", "purge", "-n N", "--reason TEXT", "--to NAME", "--yes", "ms"),
        ),
        ("peek", ("NAME", "-n N", "--json", "default 10")),
        ("purge", ("NAME", "--yes", "--json", "vanilla dead")),
    ],
)
def test_help_says_what_they_do(command, words):
    status, out, err = vanilla(command, "--help")
    assert (status, err) == (0, "")
    text = " ".join(out.split())
    assert [word for word in words if word not in text] == []
    assert all(len(line) <= 120 for line in out.splitlines())

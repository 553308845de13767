"""The options of endpoints: settled at first use, held against what others ask for, and kept while nobody is there."""

from __future__ import annotations

from dataclasses import fields

import pytest
from peers import Peer, data, until

from vanilla.broker.options import Options
from vanilla.broker.terms import Terms
from vanilla.protocol.errors import Refused
from vanilla.protocol.frames import ACK, CLOSE, CREDIT, DATA, DATA_OPTIONS, ERROR, OPEN, pack_control
from vanilla.protocol.terms import OVERFLOW, TERMS, check_terms


@pytest.fixture
def broker(h):
    with h.broker.listen("tcp://127.0.0.1:0", backoff_ms=20) as broker:
        yield broker


def opening(peer, channel, options, kind="push", name="jobs"):
    """Open with options: the code of the answer, "" if it is open."""
    peer.send(pack_control(OPEN, channel, 0, {"kind": kind, "name": name, "options": options}))
    frame = peer.expect(OPEN, ERROR)
    return "" if frame[0] == OPEN else frame[4][frame[4].index(b"code") + 5 :].split(b"\xa4text")[0].decode()


def leaving(peer, *channels):
    for channel in channels:
        peer.close_channel(channel)
        peer.expect(CLOSE)


# -- the table


def test_both_tables_have_the_same_options():
    assert {field.name for field in fields(Terms)} == set(TERMS)


def test_the_terms_of_every_endpoint_are_right_by_the_table_that_clients_have():
    terms = Terms.of(Options())
    wrong = [key for key, term in TERMS.items() if not term.check(getattr(terms, key))]
    assert wrong == ["dead"]  # "" is no name, and stands for one


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"capactiy": 1}, "'capactiy'"),
        ({5: 1}, "5"),
        ({"capacity": 0}, "'capacity'"),
        ({"capacity": True}, "'capacity'"),
        ({"overflow": "spill"}, "'overflow'"),
        ({"overflow": ["block"]}, "'overflow'"),
        ({"dead": ""}, "'dead'"),
        ({"dead": 5}, "'dead'"),
        ({"max_attempts": 0}, "'max_attempts'"),
        ({"ttl": -1}, "'ttl'"),
        ({"lease": 0.5}, "'lease'"),
        ({"backoff": 1, "dedupe_entries": 1_000_001}, "'dedupe_entries'"),
    ],
)
def test_a_wrong_option_is_named(options, named):
    with pytest.raises(Refused) as caught:
        check_terms(options)
    assert caught.value.code == "BAD_OPTION"
    assert named in caught.value.text


@pytest.mark.parametrize("overflow", OVERFLOW)
def test_right_options_are_taken_as_they_are(overflow):
    options = {"capacity": 1, "overflow": overflow, "dead": "graveyard", "ttl": 0, "lease": 1 << 40}
    assert check_terms(options) is options


def test_what_differs_from_the_defaults_is_told():
    terms = Terms.of(Options(capacity=5))
    assert terms.with_options({"capacity": 5, "ttl": 9}).beside(terms) == {"ttl": 9}


# -- at a broker


def test_the_first_to_open_an_endpoint_settles_its_options(h, broker, peer):
    assert opening(peer, 1, {"capacity": 3, "capacity_bytes": 1000}, "pull") == ""
    endpoint = broker.endpoints["jobs"]
    assert (endpoint.capacity, endpoint.capacity_b, endpoint.room_n, endpoint.room_b) == (3, 1000, 3, 1000)
    peer.open(2, "push", "jobs")
    peer.want(2, n=10, b=10)
    assert peer.fields(CREDIT)["n"] <= 3


def test_who_names_no_option_or_the_same_is_let_in(h, broker, peer):
    assert opening(peer, 1, {"capacity": 3, "ttl": 100}) == ""
    assert opening(peer, 2, {"capacity": 3}) == ""
    assert opening(peer, 3, {}, "pull") == ""
    assert opening(peer, 4, {"max_attempts": broker.options.max_attempts}) == ""


@pytest.mark.parametrize("kind", ["push", "pull"])
def test_another_value_is_a_conflict_that_names_both(h, broker, peer, kind):
    assert opening(peer, 1, {"capacity": 3, "ttl": 100}) == ""
    peer.send(pack_control(OPEN, 2, 0, {"kind": kind, "name": "jobs", "options": {"ttl": 100, "capacity": 4}}))
    said = peer.fields(ERROR)
    assert said["code"] == "CONFLICT"
    assert "'capacity' of 'jobs' is 3 here, and 4 was asked for" in said["text"]
    assert broker.endpoints["jobs"].capacity == 3


def test_an_endpoint_that_was_opened_without_options_has_the_defaults_and_they_conflict_too(h, broker, peer):
    assert opening(peer, 1, {}) == ""
    assert opening(peer, 2, {"overflow": "reject"}) == "CONFLICT"
    assert opening(peer, 3, {"overflow": "block"}) == ""


def test_a_wrong_option_refuses_the_channel_and_makes_no_endpoint(h, broker, peer):
    assert opening(peer, 1, {"capactiy": 3}) == "BAD_OPTION"
    assert opening(peer, 2, {"capacity": "3"}) == "BAD_OPTION"
    assert not broker.endpoints
    assert opening(peer, 3, {"capacity": 3}) == ""


@pytest.mark.parametrize("kind", ["call", "serve", "send", "recv", "state", "publish", "subscribe"])
def test_only_work_queues_have_options(h, broker, peer, kind):
    assert opening(peer, 1, {"capacity": 3}, kind) == "BAD_OPTION"
    assert opening(peer, 2, {}, kind) == ""  # nothing is asked for
    assert not broker.endpoints["jobs"].declared


def test_an_endpoint_with_options_stays_when_it_is_idle_and_empty(h, broker, peer):
    assert opening(peer, 1, {"capacity": 3}) == ""
    leaving(peer, 1)
    assert broker.endpoints["jobs"].idle
    assert opening(peer, 2, {"capacity": 4}) == "CONFLICT"
    assert opening(peer, 3, {}, "pull") == ""
    leaving(peer, 3)
    assert broker.endpoints["jobs"].capacity == 3


def test_the_options_may_be_settled_later_if_they_are_what_holds_and_then_it_stays(h, broker, peer):
    assert opening(peer, 1, {}) == ""
    assert opening(peer, 2, {"capacity": broker.options.capacity}) == ""
    leaving(peer, 1, 2)
    assert "jobs" in broker.endpoints


def test_for_want_of_a_place_the_endpoint_goes_that_only_its_options_keep_and_is_unused_for_longest(h):
    with h.broker.listen("tcp://127.0.0.1:0", endpoints=3) as broker:
        peer = Peer(h, broker.urls[0])
        for channel, name in enumerate(("a", "b", "c"), 1):
            assert opening(peer, channel, {"capacity": 3}, "pull", name) == ""
        leaving(peer, 2, 1, 3)
        peer.open(4, "pull", "b")  # which nothing else is heard of
        peer.expect(OPEN)
        assert opening(peer, 5, {}, "pull", "d") == ""
        assert set(broker.endpoints) == {"b", "c", "d"}
        assert opening(peer, 6, {}, "pull", "e") == ""
        assert set(broker.endpoints) == {"b", "d", "e"}
        assert opening(peer, 7, {}, "pull", "f") == "TOO_MANY"
        leaving(peer, 4)
        assert opening(peer, 8, {}, "pull", "f") == ""
        assert set(broker.endpoints) == {"d", "e", "f"}
        peer.close()


def test_an_endpoint_that_is_used_again_is_not_the_one_unused_for_longest(h):
    with h.broker.listen("tcp://127.0.0.1:0", endpoints=2) as broker:
        peer = Peer(h, broker.urls[0])
        for channel, name in (1, "a"), (2, "b"), (3, "a"):
            assert opening(peer, channel, {"capacity": 3}, "pull", name) == ""
            leaving(peer, channel)
        assert opening(peer, 4, {}, "pull", "c") == ""
        assert set(broker.endpoints) == {"a", "c"}
        peer.close()


# -- what they do


def push_and_pull(peer, options, items):
    """A queue with *options* and *items* in it, and a consumer of them on channel 2."""
    assert opening(peer, 1, options) == ""
    peer.want(1, n=len(items), b=100)
    peer.expect(CREDIT)
    peer.send(data(1, 0, items))
    peer.expect(ACK)
    peer.open(2, "pull", "jobs")
    peer.credit(2)


def test_max_attempts_and_back_off_are_the_endpoints(h, broker, peer):
    push_and_pull(peer, {"max_attempts": 2, "backoff": 0}, ["x"])
    peer.expect(DATA)
    peer.nack(2, 0, 1)
    peer.expect(DATA_OPTIONS)
    peer.nack(2, 1, 1)
    until(h, lambda: "jobs.dead" in broker.endpoints)
    assert broker.endpoints["jobs"].dead == 1


def test_dead_letters_go_where_the_endpoint_says_and_stay_there(h, broker, peer):
    push_and_pull(peer, {"max_attempts": 1, "backoff": 1, "dead": "graveyard"}, ["x"])
    peer.expect(DATA)
    peer.nack(2, 0, 1)
    until(h, lambda: "graveyard" in broker.endpoints)
    peer.open(3, "pull", "graveyard")
    peer.credit(3)
    peer.expect(DATA_OPTIONS)
    peer.nack(3, 0, 1, dead="NO_GOOD")
    peer.expect(DATA_OPTIONS)  # it comes round again
    assert set(broker.endpoints) == {"jobs", "graveyard"}


def test_dead_letters_may_have_a_second_place_that_is_named(h, broker, peer):
    assert opening(peer, 9, {"dead": "last"}, "pull", "second") == ""
    push_and_pull(peer, {"max_attempts": 1, "dead": "second"}, ["x"])
    peer.expect(DATA)
    peer.credit(9)
    peer.nack(2, 0, 1)
    peer.expect(DATA_OPTIONS)
    peer.nack(9, 0, 1, dead="NO_GOOD")
    until(h, lambda: "last" in broker.endpoints)
    assert broker.endpoints["last"].ready_n == 1

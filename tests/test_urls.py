"""Addresses and names: what is taken, what is refused, and that nothing is changed in silence."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vanilla.protocol.urls import Address, check_name, parse

hosts = st.one_of(
    st.ip_addresses(v=4).map(str),
    st.ip_addresses(v=6).map(str),
    st.from_regex(r"[a-z][a-z0-9-]{0,20}(\.[a-z]{1,9})?", fullmatch=True),
)
paths = st.from_regex(r"/[A-Za-z0-9._ +%~é/-]{0,40}[A-Za-z0-9]", fullmatch=True)


@settings(deadline=None)
@given(
    st.builds(lambda host, port: Address("tcp", host, port), hosts, st.integers(0, 65535))
    | st.builds(lambda host, port: Address("tls", host, port), hosts, st.integers(0, 65535))
    | st.builds(lambda p: Address("unix", path=p), paths)
)
def test_an_address_is_written_as_it_is_read(address):
    assert parse(str(address)) == address


@settings(deadline=None)
@given(st.text(max_size=30) | st.text(max_size=30).map("tcp://".__add__) | st.text(max_size=30).map("unix://".__add__))
def test_any_text_is_an_address_or_a_valueerror_that_names_it(url):
    try:
        address = parse(url)
    except ValueError as error:
        told = repr(url) in str(error)
    else:
        told = parse(str(address)) == address
    assert told


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("tcp://127.0.0.1:8264", Address("tcp", "127.0.0.1", 8264)),
        ("tls://Broker.example.org:8265", Address("tls", "broker.example.org", 8265)),
        ("tcp://[::1]:0", Address("tcp", "::1", 0)),
        ("tcp://Example.ORG:80/", Address("tcp", "example.org", 80)),
        ("tcp://[fe80::1%Eth0]:1", Address("tcp", "fe80::1%Eth0", 1)),
        ("unix:///run/Vanilla.sock", Address("unix", path="/run/Vanilla.sock")),
        ("unix://here/x.sock", Address("unix", path="here/x.sock")),
    ],
)
def test_an_address_is_read(url, address):
    assert parse(url) == address


@pytest.mark.parametrize(
    "url",
    [
        "",
        "127.0.0.1:80",
        "localhost:80",
        "http://127.0.0.1:80",
        "tcp:127.0.0.1:80",
        "tcp://",
        "tls://",
        "tls://127.0.0.1",
        "tcp://127.0.0.1",
        "tcp://127.0.0.1:",
        "tcp://:80",
        "tcp://127.0.0.1:65536",
        "tcp://127.0.0.1:x",
        "tcp://127.0.0.1:-1",
        "tcp://127.0.0.1:80/path",
        "tcp://user@127.0.0.1:80",
        "tcp://127.0.0.1:80?x=1",
        "tcp://127.0.0.1:80#x",
        "tcp://127.0.0.1:80?",
        "tcp://[::1:80",
        "tcp://127.0.0.1:\n80",
        " tcp://127.0.0.1:80",
        "unix://",
        "unix:///a\0b",
        "unix:///a\tb",
        "unix:///a?",
        "unix:///a#",
    ],
)
def test_what_is_no_address_is_refused(url):
    with pytest.raises(ValueError):
        parse(url)


@pytest.mark.parametrize(
    ("url", "local"),
    [
        ("unix:///x", True),
        ("tcp://127.0.0.1:1", True),
        ("tls://127.0.0.1:1", True),
        ("tls://10.0.0.1:1", False),
        ("tcp://127.9.9.9:1", True),
        ("tcp://[::1]:1", True),
        ("tcp://localhost:1", True),
        ("tcp://0.0.0.0:1", False),
        ("tcp://[::]:1", False),
        ("tcp://10.0.0.1:1", False),
        ("tcp://localhost.example.org:1", False),
        ("tcp://127.1:1", False),
    ],
)
def test_only_what_is_surely_this_machine_is_local(url, local):
    assert parse(url).is_local is local


@pytest.mark.parametrize(
    ("url", "reliable", "datagram"),
    [
        ("udp://127.0.0.1:1", True, 0),
        ("udp://127.0.0.1:1?datagram=1200", True, 1200),
        ("udp://127.0.0.1:1?reliable=0&datagram=65507", False, 65507),
    ],
)
def test_what_is_said_of_a_session_is_read_and_said_again(url, reliable, datagram):
    assert parse(url)[-2:] == (reliable, datagram)
    assert str(parse(url)) == url


@pytest.mark.parametrize(
    "query",
    ["", "datagram=", "datagram=0", "datagram=1199", "datagram=65508", "datagram=-1", "datagram=1e4", "datagram=٣٠٠٠",
     "datagram=2000&datagram=2000", "size=2000", "datagram=2000;reliable=0", "datagram=" + "9" * 5000],
    ids=lambda query: query[:30],
)  # fmt: skip
def test_what_cannot_be_said_of_a_session_is_refused(query):
    with pytest.raises(ValueError, match=r"no query|a datagram has|twice"):
        parse(f"udp://127.0.0.1:1?{query}")


# -- names

visible = st.text(st.characters(exclude_categories=["Cc", "Cs"]), min_size=1, max_size=80)


@settings(deadline=None)
@given(visible.filter(lambda name: len(name.encode()) <= 255))
def test_a_name_is_returned_as_it_is(name):
    assert check_name(name) == name


@pytest.mark.parametrize("name", ["x" * 255, "é" * 127, "a b", "/", ".", "jobs.dead", "\u2028"])
def test_names_may_be_long_and_strange(name):
    assert check_name(name) == name


@pytest.mark.parametrize(
    "name",
    ["", "x" * 256, "é" * 128, "a\nb", "\0", "\x1f", "\x7f", "\x80", "\x9f", "\ud800", None, b"jobs", 5, ["a"]],
    ids=repr,
)
def test_what_is_no_name_is_refused(name):
    with pytest.raises(ValueError):
        check_name(name)

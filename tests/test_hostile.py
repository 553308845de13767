"""Peers that lie, stall and flood: each loses its own connection, with a code, and nobody else notices."""

from __future__ import annotations

import socket

import msgpack
import pytest
from peers import PATIENCE, Peer, data, until

import vanilla
from vanilla.protocol.frames import (
    ACK,
    CREDIT,
    DATA,
    DATA_OPTIONS,
    ERROR,
    HELLO,
    OPEN,
    PING,
    PONG,
    STATUS,
    pack_control,
    pack_head,
)

#: Time enough for the handshakes of hundreds at once.
HELLO_MS = 1_000

HI = pack_control(HELLO, 0, 0, {"v": 1, "id": b"p" * 16})


@pytest.fixture(params=["tcp", "tls"])
def broker(request, h, certs):
    with h.broker.listen(f"{request.param}://127.0.0.1:0", hello_ms=HELLO_MS, tls_cert=certs.server) as broker:
        yield broker


def connect(h, broker):
    url = broker.urls[0]
    return h.client.connect(url, verify=url.startswith("tcp:"))


@pytest.fixture(autouse=True)
def bystander(h, broker):
    """Pushes to itself all the time; the test fails if that ever falters."""
    remote = connect(h, broker)
    out, back = remote.push("bystander"), remote.pull("bystander")
    count = 0

    def traffic():
        nonlocal count
        while True:
            out.send(count)
            assert back.recv(timeout=PATIENCE) == count
            count += 1
            h.sleep(1)

    task = h.spawn(traffic)
    yield
    seen = count
    until(h, lambda: task.done or count > seen + 3)
    assert not task.done
    task.cancel()
    with pytest.raises(vanilla.Cancelled):
        task.join(timeout=PATIENCE)
    remote.close()


def refused(h, broker, *parts, hello=True):
    """Say *parts*; the code with which the broker closes the connection."""
    peer = Peer(h, broker.urls[0], hello=hello)
    peer.send(*parts)
    code = peer.fields(ERROR)["code"]
    assert peer.gone()
    peer.close()
    return code


OPENED = pack_control(OPEN, 1, 0, {"kind": "push", "name": "jobs"})
PULL = pack_control(OPEN, 2, 0, {"kind": "pull", "name": "jobs"})


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("BAD_FRAME", b"GET / HTTP/1.1\r\nHost: example.org\r\n\r\n"),
        ("BAD_FRAME", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"),  # a TLS client
        ("BAD_FRAME", b"\xc6\x00\x00\x00\x14" + bytes(40)),  # no room for a head
        ("TOO_BIG", b"\xc6\xff\xff\xff\xff"),
        ("TOO_BIG", b"\xc6\x00\x00\x10\x01"),  # over what may come before the hello
        ("BAD_STATE", pack_control(PING)),  # before the hello
        ("BAD_STATE", OPENED),
        ("BAD_MAP", pack_control(HELLO, 0, 0, {"v": 1})),
        ("BAD_MAP", pack_control(HELLO, 0, 0, {"v": 1, "id": b"short"})),
        ("BAD_MAP", pack_control(HELLO, 0, 0, {"v": True, "id": b"p" * 16})),
        ("VERSION", pack_control(HELLO, 0, 0, {"v": 2, "id": b"p" * 16})),
        ("BAD_MESSAGE", pack_head(HELLO, 0, 0, 1, 3) + b"\x81\xa1v"),
        ("BAD_MAP", pack_head(HELLO, 0, 0, 1, 1) + b"\x90"),
    ],
)
def test_a_wrong_beginning_is_refused_with_its_code(h, broker, code, said):
    assert refused(h, broker, said, hello=False) == code


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("BAD_FRAME", b"\xc1"),
        ("BAD_FRAME", bytes(1000)),
        ("BAD_FRAME", pack_head(0x77, 1, 0, 1, 1) + b"\x80"),
        ("TOO_BIG", pack_head(DATA, 1, 0, 1, 2 << 20)),
        ("BAD_STATE", HI),  # twice
        ("BAD_STATE", data(9, 0, [1])),  # a channel that is not open
        ("BAD_STATE", OPENED + OPENED),
        ("BAD_STATE", OPENED + pack_control(CREDIT, 1, 0, {"n": 1, "b": 1})),
        ("BAD_STATE", PULL + data(2, 0, [1])),
        ("BAD_STATE", pack_control(ERROR, 0, 0, {"code": "X", "text": "y"})),
        ("BAD_STATE", OPENED + pack_head(DATA | 0x10, 1, 0, 1, 1) + b"\x01"),
        ("BAD_MAP", OPENED + pack_control(0x23, 1, 0, {"n": -1})),
        ("BAD_MAP", PULL + pack_control(CREDIT, 2, 0, {"n": 1})),
        ("BAD_MAP", PULL + pack_control(CREDIT, 2, 0, {"n": "many", "b": 1})),
        ("BAD_MAP", PULL + pack_control(ACK, 2, 0, {"r": [0]})),
        ("BAD_MAP", PULL + pack_control(ACK, 2, 0, {"r": [5, 1, 3, 1]})),
        ("BAD_MAP", PULL + pack_control(ACK, 2, 0, {"r": [0, 0]})),
        ("BAD_MAP", pack_head(STATUS, 0, 0, 2, 2) + b"\x80\x80"),
        ("BAD_MAP", pack_control(STATUS, 0, 0, {"after": "x" * 70_000})),
        ("BAD_MESSAGE", OPENED + data(1, 0, [1, 2], count=3)),
        ("BAD_MESSAGE", OPENED + data(1, 0, [1, 2], count=1)),
        ("BAD_MESSAGE", OPENED + data(1, 0, [], count=0)),
        ("BAD_MESSAGE", OPENED + data(1, 0, [], count=0xFFFFFFFF)),
        ("BAD_MESSAGE", OPENED + data(1, 0, [msgpack.ExtType(5, b"code")])),
        ("BAD_MESSAGE", OPENED + pack_head(DATA, 1, 0, 1, 66) + b"\x91" * 65 + b"\x01"),
        ("BAD_MESSAGE", OPENED + pack_head(DATA_OPTIONS, 1, 0, 1, 1) + b"\x80"),
        ("BAD_MAP", OPENED + pack_head(DATA_OPTIONS, 1, 0, 2, 2) + b"\x01\x01"),
        ("BAD_MAP", OPENED + pack_head(DATA_OPTIONS, 1, 0, 2, 8) + b"\x81\xa5brave\x01\x01"[:8]),
        ("BAD_SEQUENCE", OPENED + data(1, 1, [1])),
        ("BAD_SEQUENCE", PULL + pack_control(ACK, 2, 0, {"r": [0, 1]})),
        ("OVER_CREDIT", OPENED + data(1, 0, [0] * 100_000)),
    ],
)
def test_a_broken_promise_is_refused_with_its_code(h, broker, code, said):
    assert refused(h, broker, said) == code


def test_an_unknown_message_option_is_refused_not_ignored(h, broker):
    body = msgpack.packb({"brave": 5}) + b"\x01"
    assert refused(h, broker, OPENED, pack_head(DATA_OPTIONS, 1, 0, 2, len(body)) + body) == "BAD_MAP"


def test_an_empty_map_of_options_is_fine(h, broker):
    peer = Peer(h, broker.urls[0])
    peer.send(OPENED)
    peer.expect(CREDIT)
    peer.send(pack_head(DATA_OPTIONS, 1, 0, 2, 2) + b"\x80\x01")
    assert peer.fields(ACK) == {"r": [0, 1]}
    peer.close()


def test_who_says_nothing_is_closed_at_the_deadline(h, broker):
    peer = Peer(h, broker.urls[0], hello=False)
    assert peer.fields(ERROR)["code"] == "HELLO_TIMEOUT"
    assert peer.gone()
    peer.close()


def test_who_says_half_a_hello_is_closed_at_the_deadline(h, broker):
    assert refused(h, broker, HI[:-1], hello=False) == "HELLO_TIMEOUT"


def test_a_hello_in_time_ends_the_deadline(h, broker):
    peer = Peer(h, broker.urls[0])
    h.sleep(2 * HELLO_MS)
    peer.send(pack_control(PING, 0, 1))
    peer.expect(PONG)
    peer.close()


def test_half_a_frame_after_the_hello_costs_bounded_memory_and_has_no_deadline(h, broker):
    peer = Peer(h, broker.urls[0])
    until(h, lambda: len(broker.sessions) == 2)
    session = next(s for s in broker.sessions if not s.channels)
    whole = pack_head(DATA, 1, 0, 1, 1_000_000) + b"\xc6" + (999_995).to_bytes(4, "big") + bytes(999_995)
    peer.send(OPENED)
    peer.send(pack_control(0x23, 1, 0, {"n": 1, "b": 1_000_000}))
    while peer.fields(CREDIT)["b"] < 1_000_000:
        pass
    peer.send(whole[:30])
    h.sleep(300)
    assert session.connection.reader.waiting_bytes <= 128 << 10
    peer.send(whole[30:500_000])
    until(h, lambda: session.connection.reader.waiting_bytes >= 499_000)
    assert session.connection.reader.waiting_bytes <= 1_000_000
    peer.send(whole[500_000:])
    assert peer.fields(ACK) == {"r": [0, 1]}
    assert session.connection.reader.waiting_bytes == 0
    peer.close()


def test_one_byte_at_a_time_works_and_disturbs_nobody(h, broker):
    peer = Peer(h, broker.urls[0], hello=False)
    for byte in HI + OPENED + data(1, 0, ["slow"]):
        peer.send(bytes([byte]))
        h.sleep(0)
    assert peer.fields(ACK) == {"r": [0, 1]}
    peer.close()


def test_a_peer_that_resets_its_connection_is_forgotten(h, broker):
    peer = Peer(h, broker.urls[0])
    peer.send(OPENED)
    peer.expect(CREDIT)
    getattr(peer.sock, "_sock", peer.sock).setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
    peer.close()
    until(h, lambda: len(broker.sessions) == 1)
    until(h, lambda: "jobs" not in broker.endpoints)


def test_a_thousand_slow_handshakes_keep_nobody_out(h, broker):
    slow = [Peer(h, broker.urls[0], hello=False) for _ in range(300)]
    for peer in slow:
        peer.send(HI[:7])
    Peer(h, broker.urls[0]).close()
    until(h, lambda: len(broker.sessions) == 1)
    for peer in slow:
        peer.close()


def test_what_was_accepted_before_the_offence_is_kept(h, broker):
    peer = Peer(h, broker.urls[0])
    peer.send(OPENED)
    peer.expect(CREDIT)
    peer.send(data(1, 0, ["kept"]))
    peer.expect(ACK)
    peer.send(b"\xc1")
    assert peer.fields(ERROR)["code"] == "BAD_FRAME"
    peer.close()
    with connect(h, broker) as remote:
        assert remote.pull("jobs").recv(timeout=PATIENCE) == "kept"


def test_an_offender_that_does_not_read_why_is_dropped_all_the_same(h, broker):
    peer = Peer(h, broker.urls[0])
    peer.send(b"\xc1", bytes(100_000))
    until(h, lambda: len(broker.sessions) == 1, timeout=PATIENCE)
    peer.close()


def test_an_internal_error_ends_only_that_connection_and_is_logged(h, broker, monkeypatch, caplog):
    def broken(*_):
        raise ZeroDivisionError("bug")

    peer = Peer(h, broker.urls[0])
    monkeypatch.setattr(type(broker), "status", broken)
    peer.send(pack_control(STATUS))
    assert peer.fields(ERROR)["code"] == "INTERNAL"
    assert "ZeroDivisionError" in caplog.text
    peer.close()


def test_a_fault_at_one_endpoint_is_no_others(h, broker, monkeypatch, caplog):
    from vanilla.broker.endpoint import Endpoint

    match = Endpoint.match

    def broken(endpoint):
        if endpoint.name == "jobs":
            raise ZeroDivisionError("bug")
        match(endpoint)

    monkeypatch.setattr(Endpoint, "match", broken)
    peer = Peer(h, broker.urls[0])
    peer.send(OPENED)
    peer.expect(CREDIT)
    peer.send(data(1, 0, ["x"]))
    assert peer.fields(ACK) == {"r": [0, 1]}
    assert "ZeroDivisionError" in caplog.text
    peer.close()


def test_a_flood_of_questions_is_answered_one_by_one(h, broker):
    peer = Peer(h, broker.urls[0])
    peer.send(b"".join(pack_control(STATUS, 0, number) for number in range(50)))
    assert [peer.expect(STATUS)[2] for _ in range(50)] == list(range(50))
    assert refused(h, broker, pack_control(STATUS) * 5_000) == "TOO_MANY"
    peer.close()

"""Who gets in, as whom, and what they may do: a real broker, frame by frame and as its clients see it."""

from __future__ import annotations

import logging
import os
from contextlib import closing

import msgpack
import pytest
from peers import PATIENCE, Peer, data, settled, until

import vanilla
from vanilla.broker.access import NEEDS, Access
from vanilla.broker.permissions import VERBS
from vanilla.broker.tokens import line_of
from vanilla.exception import Refused
from vanilla.protocol.connection import ALLOWED, KINDS
from vanilla.protocol.errors import ProtocolError
from vanilla.protocol.frames import (
    ACK,
    ADMIN,
    CLEAR,
    CLOSE,
    CREDIT,
    DATA,
    ERROR,
    HELLO,
    HELLO_LIMIT,
    NAMES,
    OPEN,
    PING,
    PONG,
    STATUS,
    pack_control,
)

TOKENS = {"web": "the token of web, of some length", "ops": b"the token of ops \xff as bytes"}
ME = f"uid:{os.getuid()}"


@pytest.fixture
def files(tmp_path):
    """Writes files: `files.tokens()` and `files.permissions(rule, ...)` are their paths."""

    class Files:
        def tokens(self, **tokens):
            path = tmp_path / "tokens"
            path.touch(mode=0o600)
            path.write_text("".join(f"{line_of(*item)}\n" for item in (tokens or TOKENS).items()))
            return str(path)

        def permissions(self, *rules):
            path = tmp_path / "permissions.toml"
            path.write_text("".join(map(self.rule, rules)))
            return str(path)

        def rule(self, rule):
            identity, endpoint, *verbs = rule
            return f"[[rule]]\nidentity = {identity!r}\nendpoint = {endpoint!r}\nverbs = {verbs}\n"

    return Files()


@pytest.fixture
def listen(h, tmp_path):
    """Starts brokers at a TCP and a Unix socket, and ends them."""
    brokers = []

    def listen(**options):
        brokers.append(h.broker.listen("tcp://127.0.0.1:0", f"unix://{tmp_path}/s{len(brokers)}", **options))
        return brokers[-1]

    yield listen
    for broker in brokers:
        broker.close()


def hello(**fields):
    return pack_control(HELLO, 0, 0, {"v": 1, "id": os.urandom(16), **fields})


def connected(h, broker, token=None, where=0):
    """A peer that has said its hello, not read the answer, and given *token* if it is one."""
    peer = Peer(h, broker.urls[where], hello=False)
    peer.send(hello(**({} if token is None else {"token": token})))
    return peer


def admitted(h, broker, token=None, where=0):
    """A peer that got in, and the session that the broker has of it."""
    before = set(broker.sessions)
    peer = connected(h, broker, token, where)
    assert peer.next()[0] == HELLO
    (session,) = broker.sessions - before
    return peer, session


def denied(h, broker, token=None, where=0):
    """What is said to a peer that did not get in."""
    with closing(connected(h, broker, token, where)) as peer:
        kind, channel, _, _, array = peer.next()
        assert (kind, channel) == (ERROR, 0)
        assert peer.gone()
    fields = msgpack.unpackb(array)[0]
    assert fields["code"] == "DENIED" and "request" not in fields
    return fields["text"]


# -- who gets in, and as whom


@pytest.mark.parametrize("identity", TOKENS)
def test_a_right_token_gives_its_identity(h, listen, files, identity):
    broker = listen(token_file=files.tokens())
    for where in range(2):
        peer, session = admitted(h, broker, TOKENS[identity], where)
        assert session.identity == identity
        peer.close()


def test_a_token_is_the_same_as_text_and_as_bytes(h, listen, files):
    peer, session = admitted(h, listen(token_file=files.tokens()), TOKENS["web"].encode())
    assert session.identity == "web"
    peer.close()


@pytest.mark.parametrize("where", [0, 1], ids=["tcp", "unix"])
def test_a_wrong_token_is_denied_whatever_else_there_is_to_show(h, listen, files, where):
    broker = listen(token_file=files.tokens())
    assert "does not know the token" in denied(h, broker, TOKENS["web"] + "x", where)


def test_no_token_is_denied_over_tcp_where_there_is_a_token_file(h, listen, files):
    assert "wants a token" in denied(h, listen(token_file=files.tokens()))


def test_a_unix_socket_says_who_its_user_is(h, listen, files):
    for options in {}, {"token_file": files.tokens()}:
        peer, session = admitted(h, listen(**options), where=1)
        assert session.identity == ME
        peer.close()


@pytest.mark.parametrize("token", [None, TOKENS["web"]])
def test_without_a_token_file_everybody_gets_in_and_a_token_is_passed_over(h, listen, token):
    broker = listen()
    for where, identity in enumerate(("", ME)):
        peer, session = admitted(h, broker, token, where)
        assert session.identity == identity
        peer.close()


@pytest.mark.parametrize("known", ["", "www.example.org", ME])
@pytest.mark.parametrize("token", [None, "right", "wrong"])
@pytest.mark.parametrize("has_tokens", [False, True])
def test_a_token_goes_before_certificate_and_socket_and_a_wrong_one_is_always_denied(files, known, token, has_tokens):
    access = Access(files.tokens() if has_tokens else "", "")
    assert access.authenticated is has_tokens
    shown = {None: None, "right": TOKENS["web"], "wrong": "y" * 32}[token]
    expected = {
        (False, None): known,
        (False, "right"): known,
        (False, "wrong"): known,
        (True, None): known or "DENIED",
        (True, "right"): "web",
        (True, "wrong"): "DENIED",
    }[has_tokens, token]
    if expected == "DENIED":
        with pytest.raises(ProtocolError) as caught:
            access.identify(known, shown)
        assert caught.value.code == "DENIED"
    else:
        assert access.identify(known, shown) == expected


def test_nothing_behind_a_hello_that_is_denied_counts(h, listen, files):
    broker = listen(token_file=files.tokens())
    peer = Peer(h, broker.urls[0], hello=False)
    peer.send(hello() + pack_control(OPEN, 1, 0, {"kind": "push", "name": "jobs"}) + pack_control(STATUS))
    assert [peer.next()[0]] == [ERROR]
    peer.send(pack_control(OPEN, 1, 0, {"kind": "push", "name": "jobs"}) * 100)
    assert peer.gone()
    assert broker.endpoints == {}
    peer.close()


def test_a_token_that_is_too_short_or_no_token_at_all_is_a_bad_hello(h, listen):
    broker = listen()
    for token in b"x" * 15, "x" * 257, 5, None, ["x" * 16]:
        peer = Peer(h, broker.urls[0], hello=False)
        peer.send(hello(token=token))
        assert peer.fields(ERROR)["code"] == "BAD_MAP"
        peer.close()


def test_the_longest_token_fits_into_the_first_frame(h, listen, files):
    token = "é" * 128
    frame = hello(token=token, agent="x" * 1000)
    assert len(frame) < HELLO_LIMIT
    peer, session = admitted(h, listen(token_file=files.tokens(long=token)), token)
    assert session.identity == "long"
    peer.close()


def test_a_failed_attempt_is_logged_with_the_peer_and_never_the_token(h, listen, files, caplog):
    caplog.set_level(logging.DEBUG)
    broker = listen(token_file=files.tokens())
    wrong = "a token that was never right"
    peer = connected(h, broker, wrong)
    host, port = peer.sock.getsockname()
    assert peer.gone()
    peer.close()
    admitted(h, broker, TOKENS["web"])[0].close()
    (line,) = (record for record in caplog.records if "DENIED" in record.getMessage())
    assert line.levelno == logging.WARNING and f"{host}:{port}" in line.getMessage()
    assert any("'web'" in record.getMessage() for record in caplog.records)
    for secret in wrong, TOKENS["web"]:
        assert secret not in caplog.text and repr(secret.encode())[2:-1] not in caplog.text


# -- what they may do


def ask(peer, frame, kind, name):
    """Send what needs a permission. None: it was allowed; else the map of the ERROR, after a look at the connection."""
    if frame == OPEN:
        peer.open(7, kind, name)
    else:
        peer.send(pack_control(frame, 0, 9, {"do": "count", "name": name} if frame == ADMIN else {}))
    answer, channel, seq, _, array = peer.expect(OPEN, STATUS, ADMIN, ERROR)
    if answer != ERROR:
        assert (answer, channel, seq) == ((OPEN, 7, 0) if frame == OPEN else (frame, 0, 9))
        return None
    fields = msgpack.unpackb(array)[0]
    if frame == OPEN:
        assert channel == 7
        peer.close_channel(7)
        assert peer.next()[:2] == (CLOSE, 7)
    else:
        assert (channel, fields["request"]) == (0, 9)
    peer.send(pack_control(PING, 0, 5))
    assert peer.next()[0] == PONG
    assert fields["code"] == "DENIED"
    return fields


every_need = pytest.mark.parametrize(
    ("frame", "kind", "verb"),
    [(*key, verb) for key, verb in NEEDS.items() if key[0] != DATA and key[1] != "options"],
    ids=[f"{NAMES[frame]}-{kind}" for frame, kind in NEEDS if frame != DATA and kind != "options"],
)


def others(verb):
    return [each for each in VERBS if each not in (verb, "admin")]


@every_need
@pytest.mark.parametrize(
    "case", ["allowed", "by patterns", "other endpoint", "other identity", "other verbs", "no rule"]
)
def test_what_needs_a_permission_is_done_only_by_who_has_it(h, listen, files, frame, kind, verb, case):
    about = "*" if verb == "admin" else "jobs"
    # "admin" for less than everything is no rule that a file may have, see `test_permissions`.
    rules = {
        "allowed": [("web", about, verb)],
        "by patterns": [("w*", "*", verb)],
        "other endpoint": [("web", "jobs.dead", *others(verb))] if verb == "admin" else [("web", "jobs.dead", verb)],
        "other identity": [("ops", about, verb), ("web2", about, verb)],
        "other verbs": [("web", "*", *others(verb))],
        "no rule": [],
    }[case]
    broker = listen(token_file=files.tokens(), permissions=files.permissions(*rules))
    peer, _ = admitted(h, broker, TOKENS["web"])
    refused = ask(peer, frame, kind, "jobs")
    if case in ("allowed", "by patterns"):
        assert refused is None
        assert broker.endpoints.keys() == ({"jobs"} if frame == OPEN else set())
    else:
        assert "web" in refused["text"] and repr(verb) in refused["text"]
        assert ("'jobs'" in refused["text"]) == (frame == OPEN)
        assert broker.endpoints == {}
    peer.close()


@every_need
def test_without_a_permissions_file_everybody_may_do_everything(h, listen, frame, kind, verb):
    peer, _ = admitted(h, listen())
    assert ask(peer, frame, kind, "jobs") is None
    peer.close()


@every_need
@pytest.mark.parametrize(("identity", "where"), [("", 0), (ME, 1)], ids=["anonymous", "uid"])
def test_who_has_no_token_is_judged_too(h, listen, files, frame, kind, verb, identity, where):
    for pattern, allowed in (("*", True), ("?*", bool(identity)), (identity or "anonymous", bool(identity))):
        broker = listen(permissions=files.permissions((pattern, "*", verb)))
        peer, _ = admitted(h, broker, where=where)
        refused = ask(peer, frame, kind, "jobs")
        assert (refused is None) is allowed
        assert allowed or (identity or "anonymous") in refused["text"]
        peer.close()


@pytest.mark.parametrize(("verbs", "allowed"), [(("push",), False), (("admin",), False), (("push", "admin"), True)])
def test_who_asks_for_options_of_an_endpoint_needs_the_permission_admin_too(h, listen, files, verbs, allowed):
    broker = listen(permissions=files.permissions(("*", "*", *verbs)))
    peer, _ = admitted(h, broker)
    peer.send(pack_control(OPEN, 1, 0, {"kind": "push", "name": "jobs", "options": {"capacity": 5}}))
    if allowed:
        peer.expect(OPEN)
        assert broker.endpoints["jobs"].capacity == 5
    else:
        said = peer.fields(ERROR)
        assert said["code"] == "DENIED" and ("'admin'" in said["text"]) == ("push" in verbs)
        assert not broker.endpoints
    peer.close()


@pytest.mark.parametrize("change", ["send", "clear"])
@pytest.mark.parametrize("verbs", [("subscribe",), ("subscribe", "push")], ids="-".join)
def test_who_may_read_a_state_changes_it_only_with_the_permission_to_push(h, listen, files, change, verbs):
    broker = listen(token_file=files.tokens(), permissions=files.permissions(("web", "limit", *verbs)))
    peer, _ = admitted(h, broker, TOKENS["web"])
    peer.open(1, "state", "limit")
    peer.expect(OPEN)
    peer.send(data(1, 0, [5]) if change == "send" else pack_control(CLEAR, 1, 0))
    if "push" in verbs:
        peer.expect(ACK)
    else:
        fields = peer.fields(ERROR)
        assert fields["code"] == "DENIED" and "'push'" in fields["text"] and "'limit'" in fields["text"]
    assert broker.endpoints.keys() <= {"limit"}
    assert all(endpoint.value is None for endpoint in broker.endpoints.values()) == (
        change == "clear" or "push" not in verbs
    )
    peer.close()


@pytest.mark.parametrize("change", [data(1, 0, [5]), pack_control(CLEAR, 1, 0)], ids=["send", "clear"])
def test_a_change_of_a_state_that_is_denied_is_not_confirmed(h, listen, files, change):
    broker = listen(permissions=files.permissions(("*", "limit", "subscribe")))
    peer, _ = admitted(h, broker)
    peer.send(pack_control(OPEN, 1, 0, {"kind": "state", "name": "limit"}) + change)  # it is told of the value, too
    assert [kind for kind, *_ in settled(peer)] == [OPEN, ERROR]
    peer.close()


def test_each_kind_of_endpoint_has_its_row_in_the_table():
    assert {kind for frame, kind in NEEDS if frame == OPEN} == KINDS | {"options"}
    assert set(NEEDS.values()) <= set(VERBS)


def test_what_needs_no_permission_asks_and_changes_nothing():
    asking = ALLOWED["broker", "ready"] | ALLOWED["broker", "none"] | ALLOWED["broker", "hello"]
    assert asking - {frame for frame, _ in NEEDS} == {HELLO, PING, PONG}


def test_a_kind_that_is_not_there_is_no_matter_of_permissions(h, listen, files):
    peer, _ = admitted(h, listen(permissions=files.permissions()))
    peer.open(1, "telepathy", "jobs")
    assert peer.fields(ERROR)["code"] == "BAD_KIND"
    peer.close()


def test_dead_letters_need_a_permission_of_their_own_to_be_pulled_and_none_to_be_made(h, listen, files):
    permissions = files.permissions(("*", "jobs", "push", "pull"), ("*", "*.dead", "pull"))
    broker = listen(permissions=permissions, max_attempts=1)
    peer, _ = admitted(h, broker)
    peer.open(1, "push", "jobs")
    peer.want(1, n=1, b=10)
    peer.expect(CREDIT)
    peer.send(data(1, 0, [1]))
    peer.expect(ACK)
    peer.open(2, "pull", "jobs")
    peer.credit(2)
    assert peer.delivery()[3] == [1]
    peer.nack(2, 0, 1)
    peer.open(3, "pull", "jobs.dead")
    peer.credit(3)
    assert peer.delivery()[3] == [1]
    peer.open(4, "push", "jobs.dead")
    assert peer.fields(ERROR)["code"] == "DENIED"
    peer.close()


# -- as a client sees it


@pytest.mark.parametrize("how", ["str", "bytes", "file", "path"])
def test_a_client_shows_its_token(h, listen, files, tmp_path, how):
    broker = listen(token_file=files.tokens())
    (tmp_path / "token").write_text(f"  {TOKENS['web']}\n")
    (tmp_path / "token").chmod(0o600)
    given = {
        "str": {"token": TOKENS["web"]},
        "bytes": {"token": TOKENS["web"].encode()},
        "file": {"token_file": str(tmp_path / "token")},
        "path": {"token_file": tmp_path / "token"},
    }[how]
    with h.client.connect(broker.urls[0], **given) as remote:
        remote.ping()
        (session,) = broker.sessions
        assert session.identity == "web"


@pytest.mark.parametrize("given", [{}, {"token": "x" * 16}], ids=["none", "wrong"])
def test_a_client_that_is_denied_is_told_so(h, listen, files, given):
    broker = listen(token_file=files.tokens())
    with pytest.raises(vanilla.ConnectionLost, match="DENIED: this broker"):
        h.client.connect(broker.urls[0], **given)


def test_a_client_without_permission_is_refused_what_it_asks_and_goes_on(h, listen, files):
    broker = listen(permissions=files.permissions(("*", "mine", "push", "pull")))
    with h.client.connect(broker.urls[0]) as remote:
        mine = remote.push("mine")
        mine.send(1)
        with pytest.raises(Refused, match="DENIED: anonymous has no permission 'admin' for this broker"):
            remote.status()
        theirs = remote.push("theirs")
        with pytest.raises(Refused, match="DENIED: anonymous has no permission 'push' for endpoint 'theirs'"):
            theirs.send(1)
            theirs.sync(timeout=PATIENCE)
        with pytest.raises(Refused, match="DENIED: anonymous has no permission 'pull' for endpoint 'theirs'"):
            remote.pull("theirs").recv(timeout=PATIENCE)
        assert remote.pull("mine").recv(timeout=PATIENCE) == 1
        mine.sync(timeout=PATIENCE)


@pytest.mark.parametrize(
    ("given", "error", "text"),
    [
        ({"token": "x" * 15}, ValueError, "the token has 15 bytes; a token has 16 to 256"),
        ({"token": "é" * 129}, ValueError, "258 bytes"),
        ({"token": b""}, ValueError, "0 bytes"),
        ({"token": 10**20}, TypeError, "a token is bytes or str, not int"),
        ({"token": "x" * 16, "token_file": "x"}, ValueError, "not both"),
        ({"token_file": "/none/such"}, OSError, "/none/such"),
    ],
)
def test_what_is_no_token_is_told_before_anything_is_connected(h, given, error, text):
    with pytest.raises(error) as caught:
        h.client.connect("tcp://127.0.0.1:9", **given)
    assert text in str(caught.value)
    for value in given.values():
        assert not value or value == given.get("token_file") or str(value) not in str(caught.value)


@pytest.mark.parametrize("size", [0, 15, 257, 5000])
def test_a_file_that_holds_no_token_is_named_and_not_quoted(h, tmp_path, size):
    path = tmp_path / "token"
    path.write_text("s" * size)
    with pytest.raises(ValueError) as caught:
        h.client.connect("tcp://127.0.0.1:9", token_file=path)
    assert str(path) in str(caught.value) and "ss" not in str(caught.value).replace(str(path), "")


@pytest.mark.parametrize(("mode", "warned"), [(0o600, False), (0o640, False), (0o644, True), (0o602, True)])
def test_a_clients_token_that_everybody_can_read_is_a_warning(h, listen, files, tmp_path, caplog, mode, warned):
    broker = listen(token_file=files.tokens())
    path = tmp_path / "token"
    path.write_text(TOKENS["web"])
    path.chmod(mode)
    h.client.connect(broker.urls[0], token_file=path).close()
    assert (f"{path}: every user of this machine has access" in caplog.text) is warned


@pytest.mark.parametrize(
    ("url", "token", "warned"),
    [
        ("tcp://0.0.0.0:{port}", "x" * 16, True),  # no loopback address, but on Linux it leads there
        ("tcp://0.0.0.0:{port}", None, False),
        ("tcp://127.0.0.1:{port}", "x" * 16, False),
    ],
)
def test_a_token_that_travels_in_clear_text_is_a_warning(h, listen, caplog, url, token, warned):
    broker = listen()
    url = url.format(port=broker.urls[0].rpartition(":")[2])
    h.client.connect(url, token=token, timeout=PATIENCE).close()
    assert ("clear text" in caplog.text) is warned
    assert "xx" not in caplog.text


def test_no_repr_shows_a_token(h, listen, files):
    broker = listen(token_file=files.tokens())
    with h.client.connect(broker.urls[0], token=TOKENS["web"]) as remote:
        (session,) = broker.sessions
        for one in remote, remote._link, remote._link.connection, session, broker, broker.access, broker.options:
            assert TOKENS["web"] not in repr(one)


# -- reading the files anew


def test_reloaded_permissions_hold_for_what_is_opened_later_and_what_is_open_stays(h, listen, files):
    broker = listen(permissions=files.permissions(("*", "jobs", "push")))
    peer, _ = admitted(h, broker)
    peer.open(1, "push", "jobs")
    peer.expect(CREDIT)
    files.permissions(("*", "jobs", "pull"))
    assert broker.reload() is True
    peer.send(data(1, 0, [1]))
    peer.expect(ACK)
    peer.open(2, "push", "jobs")
    assert peer.fields(ERROR)["code"] == "DENIED"
    peer.open(3, "pull", "jobs")
    peer.credit(3)
    assert peer.delivery()[3] == [1]
    peer.close()


def test_reloaded_tokens_hold_for_new_connections_and_those_that_are_there_keep_their_identity(h, listen, files):
    broker = listen(token_file=files.tokens(web=TOKENS["web"]), permissions=files.permissions(("web", "*", "push")))
    peer, session = admitted(h, broker, TOKENS["web"])
    files.tokens(ops=TOKENS["ops"])
    assert broker.reload() is True
    denied(h, broker, TOKENS["web"])
    other, theirs = admitted(h, broker, TOKENS["ops"])
    assert (session.identity, theirs.identity) == ("web", "ops")
    assert ask(peer, OPEN, "push", "jobs") is None
    peer.close()
    other.close()


def test_a_bad_file_keeps_the_old_one_says_so_in_a_line_and_is_no_matter_of_the_others(h, listen, files, caplog):
    caplog.set_level(logging.INFO)
    token_file = files.tokens()
    broker = listen(token_file=token_file, permissions=files.permissions())
    os.chmod(token_file, 0o644)
    files.permissions(("ops", "*", "push"))
    assert broker.reload() is False
    said = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert len(said) == 1 and said[0].startswith(f"reload: tokens stay as they were: {token_file}: its mode is 0644")
    denied(h, broker, "x" * 32)
    peer, _ = admitted(h, broker, TOKENS["ops"])
    assert ask(peer, OPEN, "push", "jobs") is None
    peer.close()


def test_whatever_else_is_to_be_read_anew_may_raise_and_the_next_is_read(h, listen, caplog):
    caplog.set_level(logging.INFO)
    broker = listen()
    assert broker.reload() is True
    read = []

    def fail():
        raise RuntimeError("a bad certificate")

    broker.reloads += [("certificates", fail), ("others", lambda: read.append(1) or "one")]
    assert broker.reload() is False
    assert read == [1]
    lines = [(record.levelname, record.getMessage()) for record in caplog.records][-2:]
    assert lines == [
        ("ERROR", "reload: certificates stay as they were: a bad certificate"),
        ("INFO", "reload: others: one"),
    ]


def test_a_broker_with_a_bad_file_does_not_start(h, files, tmp_path):
    with pytest.raises(ValueError, match="no token in it"):
        h.broker.listen("tcp://127.0.0.1:0", token_file=files.tokens(**{"#": "a comment"}))
    with pytest.raises(OSError, match="none"):
        h.broker.listen("tcp://127.0.0.1:0", permissions=str(tmp_path / "none"))


def test_a_flood_of_wrong_tokens_delays_nobody_who_is_in(h, listen, files):
    broker = listen(token_file=files.tokens(**{f"i{n}": f"token number {n} of many" for n in range(100)}))
    with h.client.connect(broker.urls[0], token="token number 7 of many") as remote:
        jobs, back = remote.push("jobs"), remote.pull("jobs")
        for number in range(20):
            crowd = [connected(h, broker, "a wrong token, again") for _ in range(10)]
            jobs.send(number)
            assert back.recv(timeout=PATIENCE) == number
            for peer in crowd:
                assert peer.gone()
                peer.close()
        until(h, lambda: len(broker.sessions) == 1)


# -- requests


@pytest.mark.parametrize(("token", "where", "identity"), [(TOKENS["web"], 0, "web"), (None, 1, ME), ("web", 1, "web")])
def test_a_server_is_told_who_asks(h, listen, files, token, where, identity):
    broker = listen(token_file=files.tokens())
    token = TOKENS["web"] if token == "web" else token
    with h.client.connect(broker.urls[1]) as serving, h.client.connect(broker.urls[where], token=token) as asking:
        requests = serving.router("whoami")
        answer = asking.dealer("whoami").call("?")
        request = requests.recv(timeout=PATIENCE)
        assert request.identity == identity
        request.reply(request.identity)
        assert answer.recv(timeout=PATIENCE) == identity


def test_calls_and_servers_without_permission_are_refused(h, listen, files):
    broker = listen(permissions=files.permissions(("*", "sums", "call")))
    with h.client.connect(broker.urls[0]) as remote:
        with pytest.raises(Refused, match="DENIED: anonymous has no permission 'serve' for endpoint 'sums'"):
            remote.router("sums").recv(timeout=PATIENCE)
        with pytest.raises(Refused, match="DENIED: anonymous has no permission 'call' for endpoint 'others'"):
            remote.dealer("others").call(1).recv(timeout=PATIENCE)
        remote.ping()

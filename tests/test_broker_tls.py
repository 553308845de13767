"""tls:// between client and broker: who may come in, what each side is told, and that nobody waits for a handshake."""

from __future__ import annotations

import os
import re
import shutil
import socket
import ssl
import subprocess
from pathlib import Path

import pytest
from descriptors import open_descriptors
from peers import PATIENCE, Peer, data, until
from programs import BROKER, broker, environment, vanilla

import vanilla as v
from vanilla.broker import session
from vanilla.broker.access import check_subject
from vanilla.certificates import client_context
from vanilla.protocol.errors import ProtocolError
from vanilla.protocol.frames import CREDIT, ERROR

BIG = os.urandom(1 << 19)


@pytest.fixture
def served(h, certs):
    """A broker that asks for certificates."""
    with h.broker.listen("tls://127.0.0.1:0", tls_cert=certs.server, tls_client_ca=certs.ca, hello_ms=300) as broker:
        yield broker


@pytest.fixture
def open_to_all(h, certs):
    """A broker that asks for none."""
    with h.broker.listen("tls://127.0.0.1:0", tls_cert=certs.cert, tls_key=certs.key, hello_ms=300) as broker:
        yield broker


def refused(h, url, **files):
    with pytest.raises(v.ConnectionLost) as caught:
        with h.client.connect(url, timeout=PATIENCE, **files) as remote:
            remote.ping()  # TLS 1.3: the client is done before the server has looked at its certificate
    assert str(caught.value).startswith(url)
    return str(caught.value)


def test_large_and_small_messages_pass(h, certs, open_to_all):
    with h.client.connect(open_to_all.urls[0], ca=certs.ca) as remote:
        items = [BIG, *range(5_000), BIG, "end"]
        h.spawn(lambda: [remote.push("jobs").send(item) for item in items])
        jobs = remote.pull("jobs")
        assert [jobs.recv(timeout=PATIENCE) for _ in items] == items


def test_the_session_knows_whom_the_certificate_names(h, certs, served):
    with h.client.connect(served.urls[0], ca=certs.ca, cert=certs.client):
        (session,) = served.sessions
        assert session.identity == "worker.example.test"


def test_who_shows_no_certificate_where_none_is_asked_for_is_anonymous(h, certs, open_to_all):
    with h.client.connect(open_to_all.urls[0], ca=certs.ca, cert=certs.client):
        (session,) = open_to_all.sessions
        assert session.identity == ""


@pytest.mark.parametrize(("cert", "text"), [("", "wants a certificate of us"), ("stranger", "authority")])
def test_a_client_without_the_right_certificate_is_told_and_logged(h, certs, served, caplog, cert, text):
    told = refused(h, served.urls[0], ca=certs.ca, cert=getattr(certs, cert, ""))
    assert text in told
    assert re.search(r"session 127\.0\.0\.1:\d+: closed: (TLS: the peer showed no|the peer's) certificate", caplog.text)
    until(h, lambda: not served.sessions)


@pytest.mark.parametrize(("ca", "text"), [("", "not accepted"), ("stranger_ca", "not accepted")])
def test_a_client_does_not_talk_to_a_broker_that_it_cannot_verify(h, certs, open_to_all, ca, text):
    assert text in refused(h, open_to_all.urls[0], ca=getattr(certs, ca, ""))
    until(h, lambda: not open_to_all.sessions)


def test_a_plain_client_is_told_that_only_tls_is_spoken(h, open_to_all, caplog):
    url = open_to_all.urls[0].replace("tls:", "tcp:")
    assert "only TLS is spoken at this address: connect to it by tls://" in refused(h, url)
    assert "only TLS is spoken" in caplog.text
    until(h, lambda: not open_to_all.sessions)


def test_a_tls_client_of_a_plain_broker_is_told_and_so_is_the_broker(h, certs, caplog):
    with h.broker.listen("tcp://127.0.0.1:0") as plain:
        url = plain.urls[0].replace("tcp:", "tls:")
        assert "does not speak TLS" in refused(h, url, ca=certs.ca)
        assert "BAD_FRAME: this is the beginning of TLS" in caplog.text
        until(h, lambda: not plain.sessions)


def test_certificates_for_an_address_in_the_clear_are_an_error(h, certs):
    for files in {"ca": certs.ca}, {"cert": certs.client}, {"verify": False}:
        with pytest.raises(ValueError, match="nothing is encrypted"):
            h.client.connect("tcp://127.0.0.1:1", **files)


def test_one_connection_too_many_is_told_so_by_tls(h, certs):
    with h.broker.listen("tls://127.0.0.1:0", tls_cert=certs.server, connections=1) as broker:
        with h.client.connect(broker.urls[0], ca=certs.ca):
            assert "TOO_MANY" in refused(h, broker.urls[0], ca=certs.ca)


def test_the_reason_arrives_though_much_was_not_read(h, open_to_all):
    peer = Peer(h, open_to_all.urls[0])
    peer.send(b"\xc1" + bytes(200_000))
    assert peer.fields(ERROR)["code"] == "BAD_FRAME"
    assert peer.gone()
    peer.close()


def test_who_breaks_tls_is_sent_nothing_in_the_clear(h, open_to_all, monkeypatch):
    monkeypatch.setattr(session, "LAST_WORDS_MS", 60_000)
    secret = b"nobody on the way reads this"
    peer = Peer(h, open_to_all.urls[0])
    peer.open(1, "push", "jobs")
    peer.open(2, "pull", "jobs")
    peer.credit(2)
    peer.want(1, n=1, b=900_000)
    while peer.fields(CREDIT)["b"] < 900_000:
        pass
    raw = peer.sock._sock
    (one,) = open_to_all.sessions
    one.sock._sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4_608)
    peer.send(data(1, 0, [secret * 30_000]))
    until(h, lambda: one.out)
    raw.send(b"\x17\x03\x03\x00\x20" + bytes(32))
    found = b""
    until(h, lambda: one.closing)
    while True:
        try:
            got = raw.recv(1 << 20)
        except BlockingIOError:
            h.sleep(1)
            continue
        if not got:
            break
        found += got
    assert len(found) < 900_000 and secret[:10] not in found
    peer.close()
    until(h, lambda: not open_to_all.sessions)  # it has heard of that, and no timer


@pytest.mark.parametrize("said", [b"", b"\x16\x03\x01", b"half", b"whole"])
def test_slow_handshakes_end_at_the_hello_timeout_and_delay_nobody(h, certs, open_to_all, said):
    if said in (b"half", b"whole"):
        bio = ssl.MemoryBIO(), ssl.MemoryBIO()
        with pytest.raises(ssl.SSLWantReadError):
            client_context(certs.ca).wrap_bio(*bio, server_hostname="localhost").do_handshake()
        said = bio[1].read()[: None if said == b"whole" else 100]
    before = open_descriptors()
    address = open_to_all.urls[0][6:].split(":")
    slow = [socket.create_connection((address[0], int(address[1]))) for _ in range(100)]
    for sock in slow:
        sock.send(said)
    with h.client.connect(open_to_all.urls[0], ca=certs.ca) as remote:
        remote.ping()
        until(h, lambda: len(open_to_all.sessions) == 1)
        remote.ping()
    for sock in slow:
        sock.settimeout(30)
        while sock.recv(65536):
            pass
        sock.close()
    until(h, lambda: not open_to_all.sessions)
    assert open_descriptors() == before


def test_new_connections_get_the_certificate_that_was_read_last(h, certs, tmp_path):
    path = tmp_path / "server.pem"
    shutil.copy(certs.server, path)
    with h.broker.listen("tls://127.0.0.1:0", tls_cert=str(path)) as broker:
        with h.client.connect(broker.urls[0], ca=certs.ca) as remote:
            shutil.copy(certs.stranger, path)
            broker.tls.reload()
            remote.ping()
            assert "not accepted" in refused(h, broker.urls[0], ca=certs.ca)
        h.client.connect(broker.urls[0], ca=certs.stranger_ca).close()


@pytest.mark.parametrize(
    ("options", "url", "text"),
    [
        ({}, "tls://127.0.0.1:0", "needs a certificate: --tls-cert"),
        ({"tls_key": "x"}, "unix:///x", "tls_key is of no use without tls_cert"),
        ({"tls_client_ca": "x"}, "unix:///x", "tls_client_ca is of no use without tls_cert"),
        ({"tls_cert": "missing.pem"}, "unix:///x", "missing.pem: no such file"),
        ({"tls_cert": "{server}"}, "tls://0.0.0.0:0", "whoever connects may do everything"),
        ({"tls_cert": "{server}", "tls_client_ca": "{ca}"}, "tcp://0.0.0.0:0", "nothing is encrypted"),
    ],
)
def test_what_cannot_be_is_an_error_that_says_what_to_do(h, certs, options, url, text):
    with pytest.raises(ValueError, match=re.escape(text)):
        h.broker.listen(url, **{key: value.format(**vars(certs)) for key, value in options.items()})


def test_other_machines_are_let_in_with_encryption_and_certificates(h, certs):
    with h.broker.listen("tls://0.0.0.0:0", tls_cert=certs.server, tls_client_ca=certs.ca) as broker:
        url = broker.urls[0].replace("0.0.0.0", "127.0.0.1")
        with h.client.connect(url, ca=certs.ca, cert=certs.client) as remote:
            remote.ping()


# -- the programs


def test_the_programs_speak_tls(certs):
    files = ("--tls-cert", certs.cert, "--tls-key", certs.key, "--tls-client-ca", certs.ca)
    with broker(*files, listen="tls://127.0.0.1:0") as (url, _):
        mine = ("--url", url, "--tls-ca", certs.ca, "--tls-cert", certs.client)
        assert vanilla("push", "jobs", *mine, input=b"1\n2\n") == (0, "", "")
        assert vanilla("pull", "jobs", "-n", "2", *mine) == (0, "1\n2\n", "")
        said = vanilla("status", "--url", url, "--tls-ca", certs.ca)
        assert said[0] == 1 and "wants a certificate" in said[2] and said[2].count("\n") == 1


def test_variables_stand_for_flags_but_not_where_nothing_is_encrypted(certs):
    variables = environment(VANILLA_TLS_CA=certs.ca)
    with broker("--tls-cert", certs.server, "--listen", "tcp://127.0.0.1:0", listen="tls://127.0.0.1:0") as (url, p):
        plain = p.urls[1]
        assert vanilla("status", "--url", url, env=variables)[0] == 0
        assert vanilla("status", "--url", plain, env=variables)[0] == 0
        status, _, said = vanilla("status", "--url", plain, "--tls-ca", certs.ca)
        assert status == 1 and "nothing is encrypted" in said
        status, _, said = vanilla("status", "--url", url, "--tls-ca", "missing.pem")
        assert (status, said) == (1, "vanilla status: missing.pem: no such file or directory\n")


def test_the_processes_of_a_bench_find_the_files(certs):
    with broker("--tls-cert", certs.server, listen="tls://127.0.0.1:0") as (url, _):
        status, said, errors = vanilla(
            "bench", "--url", url, "--tls-ca", certs.ca, "--size", "16", "--seconds", "0.2", "--json"
        )
        assert status == 0, errors
        assert '"size": 16' in said


@pytest.mark.parametrize(
    ("args", "text"),
    [
        (("--tls-cert", "missing.pem"), "missing.pem: no such file or directory"),
        (("--tls-key", "x"), "--tls-key is of no use without tls_cert"),
        (("--tls-cert", "{cert}", "--tls-key", "{locked_key}"), "the key has a passphrase"),
    ],
)
def test_a_wrong_file_is_one_line_and_status_1(certs, args, text):

    command = [*BROKER, *(arg.format(**vars(certs)) for arg in args)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert text in done.stderr


def test_with_a_token_file_a_token_or_a_certificate_will_do(certs, tmp_path):
    token = tmp_path / "token"
    hashes = tmp_path / "hashes"
    made = subprocess.run([*BROKER, "token", "web"], capture_output=True, text=True, check=True, timeout=60)
    token.write_text(made.stdout)
    hashes.write_text(made.stderr)
    token.chmod(0o600)
    hashes.chmod(0o600)
    options = ["--tls-cert", certs.server, "--tls-client-ca", certs.ca, "--token-file", str(hashes)]
    with broker(*options, listen="tls://127.0.0.1:0") as (url, _):
        here = ["status", "--url", url, "--tls-ca", certs.ca]
        assert vanilla(*here, "--token-file", str(token))[0] == 0
        assert vanilla(*here, "--tls-cert", certs.client)[0] == 0
        status, _, said = vanilla(*here)
        assert status == 1 and "DENIED" in said


def test_a_reload_reads_the_certificates_anew_and_keeps_those_that_it_had_if_they_are_bad(h, certs, tmp_path, caplog):
    pem = tmp_path / "server.pem"
    pem.write_text(Path(certs.server).read_text())
    with h.broker.listen("tls://127.0.0.1:0", tls_cert=str(pem)) as served:
        before = served.tls.context
        pem.write_text("no certificate")
        assert not served.reload()
        assert "certificates stay as they were" in caplog.text
        assert served.tls.context is before
        pem.write_text(Path(certs.server).read_text())
        assert served.reload()
        assert served.tls.context is not before
        h.client.connect(served.urls[0], ca=certs.ca).close()


def test_a_certificate_cannot_name_a_user_of_a_unix_socket():
    with pytest.raises(ProtocolError, match="DENIED"):
        check_subject("uid:0")
    assert check_subject("worker") == "worker"

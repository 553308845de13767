"""Certificates and keys: what is wrong with a file is said in one line that names it."""

from __future__ import annotations

import shutil
import ssl
from pathlib import Path

import pytest

from vanilla.certificates import ServerFiles, client_context, server_context, subject


def test_both_sides_take_tls_1_2_and_later_only(certs):
    for context in server_context(certs.server), client_context(certs.ca):
        assert context.minimum_version == ssl.TLSVersion.TLSv1_2


def test_a_client_verifies_certificate_and_host_unless_told_otherwise(certs):
    context = client_context(certs.ca)
    assert context.verify_mode == ssl.CERT_REQUIRED and context.check_hostname
    assert [found["subject"] for found in context.get_ca_certs()]
    assert client_context(verify=False).verify_mode == ssl.CERT_NONE


def test_a_client_trusts_the_systems_authorities_only_if_no_others_are_named(certs):
    assert len(client_context(certs.ca).get_ca_certs()) == 1


def test_a_server_asks_for_a_certificate_only_if_it_knows_who_may_have_signed_it(certs):
    assert server_context(certs.server).verify_mode == ssl.CERT_NONE
    assert server_context(certs.server, client_ca=certs.ca).verify_mode == ssl.CERT_REQUIRED


def test_certificate_and_key_may_be_two_files(certs):
    server_context(certs.cert, certs.key)
    client_context(certs.ca, certs.cert, certs.key)


@pytest.mark.parametrize("make", [lambda *files: server_context(*files), lambda *files: client_context("", *files)])
@pytest.mark.parametrize(
    ("files", "text"),
    [
        (("missing.pem",), "missing.pem: no such file or directory"),
        (("{folder}",), "{folder}: is a directory"),
        (("{server}", "missing.pem"), "missing.pem: no such file or directory"),
        (("{key}",), "{key}: there is no certificate in it"),
        (("{cert}",), "{cert}: there is no private key in it"),
        (("{cert}", "{ca}"), "{ca}: there is no private key in it"),
        (("{cert}", "{client}"), "the key in {client} does not belong to the certificate in {cert}"),
        (("{cert}", "{locked_key}"), "{locked_key}: the key has a passphrase"),
    ],
)
def test_a_file_that_is_not_right_is_named(certs, make, files, text):
    with pytest.raises(ValueError) as caught:
        make(*(file.format(**vars(certs)) for file in files))
    assert text.format(**vars(certs)) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("what", ["cert", "key"])
def test_a_damaged_file_is_named(certs, tmp_path, what):
    path = tmp_path / "damaged.pem"
    lines = Path(getattr(certs, what)).read_text().splitlines()
    path.write_text("\n".join([lines[0], lines[1][::-1], *lines[2:]]))
    files = {"cert": certs.cert, "key": certs.key, what: str(path)}
    with pytest.raises(ValueError, match=r"damaged\.pem"):
        server_context(**files)


@pytest.mark.parametrize("path", ["missing.pem", "{key}"])
def test_authorities_that_are_none_are_named(certs, path):
    path = path.format(**vars(certs))
    for make in (lambda: client_context(path), lambda: server_context(certs.server, "", path)):
        with pytest.raises(ValueError) as caught:
            make()
        assert str(caught.value).startswith(f"{path}: ")


def test_what_would_be_passed_over_is_refused(certs):
    with pytest.raises(ValueError, match="without its certificate"):
        client_context(key=certs.key)
    with pytest.raises(ValueError, match="verify=False"):
        client_context(ca=certs.ca, verify=False)


def test_reloading_takes_what_the_files_hold_now(certs, tmp_path):
    path = tmp_path / "server.pem"
    shutil.copy(certs.server, path)
    files = ServerFiles(str(path))
    before = files.context
    shutil.copy(certs.elsewhere, path)
    files.reload()
    assert files.context is not before


def test_a_reload_that_fails_keeps_what_was_there(certs, tmp_path):
    path = tmp_path / "server.pem"
    shutil.copy(certs.server, path)
    files = ServerFiles(str(path))
    before = files.context
    path.write_text("no certificate")
    with pytest.raises(ValueError, match=r"server\.pem"):
        files.reload()
    assert files.context is before


COMMON = (("subject", ((("commonName", "cn"),),)),)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ((("email", "a@x"), ("URI", "spiffe://x/a"), ("DNS", "one"), ("DNS", "two")), "one"),
        ((("email", "a@x"), ("URI", "spiffe://x/a")), "spiffe://x/a"),
        ((("IP Address", "127.0.0.1"), ("email", "a@x")), "a@x"),
        ((("IP Address", "127.0.0.1"),), "cn"),
        ((("DNS", "a\nb"),), "cn"),
        ((), "cn"),
    ],
)
def test_a_certificate_names_its_holder(names, expected):
    assert subject({"subjectAltName": names, **dict(COMMON)}, b"der") == expected


def test_a_certificate_that_names_nobody_is_named_by_its_fingerprint():
    expected = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # FIPS 180-2, B.1
    assert subject({}, b"abc") == expected
    assert subject({"subject": ((("commonName", "a\0b"),),)}, b"abc") == expected

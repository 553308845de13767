"""Cookies: good for their address, client and time alone, and nothing is kept for them."""

from __future__ import annotations

from random import Random

from vanilla.protocol.cookies import KEY_LIFE, SLOT, Cookies
from vanilla.protocol.packets import INIT_BYTES, Init, parse_retry

HERE = ("127.0.0.1", 5)


def asked(cookies, now, address=HERE, client=7):
    """A client asks, and returns what it was answered: its INIT, and the token that it was told."""
    retry = parse_retry(cookies.retry(address, Init(1, 0, client, bytes(16)), now))
    return Init(1, retry.server, client, retry.cookie), retry.server


def test_who_returns_its_cookie_gets_the_session_that_it_was_told():
    cookies = Cookies(0.0, Random(1))
    init, server = asked(cookies, 3.0)
    assert server and cookies.check(HERE, init, 4.0) == server


def test_a_cookie_is_good_for_one_to_two_slots():
    cookies = Cookies(0.0, Random(1))
    init, server = asked(cookies, 0.0)
    assert cookies.check(HERE, init, 2 * SLOT - 0.1) == server
    assert cookies.check(HERE, init, 2 * SLOT) == 0


def test_a_cookie_is_good_for_its_address_and_client_alone():
    cookies = Cookies(0.0, Random(1))
    init, _ = asked(cookies, 0.0)
    assert cookies.check(("127.0.0.1", 6), init, 1.0) == 0
    assert cookies.check(HERE, init._replace(client=8), 1.0) == 0
    assert cookies.check(HERE, init._replace(cookie=bytes(16)), 1.0) == 0
    assert cookies.check(HERE, init._replace(cookie=bytes([init.cookie[0] ^ 1]) + init.cookie[1:]), 1.0) == 0
    assert Cookies(0.0, Random(2)).check(HERE, init, 1.0) == 0


def test_keys_change_and_a_cookie_outlives_its_key_by_its_own_time():
    cookies = Cookies(0.0, Random(1))
    before = KEY_LIFE - 1
    init, server = asked(cookies, before)
    key = cookies._key
    assert cookies.check(HERE, init, KEY_LIFE + 1) == server
    assert cookies._key != key
    again, _ = asked(cookies, KEY_LIFE + 1)
    assert again.cookie != init.cookie
    for hour in range(2, 4):
        asked(cookies, hour * KEY_LIFE)
    assert key not in (cookies._key, cookies._older)


def test_an_answer_is_shorter_than_what_asked():
    cookies = Cookies(0.0, Random(1))
    assert len(cookies.retry(HERE, Init(1, 0, 7, bytes(16)), 0.0)) < INIT_BYTES

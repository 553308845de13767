"""Where a broker may listen: other machines need encryption and authentication, or somebody who said --insecure."""

from __future__ import annotations

import pytest

from vanilla.broker.exposure import check_exposure
from vanilla.protocol.urls import parse

LOCAL = ["unix:///x", "tcp://127.0.0.1:1", "tcp://[::1]:1", "tls://localhost:1"]


@pytest.mark.parametrize("insecure", [False, True])
@pytest.mark.parametrize("authenticated", [False, True])
@pytest.mark.parametrize("url", [*LOCAL, "tcp://0.0.0.0:1", "tls://0.0.0.0:1"])
def test_who_else_can_reach_it_needs_both(url, authenticated, insecure):
    allowed = url in LOCAL or insecure or (url.startswith("tls:") and authenticated)
    if allowed:
        check_exposure(parse(url), authenticated, insecure)
        return
    with pytest.raises(ValueError) as caught:
        check_exposure(parse(url), authenticated, insecure)
    assert url in str(caught.value)
    assert ("nothing is encrypted" in str(caught.value)) is url.startswith("tcp:")

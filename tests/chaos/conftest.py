"""Scenarios have a short form, for every run of the tests, and a long one: ``make chaos``. Both say their figures."""

from __future__ import annotations

import pytest
from cutting import Book


@pytest.fixture
def tell(record_property):
    """Say a figure: it is printed at the end of the run."""
    return lambda figure: record_property("figure", str(figure))


@pytest.fixture
def journals(tmp_path):
    """Where the processes of a test write down what they see."""
    folder = tmp_path / "journals"
    folder.mkdir()
    return folder


@pytest.fixture
def book():
    return Book()


@pytest.fixture
def broker(h):
    with h.broker.listen("tcp://127.0.0.1:0", backoff_ms=0) as broker:
        yield broker


@pytest.fixture
def direct(h, broker):
    with h.client.connect(broker.urls[0]) as remote:
        yield remote

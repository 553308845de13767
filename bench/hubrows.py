"""The rows of `hub` (channels within one process, beside gevent's), in the shape that the other rows have."""

from __future__ import annotations

from typing import Any

import hub
from oneway import Settings
from processes import describe
from sides import Side

_BATCHING = "none: a call a message at both ends, two tasks of one hub"
_GUARANTEE = "none needed: one process"


class _Ours(Side):
    title = "vanilla"
    package = "vanilla-broker"
    guarantee = _GUARANTEE
    payload = "Python objects, handed over"
    batching = _BATCHING


class _Gevent(_Ours):
    title = "gevent"
    package = "gevent"


def measurements(settings: Settings) -> int:
    """How often `rows` will call ``settings.progress``."""
    present = [side for side in (_Ours(), _Gevent()) if not describe(side)["missing"]]
    return len(present) * len(hub.WORKS) * settings.rounds


def rows(settings: Settings) -> list[dict[str, Any]]:
    """Measure them all."""
    return [row(found) for found in hub.rows(settings.rounds, lambda line: settings.progress(f"hub: {line}"))]


def row(found: dict[str, Any]) -> dict[str, Any]:
    """One row of `hub.rows`, which knows medians and spreads only."""
    sides = {
        "vanilla": {**describe(_Ours()), **summary(found["ours"], found["ours_spread"])},
        "gevent": {**describe(_Gevent()), **summary(found["theirs"], found["theirs_spread"])},
    }
    sides["gevent"]["missing"] = found["note"]
    median = found["ratio"]
    ratio = None if median is None else {"median": median, "low": None, "high": None}
    return {
        "name": "hub",
        "kind": "rate",
        "title": f"hub: {found['work']}",
        "size": None,
        "messages": None,
        "sides": sides,
        "ratios": {"gevent": ratio},
        "goal": found["goal"],
        "met": {"gevent": None if ratio is None else median >= found["goal"]},
    }


def summary(rate: float | None, spread: float | None) -> dict[str, Any]:
    """*spread* is from the least to the most, as a share of the median; which these were is not known here."""
    return {"rate": rate, "low": None, "high": None, "spread": spread, "rates": [], "cpu": None}

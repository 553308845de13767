"""Options of an endpoint, as a caller gives them."""

from __future__ import annotations

from typing import Any

from vanilla.protocol.errors import Refused
from vanilla.protocol.terms import TERMS, check_terms


def asked(options: dict[str, Any], call: str) -> dict[str, Any]:
    """*options*, the keyword arguments of *call*, as OPEN says them.

    :raises TypeError: there is no such option.
    :raises ValueError: an option cannot have this value.
    """
    for key in options:
        if key not in TERMS:
            raise TypeError(
                f"{call}() has no argument {key!r}, nor an endpoint such an option; there are {', '.join(TERMS)}"
            )
    try:
        return check_terms(options)
    except Refused as error:
        raise ValueError(error.text) from None

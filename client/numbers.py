"""Numbers that users give, before they go to the broker: what it refuses there would cost the whole connection."""

from __future__ import annotations

import operator
from typing import Any

#: More than anybody has, and well within 64 bits.
MOST = 1 << 62


def whole(number: Any, what: str, least: int) -> int:
    """*number* as an int.

    :param what: what the error calls it.
    :raises TypeError: it is no whole number.
    :raises ValueError: it is less than *least*, or more than `MOST`.
    """
    try:
        found = int(operator.index(number))
    except TypeError:
        raise TypeError(f"{what} is a whole number, not {number!r}") from None
    if not least <= found <= MOST:
        raise ValueError(f"{what} is at least {least} and at most 2^62, not {number!r}")
    return found

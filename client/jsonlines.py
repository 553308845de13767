"""Items as lines of JSON, for `vanilla push` and `vanilla pull`.

JSON holds less than msgpack. What it lacks is written so that a line is always valid JSON: bytes as
``{"$bytes": BASE64}``, which `decode` reads back, so that ``vanilla pull a | vanilla push b`` moves them unharmed;
times as ISO 8601; a map's keys as their JSON text. Only NaN and infinity are refused: whatever stood for them would be
taken for a value.
"""

from __future__ import annotations

import base64
import json
import math
from datetime import datetime
from typing import Any

#: One byte of a message is at most so many in JSON, blanks aside: ``\\u0000``.
EXPANSION = 6
#: The one key of a map that stands for bytes.
BYTES = "$bytes"


def encode(item: Any) -> bytes:
    r"""One line, with its end.

    >>> encode({1: b"ab"}).decode()
    '{"1": {"$bytes": "YWI="}}\n'

    :raises ValueError: NaN or infinity is in it.
    """
    try:
        text = _encode(item)
    except TypeError:  # json takes only some keys, and gives no chance to say how to write the others
        text = _encode(_text_keys(item))
    except ValueError:
        raise ValueError("JSON has no NaN and no infinity") from None
    return text.encode() + b"\n"


def _default(value: Any) -> Any:
    if isinstance(value, bytes):
        return {BYTES: base64.b64encode(value).decode()}
    if isinstance(value, datetime):
        return value.isoformat()
    raise TypeError(f"{type(value).__name__} has no form in JSON")


_encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False, default=_default).encode


def _text_keys(value: Any) -> Any:
    if isinstance(value, dict):
        return {_text_key(key): _text_keys(inner) for key, inner in value.items()}
    return [_text_keys(inner) for inner in value] if isinstance(value, list) else value


def _text_key(key: Any) -> Any:
    if isinstance(key, bytes):
        return _encode(key)
    return key.isoformat() if isinstance(key, datetime) else key


def decode(line: bytes) -> Any:
    """The item of one line.

    >>> decode(b'{"$bytes": "YWI="}')
    b'ab'

    :raises ValueError: it is no JSON; the text says where.
    """
    text = line.decode()
    try:
        return _decode_bytes(text) if BYTES in text else _decode(text)
    except json.JSONDecodeError as error:  # its own text speaks of line 1
        raise ValueError(f"{error.msg} at column {error.colno}") from None
    except RecursionError:
        raise ValueError("nested too deep") from None


def _no_constant(text: str) -> Any:
    raise ValueError(f"{text} is no JSON")


def _finite(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError(f"{text} is too large for a float")
    return value


def _to_bytes(value: dict[str, Any]) -> Any:
    if set(value) != {BYTES}:
        return value
    try:
        return base64.b64decode(value[BYTES], validate=True)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{BYTES} needs base64: {error}") from None


_decode = json.JSONDecoder(parse_constant=_no_constant, parse_float=_finite).decode
# A hook is called for each map: only lines that may need it pay for it.
_decode_bytes = json.JSONDecoder(parse_constant=_no_constant, parse_float=_finite, object_hook=_to_bytes).decode

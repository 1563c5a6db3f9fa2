"""Strict JSON: without NaN, Infinity and lone surrogates, which Python's own reader takes."""

import json
import re
from typing import Any

_SURROGATE_ESCAPE = re.compile(r"\\u[dD][89a-fA-F]")


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a JSON value")


decoder = json.JSONDecoder(parse_constant=_refuse_constant)


def loads(text: str) -> Any:
    """The value that the text holds. Raises ValueError; RecursionError when it is nested too deeply."""
    value = decoder.decode(text)
    refuse_lone_surrogates(text, value)
    return value


def refuse_lone_surrogates(text: str, value: Any) -> None:
    """Raises ValueError when `value`, which was read from `text`, holds half of a surrogate pair."""
    if not _SURROGATE_ESCAPE.search(text):
        return
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise ValueError("it holds a lone surrogate, which is no Unicode text") from error

"""A body before it is parsed: three bytes of `{},` cost 70 of memory then, so they are counted first."""

import re

from app.errors import RequestRefused
from app.limits.refusal import check_limit
from app.settings import RequestLimits

_STRING = re.compile(rb'"[^"]*"')
_NO_STRUCTURE = bytes(set(range(256)) - set(b'"{[,'))


def check_text(body: bytes, limits: RequestLimits) -> None:
    """Raises RequestRefused when a body holds more values than allowed. It may be anything, not only JSON."""
    objects, values = _containers(body), body.count(b",")
    if objects <= limits.containers and values <= limits.values:
        return  # commas and braces in texts count as well so far; most bodies need no closer look
    structure = _structure(body, limits)
    check_limit(_containers(structure), limits.containers, "containers", "objects and arrays in the body")
    check_limit(structure.count(b","), limits.values, "values", "values in the body")


def _containers(body: bytes) -> int:
    return body.count(b"{") + body.count(b"[")


def _structure(body: bytes, limits: RequestLimits) -> bytes:
    """The braces, brackets and commas that are outside of strings."""
    plain = body.replace(b"\\\\", b"").replace(b'\\"', b"").translate(None, _NO_STRUCTURE).replace(b'""', b"")
    # A string is a value or a member's name. So many that hold braces or commas would be slow to take out one by one.
    if plain.count(b'"') > limits.values:
        message = f"Too many values in the body. At most {limits.values:,} are allowed (requests.values). Ask for less."
        raise RequestRefused("limit_exceeded", message)
    return _STRING.sub(b"", plain)

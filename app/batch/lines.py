"""The lines of a batch input file: from bytes to requests, or to a fault with OpenAI's code.

Only LF ends a line: U+2028, NEL and the like are text. A CR before it is white space to JSON, blank lines hold no
request, and a UTF-8 byte order mark at the start is not part of the first line. The body is kept as the bytes that
came, so that vLLM gets numbers, duplicated keys and escapes as the client wrote them.
"""

import re
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any

from app import strict_json

BOM = b"\xef\xbb\xbf"

QUOTED_CHARACTERS = 200
"""Longer than any sensible custom_id or model name."""


@dataclass(frozen=True)
class Line:
    """One request. `body` is its JSON object, byte for byte; `model` is read from it."""

    custom_id: str
    method: str
    url: str
    body: bytes
    model: str | None


@dataclass(frozen=True)
class LineFault:
    """Why a line or a file cannot be run, as OpenAI's BatchError. `line` counts from 1; None: the whole file."""

    code: str
    message: str
    param: str | None = None
    line: int | None = None

    def as_dict(self) -> dict[str, Any]:
        return {"code": self.code, "message": self.message, "param": self.param, "line": self.line}


class LineError(Exception):
    """A line is not a request."""

    def __init__(self, code: str, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.code, self.message, self.param = code, message, param

    def at(self, line: int) -> LineFault:
        return LineFault(self.code, self.message, self.param, line)


@dataclass(frozen=True)
class RawLine:
    """A line's bytes without the line end. `number` counts all lines from 1, `offset` is its first byte in the file."""

    number: int
    offset: int
    data: bytes
    length: int
    """Bytes that the line takes in the file, its LF included."""
    too_long: bool
    """Whether `data` is only the line's beginning."""

    @property
    def blank(self) -> bool:
        return not self.too_long and _blank(self.data)


async def split_lines(parts: AsyncIterator[bytes], *, longest: int) -> AsyncIterator[RawLine]:
    """Cuts a stream into lines. Of a line longer than `longest` bytes only the first `longest` are kept."""
    number, offset, kept, length = 1, 0, bytearray(), 0
    async for part in parts:
        start = 0
        while (end := part.find(b"\n", start)) >= 0:
            kept += part[start : min(end, start + longest - len(kept))]
            length += end + 1 - start
            yield RawLine(number, offset, bytes(kept), length, too_long=length - 1 > longest)
            number, offset, start, length = number + 1, offset + length, end + 1, 0
            kept.clear()
        kept += part[start : start + longest - len(kept)]
        length += len(part) - start
    if length:
        yield RawLine(number, offset, bytes(kept), length, too_long=length > longest)


def requests_of(data: bytes) -> Iterator[bytes]:
    """The lines of a shard's bytes that hold a request, in order."""
    return (line for line in data.split(b"\n") if not _blank(line))


def _blank(line: bytes) -> bool:
    return not line.removeprefix(BOM).strip()


def parse_line(data: bytes) -> Line:
    """The request that a line holds. Raises LineError with OpenAI's code."""
    return read_line(data)[0]


def read_line(data: bytes) -> tuple[Line, dict[str, Any]]:
    """The request that a line holds, and its body as a value. Raises LineError with OpenAI's code."""
    text = _decoded(data.removeprefix(BOM))
    spans = _members(text)
    values = {name: value for name, (value, _, _) in spans.items()}
    for name, kind in (("custom_id", str), ("method", str), ("url", str), ("body", dict)):
        if values.get(name) is None:
            raise LineError("missing_required_parameter", f"Missing required parameter: '{name}'.", name)
        if not isinstance(values[name], kind):
            wanted = "a string" if kind is str else "an object"
            raise LineError("invalid_type", f"Invalid type for '{name}': expected {wanted}.", name)
    if not values["custom_id"]:
        raise LineError("missing_required_parameter", "Missing required parameter: 'custom_id'.", "custom_id")
    if values["method"] != "POST":
        raise LineError(
            "invalid_method", f"Invalid method '{quoted(values['method'])}': only 'POST' is supported.", "method"
        )
    body = values["body"]
    _, start, end = spans["body"]
    model = body.get("model")
    line = Line(
        custom_id=values["custom_id"],
        method=values["method"],
        url=values["url"],
        body=text[start:end].encode(),
        model=model if isinstance(model, str) and model else None,
    )
    return line, body


def quoted(text: str) -> str:
    """What a message shows of a client's text: that may be a whole line, and a batch lists up to 100 messages."""
    return text if len(text) <= QUOTED_CHARACTERS else text[:QUOTED_CHARACTERS] + "…"


_INVALID_JSON = "This line is not parseable as valid JSON"
_SPACE = re.compile(r"[ \t\r\n]*")


def _decoded(data: bytes) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise LineError(
            "invalid_json_line", f"{_INVALID_JSON}: byte {error.start + 1} is not valid UTF-8 ({error.reason})."
        ) from error


def _members(text: str) -> dict[str, tuple[Any, int, int]]:
    """The members of the top-level object: name → (value, start, end), where text[start:end] is the value's JSON."""
    try:
        position = _expect(text, 0, "{")
        members: dict[str, tuple[Any, int, int]] = {}
        if text[position : position + 1] != "}":
            while True:
                name, position = _value(text, position)
                if not isinstance(name, str):
                    raise ValueError("a member's name must be a string")
                start = _expect(text, position, ":")
                value, end = _value(text, start)
                if name in members:
                    raise LineError("invalid_json_line", f"{_INVALID_JSON}: the key '{quoted(name)}' stands twice.")
                members[name] = (value, start, end)
                position = _skip_space(text, end)
                if text[position : position + 1] != ",":
                    break
                position = _skip_space(text, position + 1)
        position = _expect(text, position, "}")
        if position != len(text):
            raise ValueError(f"there is more after the object, at character {position + 1}")
        strict_json.refuse_lone_surrogates(text, members)
    except RecursionError as error:
        raise LineError("invalid_json_line", f"{_INVALID_JSON}: it is nested too deeply.") from error
    except ValueError as error:
        raise LineError("invalid_json_line", f"{_INVALID_JSON}: {error}.") from error
    return members


def _value(text: str, position: int) -> tuple[Any, int]:
    if position >= len(text):
        raise ValueError(f"it ends at character {position + 1} where a value should be")
    return strict_json.decoder.raw_decode(text, position)


def _skip_space(text: str, position: int) -> int:
    found = _SPACE.match(text, position)
    return found.end() if found else position


def _expect(text: str, position: int, mark: str) -> int:
    position = _skip_space(text, position)
    if text[position : position + 1] != mark:
        raise ValueError(f"expected {mark!r} at character {position + 1}")
    return _skip_space(text, position + 1)

"""`Range: bytes=…` of RFC 9110, section 14, for one range."""

import re
from dataclasses import dataclass

_ONE_RANGE = re.compile(r"bytes\s*=\s*(?:([0-9]{1,18})-([0-9]{1,18})?|-([0-9]{1,18}))\s*", re.IGNORECASE)


class Unsatisfiable(Exception):
    """The range lies wholly outside of the content."""


@dataclass(frozen=True)
class ByteRange:
    """Bytes [start, end) of a content of `size` bytes."""

    start: int
    end: int
    size: int

    @property
    def length(self) -> int:
        return self.end - self.start

    @property
    def content_range(self) -> str:
        return f"bytes {self.start}-{self.end - 1}/{self.size}"


def parse_range(header: str, size: int) -> ByteRange | None:
    """The range that is asked for. None: the header says nothing we serve (several ranges, another unit, nonsense) and
    the whole content is the answer, as the RFC wants it. Raises Unsatisfiable."""
    match = _ONE_RANGE.fullmatch(header.strip())
    if match is None:
        return None
    first, last, suffix = (int(text) if text is not None else None for text in match.groups())
    if first is None:
        first, last = size - min(suffix or 0, size), None
    elif last is not None and last < first:
        return None
    if first >= size:
        raise Unsatisfiable
    return ByteRange(first, size if last is None else min(last + 1, size), size)

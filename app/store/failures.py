"""The failed lines of a batch by kind, each with the first line of it: the batch object's `error_summary`."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

LISTED_KINDS = 20
"""Kinds that a batch object lists; the rest are counted together."""

OTHER = "other_errors"


@dataclass(frozen=True)
class Failure:
    """A line that failed: why, and which it is."""

    code: str
    param: str | None
    line: int
    custom_id: str
    message: str


class ErrorSummary:
    """Counts failures by code and param; a batch may have a million of them."""

    def __init__(self, entries: Iterable[Mapping[str, Any]] | None = None) -> None:
        """`entries`: as `entries` gave them before."""
        self._kinds = {(entry["code"], entry["param"]): dict(entry) for entry in entries or ()}

    def add(self, failure: Failure) -> None:
        kind = (failure.code, failure.param)
        if kind not in self._kinds and len(self._kinds) >= LISTED_KINDS:
            kind = (OTHER, None)
        entry = self._kinds.setdefault(kind, {**asdict(failure), "code": kind[0], "param": kind[1], "count": 0})
        entry["count"] += 1
        if failure.line < entry["line"]:
            entry |= {"line": failure.line, "custom_id": failure.custom_id, "message": failure.message}

    def entries(self) -> list[dict[str, Any]]:
        """The most frequent first."""
        return sorted(self._kinds.values(), key=lambda entry: -entry["count"])

"""Parameters that the engine ignores, counted by name, as the batch object shows them."""

from typing import Any

from app.batch.lines import quoted

LISTED_NAMES = 20
"""Names that a batch object lists; the rest are counted together."""


class Warnings:
    """Members that the engine does not know, each with how often and where first."""

    def __init__(self) -> None:
        self._found: dict[str | None, list[int]] = {}

    def add(self, line: int, name: str) -> None:
        name = quoted(name)
        key = name if name in self._found or len(self._found) < LISTED_NAMES else None
        self._found.setdefault(key, [line, 0])[1] += 1

    def entries(self) -> list[dict[str, Any]]:
        """In the order in which they came; those without a place of their own are the last."""
        names = sorted(self._found, key=lambda name: name is None)
        return [_entry(name, *self._found[name]) for name in names]


def _entry(name: str | None, line: int, count: int) -> dict[str, Any]:
    if name is None:
        code, message, param = "more_warnings", "More members that the engine does not know and ignores.", None
    else:
        code, message, param = "unknown_parameter", f"The engine ignores '{name}'.", f"body.{name}"
    return {"code": code, "message": message, "param": param, "line": line, "count": count}

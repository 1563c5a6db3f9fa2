"""What happened, in the order in which it happened: the same for the same plan, byte for byte."""

from collections.abc import Callable
from typing import Any


class Violation(AssertionError):
    """Something that must hold does not."""


class Trace:
    """`clock`: simulated seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._entries: list[tuple[float, str, str, tuple[Any, ...]]] = []
        self.faults = 0

    def note(self, who: str, what: str, *details: Any) -> None:
        self._entries.append((self._clock(), who, what, details))

    def fault(self, what: str, *details: Any) -> None:
        self.faults += 1
        self.note("FAULT", what, *details)

    def text(self, last: int = 0) -> str:
        """One line an entry; `last`: only so many from the end."""
        return "\n".join(_line(*entry) for entry in self._entries[-last:])


def _line(at: float, who: str, what: str, details: tuple[Any, ...]) -> str:
    shown = " ".join(text if len(text) < 300 else text[:300] + "…" for text in map(_text, details))
    return f"{at:10.3f}  {who:14} {what} {shown}".rstrip()


def _text(value: Any) -> str:
    """Without what changes from one run to the next: the order of sets."""
    if isinstance(value, (set, frozenset)):
        return "{" + ", ".join(sorted(map(_text, value))) + "}"
    return value if isinstance(value, str) else repr(value)

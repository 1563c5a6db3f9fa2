"""One thing that is broken on purpose."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Mutant:
    """`old` stands once in `file`; with `new` in its place at least one of `tests` fails (pytest's arguments)."""

    breaks: str
    file: str
    old: str
    new: str
    tests: str

    def applied(self, text: str) -> str:
        """The file's text with the fault in it. Raises ValueError when the file is no longer what the mutant is for."""
        if (times := text.count(self.old)) != 1:
            raise ValueError(f"{self.file} has {self.old!r} {times} times, not once: {self.breaks}")
        return text.replace(self.old, self.new)

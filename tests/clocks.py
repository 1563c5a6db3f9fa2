"""The clock of every test that needs one: it stands still until it is set."""

from dataclasses import dataclass

START = 1_700_000_000


@dataclass
class Clock:
    """The time that clients see, in whole unix seconds."""

    now: int = START

    def __call__(self) -> int:
        return self.now

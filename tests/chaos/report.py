"""What a row of the table says, and the table."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from tests.commands import ROOT
from tests.rows import Kept, markdown

DOCUMENT = ROOT / "docs" / "reliability.md"
FOLDER = ROOT / os.environ.get("BATCHYARD_CHAOS", ".batchyard-chaos")
UNKNOWN = "–"


@dataclass
class Row:
    """What a fault did. Seconds count from the fault; None: nothing to say, such as a gate that stayed open."""

    in_flight: int | None = None
    lost: int = 0
    doubled: int = 0
    wrongly_failed: int = 0
    detected: float | None = None
    ready: float | None = None
    pause: float | None = None
    twice: int | None = None
    over: float | None = None
    """Until the batch was."""
    note: str = ""
    broken: list[str] = field(default_factory=list)

    @property
    def red(self) -> bool:
        return bool(self.lost or self.doubled or self.wrongly_failed or self.broken)

    def promise(self, holds: bool, otherwise: str) -> None:
        """What must be true of this row besides the three zeros."""
        if not holds:
            self.broken.append(otherwise)


def together(rows: Sequence[Row]) -> Row:
    """One row for many faults of a kind: sums of lines, and the worst of the seconds."""

    def total(values: Sequence[int | None]) -> int | None:
        known = [value for value in values if value is not None]
        return sum(known) if known else None

    def worst(values: Sequence[float | None]) -> float | None:
        return max((value for value in values if value is not None), default=None)

    return Row(
        in_flight=total([row.in_flight for row in rows]),
        lost=sum(row.lost for row in rows),
        doubled=sum(row.doubled for row in rows),
        wrongly_failed=sum(row.wrongly_failed for row in rows),
        detected=worst([row.detected for row in rows]),
        ready=worst([row.ready for row in rows]),
        pause=worst([row.pause for row in rows]),
        twice=total([row.twice for row in rows]),
        note="; ".join(dict.fromkeys(row.note for row in rows if row.note)),
        broken=[each for row in rows for each in row.broken],
    )


HEADER = (
    "fault",
    "in flight",
    "lost",
    "doubled",
    "wrongly failed",
    "detected after",
    "ready after",
    "longest pause",
    "run twice",
    "",
)


def table(rows: Mapping[str, Kept[Row] | None]) -> str:
    """Markdown, from fault to row. Rows that were not run say so."""
    return markdown(HEADER, [_cells(fault, kept) for fault, kept in rows.items()])


def _cells(fault: str, kept: Kept[Row] | None) -> tuple[str, ...]:
    if kept is None:
        return (fault, *[UNKNOWN] * (len(HEADER) - 2), "not run")
    row = kept.row
    remarks = "; ".join([*(f"**{each}**" for each in row.broken), *filter(None, [row.note])])
    numbers = [_number(row.in_flight), *(_bad(each) for each in (row.lost, row.doubled, row.wrongly_failed))]
    times = [_seconds(each) for each in (row.detected, row.ready, row.pause)]
    return (fault, *numbers, *times, _number(row.twice), remarks.replace("|", "/").replace("\n", " "))


def _number(value: int | None) -> str:
    return UNKNOWN if value is None else f"{value:,}"


def _bad(value: int) -> str:
    return f"**{value:,}**" if value else "0"


def _seconds(value: float | None) -> str:
    return UNKNOWN if value is None else f"{value:.2f} s" if value < 1 else f"{value:.1f} s"

"""What a row of the table says, how it is kept, and the table."""

import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from tests.commands import ROOT

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


@dataclass
class Kept:
    """A row as it lies in the folder of results."""

    row: Row
    commit: str
    date: str
    seconds: float


class Results:
    """One JSON file a row, so that a run that is broken off goes on where it was."""

    def __init__(self) -> None:
        FOLDER.mkdir(parents=True, exist_ok=True)
        self._commit = commit()

    def keep(self, name: str, row: Row, seconds: float) -> None:
        kept = Kept(row, self._commit, datetime.now(UTC).strftime("%Y-%m-%d"), round(seconds, 1))
        self._path(name).write_text(json.dumps(asdict(kept), indent=1) + "\n")

    def kept(self, name: str) -> Kept | None:
        if not self._path(name).exists():
            return None
        found = json.loads(self._path(name).read_text())
        return Kept(**{**found, "row": Row(**found["row"])})

    def done(self, name: str) -> bool:
        """With this very commit."""
        kept = self.kept(name)
        return kept is not None and kept.commit == self._commit

    def _path(self, name: str) -> Path:
        return FOLDER / f"{name}.json"


def commit() -> str:
    asked = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return asked.stdout.strip()


def machine() -> str:
    cpus = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.partition(":")[2].strip() for line in cpus if line.startswith("model name")]
    return f"{os.cpu_count()} cores of {names[0] if names else 'an unknown CPU'}"


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


def table(rows: Mapping[str, Kept | None]) -> str:
    """Markdown, from fault to row. Rows that were not run say so."""
    lines = [HEADER, tuple("---" for _ in HEADER), *(_cells(fault, kept) for fault, kept in rows.items())]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _cells(fault: str, kept: Kept | None) -> tuple[str, ...]:
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


def write_into_document(section: str, text: str) -> None:
    """Between the two comments that mark the section."""
    begin, end = (f"<!-- {section}: {edge} -->" for edge in ("begin", "end"))
    before, _, rest = DOCUMENT.read_text().partition(begin)
    _, _, after = rest.partition(end)
    DOCUMENT.write_text(f"{before}{begin}\n{text}\n{end}{after}")


def caption(kept: Sequence[Kept]) -> str:
    commits = ", ".join(sorted({each.commit for each in kept}))
    dates = sorted({each.date for each in kept})
    when = dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}"
    minutes = sum(each.seconds for each in kept) / 60
    return f"Measured on {when}, {machine()}, commit {commits}; {minutes:.0f} minutes in all."

"""What a row of the siege says, and the table."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from tests.commands import ROOT
from tests.rows import Kept, markdown
from tests.siege.honest import GOALS, LARGE, ONLINE

DOCUMENT = ROOT / "docs" / "security.md"
FOLDER = ROOT / os.environ.get("BATCHYARD_SIEGE", ".batchyard-siege")
TOLD_MB = 10
TOLD_CORES = 0.2
"""What is less, of the growth of memory and disk and of other work on the machine, is not worth a word."""


@dataclass
class Row:
    """What an attack did. Seconds; memory in MB over idle."""

    slowest: dict[str, float] = field(default_factory=dict)
    """Of the honest client's requests, by kind."""
    quiet: dict[str, float] = field(default_factory=dict)
    """The same while nobody attacks, in the same run."""
    refused: dict[str, int] = field(default_factory=dict)
    """What the honest client was answered before it got a good answer."""
    memory: dict[str, int] = field(default_factory=dict)
    disk: int = 0
    deaths: int = 0
    alerts: list[str] = field(default_factory=list)
    log_lines: int = 0
    others: float = 0.0
    """Cores that were busy with something else on this machine."""
    got: dict[str, int] = field(default_factory=dict)
    """The attacker's answers, by outcome."""
    got_bytes: int = 0
    got_seconds: float = 0.0
    again: float = 0.0
    """From the attack's end to the end of the last request that was slow."""
    batches: int = 0
    """The honest client's; all of them must be complete, each line once."""
    note: str = ""
    slow: list[str] = field(default_factory=list)
    """Promises of time that were broken, which a busy machine may have a part in."""
    broken: list[str] = field(default_factory=list)
    """All others."""
    spoilt: bool = False
    """The server is no longer what the next row expects."""

    @property
    def red(self) -> bool:
        return bool(self.slow or self.broken)

    def promise(self, holds: bool, otherwise: str) -> None:
        if not holds:
            self.broken.append(otherwise)


ONLINE_KINDS = (ONLINE, LARGE)
ELSEWHERE = tuple(kind for kind in GOALS if kind not in ONLINE_KINDS)

HEADER = (
    "attack",
    "online",
    "elsewhere",
    "quiet",
    "memory over idle",
    "engine deaths",
    "what the attacker got",
    "well again after",
    "",
)


def table(rows: Mapping[str, Kept[Row] | None]) -> str:
    """Markdown, from attack to row. How many were not run stands below."""
    run = {fault: kept for fault, kept in rows.items() if kept is not None}
    missing = f"\n\nNot run yet: {len(rows) - len(run)} of {len(rows)} rows." if len(run) < len(rows) else ""
    return markdown(HEADER, [_cells(fault, kept.row) for fault, kept in run.items()]) + missing


def _cells(fault: str, row: Row) -> tuple[str, ...]:
    if not row.slowest:
        return (fault, *["–"] * (len(HEADER) - 2), "; ".join(f"**{each}**" for each in row.broken))
    online, elsewhere = (_worst(row.slowest, among) for among in (ONLINE_KINDS, ELSEWHERE))
    quiet = ", ".join(_seconds(max(row.quiet[kind] for kind in among)) for among in (ONLINE_KINDS, ELSEWHERE))
    grown = ", ".join(f"{part} {_grown(size)}" for part, size in row.memory.items() if size >= TOLD_MB)
    remarks = [*(f"**{each}**" for each in (*row.broken, *row.slow)), *_remarks(row)]
    cells = (
        fault,
        online,
        elsewhere,
        quiet,
        grown or f"< {TOLD_MB} MB",
        str(row.deaths),
        _got(row),
        _seconds(row.again) if row.again else "–",
        "; ".join(remarks),
    )
    return tuple(cell.replace("|", "/").replace("\n", " ") for cell in cells)


def _worst(seconds: Mapping[str, float], among: Sequence[str]) -> str:
    kind = max(among, key=seconds.__getitem__)
    return f"{_seconds(seconds[kind])} ({kind})"


def _got(row: Row) -> str:
    outcomes = ", ".join(f"{outcome} × {count:,}" for outcome, count in sorted(row.got.items()))
    return f"{outcomes}; {_bytes(row.got_bytes)}, {_seconds(row.got_seconds)}"


def _remarks(row: Row) -> list[str]:
    refused = ", ".join(f"{words} × {count}" for words, count in sorted(row.refused.items()))
    told = {
        f"refused meanwhile: {refused}": bool(refused),
        f"alerts: {', '.join(row.alerts)}": bool(row.alerts),
        f"something else kept {row.others:.1f} cores busy": row.others >= TOLD_CORES,
        f"disk + {row.disk:,} MB": row.disk >= TOLD_MB,
        row.note: bool(row.note),
    }
    return [words for words, tell in told.items() if tell]


def _grown(size: int) -> str:
    return f"{size:,} MB"


def _bytes(size: int) -> str:
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= factor:
            return f"{size / factor:,.1f} {unit}"
    return f"{size} B"


def _seconds(value: float) -> str:
    return f"{value:.2f} s" if value < 1 else f"{value:.1f} s"

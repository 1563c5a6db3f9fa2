"""A table whose rows are measured one by one, each kept in a file: `make chaos` and `make siege`.

A run that is broken off goes on where it was: what this commit was tried with is not tried again.
"""

import argparse
import json
import os
import subprocess
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from tests.commands import ROOT


class Named(Protocol):
    """What a row is made of: its name on the command line, and what stands in its first cell."""

    @property
    def name(self) -> str: ...

    @property
    def fault(self) -> str: ...


class Judged(Protocol):
    """What is known of a row."""

    @property
    def red(self) -> bool: ...


N = TypeVar("N", bound=Named)
R = TypeVar("R", bound=Judged)


@dataclass
class Kept(Generic[R]):
    """A row as it lies in the folder of results."""

    row: R
    commit: str
    date: str
    seconds: float


class Results(Generic[R]):
    """One JSON file a row. `make_row` makes a row from the members of its file."""

    def __init__(self, folder: Path, make_row: Callable[..., R]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._make_row = make_row
        self._commit = commit()

    def keep(self, name: str, row: R, seconds: float) -> None:
        kept = Kept(row, self._commit, datetime.now(UTC).strftime("%Y-%m-%d"), round(seconds, 1))
        self._path(name).write_text(json.dumps(asdict(kept), indent=1) + "\n")

    def kept(self, name: str) -> Kept[R] | None:
        if not self._path(name).exists():
            return None
        found = json.loads(self._path(name).read_text())
        return Kept(**{**found, "row": self._make_row(**found["row"])})

    def done(self, name: str) -> bool:
        """With this very commit."""
        kept = self.kept(name)
        return kept is not None and kept.commit == self._commit

    def _path(self, name: str) -> Path:
        return self._folder / f"{name}.json"


def measure(chosen: Sequence[N], results: Results[R], row_of: Callable[[N], R], *, fresh: bool) -> None:
    """One after the other. `fresh`: also those that this commit was tried with."""
    for number, each in enumerate(chosen, 1):
        print(f"[{number}/{len(chosen)}] {each.name}: {each.fault}", flush=True)
        if results.done(each.name) and not fresh:
            print("    run before", flush=True)
            continue
        started = time.monotonic()
        row = row_of(each)
        results.keep(each.name, row, time.monotonic() - started)
        print(f"    {'RED' if row.red else 'ok'} {row}", flush=True)


def words_of(error: Exception) -> str:
    """One line for a row that broke; the traceback goes to stderr."""
    traceback.print_exception(error)
    return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"


def options(doc: str | None, all_rows: Sequence[Named]) -> argparse.Namespace:
    """The command line. Exits when it is wrong, and after `--list`."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=[each.name for each in all_rows], metavar="NAME")
    parser.add_argument("--fresh", action="store_true", help="run rows again that were run with this commit")
    parser.add_argument("--list", action="store_true", help="name the rows")
    parser.add_argument("--table", action="store_true", help="run nothing; write the results into the page of docs/")
    found = parser.parse_args()
    if found.list:
        print("\n".join(f"{each.name:24} {each.fault}" for each in all_rows))
        raise SystemExit(0)
    return found


def commit() -> str:
    asked = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return asked.stdout.strip()


def machine() -> str:
    cpus = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.partition(":")[2].strip() for line in cpus if line.startswith("model name")]
    return f"{os.cpu_count()} cores of {names[0] if names else 'an unknown CPU'}"


def caption(kept: Sequence[Kept[Any]]) -> str:
    """When, where and of which commits the rows are."""
    commits = ", ".join(sorted({each.commit for each in kept}))
    dates = sorted({each.date for each in kept})
    when = dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}"
    minutes = sum(each.seconds for each in kept) / 60
    return f"Measured on {when}, {machine()}, commit {commits}; {minutes:.0f} minutes in all."


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def write_into(document: Path, section: str, text: str) -> None:
    """Between the two comments that mark the section."""
    begin, end = (f"<!-- {section}: {edge} -->" for edge in ("begin", "end"))
    before, _, rest = document.read_text().partition(begin)
    _, _, after = rest.partition(end)
    document.write_text(f"{before}{begin}\n{text}\n{end}{after}")

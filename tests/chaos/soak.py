"""An hour under load with a kill of the engine each five minutes: `python -m tests.chaos.soak [--minutes 60]`.

Memory, open files and processes must stay flat. Samples go into soak.csv in BATCHYARD_CHAOS, the plot into
docs/soak.svg and the figures into docs/reliability.md.
"""

import argparse
import contextlib
import csv
import signal
import statistics
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path

import psutil

from tests.chaos.kills import kill
from tests.chaos.report import DOCUMENT, FOLDER
from tests.chaos.yard import ChaosServer, Yards, under_load
from tests.rows import commit, machine, write_into

KILL_SECONDS = 300
SAMPLE_SECONDS = 30
FLAT = 1.10
"""The last quarter may be this much above the second: the first is warm-up."""

PLOT = DOCUMENT.with_name("soak.svg")
WIDTH, PANEL, LEFT, GAP = 900, 150, 20, 40


@dataclass(frozen=True)
class Sample:
    """Sums over all processes of the server; `memory` is what they do not share, in MB."""

    minute: float
    memory: float
    open_files: int
    processes: int


SERIES: tuple[tuple[str, Callable[[Sample], float]], ...] = (
    ("memory of all processes, MB", lambda sample: sample.memory),
    ("open files", lambda sample: sample.open_files),
    ("processes", lambda sample: sample.processes),
)


class Sampler(threading.Thread):
    def __init__(self, server: ChaosServer) -> None:
        super().__init__(daemon=True)
        self._server, self._over = server, threading.Event()
        self._begin = time.monotonic()
        self.samples: list[Sample] = []

    def run(self) -> None:
        while not self._over.wait(SAMPLE_SECONDS):
            self.samples.append(sample := self._sample())
            print(sample, file=sys.stderr, flush=True)

    def end(self) -> None:
        self._over.set()
        self.join(60)

    def minute(self) -> float:
        return round((time.monotonic() - self._begin) / 60, 2)

    def _sample(self) -> Sample:
        memory, open_files, processes = 0, 0, 0
        for process in self._server.processes():
            with contextlib.suppress(psutil.NoSuchProcess):  # it ended meanwhile
                memory += process.memory_full_info().uss
                open_files += process.num_fds()
                processes += 1
        return Sample(self.minute(), round(memory / 1e6, 1), open_files, processes)


def soak(minutes: float) -> int:
    """Exit code 1 when something grew or a line went wrong."""
    yards = Yards(FOLDER)
    try:
        server = yards.running()
        sampler, kills = Sampler(server), list[float]()
        sampler.start()

        def strike() -> None:
            kills.append(sampler.minute())
            kill(server, "engine")

        row, _ = under_load(server, minutes * 60, KILL_SECONDS, strike)
        sampler.end()
    finally:
        yards.close()
    _write_csv(FOLDER / "soak.csv", sampler.samples)
    PLOT.write_text(plot(sampler.samples, kills))
    growths = {name: _growth([value(each) for each in sampler.samples]) for name, value in SERIES}
    text = "\n".join(
        [
            f"{datetime.now(UTC):%Y-%m-%d}, {machine()}, commit {commit()}: {minutes:g} minutes, {len(kills)} kills of "
            f"the engine, {row.note}. Lost {row.lost}, doubled {row.doubled}, wrongly failed {row.wrongly_failed}; "
            f"{row.twice} lines sent twice.",
            "",
            *(f"- {name}: {growth}" for name, growth in growths.items()),
            "",
            "![memory, open files and processes over the soak](soak.svg)",
        ]
    )
    print(text)
    write_into(DOCUMENT, "soak", text)
    return int(row.red or any(growth.ratio > FLAT for growth in growths.values()))


@dataclass(frozen=True)
class Growth:
    early: float
    late: float
    highest: float

    @property
    def ratio(self) -> float:
        return self.late / self.early

    def __str__(self) -> str:
        return (
            f"{self.early:,.0f} in the second quarter, {self.late:,.0f} in the last ({self.ratio - 1:+.1%}), "
            f"{self.highest:,.0f} at most"
        )


def _growth(values: Sequence[float]) -> Growth:
    """By medians: a kill leaves a dent in a few samples."""
    quarter = len(values) // 4
    early, late = values[quarter : 2 * quarter], values[-quarter:]
    return Growth(statistics.median(early), statistics.median(late), max(values))


def _write_csv(path: Path, samples: Sequence[Sample]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([field.name for field in fields(Sample)])
        writer.writerows(astuple(sample) for sample in samples)


def plot(samples: Sequence[Sample], kills: Sequence[float]) -> str:
    """An SVG with a panel a series, from zero, and a line at each kill."""
    end = samples[-1].minute
    height = len(SERIES) * (PANEL + GAP)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH + 2 * LEFT} {height}" font-family="sans-serif" '
        'font-size="13"><rect width="100%" height="100%" fill="white"/>'
    ]
    for number, (name, value) in enumerate(SERIES):
        top = number * (PANEL + GAP) + GAP - 10
        highest = max(value(each) for each in samples)
        points = " ".join(
            f"{LEFT + WIDTH * each.minute / end:.1f},{top + PANEL * (1 - value(each) / highest):.1f}"
            for each in samples
        )
        marks = "".join(f"M{LEFT + WIDTH * kill / end:.1f} {top}v{PANEL}" for kill in kills)
        parts.append(
            f'<text x="{LEFT}" y="{top - 6}">{name} (0 to {highest:,.0f}, over {end:.0f} minutes)</text>'
            f'<path d="{marks}" stroke="#d99" stroke-width="1"/>'
            f'<rect x="{LEFT}" y="{top}" width="{WIDTH}" height="{PANEL}" fill="none" stroke="#999"/>'
            f'<polyline points="{points}" fill="none" stroke="#237" stroke-width="1.5"/>'
        )
    return "\n".join([*parts, "</svg>\n"])


def main() -> int:
    """The command line."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the server ends with us
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60)
    return soak(parser.parse_args().minutes)


if __name__ == "__main__":
    sys.exit(main())

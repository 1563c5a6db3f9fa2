"""A batch from here to its end, on a terminal as a bar, else as a line now and then."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from openai.types import Batch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from app.cli.connection import Connection, patiently
from app.cli.console import console, say, warn
from app.cli.words import FINAL, Pace, counts_of, standing

POLL_SECONDS = 0.5
LINE_SECONDS = 10.0
"""How often a line is printed where there is no terminal, if something has changed."""

QUIET_SECONDS = 60.0
"""And if nothing has."""


class Display(Protocol):
    def show(self, batch: Batch, away: bool = False) -> None: ...


def follow(connection: Connection, batch: Batch, later: str) -> Batch:
    """The batch once it has ended; `later` is the command that fetches it. Raises ServerAway, APIError."""
    with _display() as display:

        def told_away(why: str) -> None:
            warn(
                f"{connection.url} is away ({why}). {batch.id} is safe and goes on when the server does; "
                f"this waits for it. Ctrl-C leaves, and then: {later}"
            )
            display.show(batch, away=True)

        def ask() -> Batch:
            return connection.once.batches.retrieve(batch.id)

        display.show(batch)
        while batch.status not in FINAL:
            time.sleep(POLL_SECONDS)
            batch = patiently(ask, told_away, lambda: warn(f"{connection.url} answers again."))
            display.show(batch)
    return batch


@contextmanager
def _display() -> Iterator[Display]:
    if not console.is_terminal:
        yield Lines()
        return
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TextColumn("{task.fields[pace]}", markup=False),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console) as progress:
        yield Bar(progress)


class Bar:
    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._task = progress.add_task("", total=None, pace="")
        self._pace = Pace()

    def show(self, batch: Batch, away: bool = False) -> None:
        completed, failed, total = counts_of(batch)
        done = completed + failed
        lines, tokens = self._pace.at(batch, time.monotonic())
        left = f", {_duration((total - done) / lines)} left" if lines > 0 and done < total else ""
        self._progress.update(
            self._task,
            total=total or None,
            completed=done,
            description="server away" if away else standing(batch),
            pace=f"{_pace(lines, tokens)}{left}",
        )


class Lines:
    def __init__(self) -> None:
        self._pace = Pace()
        self._shown: tuple[str, int, str] | None = None
        self._at = 0.0

    def show(self, batch: Batch, away: bool = False) -> None:
        completed, failed, total = counts_of(batch)
        now = time.monotonic()
        pace = _pace(*self._pace.at(batch, now))
        seen = (batch.status, completed + failed, standing(batch))
        changed = self._shown is None or seen != self._shown
        new_state = self._shown is None or seen[0] != self._shown[0]
        if away or not (new_state or now - self._at >= (LINE_SECONDS if changed else QUIET_SECONDS)):
            return
        self._shown, self._at = seen, now
        if batch.status not in FINAL:  # the end has words of its own
            say(f"{batch.id}: {completed + failed:,}/{total:,} {standing(batch)}{f', {pace}' if pace else ''}")


def _pace(lines: float, tokens: float) -> str:
    if lines <= 0:
        return ""
    return f"{lines:,.1f} lines/s done" + (f", {tokens:,.1f} output tokens/s in them" if tokens > 0 else "")


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}"

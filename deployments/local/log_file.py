"""The log of a server in the background: how it stays short while many processes write it, and how it is read."""

import contextlib
import json
import os
import shutil
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import structlog

log = structlog.get_logger()

LOG_BYTES = 64 * 1024 * 1024
"""A log larger than this makes room for a new one; the one before it is kept."""

LOOK_SECONDS = 10.0

STARTING = "starting"
"""The event by which a start says which `step` it is at."""


def log_file(data: Path) -> Path:
    return data / "logs" / "serve.log"


def keep_short(path: Path) -> None:
    """From now on, in a thread, if this process writes its output there."""
    with contextlib.suppress(OSError):
        if os.path.samestat(os.fstat(sys.stdout.fileno()), path.stat()):
            threading.Thread(target=_look_after, args=(path,), daemon=True).start()


def _look_after(path: Path) -> None:
    while True:
        time.sleep(LOOK_SECONDS)
        try:
            make_room(path)
        except OSError as error:  # a full disk: the next look may find room
            log.warning("the log cannot be made shorter", path=str(path), reason=error.strerror)


def make_room(path: Path) -> None:
    """Copies a log that is too large to serve.log.1 and empties it.

    Not by a rename: all its writers have it open. They append, so they go on at the new end; what one writes between
    the last read and the cut, some microseconds, is lost.
    """
    if not path.exists() or path.stat().st_size <= LOG_BYTES:
        return
    earlier = path.with_name(f"{path.name}.1")
    part = path.with_name(f"{path.name}.part")
    with path.open("rb") as source, part.open("wb") as target:
        shutil.copyfileobj(source, target, 1024 * 1024)
        target.flush()
        shutil.copyfileobj(source, target)  # what was written meanwhile
        os.truncate(path, 0)
    part.replace(earlier)


class LogOfThisStart:
    """What a log says from here on: earlier starts wrote into it as well."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        self._path = path
        self._start = path.stat().st_size
        self._told = 0

    def text(self) -> str:
        with self._path.open("rb") as file:
            file.seek(self._start if os.fstat(file.fileno()).st_size >= self._start else 0)
            return file.read().decode(errors="replace")

    def new_steps(self) -> Iterator[str]:
        """The steps of the start that were not told yet."""
        steps = [step for line in self.text().splitlines() if (step := _step(line))]
        yield from steps[self._told :]
        self._told = max(self._told, len(steps))


def _step(line: str) -> str | None:
    if f'"{STARTING}"' not in line:
        return None
    try:
        entry = json.loads(line)
    except ValueError:
        return None
    return str(entry.get("step", "")) if entry.get("event") == STARTING else None

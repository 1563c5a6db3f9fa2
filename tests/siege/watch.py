"""What is watched of the server under siege: memory and life of its processes, its disk and its log."""

import contextlib
import json
import os
import statistics
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import psutil

from tests.acceptance.server import Server, title_of
from tests.chaos.yard import PARTS

WATCHED = ("gateway", "proxy", "dispatcher", "engine", "core", "controller")
"""Parts of which the memory is told; `engine` is the replica's process, which holds vLLM's front end."""

LOOK_SECONDS = 0.3
IDLE_LOOKS = 5

MB = 1_000_000


class Watch(threading.Thread):
    """Entered, it knows the idle server."""

    def __init__(self, server: Server) -> None:
        super().__init__(daemon=True)
        self._server = server
        self._over = threading.Event()
        self._parts: dict[psutil.Process, str] = {}
        self._looks: list[dict[str, int]] = []
        self._peaks: Counter[str] = Counter()
        self._disk = _size(server.data)
        self._log = server.log.stat().st_size
        self._begun, self._others = time.monotonic(), _cpu_of_others()

    def __enter__(self) -> Self:
        self.start()
        while len(self._looks) < IDLE_LOOKS:
            self._over.wait(LOOK_SECONDS)
        self._idle = {part: int(statistics.median(each[part] for each in self._looks)) for part in WATCHED}
        self._first = dict(self._parts)
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self.join(60)

    def run(self) -> None:
        known: dict[int, psutil.Process] = {}
        while not self._over.wait(LOOK_SECONDS):
            memory: Counter[str] = Counter()
            for process in self._server.processes():
                process = known.setdefault(process.pid, process)
                if process not in self._parts and (part := _part_of(process)):
                    self._parts[process] = part
                if process in self._parts:
                    memory[self._parts[process]] += _own_bytes(process.pid)
            self._looks.append(memory)
            self._peaks |= memory

    def grown(self) -> dict[str, int]:
        """MB of each part at its peak, over idle. Memory that processes do not share with others or with files."""
        return {part: max(0, self._peaks[part] - self._idle[part]) // MB for part in WATCHED}

    def deaths(self) -> Counter[str]:
        """Processes that were there when this began and are gone. An engine's core goes with its replica."""
        return Counter(part for process, part in self._first.items() if not process.is_running())

    def others(self) -> float:
        """Cores that were busy with what is neither the server nor the attacker nor we, on average."""
        return max(0.0, (_cpu_of_others() - self._others) / (time.monotonic() - self._begun))

    def disk(self) -> int:
        """MB by which the data folder has grown."""
        return max(0, _size(self._server.data) - self._disk) // MB

    def alerts(self) -> list[str]:
        return sorted({str(entry["kind"]) for entry in self._entries() if entry.get("event") == "alert"})

    def log_lines(self) -> tuple[int, int]:
        """Lines of the server's log, those within an entry included; and how many of them are of errors."""
        lines = [(str(entry.get("event", "")).count("\n") + 1, entry) for entry in self._entries()]
        return sum(count for count, _ in lines), sum(count for count, entry in lines if _is_error(entry))

    def _entries(self) -> Iterator[dict[str, Any]]:
        with self._server.log.open("rb") as log:
            log.seek(self._log if self._log <= self._server.log.stat().st_size else 0)  # it is emptied when it is long
            for each in log:
                with contextlib.suppress(ValueError):
                    entry = json.loads(each)
                    if isinstance(entry, dict):
                        yield entry


def _part_of(process: psutil.Process) -> str | None:
    title = title_of(process)
    return next((part for part, is_part in PARTS.items() if is_part(title)), None)


def _cpu_of_others() -> float:
    """Seconds that all cores together have spent so far on processes that are not ours."""
    ours = 0.0
    for process in (own := psutil.Process(), *own.children(recursive=True)):
        with contextlib.suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            ours += times.user + times.system
    cores = psutil.cpu_times()
    return float(cores.user + cores.nice + cores.system) - ours


def _own_bytes(pid: int) -> int:
    """Anonymous memory, in RAM or swapped out; 0 when the process is gone."""
    with contextlib.suppress(OSError):
        fields = dict(each.split(":", 1) for each in Path(f"/proc/{pid}/status").read_text().splitlines())
        return sum(int(fields[name].split()[0]) * 1024 for name in ("RssAnon", "VmSwap") if name in fields)
    return 0


def _is_error(entry: dict[str, Any]) -> bool:
    """An alert is one by its kind, and is told apart."""
    bad = entry.get("level") in ("error", "critical") or "Traceback (most recent call last)" in str(entry.get("event"))
    return bad and entry.get("event") != "alert"


def _size(folder: Path) -> int:
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                total += os.stat(os.path.join(parent, name)).st_blocks * 512
    return total

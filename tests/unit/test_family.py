"""Leaving no process behind, as far as the kernel lets us."""

from pathlib import Path
from typing import Any

import psutil
import pytest
import structlog

from deployments.local import family


class Unkillable:
    pid = 4711

    def kill(self) -> None:
        return None

    def name(self) -> str:
        return "python"

    def status(self) -> str:
        return psutil.STATUS_DISK_SLEEP


def test_a_process_that_cannot_be_killed_is_named_and_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Parent:
        def children(self, recursive: bool) -> list[Any]:
            return [Unkillable()]

    monkeypatch.setattr(psutil, "Process", Parent)
    monkeypatch.setattr(psutil, "wait_procs", lambda processes, timeout: ([], processes))
    monkeypatch.setattr(family, "KILL_SECONDS", 0.05)
    with structlog.testing.capture_logs() as logs:
        family.leave_nothing(str(tmp_path / "scratch"))
    assert [entry["processes"] for entry in logs] == [["4711 python (disk-sleep)"]]

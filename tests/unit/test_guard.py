"""What a guard ends an engine for, and how it explains an end that was not its doing."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from app.store import Store
from deployments.guard import memory
from deployments.guard.guard import GIB, LOOK_SECONDS, RECENT_SECONDS, Guard, Orders
from deployments.guard.memory import Room
from deployments.guard.post import post_guard
from deployments.guard.sheet import SIZE, Sheet

PLENTY = Room(available=8 * GIB, total=16 * GIB)
SCARCE = Room(available=GIB // 2, total=16 * GIB)


class Scene:
    """A guard over this process, whose memory is what the test says."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now, self.room, self.kills = 1000.0, PLENTY, 0
        self.front_end, self.core = 1 * GIB, 4 * GIB
        monkeypatch.setattr(memory, "resident", lambda process: self.front_end)
        monkeypatch.setattr(memory, "resident_of_children", lambda process: self.core)
        self.sheet = Sheet.new()
        self.sheet.work = "online request req_1 to /v1/x"
        orders = Orders(os.getpid(), "r1", "tiny", "sqlite://", front_end_seconds=30, front_end_bytes=2 * GIB)
        self.guard = Guard(orders, self.sheet, room=lambda: self.room, kills=lambda: self.kills, clock=lambda: self.now)

    def passes(self, seconds: float, *, ticking: bool = True) -> str | None:
        """The reason for which it was ended meanwhile."""
        for _ in range(round(seconds / LOOK_SECONDS)):
            self.now += LOOK_SECONDS
            if ticking:
                self.sheet.tick = self.now
            if verdict := self.guard.look():
                assert verdict.work == "online request req_1 to /v1/x"
                return verdict.reason
        return None


@pytest.fixture
def scene(monkeypatch: pytest.MonkeyPatch) -> Scene:
    return Scene(monkeypatch)


def test_a_front_end_may_be_busy_for_its_seconds_and_no_longer(scene: Scene) -> None:
    assert scene.passes(29, ticking=False) is None
    assert scene.passes(1) is None
    assert scene.passes(29, ticking=False) is None
    reason = scene.passes(2, ticking=False)
    assert reason is not None and "front_end_seconds (30)" in reason


def test_on_a_machine_that_stood_still_nobody_is_stuck(scene: Scene) -> None:
    scene.now += 3600
    assert scene.passes(1, ticking=False) is None


def test_a_front_end_may_grow_by_its_gigabytes_and_no_further(scene: Scene) -> None:
    scene.core *= 3  # the core has its cache
    scene.front_end = 3 * GIB
    assert scene.passes(1) is None
    scene.front_end += 1
    assert scene.passes(1) == "its front end grew to 3.0 GiB, by more than front_end_gb (2)"


def test_the_last_memory_of_the_machine_goes_to_no_engine_that_has_grown(scene: Scene) -> None:
    scene.room = SCARCE
    assert scene.passes(1) is None, "it has not grown: whoever took the memory is another"
    scene.core += 2 * GIB
    reason = scene.passes(1)
    assert reason is not None and reason.startswith("the machine had 0.5 GiB of 16.0 GiB left")


def test_an_end_for_lack_of_memory_is_explained_and_any_other_is_not(scene: Scene) -> None:
    assert scene.passes(1) is None
    assert scene.guard.explanation() is None
    scene.kills += 1
    found = scene.guard.explanation()
    assert found is not None and "the kernel ended a process for it" in found
    assert scene.passes(RECENT_SECONDS + 1) is None
    assert scene.guard.explanation() is None
    scene.room = SCARCE
    assert scene.passes(1) is None
    found = scene.guard.explanation()
    assert found is not None and "nearly full when it ended; its front end had 1.0 GiB" in found


def test_a_container_has_the_room_of_its_limit(tmp_path: Path) -> None:
    (tmp_path / "memory.max").write_text("1000\n")
    (tmp_path / "memory.current").write_text("900\n")
    (tmp_path / "memory.stat").write_text("anon 700\ninactive_file 150\n")
    assert Room.here(tmp_path) == Room(available=250, total=1000)
    (tmp_path / "memory.max").write_text("max\n")
    assert Room.here(tmp_path).total == psutil.virtual_memory().total


def test_kills_are_counted_of_machine_and_container(tmp_path: Path) -> None:
    vmstat = tmp_path / "vmstat"
    vmstat.write_text("pgfault 7\noom_kill 2\n")
    assert memory.kills_for_lack_of_memory(tmp_path, vmstat) == 2
    (tmp_path / "memory.events").write_text("low 0\noom 4\noom_kill 3\noom_group_kill 0\n")
    assert memory.kills_for_lack_of_memory(tmp_path, vmstat) == 5


def test_a_sheet_holds_as_many_words_as_it_has_room_for() -> None:
    sheet = Sheet.new()
    assert (sheet.tick, sheet.work) == (0.0, "")
    sheet.work = "x" * 2 * SIZE
    assert 900 < len(sheet.work) < SIZE
    sheet.work = "é"
    sheet.tick = 2.5
    assert (Sheet(sheet.file).tick, Sheet(sheet.file).work) == (2.5, "é")


@pytest.fixture
def replica() -> Iterator[subprocess.Popen[bytes]]:
    sleeper = subprocess.Popen(["sleep", "600"])
    yield sleeper
    sleeper.kill()
    sleeper.wait()


@pytest.fixture
def orders(replica: subprocess.Popen[bytes], tmp_path: Path) -> Orders:
    url = f"sqlite:///{tmp_path / 'ledger.db'}"
    Store.make(url)
    return Orders(replica.pid, "r1", "tiny", url, front_end_seconds=0.5, front_end_bytes=GIB)


async def test_who_is_stuck_is_killed_and_the_ledger_knows_why(
    replica: subprocess.Popen[bytes], orders: Orders, capfd: pytest.CaptureFixture[str]
) -> None:
    store = Store.open_existing(orders.database_url, lambda: int(time.time()))
    await store.ask_to_start("tiny", "r1", deploy="d1", planned=1, budget=10)
    sheet = Sheet.new()
    sheet.work = "online request req_1 to /v1/x"
    guard = post_guard(orders, sheet)
    assert replica.wait(20) == -9
    assert guard.wait(20) == 0
    known = await store.restarts("tiny", 10, "d1")
    assert known.failure is not None and "front_end_seconds (0.5)" in known.failure
    store.close()
    alert = next(json.loads(line) for line in capfd.readouterr().out.splitlines() if '"alert"' in line)
    assert (alert["kind"], alert["process"], alert["work"]) == ("engine_ended", "guard", sheet.work)


def test_a_guard_ends_with_its_replica(replica: subprocess.Popen[bytes], orders: Orders) -> None:
    guard = post_guard(replace(orders, front_end_seconds=600), Sheet.new())
    replica.kill()
    assert guard.wait(20) == 0


def test_a_guard_at_rest_has_imported_nothing_large() -> None:
    """It runs beside each engine for as long as that lives."""
    words = "import deployments.guard.__main__, sys; print({'ray', 'sqlalchemy', 'pydantic'} & set(sys.modules))"
    assert subprocess.check_output([sys.executable, "-c", words], text=True).strip() == "set()"

"""The brakes on a replica's start, and what is shown of them, over a real ledger."""

import asyncio
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from app.errors import FolderGone, StoreUnavailable
from app.store import Restarts, Store
from deployments import restarts
from deployments.restarts import Brakes, RestartWatch
from tests.unit.waiting import until


@pytest.fixture
def brakes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Brakes:
    monkeypatch.setattr(restarts, "ASK_SECONDS", 0.02)
    monkeypatch.setattr(restarts, "LOOK_SECONDS", 0.02)
    url = f"sqlite:///{tmp_path / 'ledger.db'}"
    Store.make(url)
    return Brakes(url, "tiny", deploy="d", replicas=1, restarts_per_hour=1, start_seconds=60)


async def start(brakes: Brakes, replica: str) -> None:
    async with asyncio.timeout(10), brakes.start(replica):
        pass


def known(brakes: Brakes) -> Restarts:
    store = Store.open(brakes.database_url, lambda: 0)
    try:
        return asyncio.run(store.restarts("tiny", brakes.restarts_per_hour))
    finally:
        store.close()


async def test_a_replica_waits_while_the_budget_is_spent_and_starts_when_a_person_lifts_it(brakes: Brakes) -> None:
    await start(brakes, "planned")
    await start(brakes, "unplanned")
    waiting = asyncio.create_task(start(brakes, "one too many"))
    done, _ = await asyncio.wait([waiting], timeout=0.3)
    assert not done
    store = Store.open(brakes.database_url, lambda: 0)
    await store.reset_restarts("tiny")
    store.close()
    await waiting


async def test_why_a_start_failed_is_noted_by_its_root(brakes: Brakes) -> None:
    with pytest.raises(RuntimeError):
        async with brakes.start("planned"):
            try:
                raise FileNotFoundError("models/nowhere: no such folder\nand more")
            except FileNotFoundError as error:
                raise RuntimeError("the engine did not start") from error
    found = await asyncio.to_thread(known, brakes)
    assert found.failure == "FileNotFoundError: models/nowhere: no such folder"


async def test_a_note_that_cannot_be_written_does_not_replace_the_error(
    brakes: Brakes, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(store: Store, replica: str, reason: str) -> None:
        raise StoreUnavailable("away")

    monkeypatch.setattr(Store, "note_failure", away)
    with pytest.raises(FileNotFoundError, match="no such folder"):
        async with brakes.start("planned"):
            raise FileNotFoundError("models/nowhere: no such folder")


async def test_a_folder_that_is_gone_is_named_before_vllm_takes_it_for_a_hubs_name(
    brakes: Brakes, tmp_path: Path
) -> None:
    there, gone = str(tmp_path), f"{tmp_path}/models/tiny"
    needy = replace(brakes, folders={"the folder of adapter polite": there, "the folder of model tiny": gone})
    with pytest.raises(FolderGone):
        async with needy.start("planned"):
            raise AssertionError("nothing loads")
    found = await asyncio.to_thread(known, brakes)
    assert found.failure == f"the folder of model tiny is not there: {gone}"


async def test_a_folder_that_goes_while_the_model_loads_is_named_before_vllms_words(
    brakes: Brakes, tmp_path: Path
) -> None:
    folder = tmp_path / "tiny"
    folder.mkdir()
    words = "Repo id must be in the form 'repo_name' or 'namespace/repo_name'"
    with pytest.raises(RuntimeError):
        async with replace(brakes, folders={"the folder of model tiny": str(folder)}).start("planned"):
            folder.rmdir()
            raise RuntimeError(words)
    found = await asyncio.to_thread(known, brakes)
    assert found.failure == f"the folder of model tiny is not there: {folder} (RuntimeError: {words})"


def test_a_start_that_hangs_is_ended_and_says_so(brakes: Brakes) -> None:
    """In a process of its own, whose event loop is held up, as vLLM's start does."""
    hanging = replace(brakes, start_seconds=0.2)
    code = f"""
import asyncio, threading
from deployments.restarts import Brakes
async def main():
    async with {hanging!r}.start("r"):
        threading.Event().wait()
asyncio.run(main())
"""
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 1
    assert "not through after 0.2 s" in (known(brakes).failure or "")


async def test_a_ledger_that_is_locked_is_waited_for(brakes: Brakes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.store.database.SQLITE_BUSY_SECONDS", 0.05)
    await start(brakes, "planned")
    with closing(sqlite3.connect(brakes.database_url.removeprefix("sqlite:///"))) as other:
        other.execute("BEGIN EXCLUSIVE")
        waiting = asyncio.create_task(start(brakes, "unplanned"))
        done, _ = await asyncio.wait([waiting], timeout=0.5)
        assert not done
        other.rollback()
    await waiting


async def test_what_is_shown_follows_the_ledger(brakes: Brakes) -> None:
    store = Store.open(brakes.database_url, lambda: int(time.time()))
    watch = RestartWatch(store, ["tiny"], budget=1, deploy="d")
    assert watch.restarts("tiny") == Restarts()
    task = asyncio.create_task(watch.run())
    for replica in ("planned", "unplanned"):
        await start(brakes, replica)
    await until(lambda: watch.restarts("tiny").refills_at is not None)
    assert watch.restarts("tiny").counted == 1
    task.cancel()
    store.close()


async def test_ages_go_on_between_two_looks_into_the_ledger(brakes: Brakes) -> None:
    now = 100.0
    store = Store.open(brakes.database_url, lambda: int(time.time()))
    watch = RestartWatch(store, ["tiny"], budget=1, deploy="d", clock=lambda: now)
    await start(brakes, "planned")
    task = asyncio.create_task(watch.run())
    await until(lambda: watch.restarts("tiny").newest_start_age is not None)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    now = 130.0
    assert watch.restarts("tiny").newest_start_age == pytest.approx(30, abs=5)
    store.close()

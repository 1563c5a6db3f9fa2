"""What is SQLite's own: the file, its lock and its journal."""

import sqlite3
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from sqlalchemy import Connection, event, text

from app.errors import StoreUnavailable
from app.store import Store, database
from tests.store.scene import TENANT, Clock, a_file, new_batch


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.db"


@pytest.fixture
async def store(path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Store]:
    """A store that does not wait long for a lock."""
    monkeypatch.setattr(database, "SQLITE_BUSY_SECONDS", 0.05)
    store = Store.open(f"sqlite:///{path}", clock)
    yield store
    store.close()


@contextmanager
def locked(path: Path) -> Iterator[None]:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        yield
        connection.execute("ROLLBACK")


async def test_a_database_that_stays_locked_is_unavailable_and_says_why(store: Store, path: Path) -> None:
    with locked(path):
        with pytest.raises(StoreUnavailable, match="database is locked"):
            await new_batch(store)
        assert await store.file(TENANT, "file-in") is None
    assert await store.add_file(a_file())


async def test_a_database_that_is_locked_cannot_be_opened_and_says_why(store: Store, path: Path) -> None:
    with locked(path), pytest.raises(StoreUnavailable, match="database is locked"):
        Store.open(f"sqlite:///{path}", Clock())


def test_another_process_that_makes_the_database_is_waited_for(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SQLite's own waiting leaves out the switch to WAL, which only the first process does."""
    monkeypatch.setattr(database, "SQLITE_BUSY_SECONDS", 0.2)
    started = time.monotonic()
    with locked(path), pytest.raises(StoreUnavailable, match="database is locked"):
        Store.open(f"sqlite:///{path}", Clock())
    assert time.monotonic() - started >= 0.2


@pytest.mark.parametrize("database_path", ["/proc/nowhere/ledger.db", "/dev/null/ledger.db"])
def test_a_folder_that_cannot_be_made_is_unavailable_and_says_why(database_path: str) -> None:
    with pytest.raises(StoreUnavailable, match=r"cannot be opened: .*(No such file|Not a directory|File exists)"):
        Store.open(f"sqlite:///{database_path}", Clock())


def test_a_folder_in_place_of_the_database_is_unavailable_and_says_why(path: Path) -> None:
    path.mkdir()
    with pytest.raises(StoreUnavailable, match="unable to open database file"):
        Store.open(f"sqlite:///{path}", Clock())


def test_a_file_that_is_no_database_is_unavailable_and_says_why(path: Path) -> None:
    path.write_text("Dear diary, " * 1000)
    with pytest.raises(StoreUnavailable, match="file is not a database"):
        Store.open(f"sqlite:///{path}", Clock())


async def test_a_full_disk_is_unavailable_and_says_why(store: Store) -> None:
    def use_no_more_space(connection: Connection) -> None:
        connection.execute(text(f"PRAGMA max_page_count = {connection.scalar(text('PRAGMA page_count'))}"))

    event.listen(store._engine, "begin", use_no_more_space)
    with pytest.raises(StoreUnavailable, match="database or disk is full"):
        await store.add_file(a_file(filename="x" * 100_000))
    assert await store.file(TENANT, "file-in") is None


def test_a_committed_row_is_synchronised_to_the_disk(store: Store) -> None:
    with store.begin(write=False) as connection:
        assert connection.scalar(text("PRAGMA journal_mode")) == "wal"
        assert connection.scalar(text("PRAGMA synchronous")) == 2
        assert connection.scalar(text("PRAGMA foreign_keys")) == 1

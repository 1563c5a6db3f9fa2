"""One SQLAlchemy engine, transactions in threads, and the seam at which driver errors become ours."""

import asyncio
import functools
import sqlite3
import time
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, Self, TypeVar

from sqlalchemy import Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import SQLAlchemyError

from app.errors import StoreUnavailable
from app.store import migrate

P = ParamSpec("P")
R = TypeVar("R")
D = TypeVar("D", bound="Database")

SQLITE_BUSY_SECONDS = 5.0
"""How long SQLite waits for another process's write before it gives up; our transactions take milliseconds."""

_Body = Callable[Concatenate[D, Connection, P], R]
_Verb = Callable[Concatenate[D, P], Coroutine[Any, Any, R]]


def _transaction(write: bool) -> Callable[[_Body[D, P, R]], _Verb[D, P, R]]:
    """A verb: its body gets a connection inside a transaction; callers await it."""

    def decorate(body: _Body[D, P, R]) -> _Verb[D, P, R]:
        @functools.wraps(body)
        async def verb(self: D, /, *args: P.args, **kwargs: P.kwargs) -> R:
            def run() -> R:
                with self.begin(write) as connection:
                    return body(self, connection, *args, **kwargs)

            return await self.in_thread(run)

        return verb

    return decorate


reading = _transaction(write=False)
writing = _transaction(write=True)


class Database:
    """Connections and threads. `now` is the clock for times that clients see (whole unix seconds)."""

    def __init__(self, engine: Engine, now: Callable[[], int]) -> None:
        self._engine = engine
        self._now = now
        self._threads = ThreadPoolExecutor(max_workers=4, thread_name_prefix="store")

    @classmethod
    def open(cls, url: str, now: Callable[[], int]) -> Self:
        """Connects, makes the database if there is none, and migrates. Raises StoreUnavailable."""
        engine = sqlite_engine(url)
        database = cls(engine, now)
        try:
            if engine.url.database:
                Path(engine.url.database).parent.mkdir(parents=True, exist_ok=True)
            with database.begin(write=True) as connection:
                migrate.upgrade(connection)
        except (SQLAlchemyError, OSError) as error:
            database.close()
            raise StoreUnavailable(f"The database {engine.url!r} cannot be opened: {_reason(error)}") from error
        return database

    @classmethod
    def open_existing(cls, url: str, now: Callable[[], int]) -> Self:
        """For the replicas: a file that is not there is on another node, and they must not begin one of their own.

        Raises StoreUnavailable.
        """
        if _is_missing(url):
            raise StoreUnavailable(
                f"The database {url} is not on this node: it lies where the application was deployed, and other nodes "
                "do not see it. Run Batchyard on that node alone, or set `database` and `objects` to URLs that all "
                "nodes reach. If the file was moved or deleted, put it back, or start again with an empty ledger"
            )
        return cls.open(url, now)

    @classmethod
    def make(cls, url: str) -> None:
        """For the process that deploys: makes a database that is a file and is not there. Raises StoreUnavailable."""
        if _is_missing(url):
            cls.open(url, lambda: int(time.time())).close()

    def close(self) -> None:
        self._threads.shutdown()
        self._engine.dispose()

    @contextmanager
    def begin(self, write: bool) -> Iterator[Connection]:
        """A transaction. SQLite takes its write lock at the start, so that none waits half-way."""
        with self._engine.execution_options(batchyard_write=write).begin() as connection:
            yield connection

    async def in_thread(self, run: Callable[[], R]) -> R:
        """Runs one transaction. It ends even when the caller is cancelled. Raises StoreUnavailable."""
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, run)
        except SQLAlchemyError as error:
            raise StoreUnavailable(f"The database did not answer: {_reason(error)}") from error


def sqlite_engine(url: str) -> Engine:
    """WAL with full synchronisation: a committed row survives power loss, and readers never wait for a writer."""
    engine = create_engine(url, connect_args={"timeout": SQLITE_BUSY_SECONDS, "check_same_thread": False})
    _use_sqlite_well(engine)
    return engine


def _is_missing(url: str) -> bool:
    parsed = make_url(url)
    return parsed.get_backend_name() == "sqlite" and bool(parsed.database) and not Path(parsed.database or "").exists()


def _use_sqlite_well(engine: Engine) -> None:
    @event.listens_for(engine, "connect")
    def on_connect(connection: Any, record: Any) -> None:
        connection.isolation_level = None  # the driver must not begin transactions of its own
        _switch_to_wal(connection)
        for pragma in ("synchronous=FULL", "foreign_keys=ON"):
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def on_begin(connection: Connection) -> None:
        write = connection.get_execution_options().get("batchyard_write", True)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")


def _switch_to_wal(connection: sqlite3.Connection) -> None:
    """Here alone SQLite does not wait for another process that opens the same new database, so we do."""
    deadline = time.monotonic() + SQLITE_BUSY_SECONDS
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
        connection.execute("BEGIN IMMEDIATE")  # waits for the other's lock
        connection.execute("ROLLBACK")


def _reason(error: SQLAlchemyError | OSError) -> str:
    return str(getattr(error, "orig", None) or error).splitlines()[0]

"""The ledger of a server, read from outside."""

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

from sqlalchemy.dialects import sqlite

from app.store.tables import database_now


class Ledger:
    """What the database of a server says, read from outside, also when the server is dead."""

    def __init__(self, data: Path) -> None:
        self._path = data / "batchyard.db"

    def ask(self, query: str, *parameters: Any) -> list[Any]:
        with closing(sqlite3.connect(f"file:{self._path}?mode=ro", uri=True, timeout=2)) as connection:
            return connection.execute(query, parameters).fetchall()

    def writable(self, seconds: float = 1.0) -> bool:
        """Whether the lock for writing can be had within so many seconds; a write of the server takes milliseconds."""
        with closing(sqlite3.connect(self._path, timeout=seconds, isolation_level=None)) as connection:
            try:
                connection.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError:
                return False
            connection.execute("ROLLBACK")
            return True

    def status(self, batch_id: str) -> str:
        return str(self.ask("SELECT status FROM batches WHERE id = ?", batch_id)[0][0])

    def in_flight(self) -> int:
        """Lines that an engine was sent and that have no durable answer."""
        running = self.ask("SELECT batch_id, \"index\", count FROM shards WHERE state = 'running'")
        return sum(count - len(self._recorded(batch_id, shard)) for batch_id, shard, count in running)

    def run_out(self) -> int:
        """Shards of which the lease has run out, by the database's clock."""
        now = database_now().compile(dialect=sqlite.dialect())
        return int(self.ask(f"SELECT count(*) FROM shards WHERE state = 'running' AND lease_until < {now}")[0][0])

    def sent_again(self) -> dict[tuple[str, int, int], int]:
        """For each claim of a shard after its first: the lines that it found without an answer."""
        again = self.ask('SELECT batch_id, "index", count, epoch FROM shards WHERE epoch > 1')
        return {
            (batch_id, shard, later): count - len(self._recorded(batch_id, shard, before=later))
            for batch_id, shard, count, epoch in again
            for later in range(2, epoch + 1)
        }

    def recorded(self) -> int:
        return int(self.ask("SELECT coalesce(sum(json_array_length(lines)), 0) FROM segments")[0][0])

    def _recorded(self, batch_id: str, shard: int, before: int = 1 << 30) -> set[int]:
        query = "SELECT lines FROM segments WHERE batch_id = ? AND shard = ? AND epoch < ?"
        return {line for (lines,) in self.ask(query, batch_id, shard, before) for line in json.loads(lines)}

"""The ledger's verbs on objects that are to be deleted.

Nothing but the sweep deletes what rows may name, and only what stands here: whether a row names an object is decided in
the transaction that puts its key here, so a writer whose commit succeeded and whose answer was lost can do no harm.
"""

from collections.abc import Sequence

from sqlalchemy import Connection, delete, exists, insert, select

from app.store.database import Database, reading, writing
from app.store.tables import files, garbage, segments


class GarbageVerbs(Database):
    @writing
    def reserve_object(self, connection: Connection, key: str, until: int) -> None:
        """Notes an object that is about to be written: it is deleted after `until`, unless `add_file` makes it true."""
        connection.execute(insert(garbage).values(key=key, due=until))

    @reading
    def due_garbage(self, connection: Connection, limit: int) -> list[str]:
        """Keys of objects that have to go, and prefixes of keys, which end with a slash."""
        due = garbage.c.due <= self._now(), ~exists().where(files.c.object_key == garbage.c.key)
        return list(connection.scalars(select(garbage.c.key).where(*due).order_by(garbage.c.due).limit(limit)))

    @writing
    def forget_garbage(self, connection: Connection, keys: Sequence[str]) -> None:
        """These objects are gone."""
        self._keep(connection, keys)

    def _keep(self, connection: Connection, keys: Sequence[str]) -> None:
        connection.execute(delete(garbage).where(garbage.c.key.in_(keys)))

    def _discard(self, connection: Connection, keys: Sequence[str]) -> None:
        """These go, those excepted that a row names."""
        if not keys:
            return
        named = {
            key
            for table in (files, segments)
            for key in connection.scalars(select(table.c.object_key).where(table.c.object_key.in_(keys)))
        }
        if unnamed := sorted(set(keys) - named):
            self._keep(connection, unnamed)  # known already as reserved, or from a commit whose answer was lost
            connection.execute(insert(garbage), [{"key": key, "due": self._now()} for key in unnamed])

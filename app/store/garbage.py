"""The ledger's verbs on objects that are to be deleted.

Nothing but the sweep deletes what rows may name, and only what stands here: whether a row names an object is decided in
the transaction that puts its key here, so a writer whose commit succeeded and whose answer was lost can do no harm.
"""

from collections.abc import Sequence

from sqlalchemy import Connection, delete, exists, insert, select, update

from app.errors import UploadTooLate
from app.store.database import Database, writing
from app.store.tables import files, garbage, segments

TAKEN = 0
"""The due time of what a sweep may be deleting: nothing can be made of it any more."""


class GarbageVerbs(Database):
    @writing
    def reserve_object(self, connection: Connection, key: str, until: int) -> None:
        """Notes an object that is about to be written: it is deleted after `until`, unless `add_file` makes it true."""
        connection.execute(insert(garbage).values(key=key, due=until))

    @writing
    def due_garbage(self, connection: Connection, limit: int) -> list[str]:
        """Keys of objects that have to go, and prefixes of keys, which end with a slash. They are the caller's now:
        what was an upload becomes no file any more."""
        due = garbage.c.due <= self._now(), ~exists().where(files.c.object_key == garbage.c.key)
        keys = list(connection.scalars(select(garbage.c.key).where(*due).order_by(garbage.c.due).limit(limit)))
        if keys:
            connection.execute(update(garbage).where(garbage.c.key.in_(keys)).values(due=TAKEN))
        return keys

    @writing
    def forget_garbage(self, connection: Connection, keys: Sequence[str]) -> None:
        """These objects are gone."""
        self._keep(connection, keys)

    def _redeem(self, connection: Connection, key: str) -> None:
        """A reserved object stays. Raises UploadTooLate when a sweep has taken it."""
        mine = delete(garbage).where(garbage.c.key == key, garbage.c.due != TAKEN)
        if not connection.execute(mine).rowcount:
            raise UploadTooLate(f"The upload {key!r} took so long that it was given up. Please send it again.")

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

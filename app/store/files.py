"""The ledger's verbs on files."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, and_, delete, exists, insert, or_, select, update

from app.store.database import reading, writing
from app.store.garbage import GarbageVerbs
from app.store.idempotency import IdempotencyVerbs
from app.store.records import FINAL_STATES, File, file_of
from app.store.tables import batches, files, idempotency, object_store

_READ_BY_A_BATCH = exists().where(batches.c.input_file_id == files.c.id, batches.c.status.not_in(FINAL_STATES))


class FileVerbs(IdempotencyVerbs, GarbageVerbs):
    @writing
    def add_file(
        self,
        connection: Connection,
        file: File,
        idempotency_key: str | None = None,
        digest: str = "",
        *,
        reserved: bool = False,
    ) -> File:
        """Adds the file, or gives the one that the same key and digest made before, and then this one's object goes.

        `reserved`: its object was, before it was written. Raises IdempotencyConflict and, if a sweep has taken that
        object since, UploadTooLate.
        """
        if idempotency_key is not None:
            earlier = self._remember(connection, file.tenant, "files", idempotency_key, digest, file.id)
            if earlier is not None:
                if (found := self._file(connection, file.tenant, earlier)) is not None:
                    self._discard(connection, [file.object_key])
                    return found
                # Deleted since: from now on the key stands for this file.
                again = update(idempotency).where(idempotency.c.route == "files", idempotency.c.object_id == earlier)
                connection.execute(again.values(object_id=file.id))
        if reserved:
            self._redeem(connection, file.object_key)
        connection.execute(insert(files).values(**vars(file)))
        return file

    @reading
    def file(self, connection: Connection, tenant: str, file_id: str) -> File | None:
        return self._file(connection, tenant, file_id)

    @reading
    def object_key(self, connection: Connection, file_id: str) -> str | None:
        """Where the file's content lies, for as long as the row is there: past its expiry, too."""
        return connection.scalar(select(files.c.object_key).where(files.c.id == file_id))

    @reading
    def list_files(
        self,
        connection: Connection,
        tenant: str,
        *,
        purpose: str | None,
        ascending: bool,
        limit: int,
        after: str | None,
    ) -> tuple[list[File], bool]:
        """A page, and whether more follow. An unknown `after` gives an empty page."""
        query = select(files).where(files.c.tenant == tenant, self._alive())
        if purpose is not None:
            query = query.where(files.c.purpose == purpose)
        if after is not None:
            at = select(files.c.seq).where(files.c.tenant == tenant, files.c.id == after).scalar_subquery()
            query = query.where(files.c.seq > at if ascending else files.c.seq < at)
        query = query.order_by(files.c.seq if ascending else files.c.seq.desc()).limit(limit + 1)
        rows = [file_of(row._mapping) for row in connection.execute(query)]
        return rows[:limit], len(rows) > limit

    @writing
    def delete_file(self, connection: Connection, tenant: str, file_id: str) -> str:
        """'deleted', 'missing', or the id of an unfinished batch that reads the file."""
        if self._file(connection, tenant, file_id) is None:
            return "missing"
        reader = connection.scalar(
            select(batches.c.id)
            .where(batches.c.input_file_id == file_id, batches.c.status.not_in(FINAL_STATES))
            .limit(1)
        )
        if reader is not None:
            return str(reader)
        connection.execute(update(files).where(files.c.id == file_id).values(deleted_at=self._now()))
        return "deleted"

    @writing
    def expire_files(self, connection: Connection) -> int:
        """Marks files past their time as deleted, but for those that an unfinished batch reads. Returns how many."""
        expired = update(files).where(
            files.c.expires_at <= self._now(), files.c.deleted_at.is_(None), ~_READ_BY_A_BATCH
        )
        return connection.execute(expired.values(deleted_at=self._now())).rowcount

    @reading
    def deleted_files(self, connection: Connection, limit: int) -> list[File]:
        """Files that are gone for clients and whose objects still have to go."""
        query = select(files).where(self._forgettable()).order_by(files.c.deleted_at).limit(limit)
        return [file_of(row._mapping) for row in connection.execute(query)]

    @writing
    def forget_files(self, connection: Connection, file_ids: Sequence[str]) -> None:
        connection.execute(delete(files).where(files.c.id.in_(file_ids), self._forgettable()))

    @reading
    def objects_mark(self, connection: Connection) -> str | None:
        """The object by which the store that the files' contents lie in is known."""
        return connection.scalar(select(object_store.c.mark))

    @writing
    def set_objects_mark(self, connection: Connection, key: str) -> str:
        """The mark that stands: this one, or another's that came first."""
        if (earlier := connection.scalar(select(object_store.c.mark))) is not None:
            return str(earlier)
        connection.execute(insert(object_store).values(id=1, mark=key))
        return key

    def _alive(self) -> Any:
        return and_(files.c.deleted_at.is_(None), or_(files.c.expires_at.is_(None), files.c.expires_at > self._now()))

    def _forgettable(self) -> Any:
        # A batch may have been created between the API's look at the file and its deletion.
        return and_(files.c.deleted_at <= self._now(), ~_READ_BY_A_BATCH)

    def _file(self, connection: Connection, tenant: str, file_id: str) -> File | None:
        query = select(files).where(files.c.tenant == tenant, files.c.id == file_id, self._alive())
        row = connection.execute(query).mappings().first()
        return file_of(row) if row is not None else None

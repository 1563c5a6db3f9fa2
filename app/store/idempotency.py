"""What an Idempotency-Key made before."""

from sqlalchemy import Connection, delete, insert, select

from app.store.database import Database, reading, writing
from app.store.records import IdempotencyConflict
from app.store.tables import idempotency


class IdempotencyVerbs(Database):
    @reading
    def idempotent_object(self, connection: Connection, tenant: str, route: str, key: str, digest: str) -> str | None:
        """The id of what this key made before, or None. Raises IdempotencyConflict."""
        return self._recall(connection, tenant, route, key, digest)

    def _recall(self, connection: Connection, tenant: str, route: str, key: str, digest: str) -> str | None:
        query = select(idempotency).where(
            idempotency.c.tenant == tenant, idempotency.c.route == route, idempotency.c.key == key
        )
        row = connection.execute(query).mappings().first()
        if row is None:
            return None
        if row["digest"] != digest:
            raise IdempotencyConflict(f"The Idempotency-Key {key!r} was used before with another request body.")
        return str(row["object_id"])

    def _remember(
        self, connection: Connection, tenant: str, route: str, key: str, digest: str, object_id: str
    ) -> str | None:
        """The id that this key made before; else notes that it makes `object_id` and gives None."""
        if (earlier := self._recall(connection, tenant, route, key, digest)) is not None:
            return earlier
        connection.execute(
            insert(idempotency).values(
                tenant=tenant, route=route, key=key, digest=digest, object_id=object_id, created_at=self._now()
            )
        )
        return None

    @writing
    def forget_idempotency(self, connection: Connection, age_seconds: int) -> int:
        """Forgets keys of that age: nobody repeats such an old request. Returns how many."""
        old = delete(idempotency).where(idempotency.c.created_at <= self._now() - age_seconds)
        return connection.execute(old).rowcount

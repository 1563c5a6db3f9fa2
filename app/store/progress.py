"""Where a batch that runs stands in its model's queue."""

from dataclasses import dataclass

from sqlalchemy import Connection, func, select

from app.store.database import Database, reading
from app.store.tables import batches, segments, shards


@dataclass(frozen=True)
class Progress:
    """In lines: those that replicas have and that no result is recorded of, and those of earlier batches to come."""

    in_engine: int
    queued_before: int


class ProgressVerbs(Database):
    @reading
    def progress(self, connection: Connection, batch_id: str) -> Progress | None:
        """None while the batch does not run: before it is validated, and once it is finalised."""
        query = select(batches.c.seq, batches.c.model).where(
            batches.c.id == batch_id, batches.c.status == "in_progress"
        )
        batch = connection.execute(query).first()
        if batch is None:
            return None
        mine = (shards.c.batch_id == batch_id, shards.c.state == "running")
        claimed = connection.scalar(select(func.coalesce(func.sum(shards.c.count), 0)).where(*mine))
        recorded = connection.scalar(
            select(func.coalesce(func.sum(func.json_array_length(segments.c.lines)), 0))
            .join(shards, (shards.c.batch_id == segments.c.batch_id) & (shards.c.index == segments.c.shard))
            .where(*mine)
        )
        before = connection.scalar(
            select(func.coalesce(func.sum(batches.c.total - batches.c.completed - batches.c.failed), 0)).where(
                batches.c.model == batch.model,
                batches.c.seq < batch.seq,
                batches.c.status == "in_progress",
                batches.c.ending.is_(None),
                batches.c.paused_at.is_(None),
            )
        )
        return Progress(max(0, int(claimed or 0) - int(recorded or 0)), int(before or 0))

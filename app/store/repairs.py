"""The ledger's verbs on batches in which something is broken."""

from collections import defaultdict
from collections.abc import Callable, Sequence

from sqlalchemy import Connection, delete, literal, or_, select, update

from app.store.batches import BatchVerbs
from app.store.database import writing
from app.store.records import BatchClaim, Segment
from app.store.tables import batches, database_now, segments, shards


class RepairVerbs(BatchVerbs):
    @writing
    def run_again(self, connection: Connection, claim: BatchClaim, damaged: Sequence[Segment]) -> bool:
        """Results that cannot be read are none: their lines run again, and the batch is in_progress again.

        Counted as a fault. Tokens stay counted: they were used. Returns whether the claim still held and the batch had
        not been told to end.
        """
        goes_on = update(batches).where(self._held(claim), batches.c.status == "finalizing", batches.c.ending.is_(None))
        values = {"status": "in_progress", "finalizing_at": None, "owner": None, "lease_until": None}
        if not connection.execute(goes_on.values(**values, faults=batches.c.faults + 1)).rowcount:
            return False
        lost: dict[int, list[int]] = defaultdict(list)
        for segment in damaged:
            lost[segment.shard].append(segment.seq)
        for shard, rows in lost.items():
            self._drop_segments(connection, claim.batch.id, shard, rows)
        return True

    @writing
    def put_off_batch(self, connection: Connection, claim: BatchClaim, seconds: float, *, fault: bool) -> bool:
        """Nobody claims the batch for so long. Returns whether the claim still held.

        `fault`: what was claimed failed through a fault of the batch's own, which is counted.
        """
        held = update(batches).where(self._held(claim))
        values = {"faults": batches.c.faults + int(fault), "lease_until": database_now() + literal(seconds)}
        return bool(connection.execute(held.values(**values)).rowcount)

    @writing
    def put_off_shards(self, connection: Connection, batch_id: str, pause: Callable[[int], float]) -> int:
        """A shard failed through a fault of the batch's own, which is counted. For a pause no shard of it is claimed.

        `pause`: seconds by number of faults. Returns that number, or 0 if nothing was counted: the batch is put off
        already, by another of the shards that ran together, or does not run any more.
        """
        runs = select(batches.c.faults).where(
            batches.c.id == batch_id,
            batches.c.status == "in_progress",
            or_(batches.c.lease_until.is_(None), batches.c.lease_until < database_now()),
        )
        before = connection.scalar(runs.with_for_update())
        if before is None:
            return 0
        faults = int(before) + 1
        values = {"faults": faults, "lease_until": database_now() + literal(pause(faults))}
        connection.execute(update(batches).where(batches.c.id == batch_id).values(**values))
        return faults

    def _drop_segments(self, connection: Connection, batch_id: str, shard: int, rows: Sequence[int]) -> None:
        before = self._outcomes(connection, batch_id, shard)
        connection.execute(delete(segments).where(segments.c.seq.in_(rows)))
        left = self._outcomes(connection, batch_id, shard)
        lost = [failed for position, failed in before.items() if position not in left]
        connection.execute(
            update(batches)
            .where(batches.c.id == batch_id)
            .values(
                completed=batches.c.completed - lost.count(False),
                failed=batches.c.failed - lost.count(True),
            )
        )
        mine = shards.c.batch_id == batch_id, shards.c.index == shard
        connection.execute(update(shards).where(*mine).values(state="pending", owner=None, lease_until=None))

    def _outcomes(self, connection: Connection, batch_id: str, shard: int) -> dict[int, bool]:
        """For each position that has a result, whether it counts as failed: the first that was recorded counts."""
        query = select(segments.c.lines, segments.c.failed).where(
            segments.c.batch_id == batch_id, segments.c.shard == shard
        )
        found: dict[int, bool] = {}
        for lines, failed in connection.execute(query.order_by(segments.c.seq.desc())):
            found.update((position, position in failed) for position in lines)
        return found

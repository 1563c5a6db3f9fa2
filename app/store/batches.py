"""The ledger's verbs on batches: what clients ask for, and a batch's own steps."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, and_, case, delete, exists, func, insert, literal, or_, select, tuple_, update

from app.store.database import reading, writing
from app.store.garbage import GarbageVerbs
from app.store.idempotency import IdempotencyVerbs
from app.store.records import FINAL_STATES, Batch, BatchClaim, File, QueueFull, ShardPlan, batch_of
from app.store.tables import batches, database_now, files, segments, shards


class BatchVerbs(IdempotencyVerbs, GarbageVerbs):
    @writing
    def create_batch(
        self,
        connection: Connection,
        batch: Batch,
        *,
        queued_lines_limit: int,
        idempotency_key: str | None = None,
        digest: str = "",
    ) -> Batch:
        """Adds the batch, or gives the one of the same key and digest. Raises QueueFull, IdempotencyConflict."""
        if idempotency_key is not None:
            earlier = self._remember(connection, batch.tenant, "batches", idempotency_key, digest, batch.id)
            if earlier is not None and (found := self._batch(connection, batch.tenant, earlier)) is not None:
                return found
        queued = self._queued_lines(connection)
        if queued >= queued_lines_limit:
            raise QueueFull(queued, queued_lines_limit)
        connection.execute(insert(batches).values(**vars(batch)))
        return batch

    @reading
    def batch(self, connection: Connection, tenant: str, batch_id: str) -> Batch | None:
        return self._batch(connection, tenant, batch_id)

    @reading
    def list_batches(
        self, connection: Connection, tenant: str, *, limit: int, after: str | None
    ) -> tuple[list[Batch], bool]:
        """A page, newest first, and whether more follow. An unknown `after` gives an empty page."""
        query = select(batches).where(batches.c.tenant == tenant)
        if after is not None:
            at = select(batches.c.seq).where(batches.c.tenant == tenant, batches.c.id == after).scalar_subquery()
            query = query.where(batches.c.seq < at)
        rows = [
            batch_of(row._mapping) for row in connection.execute(query.order_by(batches.c.seq.desc()).limit(limit + 1))
        ]
        return rows[:limit], len(rows) > limit

    @writing
    def cancel_batch(self, connection: Connection, tenant: str, batch_id: str) -> Batch | None:
        """Asks for the end of a batch that still runs; returns it as it is now, None when there is none."""
        connection.execute(
            update(batches)
            .where(
                batches.c.tenant == tenant,
                batches.c.id == batch_id,
                batches.c.status.in_(("validating", "in_progress", "finalizing")),
                batches.c.ending.is_(None),
            )
            .values(
                status="cancelling",
                ending="cancelled",
                cancelling_at=self._now(),
                # Takes a validation under way from its owner; a finalisation under way may end and then says cancelled.
                epoch=batches.c.epoch + (batches.c.status == "validating").cast(batches.c.epoch.type),
                lease_until=case((batches.c.status == "finalizing", batches.c.lease_until)),
            )
        )
        return self._batch(connection, tenant, batch_id)

    @writing
    def expire_batches(self, connection: Connection) -> int:
        """Stops the batches whose completion window is over. Returns how many."""
        overdue = update(batches).where(
            batches.c.status.in_(("validating", "in_progress")),
            batches.c.ending.is_(None),
            batches.c.expires_at <= self._now(),
        )
        return connection.execute(
            overdue.values(
                status="finalizing",
                ending="expired",
                finalizing_at=self._now(),
                epoch=batches.c.epoch + 1,
                lease_until=None,
            )
        ).rowcount

    @reading
    def open_batches(self, connection: Connection) -> list[Batch]:
        """All that have not ended, oldest first."""
        query = select(batches).where(batches.c.status.not_in(FINAL_STATES)).order_by(batches.c.seq)
        return [batch_of(row._mapping) for row in connection.execute(query)]

    @writing
    def resume_batch(self, connection: Connection, tenant: str, batch_id: str) -> Batch | None:
        """A paused batch goes on with a full allowance; any other stays as it is. None: there is none."""
        paused = update(batches).where(
            batches.c.tenant == tenant, batches.c.id == batch_id, batches.c.paused_at.is_not(None)
        )
        connection.execute(paused.values(paused_at=None, engine_losses=0))
        return self._batch(connection, tenant, batch_id)

    @reading
    def counts(self, connection: Connection) -> dict[str, int]:
        """Batches by state, and the lines that are queued."""
        rows = connection.execute(select(batches.c.status, func.count()).group_by(batches.c.status))
        found = {str(status): int(count) for status, count in rows}
        return {**found, "queued_lines": self._queued_lines(connection)}

    @writing
    def claim_new_batch(self, connection: Connection, owner: str, lease_seconds: float) -> BatchClaim | None:
        """The oldest batch that nobody validates."""
        free = or_(batches.c.lease_until.is_(None), batches.c.lease_until < database_now())
        return self._claim_batch(
            connection, and_(batches.c.status == "validating", free), owner, lease_seconds, finalise=False
        )

    @writing
    def start_batch(
        self,
        connection: Connection,
        claim: BatchClaim,
        model: str,
        plans: Sequence[ShardPlan],
        warnings: Sequence[Mapping[str, Any]] = (),
    ) -> bool:
        """Validated: the shards are there and the lines may run. Returns whether the claim still held."""
        acted = connection.execute(
            update(batches)
            .where(self._held(claim), batches.c.status == "validating")
            .values(
                status="in_progress",
                in_progress_at=self._now(),
                model=model,
                warnings=list(warnings) or None,
                total=sum(plan.count for plan in plans),
                owner=None,
                lease_until=None,
                faults=0,
            )
        ).rowcount
        if acted:
            rows = [{"batch_id": claim.batch.id, "index": index, **vars(plan)} for index, plan in enumerate(plans)]
            connection.execute(insert(shards), rows)
        return bool(acted)

    @writing
    def fail_batch(self, connection: Connection, claim: BatchClaim, errors: Sequence[Mapping[str, Any]]) -> bool:
        """The input cannot be run. Returns whether the claim still held."""
        failed = update(batches).where(self._held(claim), batches.c.status == "validating")
        return bool(
            connection.execute(
                failed.values(status="failed", failed_at=self._now(), errors=list(errors), owner=None, lease_until=None)
            ).rowcount
        )

    @writing
    def stop_batch(self, connection: Connection, batch_id: str, error: Mapping[str, Any]) -> bool:
        """Its lines can never run (its input is gone): what is done is kept, and it ends as failed with this error."""
        running = update(batches).where(
            batches.c.id == batch_id, batches.c.status == "in_progress", batches.c.ending.is_(None)
        )
        return bool(
            connection.execute(
                running.values(status="finalizing", ending="failed", finalizing_at=self._now(), errors=[dict(error)])
            ).rowcount
        )

    @writing
    def claim_ended_batch(self, connection: Connection, owner: str, lease_seconds: float) -> BatchClaim | None:
        """The oldest batch of which no line runs or will run, now closed to late results."""
        mine = shards.c.batch_id == batches.c.id
        leased = exists().where(mine, shards.c.state == "running", shards.c.lease_until >= database_now())
        unfinished = exists().where(mine, shards.c.state.in_(("pending", "running")))
        free = or_(batches.c.lease_until.is_(None), batches.c.lease_until < database_now())
        ended = and_(
            batches.c.status.in_(("in_progress", "finalizing", "cancelling")),
            free,
            or_(~unfinished, and_(batches.c.ending.is_not(None), ~leased)),
        )
        claim = self._claim_batch(connection, ended, owner, lease_seconds, finalise=True)
        if claim is not None:
            connection.execute(
                update(shards)
                .where(shards.c.batch_id == claim.batch.id, shards.c.state != "done")
                .values(state="closed", epoch=shards.c.epoch + 1, owner=None, lease_until=None)
            )
        return claim

    @writing
    def finish_batch(
        self,
        connection: Connection,
        claim: BatchClaim,
        output: File | None,
        error: File | None,
        leftovers: Sequence[str] = (),
        *,
        lost: int = 0,
        fault: Mapping[str, Any] | None = None,
        error_summary: Sequence[Mapping[str, Any]] = (),
    ) -> bool:
        """The result files are there. Returns whether the claim still held; if not, their objects go.

        `leftovers`: keys of objects of no more use, and prefixes of keys, which end with a slash: they go as well.
        `lost`: lines that had counted as completed and whose results cannot be read. `fault`: why the batch ends as
        failed, unless it was told how to end. `error_summary`: of all lines of the error file.
        """
        files_made = [file for file in (output, error) if file is not None]
        status = connection.execute(select(batches.c.ending).where(self._held(claim)).with_for_update()).first()
        if status is None:
            self._discard(connection, [file.object_key for file in files_made])
            return False
        end = status.ending or ("completed" if fault is None else "failed")
        completed = batches.c.completed - lost
        connection.execute(
            update(batches)
            .where(self._held(claim))
            .values(
                status=end,
                **{f"{end}_at": self._now()},
                completed=completed,
                failed=batches.c.total - completed,
                error_summary=list(error_summary) or None,
                errors=batches.c.errors if fault is None else [dict(fault)],
                output_file_id=output.id if output else None,
                error_file_id=error.id if error else None,
                owner=None,
                lease_until=None,
            )
        )
        for file in files_made:
            connection.execute(insert(files).values(**vars(file)))
        connection.execute(delete(segments).where(segments.c.batch_id == claim.batch.id))
        connection.execute(delete(shards).where(shards.c.batch_id == claim.batch.id))
        self._discard(connection, leftovers)
        return True

    @writing
    def renew_batches(self, connection: Connection, keys: Collection[tuple[str, int]], lease_seconds: float) -> None:
        """Keeps the claims on batches alive by (id, epoch)."""
        if keys:
            connection.execute(
                update(batches)
                .where(tuple_(batches.c.id, batches.c.epoch).in_(list(keys)), batches.c.lease_until.is_not(None))
                .values(lease_until=database_now() + literal(lease_seconds))
            )

    def _batch(self, connection: Connection, tenant: str, batch_id: str) -> Batch | None:
        query = select(batches).where(batches.c.tenant == tenant, batches.c.id == batch_id)
        row = connection.execute(query).mappings().first()
        return batch_of(row) if row is not None else None

    def _queued_lines(self, connection: Connection) -> int:
        """Of batches that are not validated yet, those of their files."""
        lines = case((batches.c.status == "validating", files.c.lines), else_=batches.c.total)
        left = func.sum(func.coalesce(lines, 0) - batches.c.completed - batches.c.failed)
        query = select(left).outerjoin(files, files.c.id == batches.c.input_file_id)
        return int(connection.scalar(query.where(batches.c.status.not_in(FINAL_STATES))) or 0)

    def _claim_batch(
        self, connection: Connection, which: Any, owner: str, lease_seconds: float, *, finalise: bool
    ) -> BatchClaim | None:
        query = select(batches).where(which).order_by(batches.c.seq).limit(1).with_for_update(skip_locked=True)
        row = connection.execute(query).mappings().first()
        if row is None:
            return None
        changes: dict[str, Any] = {
            "owner": owner,
            "epoch": row["epoch"] + 1,
            "lease_until": database_now() + literal(lease_seconds),
        }
        if finalise and row["status"] == "in_progress":
            changes |= {"status": "finalizing", "finalizing_at": self._now()}
        connection.execute(update(batches).where(batches.c.id == row["id"]).values(**changes))
        shown = {key: value for key, value in changes.items() if key in ("status", "finalizing_at")}
        return BatchClaim(batch_of({**row, **shown}), row["epoch"] + 1, row["faults"])

    def _held(self, claim: BatchClaim) -> Any:
        return and_(
            batches.c.id == claim.batch.id, batches.c.epoch == claim.epoch, batches.c.status.not_in(FINAL_STATES)
        )

"""The ledger's verbs. Each is one transaction, run in a thread, so that it is never cut in two by a cancelled task.

A claim bumps the epoch of what it claims; every later write states that epoch and says whether it acted. A write that
acts on nothing means that somebody else has the work now: a normal result, not an error.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, and_, case, delete, exists, func, insert, literal, or_, select, tuple_, update

from app.store.database import Database, reading, writing
from app.store.records import (
    Batch,
    BatchClaim,
    File,
    IdempotencyConflict,
    QueueFull,
    Segment,
    SegmentDraft,
    ShardClaim,
    ShardPlan,
    batch_of,
    file_of,
    segment_of,
    shard_claim_of,
)
from app.store.tables import FINAL_STATES, batches, database_now, files, idempotency, segments, shards

_READ_BY_A_BATCH = exists().where(batches.c.input_file_id == files.c.id, batches.c.status.not_in(FINAL_STATES))


class Store(Database):
    """The ledger. Open it with `Store.open(url, now)`."""

    # Files

    @writing
    def reserve_file(self, connection: Connection, file: File, until: int) -> None:
        """Notes an object that is about to be written: unless `add_file` makes it true, it is deleted after `until`."""
        connection.execute(insert(files).values(**vars(file), deleted_at=until))

    @writing
    def add_file(
        self, connection: Connection, file: File, idempotency_key: str | None = None, digest: str = ""
    ) -> File:
        """Adds the file, or gives the one that the same key and digest made before. Raises IdempotencyConflict."""
        if idempotency_key is not None:
            earlier = self._remember(connection, file.tenant, "files", idempotency_key, digest, file.id)
            if earlier is not None:
                if (found := self._file(connection, file.tenant, earlier)) is not None:
                    return found
                # Deleted since: from now on the key stands for this file.
                again = update(idempotency).where(idempotency.c.route == "files", idempotency.c.object_id == earlier)
                connection.execute(again.values(object_id=file.id))
        reservation = delete(files).where(files.c.id == file.id, files.c.deleted_at.is_not(None))
        connection.execute(reservation)
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

    # Batches

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
    def idempotent_object(self, connection: Connection, tenant: str, route: str, key: str, digest: str) -> str | None:
        """The id of what this key made before, or None. Raises IdempotencyConflict."""
        return self._recall(connection, tenant, route, key, digest)

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
    def counts(self, connection: Connection) -> dict[str, int]:
        """Batches by state, and the lines that are queued."""
        rows = connection.execute(select(batches.c.status, func.count()).group_by(batches.c.status))
        found = {str(status): int(count) for status, count in rows}
        return {**found, "queued_lines": self._queued_lines(connection)}

    # A batch's own steps: validate, finalise

    @writing
    def claim_new_batch(self, connection: Connection, owner: str, lease_seconds: float) -> BatchClaim | None:
        """The oldest batch that nobody validates."""
        free = or_(batches.c.lease_until.is_(None), batches.c.lease_until < database_now())
        return self._claim_batch(
            connection, and_(batches.c.status == "validating", free), owner, lease_seconds, finalise=False
        )

    @writing
    def start_batch(self, connection: Connection, claim: BatchClaim, model: str, plans: Sequence[ShardPlan]) -> bool:
        """Validated: the shards are there and the lines may run. Returns whether the claim still held."""
        acted = connection.execute(
            update(batches)
            .where(self._held(claim), batches.c.status == "validating")
            .values(
                status="in_progress",
                in_progress_at=self._now(),
                model=model,
                total=sum(plan.count for plan in plans),
                owner=None,
                lease_until=None,
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
    ) -> bool:
        """The result files are there. Returns whether the claim still held.

        `leftovers`: keys of objects of no more use, and prefixes of keys, which end with a slash. They become deleted
        files, so that they are deleted whatever dies now.
        """
        status = connection.execute(select(batches.c.ending).where(self._held(claim))).first()
        if status is None:
            return False
        end = status.ending or "completed"
        connection.execute(
            update(batches)
            .where(batches.c.id == claim.batch.id)
            .values(
                status=end,
                **{f"{end}_at": self._now()},
                failed=batches.c.total - batches.c.completed,
                output_file_id=output.id if output else None,
                error_file_id=error.id if error else None,
                owner=None,
                lease_until=None,
            )
        )
        for file in filter(None, (output, error)):
            connection.execute(insert(files).values(**vars(file)))
        for key in leftovers:
            gone = File(key, claim.batch.tenant, "leftover", "", 0, key, self._now())
            connection.execute(insert(files).values(**vars(gone), deleted_at=self._now()))
        connection.execute(delete(segments).where(segments.c.batch_id == claim.batch.id))
        connection.execute(delete(shards).where(shards.c.batch_id == claim.batch.id))
        return True

    # Shards

    @writing
    def claim_shards(
        self, connection: Connection, owner: str, lease_seconds: float, model: str, limit: int
    ) -> list[ShardClaim]:
        """Up to `limit` shards of the model's oldest batches that nobody runs, each with the positions already done."""
        free = or_(
            shards.c.state == "pending", and_(shards.c.state == "running", shards.c.lease_until < database_now())
        )
        query = (
            select(shards, batches.c.endpoint, files.c.object_key)
            .join(batches, batches.c.id == shards.c.batch_id)
            .join(files, files.c.id == batches.c.input_file_id)
            .where(batches.c.status == "in_progress", batches.c.ending.is_(None), batches.c.model == model, free)
            .order_by(batches.c.seq, shards.c.index)
            .limit(limit)
            .with_for_update(of=shards, skip_locked=True)
        )
        rows = connection.execute(query).mappings().all()
        if not rows:
            return []
        keys = [(row["batch_id"], row["index"]) for row in rows]
        connection.execute(
            update(shards)
            .where(tuple_(shards.c.batch_id, shards.c.index).in_(keys))
            .values(
                state="running",
                owner=owner,
                epoch=shards.c.epoch + 1,
                lease_until=database_now() + literal(lease_seconds),
            )
        )
        done = self._done_positions(connection, keys)
        return [shard_claim_of(row, model, done.get((row["batch_id"], row["index"]), frozenset())) for row in rows]

    @writing
    def record(self, connection: Connection, drafts: Sequence[SegmentDraft]) -> set[tuple[str, int, int]]:
        """Makes results true. Returns the keys of the claims that still held; the others' results count for nothing."""
        held = set()
        for draft in drafts:
            claim = draft.claim
            mine = update(shards).where(self._running(claim))
            if not connection.execute(mine.values(state="done" if draft.finishes else "running")).rowcount:
                continue
            held.add(claim.key)
            if draft.lines:
                self._add_segment(connection, draft)
        return held

    @writing
    def release(self, connection: Connection, claim: ShardClaim, *, engine_lost: bool) -> bool:
        """Gives a shard back for anyone to take. Returns whether the claim still held."""
        back = update(shards).where(self._running(claim))
        return bool(
            connection.execute(
                back.values(
                    state="pending",
                    owner=None,
                    lease_until=None,
                    engine_losses=shards.c.engine_losses + int(engine_lost),
                )
            ).rowcount
        )

    @writing
    def renew_shards(
        self, connection: Connection, keys: Collection[tuple[str, int, int]], lease_seconds: float
    ) -> set[tuple[str, int, int]]:
        """Keeps claims alive by their keys. Returns those that still hold and whose batch goes on."""
        if not keys:
            return set()
        mine = and_(
            tuple_(shards.c.batch_id, shards.c.index, shards.c.epoch).in_(list(keys)), shards.c.state == "running"
        )
        connection.execute(update(shards).where(mine).values(lease_until=database_now() + literal(lease_seconds)))
        going_on = (
            select(shards.c.batch_id, shards.c.index, shards.c.epoch)
            .join(batches, batches.c.id == shards.c.batch_id)
            .where(mine, batches.c.ending.is_(None))
        )
        return {(batch_id, index, epoch) for batch_id, index, epoch in connection.execute(going_on)}

    @writing
    def renew_batches(self, connection: Connection, keys: Collection[tuple[str, int]], lease_seconds: float) -> None:
        """Keeps the claims on batches alive by (id, epoch)."""
        if keys:
            connection.execute(
                update(batches)
                .where(tuple_(batches.c.id, batches.c.epoch).in_(list(keys)), batches.c.lease_until.is_not(None))
                .values(lease_until=database_now() + literal(lease_seconds))
            )

    @reading
    def shard_plans(self, connection: Connection, batch_id: str) -> list[ShardPlan]:
        query = select(shards.c.offset, shards.c.length, shards.c.first_line, shards.c.count)
        rows = connection.execute(query.where(shards.c.batch_id == batch_id).order_by(shards.c.index))
        return [ShardPlan(*row) for row in rows]

    @reading
    def segments(self, connection: Connection, batch_id: str, first: int, last: int) -> list[Segment]:
        """The durable results of the shards `first` to `last`, both included."""
        query = select(segments).where(segments.c.batch_id == batch_id, segments.c.shard.between(first, last))
        return [segment_of(row) for row in connection.execute(query.order_by(segments.c.seq)).mappings()]

    # Shared pieces

    def _alive(self) -> Any:
        return and_(files.c.deleted_at.is_(None), or_(files.c.expires_at.is_(None), files.c.expires_at > self._now()))

    def _forgettable(self) -> Any:
        # A batch may have been created between the API's look at the file and its deletion.
        return and_(files.c.deleted_at <= self._now(), ~_READ_BY_A_BATCH)

    def _file(self, connection: Connection, tenant: str, file_id: str) -> File | None:
        query = select(files).where(files.c.tenant == tenant, files.c.id == file_id, self._alive())
        row = connection.execute(query).mappings().first()
        return file_of(row) if row is not None else None

    def _batch(self, connection: Connection, tenant: str, batch_id: str) -> Batch | None:
        query = select(batches).where(batches.c.tenant == tenant, batches.c.id == batch_id)
        row = connection.execute(query).mappings().first()
        return batch_of(row) if row is not None else None

    def _queued_lines(self, connection: Connection) -> int:
        left = func.sum(batches.c.total - batches.c.completed - batches.c.failed)
        return int(connection.scalar(select(left).where(batches.c.status.not_in(FINAL_STATES))) or 0)

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
        return BatchClaim(batch_of({**row, **shown}), row["epoch"] + 1)

    def _held(self, claim: BatchClaim) -> Any:
        return and_(
            batches.c.id == claim.batch.id, batches.c.epoch == claim.epoch, batches.c.status.not_in(FINAL_STATES)
        )

    def _running(self, claim: ShardClaim) -> Any:
        return and_(
            shards.c.batch_id == claim.batch_id,
            shards.c.index == claim.index,
            shards.c.epoch == claim.epoch,
            shards.c.state == "running",
        )

    def _done_positions(
        self, connection: Connection, keys: Iterable[tuple[str, int]]
    ) -> dict[tuple[str, int], frozenset[int]]:
        query = select(segments.c.batch_id, segments.c.shard, segments.c.lines)
        done: dict[tuple[str, int], frozenset[int]] = {}
        for row in connection.execute(query.where(tuple_(segments.c.batch_id, segments.c.shard).in_(list(keys)))):
            key = (row.batch_id, row.shard)
            done[key] = done.get(key, frozenset()) | frozenset(row.lines)
        return done

    def _add_segment(self, connection: Connection, draft: SegmentDraft) -> None:
        """Counts only lines that no segment holds yet: a commit whose answer got lost is tried again by its writer."""
        claim, usage = draft.claim, draft.usage
        shard = (claim.batch_id, claim.index)
        new = set(draft.lines) - self._done_positions(connection, [shard]).get(shard, frozenset())
        if not new:
            return
        connection.execute(
            insert(segments).values(
                batch_id=claim.batch_id,
                shard=claim.index,
                epoch=claim.epoch,
                object_key=draft.object_key,
                start=draft.start,
                end=draft.end,
                lines=list(draft.lines),
                failed=sorted(draft.failed),
            )
        )
        connection.execute(
            update(batches)
            .where(batches.c.id == claim.batch_id)
            .values(
                completed=batches.c.completed + len(new - draft.failed),
                failed=batches.c.failed + len(new & draft.failed),
                input_tokens=batches.c.input_tokens + usage.input_tokens,
                cached_tokens=batches.c.cached_tokens + usage.cached_tokens,
                output_tokens=batches.c.output_tokens + usage.output_tokens,
                reasoning_tokens=batches.c.reasoning_tokens + usage.reasoning_tokens,
            )
        )

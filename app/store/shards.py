"""The ledger's verbs on shards and their results."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, and_, insert, literal, or_, select, tuple_, update

from app.store.database import reading, writing
from app.store.failures import ErrorSummary
from app.store.garbage import GarbageVerbs
from app.store.records import SLOW, Segment, SegmentDraft, ShardClaim, ShardPlan, segment_of, shard_claim_of
from app.store.tables import batches, database_now, files, segments, shards, starts


class ShardVerbs(GarbageVerbs):
    @writing
    def claim_shards(
        self,
        connection: Connection,
        owner: str,
        lease_seconds: float,
        model: str,
        limit: int,
        *,
        suspect: bool = False,
        running: Collection[tuple[str, int, int]] = (),
    ) -> list[ShardClaim]:
        """Up to `limit` shards of the model's oldest batches that nobody runs, each with the positions already done.

        `suspect`: those with suspect or slow lines, else those without. `running`: the caller's own claims, which it
        must not get again even if the clock says that their leases have run out.
        """
        free = or_(
            shards.c.state == "pending", and_(shards.c.state == "running", shards.c.lease_until < database_now())
        )
        query = (
            select(shards, batches.c.endpoint, files.c.object_key)
            .join(batches, batches.c.id == shards.c.batch_id)
            .join(files, files.c.id == batches.c.input_file_id)
            .where(
                batches.c.status == "in_progress",
                batches.c.ending.is_(None),
                batches.c.paused_at.is_(None),
                or_(batches.c.lease_until.is_(None), batches.c.lease_until < database_now()),
                batches.c.model == model,
                shards.c.suspects.is_not(None) if suspect else shards.c.suspects.is_(None),
                tuple_(shards.c.batch_id, shards.c.index, shards.c.epoch).not_in(list(running)),
                free,
            )
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
        """Makes results true. Returns the keys of the claims that still held; the others' results count for nothing.

        An object that holds nothing but such results goes.
        """
        held = set()
        for draft in drafts:
            claim = draft.claim
            # Finished by this very claim already: a commit whose answer got lost, which its writer tries again.
            states = ("running", "done") if draft.finishes else ("running",)
            mine = update(shards).where(self._claimed(claim), shards.c.state.in_(states))
            if not connection.execute(mine.values(state="done" if draft.finishes else "running")).rowcount:
                continue
            held.add(claim.key)
            if draft.lines:
                self._add_segment(connection, draft)
        self._discard(connection, [draft.object_key for draft in drafts if draft.lines and draft.claim.key not in held])
        return held

    @writing
    def release(
        self,
        connection: Connection,
        claim: ShardClaim,
        suspects: Mapping[int, int] | None = None,
        slow: Collection[int] | None = None,
    ) -> bool:
        """Gives a shard back for anyone to take, with its suspect and slow lines; None: those that the claim has.

        Returns whether the claim still held.
        """
        return self._release(connection, claim, suspects, slow)

    @writing
    def blame(
        self,
        connection: Connection,
        claim: ShardClaim,
        suspects: Mapping[int, int],
        slow: Collection[int] | None = None,
        *,
        excused: int,
        allowance: int,
    ) -> bool:
        """An engine died with nothing but suspect lines of this claim in it, which is given back.

        The death draws on the batch's allowance and not on the model's restarts, of which `excused` are taken off.
        Returns whether the allowance is spent now: the batch is paused.
        """
        if not self._release(connection, claim, suspects, slow):
            return False
        start = {"subject": claim.model, "kind": "excused", "at": database_now()}
        for _ in range(excused):
            connection.execute(insert(starts).values(**start))
        mine = batches.c.id == claim.batch_id
        connection.execute(update(batches).where(mine).values(engine_losses=batches.c.engine_losses + 1))
        spent = update(batches).where(mine, batches.c.engine_losses >= allowance, batches.c.paused_at.is_(None))
        return bool(connection.execute(spent.values(paused_at=self._now())).rowcount)

    @writing
    def note_slow(self, connection: Connection, claim: ShardClaim, slow: Collection[int]) -> bool:
        """Keeps in mind the slow lines of a shard that runs on. Returns whether the claim still held."""
        noted = update(shards).where(self._running(claim))
        return bool(connection.execute(noted.values(suspects=_suspects_column(claim.suspects, slow))).rowcount)

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

    def _release(
        self,
        connection: Connection,
        claim: ShardClaim,
        suspects: Mapping[int, int] | None,
        slow: Collection[int] | None,
    ) -> bool:
        back = update(shards).where(self._running(claim))
        kept = _suspects_column(claim.suspects if suspects is None else suspects, claim.slow if slow is None else slow)
        values = {"state": "pending", "owner": None, "lease_until": None, "suspects": kept}
        return bool(connection.execute(back.values(**values)).rowcount)

    def _running(self, claim: ShardClaim) -> Any:
        return and_(self._claimed(claim), shards.c.state == "running")

    def _claimed(self, claim: ShardClaim) -> Any:
        return and_(shards.c.batch_id == claim.batch_id, shards.c.index == claim.index, shards.c.epoch == claim.epoch)

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
                digest=draft.digest,
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
        if draft.failures:
            self._add_failures(connection, draft)

    def _add_failures(self, connection: Connection, draft: SegmentDraft) -> None:
        mine = batches.c.id == draft.claim.batch_id
        summary = ErrorSummary(connection.scalar(select(batches.c.error_summary).where(mine).with_for_update()))
        for failure in draft.failures:
            summary.add(failure)
        connection.execute(update(batches).where(mine).values(error_summary=summary.entries()))


def _suspects_column(suspects: Mapping[int, int], slow: Collection[int]) -> dict[str, Any] | None:
    """As `shard_claim_of` reads it."""
    column: dict[str, Any] = {str(position): deaths for position, deaths in suspects.items()}
    if slow:
        column[SLOW] = sorted(slow)
    return column or None

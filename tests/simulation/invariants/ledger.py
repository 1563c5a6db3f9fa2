"""What must hold with each change of the ledger."""

import json
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from app.store import FINAL_STATES, BatchClaim, ShardClaim
from tests.simulation.faults import Meddling
from tests.simulation.invariants.check import Check
from tests.simulation.loop import Process
from tests.simulation.trace import Violation

if TYPE_CHECKING:
    from tests.simulation.engines import Replica
    from tests.simulation.world import World


STEPS = {
    "validating": {"in_progress", "failed", "cancelling", "finalizing"},
    "in_progress": {"finalizing", "cancelling"},
    "finalizing": {"in_progress", "completed", "failed", "expired", "cancelled", "cancelling"},
    "cancelling": {"cancelled"},
}
"""What may follow a batch's state."""


class BatchesGoForward(Check):
    """States follow each other as they should, counts never fall or pass the total, and what has ended stays."""

    def __init__(self, world: "World") -> None:
        super().__init__(world)
        self._known: dict[str, tuple[Any, ...]] = {}

    def after_verb(self, process: Process, verb: str, args: Sequence[Any], answer: Any, changed: bool) -> None:
        if not changed:
            return
        query = "SELECT id, status, ending, total, completed, failed, epoch, output_file_id, error_file_id FROM batches"
        for row in self.rows(query):
            batch_id, status, ending, total, completed, failed, epoch = row[:7]
            before = self._known.get(batch_id)
            self._known[batch_id] = row
            if completed + failed > total:
                raise Violation(f"{batch_id} counts {completed} + {failed} of {total}, after {verb}")
            if before is None or before == row:
                continue
            if before[1] in FINAL_STATES:
                raise Violation(f"{batch_id} had ended and is changed by {verb}: {before} → {row}")
            if status != before[1] and status not in STEPS[before[1]]:
                raise Violation(f"{batch_id} goes from {before[1]} to {status} by {verb}")
            if before[2] not in (None, ending):
                raise Violation(f"{batch_id} was to end as {before[2]} and now as {ending}, by {verb}")
            if epoch < before[6]:
                raise Violation(f"{batch_id} has a lower epoch, by {verb}")
            if verb not in ("run_again", "finish_batch") and (completed < before[4] or failed < before[5]):
                raise Violation(f"{batch_id} counts less, by {verb}: {before} → {row}")


class ObjectsAreThere(Check):
    """A row never names an object that is not there."""

    def after_verb(self, process: Process, verb: str, args: Sequence[Any], answer: Any, changed: bool) -> None:
        if changed and verb in ("record", "add_file", "finish_batch"):
            for (key,) in self.rows(
                "SELECT object_key FROM files WHERE deleted_at IS NULL UNION SELECT object_key FROM segments"
            ):
                if key not in self.world.bucket.contents and key not in self.world.bucket.damaged:
                    raise Violation(f"{verb} of {process.name} names the object {key}, which is not there")

    def after_delete(self, key: str) -> None:
        named = self.rows("SELECT 1 FROM segments WHERE object_key = ?", key)
        named += self.rows("SELECT 1 FROM files WHERE object_key = ? AND deleted_at IS NULL", key)
        if named:
            raise Violation(f"the object {key} is deleted, and a row names it")


class ClaimsFence(Check):
    """A claim is nobody else's while its lease lasts, and who lost one changes nothing."""

    SHARD_VERBS = ("release", "blame", "note_slow")
    BATCH_VERBS = ("start_batch", "fail_batch", "finish_batch", "run_again", "put_off_batch")

    def __init__(self, world: "World") -> None:
        super().__init__(world)
        self._shards: dict[tuple[str, int], ShardClaim | None] = {}
        self._batches: dict[str, BatchClaim | None] = {}
        self._epochs: dict[str, int] = {}
        self._leased: set[Any] = set()
        self._unchanged: list[tuple[str, Any, Any]] = []

    def before_verb(self, process: Process, verb: str, args: Sequence[Any]) -> None:
        self._unchanged = []
        if verb == "claim_shards":
            query = "SELECT batch_id, \"index\" FROM shards WHERE state = 'running' AND lease_until > ?"
            self._leased = set(self.rows(query, self.world.ledger.clock() + 0.001))
        elif verb in ("claim_new_batch", "claim_ended_batch"):
            query = "SELECT id FROM batches WHERE lease_until > ?"
            self._leased = {batch_id for (batch_id,) in self.rows(query, self.world.ledger.clock() + 0.001)}
        elif verb in self.SHARD_VERBS:
            self._expect_nothing_of([args[0]])
        elif verb == "record":
            self._expect_nothing_of([draft.claim for draft in args[0]])
        elif verb in self.BATCH_VERBS and self._batches.get(args[0].batch.id) is not args[0]:
            self._unchanged.append((args[0].batch.id, None, self._state(args[0].batch.id, None)))

    def after_verb(self, process: Process, verb: str, args: Sequence[Any], answer: Any, changed: bool) -> None:
        for batch_id, index, before in self._unchanged:
            if self._state(batch_id, index) != before:
                raise Violation(f"{process.name} has lost its claim on {batch_id}/{index}, and its {verb} changes it")
        if verb == "claim_shards":
            for claim in answer:
                self._claimed(process, (claim.batch_id, claim.index))
                self._shards[claim.batch_id, claim.index] = claim
        elif verb in ("claim_new_batch", "claim_ended_batch") and answer is not None:
            self._claimed(process, answer.batch.id)
            self._batches[answer.batch.id] = answer
            if verb == "claim_ended_batch":
                self._close(answer.batch.id)
        elif verb in self.SHARD_VERBS[:2] and not self._unchanged:
            self._shards[args[0].batch_id, args[0].index] = None
        if changed:
            self._note_epochs()

    def at_end(self) -> None:
        left = self.rows("SELECT id FROM batches WHERE lease_until IS NOT NULL OR owner IS NOT NULL")
        if left:
            raise Violation(f"batches that have ended are still claimed: {left}")

    def _claimed(self, process: Process, key: Any) -> None:
        if key in self._leased:
            raise Violation(f"{process.name} gets {key}, on which there is a live lease")

    def _expect_nothing_of(self, claims: Sequence[ShardClaim]) -> None:
        for claim in claims:
            if self._shards.get((claim.batch_id, claim.index)) is not claim:
                key = (claim.batch_id, claim.index)
                self._unchanged.append((*key, self._state(*key)))

    def _close(self, batch_id: str) -> None:
        for key in [key for key in self._shards if key[0] == batch_id]:
            self._shards[key] = None

    def _note_epochs(self) -> None:
        """Whoever bumps a batch's epoch takes it from its owner."""
        for batch_id, epoch in self.rows("SELECT id, epoch FROM batches"):
            claim = self._batches.get(batch_id)
            if claim is not None and claim.epoch < epoch:
                self._batches[batch_id] = None

    def _state(self, batch_id: str, index: int | None) -> Any:
        where = "batch_id = ?" if index is None else 'batch_id = ? AND "index" = ?'
        values = (batch_id,) if index is None else (batch_id, index)
        rows = self.rows(f"SELECT * FROM shards WHERE {where}", *values)
        rows += self.rows(
            f"SELECT * FROM segments WHERE {where.replace(chr(34) + 'index' + chr(34), 'shard')}", *values
        )
        if index is None:
            rows += self.rows("SELECT * FROM batches WHERE id = ?", batch_id)
        return rows


class OneAnswerALine(Check):
    """No position of a shard is recorded twice."""

    def after_verb(self, process: Process, verb: str, args: Sequence[Any], answer: Any, changed: bool) -> None:
        if verb == "record" and changed:
            for key in {(draft.claim.batch_id, draft.claim.index) for draft in args[0]}:
                rows = self.rows("SELECT lines FROM segments WHERE batch_id = ? AND shard = ?", *key)
                recorded = Counter(position for (lines,) in rows for position in json.loads(lines))
                if twice := [position for position, times in recorded.items() if times > 1]:
                    raise Violation(f"{process.name} records {twice} of {key} once more")


class NothingIsHeldBack(Check):
    """A dispatcher that ended well has given back all that it had, with its results."""

    def ended_well(self, process: Process) -> None:
        query = "SELECT batch_id, \"index\" FROM shards WHERE state = 'running' AND owner = ?"
        if not self.strikes(Meddling) and (left := self.rows(query, process.name)):
            raise Violation(f"{process.name} has ended well and still has {left}")


class ReplicasHaveRoom(Check):
    """No more lines of a dispatcher are at a replica than it may have."""

    def lines_sent(self, process: Process, replica: "Replica") -> None:
        plan = self.world.plan
        sent = sum(len(call.left) for call in replica.calls if call.process is process)
        most = max(2 * replica.slots, replica.slots - 1 + plan.shard_lines) + plan.shard_lines
        if sent > most:
            raise Violation(f"{process.name} has {sent} lines at {replica.name}, and may have {most}")

"""What must hold: looked at with each change of the ledger and of the object store, and once more at the end.

A new one is a class, in `every_check`.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

from app.store import FINAL_STATES, BatchClaim, ShardClaim
from tests.simulation.faults import Meddling, ResultsDamaged, WindowOver
from tests.simulation.loop import Process
from tests.simulation.plan import custom_id
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

NOT_RUN = {"cancelled": {"batch_cancelled"}, "expired": {"batch_expired"}}
"""Of lines without an answer, by how their batch ended."""


class Check:
    def __init__(self, world: "World") -> None:
        self.world = world

    def before_verb(self, process: Process, verb: str, args: Sequence[Any]) -> None: ...

    def after_verb(self, process: Process, verb: str, args: Sequence[Any], answer: Any, changed: bool) -> None: ...

    def after_delete(self, key: str) -> None: ...

    def ended_well(self, process: Process) -> None: ...

    def lines_sent(self, process: Process, replica: "Replica") -> None: ...

    def engine_died(self, replica: "Replica", bodies: Sequence[bytes], inside: Collection[int], why: str) -> None: ...

    def at_end(self) -> None: ...

    def rows(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        return self.world.ledger.sql.execute(query, values).fetchall()

    def strikes(self, *kinds: type) -> bool:
        """Whether the plan has a fault of these kinds."""
        return any(isinstance(fault, kinds) for fault in self.world.plan.faults)


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


class ReplicasHaveRoom(Check):
    """No more lines of a dispatcher are at a replica than it may have."""

    def lines_sent(self, process: Process, replica: "Replica") -> None:
        plan = self.world.plan
        sent = sum(len(call.left) for call in replica.calls if call.process is process)
        most = max(2 * replica.slots, replica.slots - 1 + plan.shard_lines) + plan.shard_lines
        if sent > most:
            raise Violation(f"{process.name} has {sent} lines at {replica.name}, and may have {most}")


class Seen(Check):
    """What clients were told: an answer, once visible, neither changes nor goes away."""

    def __init__(self, world: "World") -> None:
        super().__init__(world)
        self._answers: dict[str, dict[str, bytes]] = defaultdict(dict)
        self._counts: dict[str, tuple[int, int]] = {}

    def batch(self, batch: dict[str, Any]) -> None:
        counts = batch["request_counts"]
        now = (counts["completed"], counts["failed"])
        before = self._counts.get(batch["id"], (0, 0))
        if (now[0] < before[0] or now[1] < before[1]) and not self.strikes(ResultsDamaged):
            raise Violation(f"a client sees {batch['id']} count {before}, then {now}")
        self._counts[batch["id"]] = now

    def lines(self, batch_id: str, content: bytes, where: str) -> None:
        known, found = self._answers[batch_id], set()
        for line in content.split(b"\n")[:-1]:
            name = json.loads(line)["custom_id"]
            if name in found:
                raise Violation(f"{where} have {name} of {batch_id} twice")
            found.add(name)
            before = known.setdefault(name, line)
            if before != line and not self.strikes(ResultsDamaged):
                raise Violation(f"an answer changes in {where}: {before!r} → {line!r}")
        if where == "its results so far" and known.keys() - found and not self.strikes(ResultsDamaged):
            raise Violation(f"answers are gone from {where}: {sorted(known.keys() - found)}")

    def open(self) -> list[tuple[Any, ...]]:
        """The batches that have not ended."""
        return self.rows(f"SELECT id, status, ending, paused_at FROM batches WHERE status NOT IN {FINAL_STATES}")

    def all_ended(self) -> bool:
        return not self.open()

    def garbage(self) -> list[tuple[Any, ...]]:
        return self.rows("SELECT key FROM garbage UNION SELECT id FROM files WHERE deleted_at IS NOT NULL")

    def paused(self) -> list[str]:
        return [batch_id for batch_id, status, _, at in self.open() if at is not None and status == "in_progress"]


class FilesAreWhole(Check):
    """Each line of a batch is once in one of its files, in order, with its answer; the guilty alone are condemned."""

    def __init__(self, world: "World") -> None:
        super().__init__(world)
        self._deaths_alone: Counter[str] = Counter()

    def engine_died(self, replica: "Replica", bodies: Sequence[bytes], inside: Collection[int], why: str) -> None:
        if len(inside) == 1:
            (position,) = inside
            self._deaths_alone[json.loads(bodies[position])["messages"][0]["content"]] += 1

    def at_end(self) -> None:
        for batch_id, status, total, completed, failed, output, error, input_file in self.rows(
            "SELECT id, status, total, completed, failed, output_file_id, error_file_id, input_file_id FROM batches"
        ):
            plan = self.world.inputs.get(input_file)
            self._check_status(batch_id, status, plan)
            if status == "failed" or plan is None:
                continue
            good, bad = self._lines(output), self._lines(error)
            names = [custom_id(plan, number) for number in range(len(plan.lines))]
            gone = output is not None and good is None
            if not gone and total:
                self._check_order(batch_id, names, [line["custom_id"] for line in good or []], bad or [])
                if (len(good or []), len(bad or [])) != (completed, failed) or completed + failed != total:
                    raise Violation(
                        f"{batch_id} counts {completed} and {failed} of {total}, which its files do not have"
                    )
            for line in good or []:
                if line["response"]["body"]["text"] != line["custom_id"]:
                    raise Violation(f"{batch_id} has another line's answer: {line}")
            for line in bad or []:
                self._check_error(batch_id, status, line)

    def _check_status(self, batch_id: str, status: str, plan: Any) -> None:
        client = next((each for each in self.world.clients if each.batch_id == batch_id), None)
        wanted = {
            "failed": plan is not None and "bad" in plan.lines,
            "cancelled": client is not None and client.cancels,
        }
        excused = {"failed": self.strikes(ResultsDamaged), "expired": self.strikes(WindowOver)}
        if status != "completed" and not wanted.get(status) and not excused.get(status):
            errors = self.rows("SELECT errors FROM batches WHERE id = ?", batch_id)
            raise Violation(f"{batch_id} ends as {status}, and nothing was the reason: {errors}")

    def _check_order(self, batch_id: str, names: list[str], good: list[str], bad: list[Any]) -> None:
        place = {name: number for number, name in enumerate(names)}
        failed = [line["custom_id"] for line in bad]
        if sorted(good + failed) != sorted(names):
            raise Violation(
                f"{batch_id} has not each line once: {Counter(good + failed) - Counter(names)} too many, "
                f"{Counter(names) - Counter(good + failed)} missing"
            )
        for found in (good, failed):
            if found != sorted(found, key=place.__getitem__):
                raise Violation(f"{batch_id} has its lines out of order: {found}")

    def _check_error(self, batch_id: str, status: str, line: dict[str, Any]) -> None:
        name = line["custom_id"]
        if line["response"] is not None:
            fits = "refused" in name and line["response"]["status_code"] == 400
        else:
            code = line["error"]["code"]
            fits = (
                (code == "engine_lost" and ("poison" in name or self._deaths_alone[name] >= 2))
                or (code == "request_timeout" and "slow" in name)
                or code in NOT_RUN.get(status, ())
                or (code == "result_lost" and self.strikes(ResultsDamaged))
            )
        if not fits:
            raise Violation(f"{batch_id}, which is {status}, has an error that is none: {line}")

    def _lines(self, file_id: str | None) -> list[Any] | None:
        """None: there is no such file, or it was deleted."""
        found = self.rows("SELECT object_key FROM files WHERE id = ? AND deleted_at IS NULL", file_id)
        return [json.loads(line) for line in self.world.bucket.contents[found[0][0]].splitlines()] if found else None


class NothingIsLeft(Check):
    """After the sweeps each object is a file's, and no row is there that only a running batch needs."""

    def at_end(self) -> None:
        for table in ("shards", "segments", "garbage"):
            if left := self.rows(f"SELECT * FROM {table} LIMIT 3"):
                raise Violation(f"there are rows left in {table}: {left}")
        if left := self.rows("SELECT id FROM files WHERE deleted_at IS NOT NULL"):
            raise Violation(f"deleted files are not forgotten: {left}")
        named = {key for (key,) in self.rows("SELECT object_key FROM files UNION SELECT mark FROM object_store")}
        litter = [key for key in sorted(self.world.bucket.contents.keys() - named) if not self._excused(key)]
        if litter:
            raise Violation(f"objects are left that nothing names: {litter}")

    def _excused(self, key: str) -> bool:
        """A mark that was made once more, and results of a writer that died before it could say that they are late."""
        writer = self.world.bucket.writers[key]
        upload = key.startswith("files/") and key.count("-") == 1
        return key.startswith("marks/") or (writer.dead and not writer.ended_well and not upload)


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


class OncePerKey(Check):
    """An Idempotency-Key makes one thing, however often it is sent within a day."""

    def at_end(self) -> None:
        if self.strikes(WindowOver):
            return
        made = Counter(file_id for (file_id,) in self.rows("SELECT input_file_id FROM batches"))
        for file_id, plan in self.world.inputs.items():
            if plan.keyed and made[file_id] > 1:
                raise Violation(f"client-{plan.number} has {made[file_id]} batches of one Idempotency-Key")


def every_check(world: "World") -> list[Check]:
    kinds = (
        BatchesGoForward,
        ObjectsAreThere,
        ClaimsFence,
        ReplicasHaveRoom,
        FilesAreWhole,
        OneAnswerALine,
        NothingIsHeldBack,
        NothingIsLeft,
        OncePerKey,
    )
    return [kind(world) for kind in kinds]

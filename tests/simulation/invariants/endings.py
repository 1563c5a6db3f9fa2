"""What must hold at the end, when faults have stopped."""

import json
from collections import Counter
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

from tests.simulation.faults import ResultsDamaged, WindowOver
from tests.simulation.invariants.check import Check
from tests.simulation.plan import custom_id
from tests.simulation.trace import Violation

if TYPE_CHECKING:
    from tests.simulation.engines import Replica
    from tests.simulation.world import World


NOT_RUN = {"cancelled": {"batch_cancelled"}, "expired": {"batch_expired"}}
"""Of lines without an answer, by how their batch ended."""


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

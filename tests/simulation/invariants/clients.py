"""What clients are told."""

import json
from collections import Counter, defaultdict
from typing import TYPE_CHECKING, Any

from app.store import FINAL_STATES
from tests.simulation.faults import ResultsDamaged, WindowOver
from tests.simulation.invariants.check import Check
from tests.simulation.trace import Violation

if TYPE_CHECKING:
    from tests.simulation.world import World


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


class OncePerKey(Check):
    """An Idempotency-Key makes one thing, however often it is sent within a day."""

    def at_end(self) -> None:
        if self.strikes(WindowOver):
            return
        made = Counter(file_id for (file_id,) in self.rows("SELECT input_file_id FROM batches"))
        for file_id, plan in self.world.inputs.items():
            if plan.keyed and made[file_id] > 1:
                raise Violation(f"client-{plan.number} has {made[file_id]} batches of one Idempotency-Key")

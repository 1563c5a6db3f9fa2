"""What a check may look at."""

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

from tests.simulation.loop import Process

if TYPE_CHECKING:
    from tests.simulation.engines import Replica
    from tests.simulation.world import World


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

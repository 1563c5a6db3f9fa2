"""What must hold: looked at with each change of the ledger and of the object store, and once more at the end.

A new one is a class, in `every_check`.
"""

from typing import TYPE_CHECKING

from tests.simulation.invariants.check import Check
from tests.simulation.invariants.clients import OncePerKey, Seen
from tests.simulation.invariants.endings import FilesAreWhole, NothingIsLeft
from tests.simulation.invariants.ledger import (
    BatchesGoForward,
    ClaimsFence,
    NothingIsHeldBack,
    ObjectsAreThere,
    OneAnswerALine,
    ReplicasHaveRoom,
)

if TYPE_CHECKING:
    from tests.simulation.world import World

__all__ = ["Check", "Seen", "every_check"]


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

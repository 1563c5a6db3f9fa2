"""Clocks, and the way between clients and gateways."""

from typing import TYPE_CHECKING

from tests.simulation.faults.fault import Fault, Meddling
from tests.simulation.network import Fate, Message

if TYPE_CHECKING:
    from tests.simulation.world import World


class DatabaseClockSteps(Fault):
    """By which leases live."""

    def begin(self, world: "World") -> None:
        seconds = self.chance.choice((-60.0, -10.0, 10.0, 60.0, 3600.0))
        world.trace.fault("the database's clock steps by", seconds)
        world.ledger.step(seconds)


class ProcessClockSteps(Fault):
    """By which clients see times; of one process alone."""

    def begin(self, world: "World") -> None:
        process = self.chance.choice(world.processes)
        seconds = self.chance.choice((-3600.0, -60.0, 60.0, 3600.0))
        world.trace.fault("clock steps by", seconds, process.name)
        process.offset += seconds
        world.ledger.clocks_stepped()


class WindowOver(Fault):
    """A day and an hour pass at once: batches expire."""

    def begin(self, world: "World") -> None:
        world.trace.fault("a day passes")
        world.pass_a_day()


class RequestsLost(Meddling):
    """Between client and gateway, on the way there."""

    seam = "http"

    def strike(self, message: Message) -> Fate:
        return Fate(refused=ConnectionError("no route"))


class ResponsesLost(Meddling):
    """The gateway did what it was asked for, and its client does not know."""

    seam = "http"

    def strike(self, message: Message) -> Fate:
        return Fate(lost=ConnectionError("connection reset"))

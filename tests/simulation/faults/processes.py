"""Dispatchers and gateways."""

from random import Random
from typing import TYPE_CHECKING, ClassVar

from tests.simulation.faults.fault import Fault, Meddling
from tests.simulation.loop import Process
from tests.simulation.network import Fate, Message

if TYPE_CHECKING:
    from tests.simulation.world import World


class _Strike(Fault):
    """At one process of a kind; `seconds` until it is itself again."""

    kind: ClassVar[str] = "dispatcher"

    def begin(self, world: "World") -> None:
        living = [each for each in world.processes_of(self.kind) if each.runs]
        if living:
            process = self.chance.choice(living)
            world.trace.fault(type(self).__name__, process.name)
            self.hit(world, process)

    def hit(self, world: "World", process: Process) -> None: ...


class DispatcherCrashes(_Strike):
    """At any await. Another is started after a while."""

    def hit(self, world: "World", process: Process) -> None:
        world.crash(process)


class GatewayCrashes(DispatcherCrashes):
    """With its requests."""

    kind = "gateway"


class _StrikesWhoAsks(Meddling):
    """A dispatcher, at the moment at which it has sent a certain request, which may arrive much later."""

    seam = "any"
    moments: ClassVar = (
        ("ledger", "record"),
        ("ledger", "finish_batch"),
        ("ledger", "start_batch"),
        ("ledger", "claim_ended_batch"),
        ("ledger", "claim_shards"),
        ("ledger", "release"),
        ("ledger", "forget_garbage"),
        ("ledger", "run_again"),
        ("objects", "put"),
        ("objects", "get"),
        ("objects", "delete"),
    )
    highest_rate = 0.3

    def __init__(self, name: str, chance: Random, within: float) -> None:
        super().__init__(name, chance, within)
        self._moment = chance.choice(self.moments)

    def fate(self, message: Message) -> Fate | None:
        if (message.seam, message.verb) == self._moment and self.chance.random() < self.rate:
            assert self._world is not None
            process = next(
                (each for each in self._world.processes_of("dispatcher") if each.name == message.sender), None
            )
            if process is not None and process.runs:
                self._world.trace.fault(type(self).__name__, process.name, *self._moment)
                self.hit(self._world, process)
                return Fate(there=self.chance.choice((0.0, 30.0)) * self.chance.random())
        return None

    def hit(self, world: "World", process: Process) -> None: ...


class CrashesAsItAsks(_StrikesWhoAsks):
    """Its request arrives, or does not."""

    def hit(self, world: "World", process: Process) -> None:
        world.crash(process)


class FreezesAsItAsks(_StrikesWhoAsks):
    """And reads the answer when its lease has run out."""

    highest_rate = 0.1

    def hit(self, world: "World", process: Process) -> None:
        process.freeze()
        world.network.later(3 + 30 * self.chance.random(), world.thaw, process)


class DispatcherFreezes(_Strike):
    """And wakes, often when its leases have run out."""

    longest = 40.0

    def hit(self, world: "World", process: Process) -> None:
        process.freeze()
        world.network.later(self.seconds, world.thaw, process)


class DispatcherIsReplacedMeanwhile(_Strike):
    """It freezes, is taken for dead, and another takes its place; then it wakes."""

    longest = 40.0

    def hit(self, world: "World", process: Process) -> None:
        process.freeze()
        world.start_dispatcher()
        world.network.later(self.seconds, world.thaw, process)


class GatewayFreezes(DispatcherFreezes):
    """Its clients wait, and ask another time."""

    kind = "gateway"


class Redeploy(_Strike):
    """A dispatcher is drained and closed, as Serve does it, and another started."""

    def hit(self, world: "World", process: Process) -> None:
        world.redeploy(process)

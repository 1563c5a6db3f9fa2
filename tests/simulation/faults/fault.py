"""What a fault is. It begins and ends, and draws its choices from a source of its own."""

from random import Random
from typing import TYPE_CHECKING, ClassVar

from tests.simulation.network import Fate, Message

if TYPE_CHECKING:
    from tests.simulation.world import World


class Fault:
    """`begin` at `start`, `end` at `start + seconds`: of the time in which faults happen, `within` seconds."""

    longest: ClassVar[float] = 60.0

    def __init__(self, name: str, chance: Random, within: float) -> None:
        self.name = name
        self.chance = chance
        self.start = chance.random() * within
        self.seconds = min(chance.random() * self.longest, within - self.start)

    def begin(self, world: "World") -> None: ...

    def end(self, world: "World") -> None: ...


class Meddling(Fault):
    """Strikes one message in so many."""

    seam: ClassVar[str] = "ledger"
    verbs: ClassVar[frozenset[str] | None] = None
    highest_rate: ClassVar[float] = 0.2

    def __init__(self, name: str, chance: Random, within: float) -> None:
        super().__init__(name, chance, within)
        self.rate = self.highest_rate * chance.random()
        self._world: World | None = None

    def begin(self, world: "World") -> None:
        self._world = world
        world.network.meddlers = [*world.network.meddlers, self]

    def end(self, world: "World") -> None:
        world.network.meddlers = [each for each in world.network.meddlers if each is not self]

    def fate(self, message: Message) -> Fate | None:
        fits = message.seam == self.seam and (self.verbs is None or message.verb in self.verbs)
        if not fits or self.chance.random() >= self.rate:
            return None
        assert self._world is not None
        self._world.trace.faults += 1
        return self.strike(message)

    def strike(self, message: Message) -> Fate: ...

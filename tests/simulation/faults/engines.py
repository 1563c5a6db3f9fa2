"""Engine replicas."""

from typing import TYPE_CHECKING, ClassVar

from tests.simulation.faults.fault import Fault

if TYPE_CHECKING:
    from tests.simulation.engines import Replica
    from tests.simulation.world import World


class _StrikesEngines(Fault):
    most: ClassVar[int] = 1

    def begin(self, world: "World") -> None:
        living = [each for each in world.engines.replicas if each.alive]
        for replica in self.chance.sample(living, min(self.most, len(living))):
            world.trace.fault(type(self).__name__, replica.name)
            self.hit(world, replica)

    def hit(self, world: "World", replica: "Replica") -> None: ...


class EngineKilled(_StrikesEngines):
    """From outside, and nobody knows why."""

    def hit(self, world: "World", replica: "Replica") -> None:
        replica.die("killed from outside")


class EnginesDieTogether(EngineKilled):
    """All at once."""

    most = 99


class NodeLost(_StrikesEngines):
    """With an engine on it; Ray knows."""

    def hit(self, world: "World", replica: "Replica") -> None:
        replica.die("its node is gone", explained=True)


class EngineHangs(_StrikesEngines):
    """Until it is called dead."""

    def hit(self, world: "World", replica: "Replica") -> None:
        world.engines.hang(replica)


class EngineStands(_StrikesEngines):
    """For less than what counts as a hang."""

    def hit(self, world: "World", replica: "Replica") -> None:
        replica.hang(self.chance.random() * 4)


class EngineSlow(_StrikesEngines):
    """Ten times slower for the rest of its life."""

    def hit(self, world: "World", replica: "Replica") -> None:
        replica.slowness = 10.0


class _AnswerFault(Fault):
    what: ClassVar[str]

    def begin(self, world: "World") -> None:
        self._entry = (self.what, 0.1 * self.chance.random())
        world.engines.answer_faults.append(self._entry)

    def end(self, world: "World") -> None:
        world.engines.answer_faults.remove(self._entry)


class StreamEndLost(_AnswerFault):
    """The stream ends well, and lines are left."""

    what = "end lost"


class AnsweredTwice(_AnswerFault):
    """A line has two answers."""

    what = "twice"

"""What goes wrong. A fault begins and ends, and draws its choices from a source of its own.

A new one is a class with a docstring, in FAULTS.
"""

from random import Random
from typing import TYPE_CHECKING, ClassVar

from obstore.exceptions import GenericError

from app.errors import StoreUnavailable
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

    def strike(self, message: Message) -> Fate: ...  # type: ignore[empty-body]


class LedgerBusy(Meddling):
    """Another process holds the lock for too long."""

    highest_rate = 0.1

    def strike(self, message: Message) -> Fate:
        return Fate(refused=StoreUnavailable("database is locked"), there=5.0)


class LedgerAway(Meddling):
    """For a few seconds, or for longer than any lease."""

    longest = 40.0

    def __init__(self, name: str, chance: Random, within: float) -> None:
        super().__init__(name, chance, within)
        self.rate = 1.0

    def strike(self, message: Message) -> Fate:
        return Fate(refused=StoreUnavailable("the database is away"))


class CommitRefused(Meddling):
    """The transaction is rolled back."""

    def strike(self, message: Message) -> Fate:
        return Fate(refused=StoreUnavailable("disk I/O error"))


class CommitAnswerLost(Meddling):
    """The transaction is done, and whoever asked does not know."""

    highest_rate = 0.3

    def strike(self, message: Message) -> Fate:
        return Fate(lost=StoreUnavailable("connection lost"))


class LedgerSlow(Meddling):
    """Statements arrive late, and out of order."""

    def strike(self, message: Message) -> Fate:
        return Fate(there=self.chance.random() * 10)


class LedgerAnswersLate(Meddling):
    """What was done is known only later."""

    def strike(self, message: Message) -> Fate:
        return Fate(back=self.chance.random() * 10)


class PutRefused(Meddling):
    """The object store does not take an object."""

    seam = "objects"
    verbs = frozenset({"put"})

    def strike(self, message: Message) -> Fate:
        return Fate(refused=GenericError("503 slow down"))


class PutAnswerLost(Meddling):
    """The object is there, and its writer does not know."""

    seam = "objects"
    verbs = frozenset({"put", "delete"})

    def strike(self, message: Message) -> Fate:
        return Fate(lost=GenericError("connection reset"))


class ObjectsSlow(Meddling):
    """Some requests take seconds."""

    seam = "objects"

    def strike(self, message: Message) -> Fate:
        return Fate(there=self.chance.random() * 8, back=self.chance.random() * 8)


class ObjectsAway(Meddling):
    """Nothing is read or written."""

    seam = "objects"
    longest = 30.0

    def __init__(self, name: str, chance: Random, within: float) -> None:
        super().__init__(name, chance, within)
        self.rate = 1.0

    def strike(self, message: Message) -> Fate:
        return Fate(refused=GenericError("connection refused"))


class MissingForAMoment(Meddling):
    """A read says that there is no such object; the next one finds it."""

    seam = "objects"
    verbs = frozenset({"get"})

    def strike(self, message: Message) -> Fate:
        return Fate(refused=FileNotFoundError(message.key))  # type: ignore[arg-type]


class OtherStoreMounted(Fault):
    """A folder is not mounted, or a bucket is another: it works, and is empty."""

    longest = 20.0

    def begin(self, world: "World") -> None:
        world.trace.fault("another object store is in the place of ours")
        world.bucket.other = {}

    def end(self, world: "World") -> None:
        world.trace.note("FAULT", "our object store is back")
        world.bucket.other = None


class ResultsDamaged(Fault):
    """An object of results is cut short, changed, or gone."""

    def begin(self, world: "World") -> None:
        found = sorted(key for key in world.bucket.contents if key.startswith("segments/"))
        if not found:
            return
        key = self.chance.choice(found)
        data = world.bucket.contents[key]
        what = self.chance.choice(("gone", "cut", "changed"))
        world.trace.fault("results are damaged:", key, what)
        world.bucket.damaged.add(key)
        if what == "gone":
            del world.bucket.contents[key]
        else:
            world.bucket.contents[key] = data[:-3] if what == "cut" else data[:5] + b"#" + data[6:]


class _Strike(Fault):
    """At one process of a kind; `seconds` until it is itself again."""

    kind: ClassVar[str] = "dispatcher"

    def begin(self, world: "World") -> None:
        living = [each for each in world.processes_of(self.kind) if each.runs]
        if living:
            process = self.chance.choice(living)
            world.trace.fault(type(self).__name__, process.name)
            self.hit(world, process)

    def hit(self, world: "World", process) -> None: ...  # type: ignore[no-untyped-def]


class DispatcherCrashes(_Strike):
    """At any await. Another is started after a while."""

    def hit(self, world: "World", process) -> None:  # type: ignore[no-untyped-def]
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

    def hit(self, world: "World", process) -> None: ...  # type: ignore[no-untyped-def]


class CrashesAsItAsks(_StrikesWhoAsks):
    """Its request arrives, or does not."""

    def hit(self, world: "World", process) -> None:  # type: ignore[no-untyped-def]
        world.crash(process)


class FreezesAsItAsks(_StrikesWhoAsks):
    """And reads the answer when its lease has run out."""

    highest_rate = 0.1

    def hit(self, world: "World", process) -> None:  # type: ignore[no-untyped-def]
        process.freeze()
        world.network.later(3 + 30 * self.chance.random(), world.thaw, process)


class DispatcherFreezes(_Strike):
    """And wakes, often when its leases have run out."""

    longest = 40.0

    def hit(self, world: "World", process) -> None:  # type: ignore[no-untyped-def]
        process.freeze()
        world.network.later(self.seconds, world.thaw, process)


class DispatcherIsReplacedMeanwhile(_Strike):
    """It freezes, is taken for dead, and another takes its place; then it wakes."""

    longest = 40.0

    def hit(self, world: "World", process) -> None:  # type: ignore[no-untyped-def]
        process.freeze()
        world.start_dispatcher()
        world.network.later(self.seconds, world.thaw, process)


class GatewayFreezes(DispatcherFreezes):
    """Its clients wait, and ask another time."""

    kind = "gateway"


class Redeploy(_Strike):
    """A dispatcher is drained and closed, as Serve does it, and another started."""

    def hit(self, world: "World", process) -> None:  # type: ignore[no-untyped-def]
        world.redeploy(process)


class _StrikesEngines(Fault):
    most: ClassVar[int] = 1

    def begin(self, world: "World") -> None:
        living = [each for each in world.engines.replicas if each.alive]
        for replica in self.chance.sample(living, min(self.most, len(living))):
            world.trace.fault(type(self).__name__, replica.name)
            self.hit(world, replica)

    def hit(self, world: "World", replica) -> None: ...  # type: ignore[no-untyped-def]


class EngineKilled(_StrikesEngines):
    """From outside, and nobody knows why."""

    def hit(self, world: "World", replica) -> None:  # type: ignore[no-untyped-def]
        replica.die("killed from outside")


class EnginesDieTogether(EngineKilled):
    """All at once."""

    most = 99


class NodeLost(_StrikesEngines):
    """With an engine on it; Ray knows."""

    def hit(self, world: "World", replica) -> None:  # type: ignore[no-untyped-def]
        replica.die("its node is gone", explained=True)


class EngineHangs(_StrikesEngines):
    """Until it is called dead."""

    def hit(self, world: "World", replica) -> None:  # type: ignore[no-untyped-def]
        world.engines.hang(replica)


class EngineStands(_StrikesEngines):
    """For less than what counts as a hang."""

    def hit(self, world: "World", replica) -> None:  # type: ignore[no-untyped-def]
        replica.hang(self.chance.random() * 4)


class EngineSlow(_StrikesEngines):
    """Ten times slower for the rest of its life."""

    def hit(self, world: "World", replica) -> None:  # type: ignore[no-untyped-def]
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


FAULTS: tuple[type[Fault], ...] = (
    LedgerBusy,
    LedgerAway,
    CommitRefused,
    CommitAnswerLost,
    LedgerSlow,
    LedgerAnswersLate,
    PutRefused,
    PutAnswerLost,
    ObjectsSlow,
    ObjectsAway,
    MissingForAMoment,
    OtherStoreMounted,
    ResultsDamaged,
    DispatcherCrashes,
    GatewayCrashes,
    DispatcherFreezes,
    DispatcherIsReplacedMeanwhile,
    GatewayFreezes,
    Redeploy,
    CrashesAsItAsks,
    FreezesAsItAsks,
    EngineKilled,
    EnginesDieTogether,
    NodeLost,
    EngineHangs,
    EngineStands,
    EngineSlow,
    StreamEndLost,
    AnsweredTwice,
    DatabaseClockSteps,
    ProcessClockSteps,
    WindowOver,
    RequestsLost,
    ResponsesLost,
)

"""The ledger and the object store, and the way to them."""

from random import Random
from typing import TYPE_CHECKING

from obstore.exceptions import GenericError

from app.errors import StoreUnavailable
from tests.simulation.faults.fault import Fault, Meddling
from tests.simulation.network import Fate, Message

if TYPE_CHECKING:
    from tests.simulation.world import World


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
        return Fate(refused=FileNotFoundError(message.key))


class OtherStoreMounted(Fault):
    """A folder is not mounted, or a bucket is another: it works, and is empty. For longer than the slowest request, as
    one that is back between two looks at the mark cannot be noticed."""

    def __init__(self, name: str, chance: Random, within: float) -> None:
        super().__init__(name, chance, within)
        self.seconds = 60.0

    def begin(self, world: "World") -> None:
        if world.ledger.sql.execute("SELECT mark FROM object_store").fetchone() is None:
            return  # a ledger's own store is the one that it finds at its first start
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

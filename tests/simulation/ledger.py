"""The real ledger on a SQLite in memory, as each process sees it across the network."""

import functools
import sqlite3
from collections.abc import Callable, Coroutine, Mapping
from typing import TYPE_CHECKING, Any

from sqlalchemy import Engine, event

from app.errors import StoreUnavailable
from app.store import Store, migrate
from app.store.database import sqlite_engine
from tests.simulation.loop import Process
from tests.simulation.network import Message
from tests.simulation.trace import Violation

if TYPE_CHECKING:
    from tests.simulation.world import World

DAY = 86_400
UNIX_EPOCH = 2_440_587.5
"""As a Julian day."""

FINDABLE = {
    "claim_shards": """SELECT batch_id, "index", epoch FROM shards
        WHERE state IN ('pending', 'running') AND (suspects IS NOT NULL) = :suspect""",
    "claim_new_batch": "SELECT 1 FROM batches WHERE status = 'validating'",
    "claim_ended_batch": "SELECT 1 FROM batches WHERE status IN ('in_progress', 'finalizing', 'cancelling')",
    "expire_batches": "SELECT 1 FROM batches WHERE expires_at <= :now",
    "expire_files": "SELECT 1 FROM files WHERE expires_at <= :now",
    "deleted_files": "SELECT 1 FROM files WHERE deleted_at IS NOT NULL",
    "due_garbage": "SELECT 1 FROM garbage",
    "forget_idempotency": f"SELECT 1 FROM idempotency WHERE created_at <= :now - {DAY}",
    "forget_starts": "SELECT 1 FROM starts",
}
"""What is asked all the time, mostly for nothing, and more than what it might find. A verb is tens of times slower than
such a look, so where there is nothing to find, and where it found nothing in the same ledger at a time that does not
differ for it, it is not called."""

RENEWALS = frozenset({"renew_shards", "renew_batches"})

NEXT_LEASE = (
    "SELECT min(at) FROM (SELECT lease_until at FROM shards UNION ALL SELECT lease_until FROM batches) WHERE at > ?"
)
NEXT_TIME = f"""SELECT min(at) FROM (
    SELECT expires_at at FROM batches UNION ALL SELECT expires_at FROM files UNION ALL SELECT due FROM garbage
    UNION ALL SELECT created_at + {DAY} FROM idempotency UNION ALL SELECT deleted_at FROM files) WHERE at > ?"""


class Ledger:
    """One for a run. The database is the same for all runs of this interpreter: migrating it would take longer."""

    def __init__(self, world: "World") -> None:
        self._world = world
        self._engine, self.sql, empty = _database()
        self.sql.deserialize(empty)
        self.sql.create_function("julianday", 1, lambda moment: self.clock() / DAY + UNIX_EPOCH)
        self.offset = 0.0
        self._unseen_changes = self.sql.total_changes
        self._idle: dict[Any, tuple[int, float]] = {}

    def clock(self) -> float:
        """The database's, in unix seconds."""
        return self._world.seconds() + self.offset

    def of(self, process: Process) -> Any:
        return _LedgerOf(self, process, Store(self._engine, lambda: int(self._world.wall(process))), self._world)

    def do(self, process: Process, store: Store, verb: str, args: Any, kwargs: Any) -> Any:
        """One verb, now. An error of SQL would be called an outage, and tried again for ever: here it is a fault."""
        key = None
        if verb in RENEWALS and not args[0]:
            return set()
        if verb in FINDABLE:
            key = (verb, process.offset, args[2:3], kwargs.get("suspect"), frozenset(kwargs.get("running", ())))
            known = self._idle.get(key, (-1, 0.0))
            again = known[0] == self._version() and self._world.seconds() < known[1]
            if again or not self._findable(process, verb, kwargs):
                return [] if verb == "claim_shards" else None if verb.startswith("claim") else ()
        before, idle = self.sql.total_changes, self._until(process) if key else 0.0
        checks = self._world.checks
        for check in checks:
            check.before_verb(process, verb, args)
        try:
            answer = immediately(getattr(store, verb)(*args, **kwargs))
        except StoreUnavailable as error:
            raise Violation(f"the ledger's verb {verb} cannot be carried out: {error.__cause__ or error}") from error
        changed = self.sql.total_changes - before
        if verb in RENEWALS:
            self._unseen_changes += changed
        elif changed:
            self._world.trace.note(process.name, verb, *_shown(args, kwargs), "→", _brief(answer))
        for check in checks:
            check.after_verb(process, verb, args, answer, bool(changed))
        if key is not None and not answer and not changed:
            self._idle[key] = (self._version(), idle)
        return answer

    def _findable(self, process: Process, verb: str, asked: Mapping[str, Any]) -> bool:
        values = {"now": int(self._world.wall(process)), "suspect": int(asked.get("suspect", False))}
        running = asked.get("running", ())
        return any(row not in running for row in self.sql.execute(FINDABLE[verb], values))

    def _version(self) -> int:
        return self.sql.total_changes - self._unseen_changes

    def step(self, seconds: float) -> None:
        self.offset += seconds
        self.clocks_stepped()

    def clocks_stepped(self) -> None:
        self._idle.clear()

    def _until(self, process: Process) -> float:
        """When something may become due that is not now: leases are only ever extended."""
        now, wall = self.clock(), self._world.wall(process)
        lease = self.sql.execute(NEXT_LEASE, (now,)).fetchone()[0]
        due = self.sql.execute(NEXT_TIME, (int(wall),)).fetchone()[0]
        here = self._world.seconds()
        return min(here + lease - now if lease else here + DAY, here + due - wall if due else here + DAY)


class _LedgerOf:
    """The store as one process has it."""

    def __init__(self, ledger: Ledger, process: Process, store: Store, world: "World") -> None:
        self._ledger, self._process, self._store, self._world = ledger, process, store, world

    def __getattr__(self, verb: str) -> Any:
        async def call(*args: Any, **kwargs: Any) -> Any:
            work = functools.partial(self._ledger.do, self._process, self._store, verb, args, kwargs)
            return await self._world.network.send(self._process, Message(self._process.name, "ledger", verb), work)

        return call


def immediately(work: Coroutine[Any, Any, Any]) -> Any:
    """The outcome of a coroutine that waits for nothing."""
    try:
        work.send(None)
    except StopIteration as done:
        return done.value
    raise RuntimeError(f"{work} waits, where nothing can")


@functools.cache
def _database() -> tuple[Engine, sqlite3.Connection, bytes]:
    engine = sqlite_engine("sqlite://")
    connections: list[sqlite3.Connection] = []
    event.listen(engine, "connect", lambda connection, record: connections.append(connection))
    store = Store(engine, lambda: 0)
    with store.begin(write=True) as connection:
        migrate.upgrade(connection)
    return engine, connections[0], connections[0].serialize()


def _shown(args: Any, kwargs: Any) -> list[str]:
    return [_brief(each) for each in [*args, *kwargs.values()]]


def _brief(value: Any) -> str:
    """A word for a claim, a file, a draft: rows are too long to read."""
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(_brief, value)) + "]"
    if isinstance(value, (set, frozenset)):
        return "{" + ", ".join(sorted(map(_brief, value))) + "}"
    brief = BRIEF.get(type(value).__name__)
    return brief(value) if brief else str(value)


BRIEF: dict[str, Callable[[Any], str]] = {
    "ShardClaim": lambda claim: f"{claim.batch_id[-4:]}/{claim.index}@{claim.epoch}",
    "BatchClaim": lambda claim: f"{claim.batch.id[-4:]}@{claim.epoch}",
    "SegmentDraft": lambda draft: f"{_brief(draft.claim)}:{list(draft.lines)}{'.' if draft.finishes else ''}",
    "File": lambda file: file.object_key,
    "Batch": lambda batch: f"{batch.id[-4:]} {batch.status} {batch.completed}+{batch.failed}/{batch.total}",
    "ShardPlan": lambda plan: f"{plan.count} lines",
}

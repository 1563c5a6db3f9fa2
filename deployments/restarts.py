"""The brakes on starts: of engine replicas, which Serve starts again at once and for ever, and of the local cluster.

A replica asks the ledger before it loads its model, and waits in its constructor until it may. So the brakes hold for
all replicas of a model on all nodes, and outlive every process.
"""

import asyncio
import os
import threading
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime
from uuid import uuid4

import structlog

from app.errors import FolderGone, StoreUnavailable
from app.settings import Settings
from app.store import Restarts, StartAnswer, Store
from app.store.starts import LONGEST_PAUSE_SECONDS

log = structlog.get_logger()

ENDLESS = 1_000_000
"""How often Serve may try to start a replica before it gives up its deployment for ever: as good as always.

Serve takes the smaller of a deployment's `max_constructor_retry_count` and its replicas times
RAY_SERVE_MAX_PER_REPLICA_RETRY_COUNT (3, if nobody sets it), so both are set. When to stop is for these brakes to say.
"""

ASK_SECONDS = 1.0
"""How often who waits asks: a person who lifts the budget wants to see it start."""

LOOK_SECONDS = 2.0
"""How old what is shown of restarts may be."""


@dataclass(frozen=True)
class Brakes:
    """What a replica of `model` has to know to ask. `deploy` names the deployment of which it is one of `replicas`.

    `folders`: what must be there for it to start, each by what it is.
    """

    database_url: str
    model: str
    deploy: str
    replicas: int
    restarts_per_hour: int
    start_seconds: float
    folders: Mapping[str, str] = field(default_factory=dict)

    @asynccontextmanager
    async def start(self, replica: str, explain: Callable[[str], str] = str) -> AsyncIterator[None]:
        """Waits until the replica may start. A block of over `start_seconds` is ended; why it fails is kept.

        `explain` is given the words of the error at the root and may know better ones.
        """
        store = await self._open()
        try:
            await self._wait(store, replica)
            watch = threading.Timer(self.start_seconds, self._end_hanging_start, (replica,))
            watch.daemon = True
            watch.start()  # a thread: vLLM's start holds up the event loop
            try:
                if gone := self._gone():
                    raise FolderGone(gone)
                yield
            except Exception as error:
                await self._note_failure(store, replica, self._why(error, explain))
                raise
            finally:
                watch.cancel()
        finally:
            store.close()

    async def _note_failure(self, store: Store, replica: str, reason: str) -> None:
        """Without the ledger it stands in the log alone: the error itself must come through."""
        try:
            await store.note_failure(replica, reason)
        except StoreUnavailable as error:
            log.warning("failed start not noted", model=self.model, replica=replica, failure=reason, reason=str(error))

    def _gone(self) -> str | None:
        """In words, which of the folders is not there."""
        gone = [f"{what} is not there: {folder}" for what, folder in self.folders.items() if not os.path.exists(folder)]
        return "; ".join(gone) or None

    def _why(self, error: Exception, explain: Callable[[str], str]) -> str:
        """vLLM takes a folder that is gone for a name on a hub, and says so in many ways; its words come second."""
        if isinstance(error, FolderGone):
            return str(error)
        words = explain(_sentence(error))
        return f"{gone} ({words})" if (gone := self._gone()) else words

    async def _open(self) -> Store:
        """Without the ledger there are no brakes, and nothing to do for the model either: waits until it is there."""
        while True:
            try:
                return await asyncio.to_thread(Store.open_existing, self.database_url, lambda: int(time.time()))
            except StoreUnavailable as error:
                log.warning("start waits for the ledger", model=self.model, reason=str(error))
            await asyncio.sleep(ASK_SECONDS)

    async def _wait(self, store: Store, replica: str) -> None:
        told = False
        while (seconds := await self._seconds_to_wait(store, replica)) > 0:
            if not told:
                log.warning("start waits", model=self.model, replica=replica, seconds=round(seconds, 1))
                told = True
            await asyncio.sleep(min(seconds, ASK_SECONDS))

    async def _seconds_to_wait(self, store: Store, replica: str) -> float:
        try:
            answer = await store.ask_to_start(
                self.model, replica, deploy=self.deploy, planned=self.replicas, budget=self.restarts_per_hour
            )
        except StoreUnavailable as error:
            log.warning("start waits for the ledger", model=self.model, reason=str(error))
            return ASK_SECONDS
        return answer.wait_seconds

    def _end_hanging_start(self, replica: str) -> None:
        reason = f"the start was not through after {self.start_seconds:g} s (start_seconds) and was ended"
        log.error("start hangs", model=self.model, replica=replica, reason=reason)
        try:
            store = Store.open_existing(self.database_url, lambda: int(time.time()))
            asyncio.run(store.note_failure(replica, reason))
        finally:
            os._exit(1)  # Ray ends what the process started, and Serve starts another replica


@dataclass
class ClusterBrake:
    """Holds a lost cluster back before it starts again. `rest` waits for some seconds, unless a signal says stop."""

    ask: Callable[[str], StartAnswer]
    rest: Callable[[float], bool]
    blind: int = field(default=0, init=False)  # questions in a row that the ledger did not answer

    def release(self) -> bool:
        """Returns when the cluster may start: True; or when a signal says stop: False."""
        starter = uuid4().hex
        spent = False
        while True:
            try:
                answer = self.ask(starter)
            except Exception as error:  # noqa: BLE001  # whatever ails the ledger, the cluster must come back
                seconds = min(LONGEST_PAUSE_SECONDS, 2.0 ** (self.blind - 1)) if self.blind else 0.0
                self.blind += 1
                log.error("the ledger cannot be asked whether to start again", waits=seconds, reason=str(error))
                if self.rest(seconds):
                    return False
                if spent:
                    continue
                return True
            self.blind = 0
            if answer.wait_seconds <= 0:
                return True
            if answer.refills_at is not None and not spent:
                log.error(
                    "the Ray cluster was lost more often within an hour than restarts_per_hour allows: it stays down",
                    until=datetime.fromtimestamp(answer.refills_at).astimezone().isoformat(timespec="seconds"),
                    to_start_it_now="batchyard restarts reset cluster",
                )
                spent = True
            if self.rest(min(answer.wait_seconds, ASK_SECONDS)):
                return False


def ledger_asker(settings: Settings) -> Callable[[str], StartAnswer]:
    deploy = uuid4().hex

    async def ask(starter: str) -> StartAnswer:
        store = Store.open(settings.database_url, lambda: int(time.time()))
        try:
            return await store.ask_to_start(
                "cluster", starter, deploy=deploy, planned=0, budget=settings.restarts_per_hour
            )
        finally:
            store.close()

    return lambda starter: asyncio.run(ask(starter))


class RestartWatch:
    """What the ledger says of the models' restarts; `restarts` gives the newest without waiting.

    Failures and first starts are those of this `deploy`. `clock` is monotonic, in seconds.
    """

    def __init__(
        self,
        store: Store,
        models: Sequence[str],
        budget: int,
        deploy: str,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._budget = budget
        self._deploy = deploy
        self._clock = clock
        self._known = dict.fromkeys(models, (clock(), Restarts()))

    def restarts(self, model: str) -> Restarts:
        read_at, known = self._known[model]
        passed = self._clock() - read_at
        return replace(
            known,
            failure_age=None if known.failure_age is None else known.failure_age + passed,
            newest_start_age=None if known.newest_start_age is None else known.newest_start_age + passed,
        )

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            try:
                for model in self._known:
                    found = await self._store.restarts(model, self._budget, self._deploy)
                    self._known[model] = (self._clock(), found)
            except StoreUnavailable as error:
                log.warning("restarts cannot be read", reason=str(error))
            await asyncio.sleep(LOOK_SECONDS)


def _sentence(error: BaseException) -> str:
    """The error at the root: vLLM and Ray wrap it several times."""
    while (cause := error.__cause__ or (None if error.__suppress_context__ else error.__context__)) is not None:
        error = cause
    first = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    return f"{type(error).__name__}: {first}" if first else type(error).__name__

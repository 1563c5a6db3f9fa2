"""The alerts: rules that each dispatcher process checks every few seconds.

Only dispatchers alert, so that an alert does not come once for each gateway. Engines report a hang themselves, because
only they can distinguish it from a death, and `batchyard serve` reports a lost cluster. `app/telemetry.py` limits how
often the same alert is sent.
"""

import asyncio
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

import structlog

from app.errors import StoreUnavailable
from app.health import Health, ModelHealth
from app.store import Batch
from app.telemetry import AlertKind, Alerts, alert

log = structlog.get_logger()

LOOK_SECONDS = 5.0

DOWN_SECONDS = 60.0
"""A model that was healthy may lack replicas for this long: a restart takes less. Promised is an alert within 90 s."""

COLD_START_SECONDS = 600.0
"""A model that never was healthy may load for this long, as long as nothing is known to be wrong."""

STUCK_SECONDS = 900.0
"""A batch whose turn it is makes no step for longer than any line or any step of a healthy batch takes."""

DISK_FREE_SHARE = 0.05
DISK_FREE_BYTES = 5 * 2**30
"""A disk is nearly full below both: 5 % of a large disk is plenty, and 5 GiB of a small one may be all it has."""


class OpenBatches(Protocol):
    """The ledger, as far as the rules look into it."""

    async def open_batches(self) -> list[Batch]:
        """All that have not ended, oldest first."""
        ...


class Free(Protocol):
    """Bytes of a filesystem, as shutil.disk_usage gives them."""

    @property
    def total(self) -> int: ...

    @property
    def free(self) -> int: ...


@dataclass(frozen=True)
class Condition:
    """Something that is wrong for as long as it lasts."""

    kind: AlertKind
    model: str | None = None
    batch: str | None = None


@dataclass(frozen=True)
class _Progress:
    """How far a batch was at `since`, the last time at which it had moved or could not move."""

    status: str
    done: int
    since: float


class Sentinel:
    """Alerts while a condition lasts, and logs its end. `clock` is monotonic, in seconds."""

    def __init__(
        self,
        store: OpenBatches,
        health: Health,
        data: Path,
        clock: Callable[[], float] = time.monotonic,
        alert: Alerts = alert,
        disk_usage: Callable[[Path], Free] = shutil.disk_usage,
    ) -> None:
        self._store = store
        self._health = health
        self._data = data
        self._clock = clock
        self._alert = alert
        self._disk_usage = disk_usage
        self._started = clock()
        self._progress: dict[str, _Progress] = {}
        self._lasting: set[Condition] = set()
        self._most_healthy: dict[str, int] = {}

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await self.look()
            await asyncio.sleep(LOOK_SECONDS)

    async def look(self) -> None:
        """One pass over all rules. While the ledger cannot be read, no condition of a batch is alerted or over."""
        models = self._health.models()
        found = self._models(models) | await self._disk()
        unknown: set[Condition] = set()
        try:
            found |= self._batches(await self._store.open_batches(), models)
        except StoreUnavailable as error:
            log.warning("batches cannot be watched", reason=str(error))
            self._progress = {}  # without the ledger none could move
            unknown = {each for each in self._lasting if each.batch}
        for each, message in found.items():
            self._alert(each.kind, message, model=each.model, batch=each.batch)
        for over in self._lasting - found.keys() - unknown:
            log.info("recovered", kind=over.kind, model=over.model, batch=over.batch)
        self._lasting = found.keys() | unknown

    def _models(self, models: list[ModelHealth]) -> dict[Condition, str]:
        found = {}
        for model in models:
            self._most_healthy[model.id] = max(model.healthy, self._most_healthy.get(model.id, 0))
            if self._budget_is_spent(model):
                found[Condition("restart_budget_spent", model.id)] = _budget_words(model)
            if not model.healthy and (words := self._down(model)):
                found[Condition("model_down", model.id)] = words
        return found

    def _down(self, model: ModelHealth) -> str | None:
        """What to say of a model without a healthy replica; None while that may be a restart or a start."""
        seconds, patience = model.last_healthy_seconds_ago, DOWN_SECONDS
        if seconds is not None:
            words = f"Model {model.id} has had no healthy replica for {seconds:.0f} s"
        else:
            seconds = self._clock() - self._started
            if model.reason is None and not self._budget_is_spent(model):
                patience = COLD_START_SECONDS
            words = f"Model {model.id} has not become ready in the {seconds:.0f} s since this dispatcher started"
        return f"{words}: new batches are refused, running ones wait." if seconds >= patience else None

    def _budget_is_spent(self, model: ModelHealth) -> bool:
        """No replica that is missing will be started again. A budget of 0 is also spent while the first ones load."""
        lost = model.restart_budget > 0 or model.healthy < self._most_healthy[model.id]
        return model.restarts_refill_at is not None and model.healthy < model.target and lost

    async def _disk(self) -> dict[Condition, str]:
        try:
            usage = await asyncio.to_thread(self._disk_usage, self._data)
        except OSError as error:
            log.warning("free space cannot be read", folder=str(self._data), reason=error.strerror)
            return {}
        if usage.free >= DISK_FREE_BYTES or usage.free >= usage.total * DISK_FREE_SHARE:
            return {}
        words = f"{self._data} has {usage.free / 2**30:.1f} GiB free of {usage.total / 2**30:.1f} GiB."
        return {Condition("disk_nearly_full"): words}

    def _batches(self, batches: list[Batch], models: list[ModelHealth]) -> dict[Condition, str]:
        found = {}
        progress, busy = {}, set()
        for batch in batches:
            if batch.status == "in_progress" and batch.paused_at is not None:
                words = f"Batch {batch.id} is paused: its lines have killed too many engines."
                found[Condition("batch_paused", batch.model, batch.id)] = words
                continue
            # Work is taken oldest first, so a batch may stand still as long as another one is before it.
            queue = batch.model if batch.status == "in_progress" else batch.status
            can_move = queue not in busy and _has_its_engine(batch, models)
            busy.add(queue)
            progress[batch.id] = now = self._moved(batch, can_move)
            if (seconds := self._clock() - now.since) >= STUCK_SECONDS:
                words = (
                    f"Batch {batch.id} has been {batch.status} with {now.done} of {batch.total} lines done "
                    f"for {seconds / 60:.0f} min, and nothing that is known keeps it from going on."
                )
                found[Condition("batch_stuck", batch.model, batch.id)] = words
        self._progress = progress
        return found

    def _moved(self, batch: Batch, can_move: bool) -> _Progress:
        done = batch.completed + batch.failed
        before = self._progress.get(batch.id)
        if before is not None and can_move and (before.status, before.done) == (batch.status, done):
            return before
        return _Progress(batch.status, done, self._clock())


def _has_its_engine(batch: Batch, models: list[ModelHealth]) -> bool:
    """Whether its next step waits for no engine. Of a batch that is validated it is not known yet which model it is."""
    if batch.status == "validating":
        return all(model.healthy for model in models)
    return batch.status != "in_progress" or any(model.healthy for model in models if model.id == batch.model)


def _budget_words(model: ModelHealth) -> str:
    replicas = f"Model {model.id} has {model.healthy} of {model.target} replicas"
    if model.restart_budget == 0:
        return f"{replicas}, and with a budget of 0 restarts an hour nothing starts again."
    until = datetime.fromtimestamp(model.restarts_refill_at or 0, UTC)
    return f"{replicas}, and its budget of {model.restart_budget} restarts an hour is spent until {until:%H:%M} UTC."

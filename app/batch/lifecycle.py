"""A batch's own steps: validate and cut into shards, and, once no line of it runs, write its result files."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from typing import Any

import structlog

from app.batch.faults import TRIES, broken, pause_seconds, tell
from app.batch.lines import LineFault
from app.batch.results import ResultFiles, ResultsDamaged, leftovers, write_result_files
from app.batch.validate import Validation, validate
from app.capabilities import CapabilitiesOf
from app.errors import BatchyardError, CapabilitiesUnknown, MachineExhausted, ObjectMissing, ObjectsUnavailable
from app.objects import Objects
from app.settings import Settings
from app.store import Batch, BatchClaim, Segment, Store
from app.telemetry import Alerts, alert

log = structlog.get_logger()

DAY = 86_400
SWEPT_AT_ONCE = 100
"""Deleted files whose objects go in one pass: keeps a pass short when a million expire together."""

UNHEARD_SECONDS = 1.0
"""Until a batch of whose model no engine was heard is looked at again: a look reads the start of its file."""


Reading = Callable[[], Coroutine[Any, Any, Validation]]
"""Reads an input file, and says what is in it."""


async def in_thread(read: Reading) -> Validation:
    """With a loop of its own: parsing 50,000 lines must not stop the streams of this one."""
    return await asyncio.to_thread(lambda: asyncio.run(read()))


class Lifecycle:
    """Each step claims one batch under a lease that the owner's dispatcher renews, and says whether it found one."""

    def __init__(
        self,
        store: Store,
        objects: Objects,
        settings: Settings,
        owner: str,
        now: Callable[[], float] = time.time,
        aside: Callable[[Reading], Awaitable[Validation]] = in_thread,
        alert: Alerts = alert,
        *,
        capabilities: CapabilitiesOf,
    ) -> None:
        """`aside`: where an input file is read."""
        self._store = store
        self._objects = objects
        self._settings = settings
        self._owner = owner
        self._now = now
        self._alert = alert
        self._aside = aside
        self._capabilities = capabilities
        self._claims: set[tuple[str, int]] = set()
        self.batch_created = asyncio.Event()

    async def renew(self) -> None:
        """Keeps the leases of the steps under way. A step that failed is not among them: its lease runs out."""
        await self._store.renew_batches(self._claims, self._settings.dispatch.lease_seconds)

    async def validate_next(self) -> bool:
        """validating → in_progress or failed."""
        claim = await self._store.claim_new_batch(self._owner, self._settings.dispatch.lease_seconds)
        if claim is None:
            return False
        async with self._step(claim, "validated"):
            found = await self._validation(claim.batch)
            if found.faults or found.model is None:
                acted = await self._store.fail_batch(claim, [fault.as_dict() for fault in found.faults])
            else:
                acted = await self._store.start_batch(claim, found.model, found.plans, found.warnings)
            log.info("batch validated", batch=claim.batch.id, faults=len(found.faults), acted=acted)
        return True

    async def finalise_next(self) -> bool:
        """finalizing or cancelling → completed, cancelled, expired or failed."""
        claim = await self._store.claim_ended_batch(self._owner, self._settings.dispatch.lease_seconds)
        if claim is None:
            return False
        async with self._step(claim, "finalised"):
            await self._finalise(claim)
        return True

    async def sweep(self) -> None:
        """Ends overdue batches, expires files, and removes the objects of files that are gone."""
        await self._store.expire_batches()
        await self._store.expire_files()
        await self._sweep_objects()
        await self._store.forget_idempotency(DAY)
        await self._store.forget_starts(DAY)

    async def _sweep_objects(self) -> None:
        files = await self._store.deleted_files(SWEPT_AT_ONCE)
        garbage = await self._store.due_garbage(SWEPT_AT_ONCE)
        gone = await self._delete_all([*(file.object_key for file in files), *garbage])
        if forgotten := [file.id for file in files if file.object_key in gone]:
            await self._store.forget_files(forgotten)
        if forgotten := [key for key in garbage if key in gone]:
            await self._store.forget_garbage(forgotten)

    async def _delete_all(self, keys: Sequence[str]) -> set[str]:
        """Returns the keys of what is gone."""
        gone: set[str] = set()
        refused: list[ObjectsUnavailable] = []
        for key in keys:
            try:
                await self._delete(key)
                gone.add(key)
            except ObjectsUnavailable as error:
                refused.append(error)  # the others need not wait for it
        if refused:
            log.warning("objects not deleted yet", number=len(refused), reason=str(refused[0]))
        return gone

    async def _delete(self, key: str) -> None:
        """The object, or all objects under a key that ends with a slash."""
        if key.endswith("/"):
            await self._objects.delete_prefix(key)
        else:
            await self._objects.delete(key)

    @asynccontextmanager
    async def _step(self, claim: BatchClaim, step: str) -> AsyncIterator[None]:
        """The lease is renewed meanwhile. A fault that nobody foresaw is the batch's own: others need not wait for it.

        Raises what Batchyard can name, and MachineExhausted: those are no batch's fault, and the step is tried again.
        """
        key = (claim.batch.id, claim.epoch)
        self._claims.add(key)
        try:
            yield
        except CapabilitiesUnknown:  # it waits: none of its lines could run yet
            self._claims.discard(key)
            await self._store.put_off_batch(claim, UNHEARD_SECONDS, fault=False)
        except BatchyardError:
            raise
        except (OSError, MemoryError) as error:
            raise MachineExhausted(f"Batch {claim.batch.id} could not be {step} yet: {error!r}") from error
        except Exception:
            log.exception("batch put off", batch=claim.batch.id, step=step, faults=claim.faults + 1)
            self._claims.discard(key)
            await self._put_off(claim, step)
        finally:
            self._claims.discard(key)

    async def _validation(self, batch: Batch) -> Validation:
        file = await self._store.file(batch.tenant, batch.input_file_id)
        if file is None:
            return Validation(faults=[_unknown_file(batch)])
        if file.bytes > self._settings.limits.file_bytes:
            message = f"The file has {file.bytes} bytes; at most {self._settings.limits.file_bytes} are allowed."
            return Validation(faults=[LineFault("file_too_large", message)])
        try:
            return await self._aside(lambda: self._read(batch, file.object_key))
        except ObjectMissing:
            return Validation(faults=[_unknown_file(batch)])

    async def _read(self, batch: Batch, key: str) -> Validation:
        return await validate(
            self._objects.stream(key),
            endpoint=batch.endpoint,
            settings=self._settings,
            capabilities=self._capabilities,
        )

    async def _finalise(self, claim: BatchClaim) -> None:
        batch = claim.batch
        try:
            written = await self._write_results(claim)
        except ResultsDamaged as error:
            await self._run_again(claim, error.damaged)
            return
        acted = await self._store.finish_batch(
            claim,
            written.output,
            written.error,
            leftovers(claim) if claim.faults <= TRIES else (),  # else they hold all that there is
            lost=written.lost,
            error_summary=written.error_summary,
            fault=None if written.whole else broken("finalised").as_dict(),
        )
        if acted and written.lost:
            self._alert_of_damage(batch, written.lost)
        log.info("batch finished", **self._outcome(batch), acted=acted)

    def _outcome(self, batch: Batch) -> dict[str, object]:
        """For the log. Lines that were cut off by the batch's end count as failed."""
        return {
            "batch": batch.id,
            "ending": batch.ending or "completed",
            "completed": batch.completed,
            "failed": batch.total - batch.completed,
            "seconds": int(self._now()) - batch.created_at,
        }

    async def _write_results(self, claim: BatchClaim) -> ResultFiles:
        """Raises ResultsDamaged, unless there were so many faults that the batch must end now."""
        if claim.faults > TRIES:
            return ResultFiles(None, None, [], whole=False)  # even what can be read of them cannot be written
        return await write_result_files(
            self._store,
            self._objects,
            claim,
            await self._store.object_key(claim.batch.input_file_id),
            now=int(self._now()),
            keep_seconds=int(self._settings.retention.output_file_days * DAY),
            last_try=claim.faults == TRIES,
        )

    async def _run_again(self, claim: BatchClaim, damaged: Sequence[Segment]) -> None:
        lines = sum(len(segment.lines) for segment in damaged)
        acted = await self._store.run_again(claim, damaged)
        log.error("results are damaged, their lines run again", batch=claim.batch.id, lines=lines, acted=acted)
        if acted:
            self._alert_of_damage(claim.batch, lines)

    def _alert_of_damage(self, batch: Batch, lines: int) -> None:
        message = f"{lines} results of batch {batch.id} could not be read back from the object store."
        self._alert("results_damaged", message, model=batch.model, batch=batch.id)

    async def _put_off(self, claim: BatchClaim, step: str) -> None:
        tell(self._alert, claim.batch.id, claim.batch.model, step)
        if step == "validated" and claim.faults + 1 >= TRIES:
            await self._store.fail_batch(claim, [broken(step).as_dict()])
        else:
            await self._store.put_off_batch(claim, pause_seconds(claim.faults + 1), fault=True)


def _unknown_file(batch: Batch) -> LineFault:
    message = f"Cannot find file {batch.input_file_id}, or organization default does not have access to it."
    return LineFault("invalid_request", message, "file_id")

"""A batch's own steps: validate and cut into shards, and, once no line of it runs, write its result files."""

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import structlog

from app.batch.lines import LineFault
from app.batch.results import leftovers, write_result_files
from app.batch.validate import Validation, validate
from app.errors import ObjectMissing, ObjectsUnavailable
from app.objects import Objects
from app.settings import Settings
from app.store import Batch, BatchClaim, Store

log = structlog.get_logger()

DAY = 86_400
SWEPT_AT_ONCE = 100
"""Deleted files whose objects go in one pass: keeps a pass short when a million expire together."""


class Lifecycle:
    """Each step claims one batch under a lease that the owner's dispatcher renews, and says whether it found one."""

    def __init__(
        self, store: Store, objects: Objects, settings: Settings, owner: str, now: Callable[[], float] = time.time
    ) -> None:
        self._store = store
        self._objects = objects
        self._settings = settings
        self._owner = owner
        self._now = now
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
        with self._lease_renewed(claim):
            found = await self._validation(claim.batch)
        if found.faults or found.model is None:
            acted = await self._store.fail_batch(claim, [fault.as_dict() for fault in found.faults])
        else:
            acted = await self._store.start_batch(claim, found.model, found.plans)
        log.info("batch validated", batch=claim.batch.id, faults=len(found.faults), acted=acted)
        return True

    async def finalise_next(self) -> bool:
        """finalizing or cancelling → completed, cancelled, expired or failed."""
        claim = await self._store.claim_ended_batch(self._owner, self._settings.dispatch.lease_seconds)
        if claim is None:
            return False
        with self._lease_renewed(claim):
            await self._finalise(claim)
        return True

    async def sweep(self) -> None:
        """Ends overdue batches, expires files, and removes the objects of files that are gone."""
        await self._store.expire_batches()
        await self._store.expire_files()
        await self._store.forget_idempotency(DAY)
        await self._store.forget_starts(DAY)
        gone: list[str] = []
        refused: list[ObjectsUnavailable] = []
        for file in await self._store.deleted_files(SWEPT_AT_ONCE):
            try:
                await self._delete(file.object_key)
                gone.append(file.id)
            except ObjectsUnavailable as error:
                refused.append(error)  # the others need not wait for it
        if gone:
            await self._store.forget_files(gone)
        if refused:
            log.warning("objects not deleted yet", number=len(refused), reason=str(refused[0]))

    async def _delete(self, key: str) -> None:
        """The object, or all objects under a key that ends with a slash."""
        if key.endswith("/"):
            await self._objects.delete_prefix(key)
        else:
            await self._objects.delete(key)

    @contextmanager
    def _lease_renewed(self, claim: BatchClaim) -> Iterator[None]:
        key = (claim.batch.id, claim.epoch)
        self._claims.add(key)
        try:
            yield
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
            # In a thread with a loop of its own: parsing 50,000 lines must not stop the streams of this one.
            return await asyncio.to_thread(lambda: asyncio.run(self._read(batch, file.object_key)))
        except ObjectMissing:
            return Validation(faults=[_unknown_file(batch)])

    async def _read(self, batch: Batch, key: str) -> Validation:
        return await validate(
            self._objects.stream(key),
            endpoint=batch.endpoint,
            served=self._settings.served,
            limits=self._settings.limits,
            dispatch=self._settings.dispatch,
        )

    async def _finalise(self, claim: BatchClaim) -> None:
        batch = claim.batch
        written = await write_result_files(
            self._store,
            self._objects,
            claim,
            await self._store.object_key(batch.input_file_id),
            now=int(self._now()),
            keep_seconds=int(self._settings.retention.output_file_days * DAY),
        )
        acted = await self._store.finish_batch(claim, written.output, written.error, leftovers(claim))
        if not acted:
            for file in filter(None, (written.output, written.error)):
                await self._objects.delete(file.object_key)
        log.info("batch finished", batch=batch.id, ending=batch.ending or "completed", acted=acted)


def _unknown_file(batch: Batch) -> LineFault:
    message = f"Cannot find file {batch.input_file_id}, or organization default does not have access to it."
    return LineFault("invalid_request", message, "file_id")

"""The named loops of a dispatcher process.

A loop that meets a fault of ours logs it and goes on; any other stops them all, so that the process is replaced
instead of living on half dead.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

import structlog

from app.batch.dispatch import Dispatcher
from app.batch.lifecycle import Lifecycle
from app.errors import BatchyardError
from app.settings import DispatchSettings

log = structlog.get_logger()

RENEW_SECONDS = 1.0
"""How often leases are renewed and cancelled batches are noticed; the promise is that no line starts 2 s after."""

SWEEP_SECONDS = 2.0
"""How often overdue batches and expired files are looked for: two indexed statements that mostly find nothing."""

RETRY_SECONDS = 1.0
"""Pause of a loop that met a fault: short enough to go on at once when the database is back."""

Step = Callable[[], Awaitable[float]]
"""One pass; returns the seconds until the next."""


async def run_loops(dispatcher: Dispatcher, lifecycle: Lifecycle, settings: DispatchSettings) -> None:
    """Until cancelled, or until a loop fails in a way that nobody foresaw."""

    # What one loop has done is often work for the next: these wake it before its next look into the ledger.
    to_dispatch, to_flush, to_finalise = dispatcher.room_made, dispatcher.shard_answered, asyncio.Event()

    async def dispatch() -> float:
        await dispatcher.start_shards()
        return await _wait_for(to_dispatch, settings.poll_seconds)

    async def flush() -> float:
        if await dispatcher.flush():
            to_finalise.set()
        return await _wait_for(to_flush, settings.flush_seconds)

    async def renew() -> float:
        await dispatcher.renew()
        await lifecycle.renew()
        return min(RENEW_SECONDS, settings.lease_seconds / 3)

    async def validate() -> float:
        if not await lifecycle.validate_next():
            return await _wait_for(lifecycle.batch_created, settings.poll_seconds)
        to_dispatch.set()
        return 0

    async def finalise() -> float:
        return 0 if await lifecycle.finalise_next() else await _wait_for(to_finalise, settings.poll_seconds)

    async def sweep() -> float:
        await lifecycle.sweep()
        return SWEEP_SECONDS

    async with asyncio.TaskGroup() as group:
        for step in (dispatch, flush, renew, validate, finalise, sweep):
            group.create_task(_forever(step), name=step.__name__)


async def _wait_for(event: asyncio.Event, seconds: float) -> float:
    """Waits for the event, `seconds` at most, and clears it. Returns the pause that is left: none."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):  # wait_for of Python 3.11 loses a cancellation that comes with the event
            await event.wait()
    event.clear()
    return 0


async def _forever(step: Step) -> None:
    while True:
        try:
            pause = await step()
        except BatchyardError as error:
            log.warning("loop goes on after a fault", loop=step.__name__, fault=type(error).__name__, reason=str(error))
            pause = RETRY_SECONDS
        except Exception:
            log.exception("loop ends", loop=step.__name__)
            raise
        await asyncio.sleep(pause)

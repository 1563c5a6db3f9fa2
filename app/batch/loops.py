"""The named loops of a dispatcher process.

A loop that meets a fault of ours logs it and goes on; any other stops them all, so that the process is replaced
instead of living on half dead.
"""

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from app.batch.dispatch import Dispatcher
from app.batch.lifecycle import Lifecycle
from app.errors import BatchyardError
from app.settings import DispatchSettings

log = structlog.get_logger()

RENEW_SECONDS = 1.0
"""How often leases are renewed and cancelled batches are noticed; the promise is that no line starts 2 s after."""

SWEEP_SECONDS = 1.0
"""How often overdue batches and expired files are looked for: two indexed statements that mostly find nothing."""

Step = Callable[[], Awaitable[float]]
"""One pass; returns the seconds until the next."""


async def run_loops(dispatcher: Dispatcher, lifecycle: Lifecycle, settings: DispatchSettings) -> None:
    """Until cancelled, or until a loop fails in a way that nobody foresaw."""

    async def dispatch() -> float:
        await dispatcher.run_once()
        await dispatcher.wait_for_room(settings.poll_seconds)
        return 0

    async def flush() -> float:
        await dispatcher.flush()
        return settings.flush_seconds

    async def renew() -> float:
        await dispatcher.renew()
        await lifecycle.renew()
        return min(RENEW_SECONDS, settings.lease_seconds / 3)

    async def validate() -> float:
        return 0 if await lifecycle.validate_next() else settings.poll_seconds

    async def finalise() -> float:
        return 0 if await lifecycle.finalise_next() else settings.poll_seconds

    async def sweep() -> float:
        await lifecycle.sweep()
        return SWEEP_SECONDS

    async with asyncio.TaskGroup() as group:
        for step in (dispatch, flush, renew, validate, finalise, sweep):
            group.create_task(_forever(step), name=step.__name__)


async def _forever(step: Step) -> None:
    while True:
        try:
            pause = await step()
        except BatchyardError as error:
            log.warning("loop goes on after a fault", loop=step.__name__, fault=type(error).__name__, reason=str(error))
            pause = 1.0
        await asyncio.sleep(pause)

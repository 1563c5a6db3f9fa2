"""Waiting for a state that nobody signals."""

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from typing import Any

PATIENCE_SECONDS = 20
LOOK_SECONDS = 0.01


async def until(state: Callable[[], Awaitable[Any] | Any]) -> Any:
    """What `state` gives, or its awaitable, as soon as that is true. Raises TimeoutError."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while True:
            found = state()
            if inspect.isawaitable(found):
                found = await found
            if found:
                return found
            await asyncio.sleep(LOOK_SECONDS)

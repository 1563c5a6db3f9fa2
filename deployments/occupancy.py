"""Which calls may be in an engine at once: many together, or one alone, so that only it can be to blame for a death."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager


class Occupancy:
    """A call that waits to be alone enters before all later calls that would share: they could keep it out for ever."""

    def __init__(self) -> None:
        self._sharing = 0
        self._alone = False
        self._waiting = 0
        self._changed = asyncio.Condition()

    def enter(self, *, alone: bool) -> AbstractAsyncContextManager[None]:
        return self._enter_alone() if alone else self._enter_together()

    @asynccontextmanager
    async def _enter_together(self) -> AsyncIterator[None]:
        async with self._changed:
            await self._changed.wait_for(lambda: not self._alone and not self._waiting)
            self._sharing += 1
        try:
            yield
        finally:
            self._sharing -= 1
            await self._notify()

    @asynccontextmanager
    async def _enter_alone(self) -> AsyncIterator[None]:
        self._waiting += 1
        try:
            async with self._changed:
                await self._changed.wait_for(lambda: not self._alone and not self._sharing)
                self._alone = True
        finally:
            self._waiting -= 1
            if not self._alone:
                await self._notify()
        try:
            yield
        finally:
            self._alone = False
            await self._notify()

    async def _notify(self) -> None:
        async with self._changed:
            self._changed.notify_all()

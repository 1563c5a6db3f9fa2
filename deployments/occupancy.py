"""Which calls may be in an engine at once: many together, or one alone, so that only it can be to blame for a death."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import takewhile


@dataclass(frozen=True, eq=False)
class _Ticket:
    alone: bool


class Occupancy:
    """Calls enter in the order in which they come, so that neither kind can keep the other out for ever."""

    def __init__(self) -> None:
        self._queue: list[_Ticket] = []
        """Of the calls that are inside and, behind them, those that wait."""
        self._changed = asyncio.Condition()

    @asynccontextmanager
    async def enter(self, *, alone: bool) -> AsyncIterator[None]:
        ticket = _Ticket(alone)
        self._queue.append(ticket)
        try:
            async with self._changed:
                await self._changed.wait_for(lambda: self._may_enter(ticket))
            yield
        finally:
            self._queue.remove(ticket)
            async with self._changed:
                self._changed.notify_all()

    def _may_enter(self, ticket: _Ticket) -> bool:
        ahead = list(takewhile(lambda each: each is not ticket, self._queue))
        return not ahead if ticket.alone else not any(each.alone for each in ahead)

"""Which calls may be in an engine at once: many together, or lines that keep others out, so that none is an excuse."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from enum import Enum
from itertools import takewhile

from app.batch.suspects import Beside


class Call(Enum):
    LINES = "lines"
    ONLINE = "online"


@dataclass(frozen=True, eq=False)
class _Ticket:
    call: Call
    beside: Beside

    def bears(self, other: "_Ticket") -> bool:
        return self.beside is Beside.ANYTHING or (self.beside is Beside.ONLINE and other.call is Call.ONLINE)


class Occupancy:
    """Calls enter in the order in which they come, so that no kind can keep another out for ever."""

    def __init__(self) -> None:
        self._queue: list[_Ticket] = []
        """Of the calls that are inside and, among and behind them, those that wait."""
        self._changed = asyncio.Condition()

    @asynccontextmanager
    async def enter(self, call: Call, beside: Beside = Beside.ANYTHING) -> AsyncIterator[None]:
        ticket = _Ticket(call, beside)
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
        ahead = takewhile(lambda each: each is not ticket, self._queue)
        return all(ticket.bears(each) and each.bears(ticket) for each in ahead)

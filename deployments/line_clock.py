"""The longest time that a line may take in vLLM, from when it starts there."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class LineClock:
    """Lets each line take `seconds`, from when one of vLLM's `slots` is free for it.

    vLLM starts lines in the order in which they come and does not say when. One that has no slot by our count has none
    in vLLM; one that has may still wait for memory there, or for an online request, so its time is at most too short.
    """

    def __init__(self, slots: int, seconds: float) -> None:
        self._free = slots
        self._seconds = seconds
        self._waiting: deque[asyncio.Timeout] = deque()

    @asynccontextmanager
    async def limit(self) -> AsyncIterator[None]:
        """Raises TimeoutError when what is inside takes too long, and cancels it."""
        async with asyncio.timeout(None) as timeout:
            self._waiting.append(timeout)
            self._start_next()
            try:
                yield
            finally:
                if timeout in self._waiting:
                    self._waiting.remove(timeout)
                else:
                    self._free += 1
                self._start_next()

    def _start_next(self) -> None:
        while self._free and self._waiting:
            self._free -= 1
            self._waiting.popleft().reschedule(asyncio.get_running_loop().time() + self._seconds)

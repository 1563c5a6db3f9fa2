"""vLLM's front end in a thread of its own.

It validates, renders, tokenises and builds answers, and one request may keep it busy for a minute. Meanwhile the
replica's own event loop goes on, with heartbeats, health check, cancels and the admission of lines. Work that holds
Python's lock stops both; the guard (`deployments/guard`), another process, sees that as well.
"""

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncGenerator, Coroutine
from concurrent.futures import Future
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, TypeVar

from deployments.guard.sheet import Sheet

T = TypeVar("T")

TICK_SECONDS = 0.5

WORK: ContextVar[str] = ContextVar("work", default="work of vLLM's own")
"""What a task is at, in words. A task inherits it from the one that started it."""


@dataclass(frozen=True)
class _End:
    error: BaseException | None


class FrontEnd:
    """Runs coroutines and generators in its thread for callers in the event loop of another one."""

    def __init__(self) -> None:
        self.sheet = Sheet.new()
        self._loop = asyncio.new_event_loop()
        self._loop.set_task_factory(_named_by_work)
        self._loop.call_soon(self._tick)
        threading.Thread(target=self._loop.run_forever, name="front end", daemon=True).start()

    @property
    def busy_seconds(self) -> float:
        """How long one step has taken so far; up to TICK_SECONDS say nothing."""
        return time.monotonic() - self.sheet.tick

    def start(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    async def run(self, work: Coroutine[Any, Any, T]) -> T:
        return await asyncio.wrap_future(self.start(work))

    async def stream(self, items: AsyncGenerator[T, None]) -> AsyncGenerator[T, None]:
        """The items as they come. Closing it closes their source, and returns when that is done."""
        self.sheet.work = WORK.get()
        home, arrived = asyncio.get_running_loop(), asyncio.Queue[T | _End]()
        pumping: list[asyncio.Task[None]] = []

        def tell(news: T | _End) -> None:
            home.call_soon_threadsafe(arrived.put_nowait, news)

        async def pump() -> None:
            async with contextlib.aclosing(items):
                async for item in items:
                    tell(item)

        def begin() -> None:
            pumping.append(self._loop.create_task(pump()))
            pumping[0].add_done_callback(lambda task: tell(_End(_error_of(task))))

        self._loop.call_soon_threadsafe(begin)
        end = None
        try:
            while not isinstance(news := await arrived.get(), _End):
                yield news
            end = news
        finally:
            if end is None:
                self._loop.call_soon_threadsafe(lambda: pumping[0].cancel())
                while not isinstance(await arrived.get(), _End):
                    pass
        if end.error is not None:
            raise end.error

    def note_work(self) -> str:
        """What it is busy with; for the guard to know as well."""
        if (task := asyncio.current_task(self._loop)) is not None:
            self.sheet.work = task.get_name()
        return self.sheet.work

    def _tick(self) -> None:
        self.sheet.tick = time.monotonic()
        self._loop.call_later(TICK_SECONDS, self._tick)


def _error_of(task: asyncio.Task[None]) -> BaseException | None:
    return asyncio.CancelledError() if task.cancelled() else task.exception()


def _named_by_work(loop: asyncio.AbstractEventLoop, work: Any, **options: Any) -> asyncio.Task[Any]:
    """So that the name of the task that keeps the loop busy says which request it belongs to."""
    task = asyncio.Task(work, loop=loop, **options)
    task.set_name(WORK.get())
    return task

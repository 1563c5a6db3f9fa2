"""How long a line may take, from when vLLM has a slot for it."""

import asyncio

import pytest

from deployments.line_clock import LineClock
from tests.unit.waiting import until


async def test_a_line_that_takes_too_long_is_cancelled_and_its_slot_is_free() -> None:
    clock, cancelled = LineClock(slots=1, seconds=0.01), []
    for _ in range(2):
        with pytest.raises(TimeoutError):
            async with clock.limit():
                try:
                    await asyncio.Event().wait()
                except asyncio.CancelledError:
                    cancelled.append(True)
                    raise
    assert cancelled == [True, True]


async def test_a_line_that_waits_behind_others_has_all_its_time_still_before_it() -> None:
    clock, first_may_end = LineClock(slots=1, seconds=0.2), asyncio.Event()
    loop, began = asyncio.get_running_loop(), {}

    async def line(name: str, end: asyncio.Event) -> None:
        async with clock.limit():
            began[name] = loop.time()
            await end.wait()

    first = asyncio.create_task(line("first", first_may_end))
    second = asyncio.create_task(line("second", asyncio.Event()))
    await until(lambda: "second" in began)
    await asyncio.sleep(0.1)
    started = loop.time()
    first_may_end.set()
    await first
    with pytest.raises(TimeoutError):
        await second
    assert loop.time() - started >= 0.19


async def test_a_line_that_leaves_while_it_waits_keeps_nobody_waiting() -> None:
    clock = LineClock(slots=1, seconds=0.01)

    async def line() -> None:
        async with clock.limit():
            await asyncio.Event().wait()

    first, second, third = (asyncio.create_task(line()) for _ in range(3))
    await asyncio.sleep(0)
    second.cancel()
    assert [type(each) for each in await asyncio.gather(first, second, third, return_exceptions=True)] == [
        TimeoutError,
        asyncio.CancelledError,
        TimeoutError,
    ]

"""vLLM's front end in a thread of its own: what is in it may take as long as it likes, and is still closed in order."""

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncGenerator

import pytest

from deployments.front_end import WORK, FrontEnd
from tests.unit.waiting import until


@pytest.fixture(scope="module")
def front_end() -> FrontEnd:
    return FrontEnd()


async def count(to: int) -> AsyncGenerator[int, None]:
    for number in range(to):
        yield number


async def test_the_items_of_a_stream_come_in_order_from_the_other_thread(front_end: FrontEnd) -> None:
    async def items() -> AsyncGenerator[int, None]:
        yield threading.get_ident()
        async for number in count(3):
            yield number

    thread, *numbers = [each async for each in front_end.stream(items())]
    assert thread != threading.get_ident()
    assert numbers == [0, 1, 2]


async def test_an_error_in_the_source_ends_the_stream(front_end: FrontEnd) -> None:
    async def items() -> AsyncGenerator[int, None]:
        yield 1
        raise KeyError("x")

    found = []
    with pytest.raises(KeyError):
        async for each in front_end.stream(items()):
            found.append(each)
    assert found == [1]


async def test_what_blocks_the_front_end_stops_nobody_else_and_is_named(front_end: FrontEnd) -> None:
    release = threading.Event()

    async def block() -> None:
        release.wait(10)

    WORK.set("request req_1 to /v1/x")
    blocked = front_end.start(block())
    await until(lambda: front_end.busy_seconds > 0.6)
    assert front_end.note_work() == front_end.sheet.work == "request req_1 to /v1/x"
    release.set()
    await asyncio.wrap_future(blocked)
    await until(lambda: front_end.busy_seconds < 0.5)


async def test_a_stream_that_is_closed_returns_when_its_source_is_closed(front_end: FrontEnd) -> None:
    events, begun = [], asyncio.Event()

    async def items() -> AsyncGenerator[int, None]:
        try:
            yield 1
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0.05)
            events.append("closed")

    async def read() -> None:
        async with contextlib.aclosing(front_end.stream(items())) as stream:
            async for _ in stream:
                begun.set()
        events.append("unreachable")

    reading = asyncio.create_task(read())
    await begun.wait()
    reading.cancel()
    await asyncio.gather(reading, return_exceptions=True)
    assert events == ["closed"]


async def test_a_stream_that_is_closed_before_it_began_ends_all_the_same(front_end: FrontEnd) -> None:
    release = threading.Event()

    async def block() -> None:
        release.wait(10)

    blocked = front_end.start(block())
    reading = asyncio.create_task(anext(front_end.stream(count(3))))  # type: ignore[arg-type]
    await asyncio.sleep(0)
    reading.cancel()
    await asyncio.sleep(0)
    release.set()
    async with asyncio.timeout(5):
        await asyncio.gather(reading, return_exceptions=True)
    await asyncio.wrap_future(blocked)


async def test_cancelling_a_call_cancels_it_there(front_end: FrontEnd) -> None:
    begun, ended = threading.Event(), threading.Event()

    async def work() -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    running = asyncio.create_task(front_end.run(work()))
    await until(begun.is_set)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    started = time.monotonic()
    await until(ended.is_set)
    assert time.monotonic() - started < 5

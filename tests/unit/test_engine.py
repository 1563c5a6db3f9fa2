"""The engine replica's two ways into vLLM, and how a line leaves them early: without an engine."""

import asyncio
import json
import warnings
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from app.batch.dispatch import Answer, TimedOut
from app.errors import ReplicaGone
from app.store import Usage
from deployments.line_clock import LineClock
from deployments.occupancy import Occupancy


@pytest.fixture(scope="module")
def engine() -> ModuleType:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import deployments.engine

    return deployments.engine


def app_of(handler: Any) -> Starlette:
    return Starlette(routes=[Route("/x", handler, methods=["POST"])])


async def test_a_line_that_leaves_is_aborted_inside_vllms_own_task(engine: ModuleType) -> None:
    from vllm.entrypoints.serve.utils.api_utils import with_cancellation

    started, aborted = asyncio.Event(), asyncio.Event()

    @with_cancellation
    async def work(body: Any, raw_request: Request) -> Response:
        started.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            aborted.set()
            raise
        return JSONResponse({})

    async def handler(request: Request) -> Response:
        await request.body()
        return await work({}, raw_request=request) or Response()

    async def line() -> None:
        async for _ in engine._http(app_of(handler), "/x", b"{}", []):
            raise AssertionError("nothing was answered")

    task = asyncio.create_task(line())
    await started.wait()
    task.cancel()
    async with asyncio.timeout(5):
        await asyncio.gather(task, return_exceptions=True)
        await aborted.wait()


def replica_of(engine: ModuleType, *, line_seconds: float = 60, dead: bool = False) -> Any:
    """A BatchEngine as far as its lines need it: LLMServer itself needs an engine."""
    methods = ("answer_lines", "_answer_each", "_answer_in_time", "_must_be", "_raise_if_dead", "_death")
    replica: Any = type("Replica", (), {name: getattr(engine.BatchEngine, name) for name in methods})()
    replica._replica = "r1"
    replica._occupancy = Occupancy()
    replica._clock = LineClock(8, line_seconds)
    replica._client = SimpleNamespace(errored=dead, dead_error=RuntimeError("dead"))
    replica._core_errors = SimpleNamespace(explain=str)
    return replica


async def answers_of(replica: Any, *bodies: bytes) -> list[Answer | TimedOut]:
    async with asyncio.timeout(5):
        found = [each async for some in replica.answer_lines("/v1/x", bodies, True, "r1") for each in some]
    return sorted(found, key=lambda each: each.position)


async def test_lines_that_waited_to_enter_a_core_that_died_meanwhile_are_refused(engine: ModuleType) -> None:
    messages = replica_of(engine, dead=True).answer_lines("/v1/completions", [b"{}"], True, "r1")
    with pytest.raises(ReplicaGone, match="dead"):
        await anext(messages)


@pytest.mark.parametrize(("times", "status"), [(1, 200), (9, 500)])
async def test_a_line_that_somebody_else_cancels_is_tried_again_and_answered(
    engine: ModuleType, times: int, status: int
) -> None:
    replica, cancellations = replica_of(engine), iter(range(times))

    async def answer(position: int, endpoint: str, body: bytes) -> Answer:
        if body == b"b" and next(cancellations, None) is not None:
            raise asyncio.CancelledError
        return Answer(position, 200, b"{}", Usage())

    replica._answer = answer
    answers = await answers_of(replica, b"a", b"b")
    assert [(each.position, each.status) for each in answers if isinstance(each, Answer)] == [(0, 200), (1, status)]


async def test_a_line_that_takes_too_long_is_aborted_and_told(engine: ModuleType) -> None:
    replica, aborted = replica_of(engine, line_seconds=0.05), []

    async def answer(position: int, endpoint: str, body: bytes) -> Answer:
        if body == b"b":
            try:
                await asyncio.Event().wait()
            finally:
                aborted.append(position)
        return Answer(position, 200, b"{}", Usage())

    replica._answer = answer
    assert await answers_of(replica, b"a", b"b") == [Answer(0, 200, b"{}", Usage()), TimedOut(1)]
    assert aborted == [1]


async def test_an_error_that_nobody_foresaw_ends_the_stream(engine: ModuleType) -> None:
    replica = replica_of(engine)

    async def answer(position: int, endpoint: str, body: bytes) -> Answer:
        raise ZeroDivisionError

    replica._answer = answer
    with pytest.raises(ZeroDivisionError):
        await answers_of(replica, b"a", b"b")


async def test_a_stream_that_nobody_reads_any_more_is_aborted(engine: ModuleType) -> None:
    ended, parts_before_the_wait = asyncio.Event(), 3

    async def parts() -> Any:
        for _ in range(parts_before_the_wait):
            yield b"data: x\n\n"
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    async def handler(request: Request) -> Response:
        return StreamingResponse(parts(), media_type="text/event-stream")

    stream = engine._http(app_of(handler), "/x", b"{}", [])
    assert (await anext(stream)).status == 200
    assert await anext(stream)
    async with asyncio.timeout(5):
        await stream.aclose()
        await ended.wait()


async def test_closing_does_not_wait_for_room_in_a_full_queue(engine: ModuleType) -> None:
    async def parts() -> Any:
        while True:
            yield b"data: x\n\n"

    async def handler(request: Request) -> Response:
        return StreamingResponse(parts(), media_type="text/event-stream")

    stream = engine._http(app_of(handler), "/x", b"{}", [])
    assert (await anext(stream)).status == 200
    async with asyncio.timeout(5):
        await stream.aclose()


async def test_an_answer_comes_whole_with_its_status(engine: ModuleType) -> None:
    async def handler(request: Request) -> Response:
        return JSONResponse(await request.json(), 418)

    got = [part async for part in engine._http(app_of(handler), "/x", b'{"a":1}', [])]
    assert got[0].status == 418
    assert json.loads(b"".join(got[1:])) == {"a": 1}


async def test_a_cancelled_chat_line_is_not_asked_again_in_another_way(engine: ModuleType) -> None:
    """vLLM's handler turns cancellation into an error response; that is no reason to try the line over HTTP."""
    started = asyncio.Event()

    async def create_chat_completion(request: Any) -> object:
        started.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return SimpleNamespace(error="Client disconnected")
        return None

    handler = SimpleNamespace(create_chat_completion=create_chat_completion)
    chat = engine.ChatHandler(SimpleNamespace(openai_serving_chat=handler))
    task = asyncio.create_task(chat.answer(b'{"model":"m","messages":[{"role":"user","content":"x"}]}'))
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

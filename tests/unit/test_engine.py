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

from app.errors import EngineLost
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


async def test_lines_that_waited_to_enter_a_core_that_died_meanwhile_are_not_said_to_be_in_it(
    engine: ModuleType,
) -> None:
    methods = (
        "answer_lines",
        "_must_be",
        "_raise_if_dead",
    )  # LLMServer itself needs an engine
    replica: Any = type("Replica", (), {name: getattr(engine.BatchEngine, name) for name in methods})()
    replica._replica = "r1"
    replica._occupancy = Occupancy()
    replica._client = SimpleNamespace(errored=True, dead_error=RuntimeError("dead"))
    replica._core_errors = SimpleNamespace(explain=str)
    messages = replica.answer_lines("/v1/completions", [b"{}"], True, "r1")
    with pytest.raises(EngineLost, match="dead"):
        await anext(messages)


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

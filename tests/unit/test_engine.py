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
from app.batch.suspects import Beside
from app.errors import ReplicaGone
from app.store import Usage
from deployments.chat_handler import ChatHandler
from deployments.front_end import FrontEnd
from deployments.line_answers import LineAnswers
from deployments.messages import CoreDeath, Heartbeat
from deployments.occupancy import Occupancy
from deployments.vllm_http import post


@pytest.fixture(scope="module")
def engine() -> ModuleType:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import deployments.engine

    return deployments.engine


def app_of(handler: Any) -> Starlette:
    return Starlette(routes=[Route("/x", handler, methods=["POST"])])


async def test_a_line_that_leaves_is_aborted_inside_vllms_own_task() -> None:
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
        async for _ in post(app_of(handler), "/x", b"{}", []):
            raise AssertionError("nothing was answered")

    task = asyncio.create_task(line())
    await started.wait()
    task.cancel()
    async with asyncio.timeout(5):
        await asyncio.gather(task, return_exceptions=True)
        await aborted.wait()


def lines_of(*, line_seconds: float = 60, dead: bool = False) -> Any:
    scheduler = SimpleNamespace(max_num_seqs=8)
    client = SimpleNamespace(
        errored=dead, dead_error=RuntimeError("dead"), vllm_config=SimpleNamespace(scheduler_config=scheduler)
    )
    app = SimpleNamespace(state=SimpleNamespace(engine_client=client))
    core_errors: Any = SimpleNamespace(explain=str)
    return LineAnswers(app, core_errors, line_seconds)


async def answers_of(lines: Any, *bodies: bytes) -> list[Answer | TimedOut]:
    async with asyncio.timeout(5):
        found = [each async for some in lines.answer_each("/v1/x", bodies, 0.01) for each in some]
    return sorted(found, key=lambda each: each.position)


class Replica:
    """A BatchEngine as far as it lets lines in: LLMServer itself needs an engine."""

    def __init__(self, engine: ModuleType, lines: Any) -> None:
        methods = ("answer_lines", "begin", "_must_be", "_must_live")
        self.it: Any = type("It", (), {name: getattr(engine.BatchEngine, name) for name in methods})()
        self.it._replica = "r1"
        self.it._occupancy = Occupancy()
        self.it._may_begin = {}
        self.it._client, self.it._lines = lines._client, lines
        self.it._front_end = FrontEnd()
        self.entered: list[bytes] = []
        lines._answer = self._answer

    async def _answer(self, position: int, endpoint: str, body: bytes) -> Answer:
        self.entered.append(body)
        return Answer(position, 200, b"{}", Usage())

    def send(self, call: str) -> Any:
        return self.it.answer_lines("/v1/x", [call.encode()], Beside.NOTHING, call, "r1")


async def test_the_death_of_the_core_is_said_once_and_the_stream_stays_open(engine: ModuleType) -> None:
    beat = SimpleNamespace(last_sign=1.0)
    core = lines_of()
    it = SimpleNamespace(
        _must_be=lambda replica: None, _client=core._client, _capabilities=None, _pulse=beat, _lines=core
    )
    stream = engine.BatchEngine.watch(it, "r1")
    assert await anext(stream) == Heartbeat(8, None)
    core._client.errored = True
    assert await anext(stream) == CoreDeath("vLLM's core is gone: dead")
    left = asyncio.ensure_future(anext(stream))
    await asyncio.sleep(0.05)
    assert not left.done()
    left.cancel()


def test_a_guard_that_ended_is_replaced(engine: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    guards = [SimpleNamespace(poll=lambda: None), SimpleNamespace(poll=lambda: -9)]
    monkeypatch.setattr(engine, "post_guard", lambda orders, sheet: guards[0])
    it = SimpleNamespace(
        _guard=guards[1], _orders=None, _front_end=SimpleNamespace(sheet=None), _model=SimpleNamespace(id="tiny")
    )
    for _ in range(2):
        engine.BatchEngine._keep_guard(it)
        assert it._guard is guards[0]


async def test_lines_enter_once_their_dispatcher_has_said_that_it_knows(engine: ModuleType) -> None:
    replica = Replica(engine, lines_of())
    stream = replica.send("a")
    assert await anext(stream) == []
    answer = asyncio.ensure_future(anext(stream))
    await asyncio.sleep(0.05)
    assert not replica.entered and not answer.done()
    await replica.it.begin("another", "r1")
    await replica.it.begin("a", "r1")
    assert [each.status for each in await answer] == [200]
    assert replica.entered == [b"a"]
    await stream.aclose()


async def test_a_dispatcher_that_never_says_so_keeps_nobody_out(
    engine: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "BEGIN_SECONDS", 0.05)
    replica = Replica(engine, lines_of())
    with pytest.raises(ReplicaGone, match="did not say"):
        async for _ in replica.send("a"):
            pass
    async with asyncio.timeout(5):
        assert await anext(replica.send("b")) == []
    assert not replica.entered


async def test_lines_that_waited_to_enter_a_core_that_died_meanwhile_are_refused(engine: ModuleType) -> None:
    replica = Replica(engine, lines_of(dead=True))
    with pytest.raises(ReplicaGone, match="dead"):
        await anext(replica.send("a"))


async def test_lines_whose_core_dies_between_their_turn_and_their_start_are_refused(engine: ModuleType) -> None:
    replica = Replica(engine, lines_of())
    stream = replica.send("a")
    await anext(stream)
    replica.it._client.errored = True
    await replica.it.begin("a", "r1")
    with pytest.raises(ReplicaGone, match="dead"):
        await anext(stream)


@pytest.mark.parametrize(("times", "status"), [(1, 200), (9, 500)])
async def test_a_line_that_somebody_else_cancels_is_tried_again_and_answered(times: int, status: int) -> None:
    lines, cancellations = lines_of(), iter(range(times))

    async def answer(position: int, endpoint: str, body: bytes) -> Answer:
        if body == b"b" and next(cancellations, None) is not None:
            raise asyncio.CancelledError
        return Answer(position, 200, b"{}", Usage())

    lines._answer = answer
    answers = await answers_of(lines, b"a", b"b")
    assert [(each.position, each.status) for each in answers if isinstance(each, Answer)] == [(0, 200), (1, status)]


async def test_a_line_that_takes_too_long_is_aborted_and_told() -> None:
    lines, aborted = lines_of(line_seconds=0.05), []

    async def answer(position: int, endpoint: str, body: bytes) -> Answer:
        if body == b"b":
            try:
                await asyncio.Event().wait()
            finally:
                aborted.append(position)
        return Answer(position, 200, b"{}", Usage())

    lines._answer = answer
    assert await answers_of(lines, b"a", b"b") == [Answer(0, 200, b"{}", Usage()), TimedOut(1)]
    assert aborted == [1]


async def test_an_error_that_nobody_foresaw_ends_the_stream() -> None:
    lines = lines_of()

    async def answer(position: int, endpoint: str, body: bytes) -> Answer:
        raise ZeroDivisionError

    lines._answer = answer
    with pytest.raises(ZeroDivisionError):
        await answers_of(lines, b"a", b"b")


async def test_a_stream_that_nobody_reads_any_more_is_aborted() -> None:
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

    stream = post(app_of(handler), "/x", b"{}", [])
    assert (await anext(stream)).status == 200
    assert await anext(stream)
    async with asyncio.timeout(5):
        await stream.aclose()
        await ended.wait()


async def test_closing_does_not_wait_for_room_in_a_full_queue() -> None:
    async def parts() -> Any:
        while True:
            yield b"data: x\n\n"

    async def handler(request: Request) -> Response:
        return StreamingResponse(parts(), media_type="text/event-stream")

    stream = post(app_of(handler), "/x", b"{}", [])
    assert (await anext(stream)).status == 200
    async with asyncio.timeout(5):
        await stream.aclose()


async def test_an_answer_comes_whole_with_its_status() -> None:
    async def handler(request: Request) -> Response:
        return JSONResponse(await request.json(), 418)

    got = [part async for part in post(app_of(handler), "/x", b'{"a":1}', [])]
    assert got[0].status == 418
    assert json.loads(b"".join(got[1:])) == {"a": 1}


async def test_a_cancelled_chat_line_is_not_asked_again_in_another_way() -> None:
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
    chat = ChatHandler(SimpleNamespace(openai_serving_chat=handler))
    task = asyncio.create_task(chat.answer(b'{"model":"m","messages":[{"role":"user","content":"x"}]}'))
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

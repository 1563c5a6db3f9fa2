"""OpenAI's own client against this API, in one process."""

from collections.abc import AsyncIterator
from typing import Any

import httpx2
import openai
import pytest
from openai import AsyncOpenAI
from starlette.applications import Starlette

from app.errors import EngineLost
from app.store import ShardPlan, Store
from tests.unit.fakes import START, AddResultFile, FakeEngines, FakeHealth, client_of

LINE = b'{"custom_id":"a","method":"POST","url":"/v1/chat/completions","body":{"model":"good"}}\n'
CHAT: dict[str, Any] = {"model": "good", "messages": [{"role": "user", "content": "hi"}]}


class Counted:
    """An application that notes its requests."""

    def __init__(self, app: Starlette) -> None:
        self._app = app
        self.requests: list[str] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.requests.append(f"{scope['method']} {scope['path']}")
        await self._app(scope, receive, send)


@pytest.fixture
def counted(app: Starlette) -> Counted:
    return Counted(app)


@pytest.fixture
async def api(counted: Counted) -> AsyncIterator[AsyncOpenAI]:
    http_client: httpx2.AsyncClient = client_of(counted)  # type: ignore[arg-type]
    async with AsyncOpenAI(api_key="k", base_url="http://localhost/v1", http_client=http_client) as api:
        yield api


async def test_a_file_from_upload_to_delete(api: AsyncOpenAI) -> None:
    file = await api.files.create(
        file=("größe.jsonl", LINE), purpose="batch", expires_after={"anchor": "created_at", "seconds": 3600}
    )
    assert (file.status, file.bytes, file.filename, file.expires_at) == (
        "processed",
        len(LINE),
        "größe.jsonl",
        START + 3600,
    )
    assert await api.files.wait_for_processing(file.id) == file
    assert (await api.files.content(file.id)).content == LINE
    assert [each.id async for each in api.files.list(purpose="batch", limit=1)] == [file.id]
    assert (await api.files.delete(file.id)).deleted
    with pytest.raises(openai.NotFoundError) as caught:
        await api.files.retrieve(file.id)
    assert caught.value.param == "id"
    assert caught.value.request_id is not None and caught.value.request_id.startswith("req_")


async def test_a_batch_from_create_to_cancel(api: AsyncOpenAI, store: Store) -> None:
    file = await api.files.create(file=("in.jsonl", LINE), purpose="batch")
    batch = await api.batches.create(
        input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h", metadata={"k": "v"}
    )
    assert (batch.status, batch.metadata, batch.usage) == ("validating", {"k": "v"}, None)
    claim = await store.claim_new_batch("owner", 60)
    assert claim is not None and await store.start_batch(claim, "good", [ShardPlan(0, len(LINE), 1, 1)])
    batch = await api.batches.retrieve(batch.id)
    assert batch.request_counts is not None and batch.usage is not None
    assert (batch.status, batch.request_counts.total, batch.usage.total_tokens) == ("in_progress", 1, 0)
    assert (await api.batches.cancel(batch.id)).status == "cancelling"


async def test_all_pages_are_walked(api: AsyncOpenAI, counted: Counted) -> None:
    for _ in range(5):
        await api.batches.create(input_file_id="file-x", endpoint="/v1/embeddings", completion_window="24h")
    counted.requests.clear()
    ids = [batch.id async for batch in api.batches.list(limit=2)]
    assert len(set(ids)) == 5
    assert len(counted.requests) == 3


async def test_an_unknown_file_is_told_by_the_batch(api: AsyncOpenAI) -> None:
    batch = await api.batches.create(input_file_id="file-x", endpoint="/v1/embeddings", completion_window="24h")
    assert batch.status == "failed" and batch.errors is not None and batch.errors.data is not None
    assert (batch.errors.data[0].code, batch.errors.data[0].param) == ("invalid_request", "file_id")


async def test_the_cancel_of_a_finished_batch_is_not_retried(api: AsyncOpenAI, counted: Counted) -> None:
    batch = await api.batches.create(input_file_id="file-x", endpoint="/v1/embeddings", completion_window="24h")
    counted.requests.clear()
    with pytest.raises(openai.ConflictError, match="Cannot cancel a batch with status 'failed'"):
        await api.batches.cancel(batch.id)
    assert len(counted.requests) == 1


async def test_a_wrong_request_is_a_bad_request(api: AsyncOpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        await api.batches.create(input_file_id="file-x", endpoint="/v1/moderations", completion_window="24h")
    assert (caught.value.code, caught.value.param, caught.value.type) == (
        "invalid_value",
        "endpoint",
        "invalid_request_error",
    )


async def test_a_gate_that_opens_again_is_passed_by_a_retry(
    api: AsyncOpenAI, health: FakeHealth, counted: Counted, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = await api.files.create(file=("in.jsonl", LINE), purpose="batch")
    health.set("good", 0)
    counted.requests.clear()
    waits: list[float] = []

    async def wait(seconds: float) -> None:
        waits.append(seconds)
        health.set("good", 1)

    monkeypatch.setattr("anyio.sleep", wait)
    batch = await api.batches.create(input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h")
    assert (batch.status, len(counted.requests), waits) == ("validating", 2, [5])


async def test_a_result_file_is_downloaded(api: AsyncOpenAI, add_result_file: AddResultFile) -> None:
    await add_result_file("file-out", b'{"custom_id":"a"}\n')
    assert (await api.files.content("file-out")).text == '{"custom_id":"a"}\n'
    assert (await api.files.retrieve("file-out")).purpose == "batch_output"


async def test_models_are_listed(api: AsyncOpenAI) -> None:
    assert [model.id async for model in api.models.list()] == ["good", "polite", "other/model"]
    assert (await api.models.retrieve("other/model")).owned_by == "batchyard"


async def test_a_chat_is_answered_whole_and_streamed(api: AsyncOpenAI, engines: FakeEngines) -> None:
    chunk = b'{"id":"c","object":"chat.completion%s","created":1,"model":"good","choices":[]}'
    engines.parts = [chunk % b""]
    assert (await api.chat.completions.create(**CHAT)).id == "c"
    engines.headers = (("content-type", "text/event-stream"),)
    engines.parts = [b"data: " + chunk % b".chunk" + b"\n\n"] * 3 + [b"data: [DONE]\n\n"]
    assert [part.id async for part in await api.chat.completions.create(**CHAT, stream=True)] == ["c"] * 3


async def test_an_engine_lost_in_a_stream_is_an_error_of_the_client(api: AsyncOpenAI, engines: FakeEngines) -> None:
    engines.headers = (("content-type", "text/event-stream"),)
    chunk = b'data: {"id":"c","object":"chat.completion.chunk","created":1,"model":"good","choices":[]}\n\n'
    engines.parts = [chunk, EngineLost("killed")]
    stream = await api.chat.completions.create(**CHAT, stream=True)
    assert (await anext(aiter(stream))).id == "c"
    with pytest.raises(openai.APIError, match="The engine was lost"):
        async for _ in stream:
            raise AssertionError("there is no further chunk")


async def test_a_wrong_key_is_an_authentication_error(make_client: Any) -> None:
    http_client = make_client(api_keys=["right"])
    async with AsyncOpenAI(api_key="wrong", base_url="http://localhost/v1", http_client=http_client) as api:
        with pytest.raises(openai.AuthenticationError) as caught:
            await api.models.list()
    assert caught.value.code == "invalid_api_key"

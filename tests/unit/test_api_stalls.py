"""Bodies that stand still."""

import asyncio
from collections.abc import AsyncIterator

import httpx2
import pytest
from starlette.types import Message, Receive, Scope, Send

from app.api import stalls
from tests.unit.fakes import JSON, error_of


@pytest.mark.parametrize("path", ["/v1/batches", "/v1/chat/completions"])
async def test_a_json_body_that_stalls_is_cut_off_too(
    client: httpx2.AsyncClient, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    monkeypatch.setattr(stalls, "STALL_SECONDS", 0.02)

    async def stalling() -> AsyncIterator[bytes]:
        yield b'{"model":'
        await asyncio.Event().wait()

    answer = await client.post(path, content=stalling(), headers=JSON)
    assert (answer.status_code, error_of(answer)["code"]) == (408, "upload_stalled")
    assert answer.headers["connection"] == "close"


async def test_to_wait_for_a_client_to_leave_has_no_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stalls, "STALL_SECONDS", 0.02)
    incoming: asyncio.Queue[Message] = asyncio.Queue()
    incoming.put_nowait({"type": "http.request", "more_body": False})
    got: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        got.append((await receive())["type"])
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(3 * stalls.STALL_SECONDS):
                await receive()
        incoming.put_nowait({"type": "http.disconnect"})
        got.append((await receive())["type"])

    async def send(message: Message) -> None: ...

    await stalls.CutStalledBodies(app)({"type": "http"}, incoming.get, send)
    assert got == ["http.request", "http.disconnect"]

"""Bodies that come too slowly."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, nullcontext

import httpx2
import pytest
from starlette.types import Message, Receive, Scope, Send

from app.api import pace, stalls
from app.api.pace import Pace, PacedBody, TooSlow
from tests.unit.fakes import JSON, error_of


def body_of(*parts: tuple[float, bytes]) -> PacedBody:
    """Parts that come each after so many seconds of our waiting; then it stands still. At least 10 bytes in 1 s."""
    left = list(parts)

    async def receive() -> Message:
        if not left:
            await asyncio.Event().wait()
        seconds, part = left.pop(0)
        clock.now += seconds
        if seconds > clock.limit:
            raise TimeoutError
        return {"type": "http.request", "body": part, "more_body": True}

    return PacedBody(receive, Pace(1, 10))


class _Clock:
    """Instead of the time and its limits."""

    now = 0.0
    limit = 0.0

    def timeout(self, seconds: float) -> AbstractAsyncContextManager[None]:
        self.limit = seconds
        return nullcontext()


clock = _Clock()


async def taken(body: PacedBody) -> int:
    """How many parts came before it was too slow."""
    count = 0
    with pytest.raises(TooSlow):
        while True:
            await body.receive()
            count += 1
    return count


@pytest.mark.parametrize(
    ("parts", "count"),
    [
        ([(0.5, b"x"), (0.6, b"x")], 1),
        ([(0.9, b"x" * 10), (0.9, b"x" * 10), (0.9, b"x" * 10), (1.1, b"x")], 3),
        ([(0.1, b"x" * 10_000), (0.9, b"x"), (0.2, b"x")], 2),  # what came before gives no right to slow down
        ([(0.0, b"x")] * 500 + [(1.1, b"x")], 500),  # time in which nobody waits does not count
    ],
)
async def test_a_body_keeps_its_pace_all_the_time(
    monkeypatch: pytest.MonkeyPatch, parts: list[tuple[float, bytes]], count: int
) -> None:
    monkeypatch.setattr(pace.time, "monotonic", lambda: clock.now)
    monkeypatch.setattr(pace.asyncio, "timeout", clock.timeout)
    assert await taken(body_of(*parts)) == count


@pytest.mark.parametrize("path", ["/v1/batches", "/v1/chat/completions"])
async def test_a_json_body_that_stalls_is_cut_off_too(
    client: httpx2.AsyncClient, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    monkeypatch.setattr(pace, "OTHERS", Pace(0.02, 1000))

    async def stalling() -> AsyncIterator[bytes]:
        yield b'{"model":'
        await asyncio.Event().wait()

    answer = await client.post(path, content=stalling(), headers=JSON)
    assert (answer.status_code, error_of(answer)["code"]) == (408, "upload_stalled")
    assert answer.headers["connection"] == "close"


async def test_to_wait_for_a_client_to_leave_has_no_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pace, "OTHERS", Pace(0.02, 1000))
    incoming: asyncio.Queue[Message] = asyncio.Queue()
    incoming.put_nowait({"type": "http.request", "more_body": False})
    got: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        got.append((await receive())["type"])
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(3 * pace.OTHERS.seconds):
                await receive()
        incoming.put_nowait({"type": "http.disconnect"})
        got.append((await receive())["type"])

    async def send(message: Message) -> None: ...

    await stalls.CutSlowBodies(app)({"type": "http", "method": "POST", "path": "/"}, incoming.get, send)
    assert got == ["http.request", "http.disconnect"]

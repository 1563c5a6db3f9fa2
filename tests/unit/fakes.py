"""What stands around the API in its tests: a clock, health, engines, and clients without a network."""

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import httpx2
from starlette.applications import Starlette
from starlette.types import Message

from app.api.online import Headers, OnlineAnswer
from app.health import ModelHealth
from tests.clocks import START as START
from tests.clocks import Clock as Clock

JSON = {"content-type": "application/json"}

MakeClient = Callable[..., httpx2.AsyncClient]
Upload = Callable[..., Awaitable[dict[str, Any]]]
AddResultFile = Callable[[str, bytes], Awaitable[None]]


@dataclass
class FakeHealth:
    """Every model has one healthy replica until `set` says otherwise."""

    known: dict[str, ModelHealth]

    def models(self) -> list[ModelHealth]:
        return list(self.known.values())

    def model(self, model_id: str) -> ModelHealth | None:
        return self.known.get(model_id)

    def set(self, model_id: str, healthy: int, target: int = 1, **known: Any) -> None:
        values = {"last_healthy_seconds_ago": None, "restarts_last_hour": 0, **known}
        self.known[model_id] = ModelHealth(model_id, healthy, target, **values)


@dataclass
class FakeEngines:
    """Answers with `parts`; an exception among them is raised in its place."""

    parts: list[bytes | Exception] = field(default_factory=lambda: [b'{"ok":true}'])
    status: int = 200
    headers: Headers = (("content-type", "application/json"),)
    calls: list[tuple[str, str, bytes, dict[str, str]]] = field(default_factory=list)
    closed: bool = False

    async def call(self, model: str, path: str, body: bytes, headers: Headers) -> OnlineAnswer:
        self.calls.append((model, path, body, dict(headers)))
        return OnlineAnswer(self.status, self.headers, self._body())

    async def _body(self) -> AsyncIterator[bytes]:
        try:
            for part in self.parts:
                if isinstance(part, Exception):
                    raise part
                yield part
        finally:
            self.closed = True


def client_of(app: Starlette) -> httpx2.AsyncClient:
    return httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://localhost")


def error_of(answer: httpx2.Response) -> dict[str, Any]:
    """The error of an answer, after a look at its form."""
    body = answer.json()
    assert list(body) == ["error"]
    assert set(body["error"]) == {"message", "type", "param", "code"}
    assert answer.headers["content-type"] == "application/json"
    error: dict[str, Any] = body["error"]
    return error


@dataclass
class Wire:
    """One request at the level of ASGI: what the server hands in, and what came out until `error`."""

    sent: list[Message]
    error: BaseException | None = None

    @property
    def status(self) -> int | None:
        return next((message["status"] for message in self.sent if message["type"] == "http.response.start"), None)

    @property
    def body(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.sent)

    @property
    def whole(self) -> bool:
        return any(
            message["type"] == "http.response.body" and not message.get("more_body", False) for message in self.sent
        )


async def exchange(
    app: Starlette,
    method: str,
    path: str,
    body: list[bytes],
    *,
    headers: dict[str, str] | None = None,
    cut_off: bool = False,
    leaves_after: int | None = None,
) -> Wire:
    """Sends the parts of a body; `cut_off`: the client then leaves instead of ending it; `leaves_after`: it is gone
    once it got that many messages, which the server tells by an OSError."""
    incoming: list[Message] = [{"type": "http.request", "body": part, "more_body": True} for part in body]
    incoming.append({"type": "http.disconnect"} if cut_off else {"type": "http.request", "more_body": False})
    wire = Wire([])

    async def receive() -> Message:
        return incoming.pop(0) if incoming else {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        if leaves_after is not None and len(wire.sent) >= leaves_after:
            raise OSError("the client has left")
        wire.sent.append(message)

    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "server": ("batchyard", 80),
        "headers": [(name.encode(), value.encode()) for name, value in (headers or {}).items()],
    }
    try:
        await app(scope, receive, send)
    except Exception as error:  # noqa: BLE001 - what the server would see, kept for the test to look at
        wire.error = error
    return wire

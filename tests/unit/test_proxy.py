"""What stands between Serve's proxy and the network."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import pytest
import uvicorn.config
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api import taken
from app.api.taken import TAKEN, TellTaken
from deployments import proxy

Headers = list[tuple[bytes, bytes]]


@pytest.fixture
def wrapped(monkeypatch: pytest.MonkeyPatch) -> Callable[[ASGIApp], ASGIApp]:
    monkeypatch.setitem(uvicorn.config.HTTP_PROTOCOLS, "auto", uvicorn.config.HTTP_PROTOCOLS["auto"])

    def wrap(app: ASGIApp) -> ASGIApp:
        for middleware in proxy.middlewares():
            app = middleware.cls(app, *middleware.args, **middleware.kwargs)
        return app

    return wrap


async def asked(app: ASGIApp, headers: Iterable[tuple[bytes, bytes]] = ()) -> list[Message]:
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Message) -> None:
        sent.append(message)

    await app({"type": "http", "method": "GET", "path": "/", "headers": list(headers)}, receive, send)
    return sent


def ids(start: Message) -> list[str]:
    return [value.decode() for name, value in start["headers"] if name.lower() == b"x-request-id"]


def serve(status: int, *headers: tuple[bytes, bytes], seen: Headers | None = None) -> ASGIApp:
    """Serve's proxy with its own middleware, which adds the id of the request to each answer."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if seen is not None:
            seen.extend(scope["headers"])
        own = dict(scope["headers"])[b"x-request-id"]
        await send({"type": "http.response.start", "status": status, "headers": [*headers, (b"x-request-id", own)]})
        await send({"type": "http.response.body", "body": b"text"})

    return app


async def test_an_answer_has_one_id_and_serve_and_gateway_see_it(wrapped: Callable[[ASGIApp], ASGIApp]) -> None:
    seen: Headers = []
    app = wrapped(serve(200, (b"x-request-id", b"the gateway's"), seen=seen))
    start, _ = await asked(app, [(b"x-request-id", b"mine")])
    assert ids(start) == ["mine"] == [value.decode() for name, value in seen if name == b"x-request-id"]


@pytest.mark.parametrize("given", [b"a\xffb", b"a b", b"x" * 200])
async def test_an_id_that_is_no_good_is_replaced_before_serve_sees_it(
    wrapped: Callable[[ASGIApp], ASGIApp], given: bytes
) -> None:
    seen: Headers = []
    start, _ = await asked(wrapped(serve(200, seen=seen)), [(b"x-request-id", given)])
    (own,) = ids(start)
    assert own.startswith("req_")
    assert [value.decode() for name, value in seen if name == b"x-request-id"] == [own]


async def test_the_proxys_own_errors_have_envelope_and_id(wrapped: Callable[[ASGIApp], ASGIApp]) -> None:
    start, body = await asked(wrapped(serve(500, (b"content-type", b"text/plain"))))
    assert start["status"] == 503
    assert len(ids(start)) == 1
    assert json.loads(body["body"])["error"] == {
        "message": proxy.WORDS[503],
        "type": "service_unavailable_error",
        "param": None,
        "code": None,
    }


async def test_clients_set_no_limits_of_serve(wrapped: Callable[[ASGIApp], ASGIApp]) -> None:
    seen: Headers = []
    theirs = [(b"x-request-timeout-seconds", b"1"), (b"x-request-disconnect-disabled", b"?1"), (b"x-mine", b"1")]
    await asked(wrapped(serve(200, seen=seen)), theirs)
    assert [name for name, _ in seen] == [b"x-mine", b"x-request-id"]


def hidden(swallow: bool) -> ASGIApp:
    """Serve without a gateway: it waits, and when it is cancelled it may end as if its client had left."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            if not swallow:
                raise

    return app


@pytest.mark.parametrize("swallow", [True, False])
async def test_a_request_that_nobody_takes_is_a_503(
    wrapped: Callable[[ASGIApp], ASGIApp], monkeypatch: pytest.MonkeyPatch, swallow: bool
) -> None:
    monkeypatch.setattr(proxy, "TAKE_SECONDS", 0.01)
    start, body = await asked(wrapped(hidden(swallow)))
    assert (start["status"], dict(start["headers"])[b"retry-after"]) == (503, b"5")
    assert json.loads(body["body"])["error"]["message"] == proxy.WORDS[503]
    assert len(ids(start)) == 1


async def test_a_request_that_is_taken_may_take_its_time(
    wrapped: Callable[[ASGIApp], ASGIApp], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(proxy, "TAKE_SECONDS", 0.2)
    monkeypatch.setattr(taken, "TELL_SECONDS", 0.0)
    told = asyncio.Event()

    async def gateway(scope: Scope, receive: Receive, send: Send) -> None:
        with pytest.raises(TimeoutError):  # this is how long it thinks
            async with asyncio.timeout(0.4):
                await asyncio.Event().wait()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"late"})

    def noticing(app: ASGIApp) -> ASGIApp:
        async def between(scope: Scope, receive: Receive, send: Send) -> None:
            async def forward(message: Message) -> None:
                if message["type"] == TAKEN:
                    told.set()
                await send(message)

            await app(scope, receive, forward)

        return between

    start, body = await asked(wrapped(noticing(TellTaken(gateway))))
    assert told.is_set()
    assert (start["status"], body["body"]) == (200, b"late")


async def test_a_proxy_that_does_not_ask_is_told_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(taken, "TELL_SECONDS", 0.0)

    async def slow(scope: Scope, receive: Receive, send: Send) -> None:
        for _ in range(5):
            await asyncio.sleep(0)
        await serve(200)({**scope, "headers": [(b"x-request-id", b"a")]}, receive, send)

    assert [message["type"] for message in await asked(TellTaken(slow))] == [
        "http.response.start",
        "http.response.body",
    ]


async def test_other_protocols_pass() -> None:
    reached: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        reached.append(scope["type"])

    nothing: Callable[..., Awaitable[Any]] = asyncio.sleep
    for middleware in (proxy.EnvelopeMiddleware, proxy.TakeLimit, proxy.OneRequestId):
        await middleware(app)({"type": "websocket"}, nothing, nothing)
    assert reached == ["websocket"] * 3


def test_the_proxys_uvicorn_speaks_our_http(wrapped: Callable[[ASGIApp], ASGIApp]) -> None:
    wrapped(serve(200))
    config = uvicorn.Config(serve(200))
    config.load()
    assert config.http_protocol_class.__name__ == "Http1Protocol"

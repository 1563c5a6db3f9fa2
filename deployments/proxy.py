"""What stands between Serve's HTTP proxy and the network: its answers, its limits, the headers that clients may set.

Serve takes the middlewares from the environment variable RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH, which `batchyard
serve` sets to `deployments.proxy:middlewares`. It calls that in the proxy's process, before it serves.
"""

import asyncio
import json
from collections.abc import Iterator

from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api.envelope import envelope
from app.api.request_ids import NAME, request_id_of
from app.api.taken import TAKEN
from deployments import http1

RETRY_AFTER_SECONDS = 5

TAKE_SECONDS = 30.0
"""How long a request waits for a gateway to take it. Once it is taken, it may last: the gateway's death ends it."""

WORDS = {
    404: "No application is deployed under this address yet.",
    408: "The request took longer than request_timeout_s of the config allows.",
    503: "No gateway is ready to take the request.",
}

SERVES_OWN = frozenset({b"x-request-timeout-seconds", b"x-request-disconnect-disabled"})
"""Headers by which Serve would let any client set its limits: of the time, and that work ends with its client."""


def middlewares() -> list[Middleware]:
    """The last is the outermost."""
    http1.install()
    return [Middleware(EnvelopeMiddleware), Middleware(TakeLimit), Middleware(OneRequestId)]


class OneRequestId:
    """Serve, gateway and client see one id. Serve's own headers end here."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = request_id_of(Headers(scope=scope))
        key = NAME.encode()
        headers = [each for each in scope["headers"] if each[0] != key and each[0] not in SERVES_OWN]

        async def forward(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)[NAME] = request_id
            await send(message)

        await self._app({**scope, "headers": [*headers, (key, request_id.encode())]}, receive, forward)


class TakeLimit:
    """Answers 503 where no gateway takes the request: Serve would hold it until there is one."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            async with asyncio.timeout(TAKE_SECONDS) as limit:

                async def forward(message: Message) -> None:
                    limit.reschedule(None)
                    if message["type"] != TAKEN:
                        await send(message)

                extensions = {**scope.get("extensions", {}), TAKEN: {}}
                await self._app({**scope, "extensions": extensions}, receive, forward)
        except TimeoutError:
            if not limit.expired():
                raise
        if limit.expired():  # Serve may end without an error, as if the client had left
            for part in _answer(503):
                await send(part)


class EnvelopeMiddleware:
    """Passes answers of the application on; rewrites the proxy's own errors, which are plain text."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        rewriting = False

        async def forward(message: Message) -> None:
            nonlocal rewriting
            if message["type"] == "http.response.start" and _is_the_proxys_own_error(message):
                rewriting = True
                for part in _answer(message["status"]):
                    await send(part)
            elif not rewriting:
                await send(message)

        await self._app(scope, receive, forward)


def _is_the_proxys_own_error(start: Message) -> bool:
    """The application's errors are JSON; the proxy's are plain text."""
    kinds = [value for name, value in start["headers"] if name.lower() == b"content-type"]
    return start["status"] >= 400 and not any(kind.startswith(b"application/json") for kind in kinds)


def _answer(status: int) -> Iterator[Message]:
    # 500 of the proxy means that the gateway's process died: the client may well try again.
    status = 503 if status == 500 else status
    kind = "service_unavailable_error" if status >= 500 else None
    message = WORDS.get(status, f"The HTTP proxy answered with status {status}.")
    body = json.dumps(envelope(status, message, type=kind)).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    if status == 503:
        headers.append((b"retry-after", str(RETRY_AFTER_SECONDS).encode()))
    yield {"type": "http.response.start", "status": status, "headers": headers}
    yield {"type": "http.response.body", "body": body}

"""What stands between Serve's HTTP proxy and the network: its answers, its limits, the headers that clients may set.

Serve takes the middlewares from the environment variable RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH, which `batchyard
serve` sets to `deployments.proxy:middlewares`. It calls that in the proxy's process, before it serves.
"""

import asyncio

from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware import Middleware
from starlette.types import Message, Receive, Scope, Send

from app.api.asgi import HttpMiddleware
from app.api.request_ids import NAME, request_id_of
from app.api.taken import TAKEN
from app.api.windows import ProxyWindows
from deployments import http1
from deployments.proxy_answers import SharedOrigins, answer
from deployments.small_bodies import SmallBodiesFirst

TAKE_SECONDS = 30.0
"""How long a request waits for a gateway to take it. Once it is taken, it may last: the gateway's death ends it."""

SERVES_OWN = frozenset(
    {
        b"x-request-timeout-seconds",
        b"x-request-disconnect-disabled",
        b"serve_multiplexed_model_id",
        b"serve-multiplexed-model-id",
        b"x-session-id",
        b"x_session_id",
    }
)
"""Headers by which Serve would let any client set its limits, of the time and of work whose client has left, and choose
among gateways."""

SERVES_PATHS = "/-/"
"""What Serve's proxy answers by itself, without a key: /-/healthz and /-/routes."""


def middlewares() -> list[Middleware]:
    """The last is the outermost."""
    http1.install()
    layers = (ProxyWindows, EnvelopeMiddleware, TakeLimit, SmallBodiesFirst, ReadOnlyPaths, OneRequestId, SharedOrigins)
    return [Middleware(layer) for layer in layers]


class OneRequestId(HttpMiddleware):
    """Serve, gateway and client see one id. Serve's own headers end here."""

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        request_id = request_id_of(Headers(scope=scope))
        key = NAME.encode()
        headers = [each for each in scope["headers"] if each[0] != key and each[0] not in SERVES_OWN]

        async def forward(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)[NAME] = request_id
            await send(message)

        await self._app({**scope, "headers": [*headers, (key, request_id.encode())]}, receive, forward)


class ReadOnlyPaths(HttpMiddleware):
    """Serve would answer any method there."""

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        method, path = scope["method"], scope["path"]
        if not path.startswith(SERVES_PATHS) or method in ("GET", "HEAD"):
            await self._app(scope, receive, send)
            return
        words = f"Not allowed to {method} on {path}. Allowed: GET, HEAD."
        for part in answer(405, words, code="method_not_allowed", headers={"allow": "GET, HEAD"}):
            await send(part)


class TakeLimit(HttpMiddleware):
    """Answers 503 where no gateway takes the request: Serve would hold it until there is one."""

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
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
            for part in answer(503):
                await send(part)


class EnvelopeMiddleware(HttpMiddleware):
    """Passes answers of the application on; rewrites the proxy's own errors, which are plain text."""

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        rewriting = False

        async def forward(message: Message) -> None:
            nonlocal rewriting
            if message["type"] == "http.response.start" and _is_the_proxys_own_error(message):
                rewriting = True
                # 500 of the proxy means that the gateway's process died: the client may well try again.
                for part in answer(503 if message["status"] == 500 else message["status"]):
                    await send(part)
            elif not rewriting:
                await send(message)

        await self._app(scope, receive, forward)


def _is_the_proxys_own_error(start: Message) -> bool:
    """The application's errors are JSON; the proxy's are plain text."""
    kinds = [value for name, value in start["headers"] if name.lower() == b"content-type"]
    return start["status"] >= 400 and not any(kind.startswith(b"application/json") for kind in kinds)

"""Serve's HTTP proxy answers some requests by itself, in plain text: here these become OpenAI's error envelope.

Serve takes the middleware from the environment variable RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH, which
`make serve` sets to `deployments.proxy:middlewares`.
"""

import json

from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

RETRY_AFTER_SECONDS = 5

WORDS = {
    404: "No application is deployed under this address yet.",
    408: "The request took longer than request_timeout_s of the config allows.",
    503: "No gateway is ready to take the request.",
}


class EnvelopeMiddleware:
    """Passes answers of the application on; rewrites the proxy's own errors."""

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
                for part in _envelope(message["status"]):
                    await send(part)
            elif not rewriting:
                await send(message)

        await self._app(scope, receive, forward)


def middlewares() -> list[Middleware]:
    return [Middleware(EnvelopeMiddleware)]


def _is_the_proxys_own_error(start: Message) -> bool:
    """The application's errors are JSON; the proxy's are plain text."""
    kinds = [value for name, value in start["headers"] if name.lower() == b"content-type"]
    return start["status"] >= 400 and not any(kind.startswith(b"application/json") for kind in kinds)


def _envelope(status: int) -> list[Message]:
    # 500 of the proxy means that the gateway's process died: the client may well try again.
    status = 503 if status == 500 else status
    kind = "invalid_request_error" if status < 500 else "service_unavailable_error"
    message = WORDS.get(status, f"The HTTP proxy answered with status {status}.")
    body = json.dumps({"error": {"message": message, "type": kind, "param": None, "code": None}}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    if status == 503:
        headers.append((b"retry-after", str(RETRY_AFTER_SECONDS).encode()))
    return [
        {"type": "http.response.start", "status": status, "headers": headers},
        {"type": "http.response.body", "body": body},
    ]

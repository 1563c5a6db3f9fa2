"""What Serve's proxy answers by itself: OpenAI's envelope, and readable by the pages that the gateway lets read it."""

import json
from collections.abc import Iterator, Mapping

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api.asgi import HttpMiddleware
from app.api.envelope import envelope

RETRY_AFTER_SECONDS = 5

WORDS = {
    404: "No application is deployed under this address yet.",
    408: "The request took longer than request_timeout_s of the config allows.",
    503: "No gateway is ready to take the request.",
}

OWN = "batchyard.own_answer"
"""Marks the start of an answer of ours on its way out."""

MOST_ORIGINS = 1000
"""Remembered at once. With cors_origins "*" every page is one."""


def answer(
    status: int, message: str | None = None, *, code: str | None = None, headers: Mapping[str, str] | None = None
) -> Iterator[Message]:
    """The messages of an answer; without `message` its words are those of WORDS."""
    kind = "service_unavailable_error" if status >= 500 else None
    words = message or WORDS.get(status, f"The HTTP proxy answered with status {status}.")
    body = json.dumps(envelope(status, words, type=kind, code=code)).encode()
    start: Message = {"type": "http.response.start", "status": status, "headers": [], OWN: True}
    given = MutableHeaders(scope=start)
    given.update({"content-type": "application/json", "content-length": str(len(body)), **(headers or {})})
    if status == 503:
        given["retry-after"] = str(RETRY_AFTER_SECONDS)
    yield start
    yield {"type": "http.response.body", "body": body}


class SharedOrigins(HttpMiddleware):
    """Our own answers carry the CORS headers that the gateway's last answer to a page of the same origin had.

    Which origins are allowed, the gateway's config says, and the proxy has none.
    """

    def __init__(self, app: ASGIApp) -> None:
        super().__init__(app)
        self._headers: dict[str, dict[str, str]] = {}

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        origin = Headers(scope=scope).get("origin")

        async def forward(message: Message) -> None:
            if message["type"] == "http.response.start" and origin is not None:
                headers = MutableHeaders(scope=message)
                if OWN in message:
                    headers.update(self._headers.get(origin, {}))
                else:
                    self._remember(origin, headers)
            await send(message)

        await self._app(scope, receive, forward)

    def _remember(self, origin: str, answered: Headers) -> None:
        if "access-control-allow-origin" not in answered:
            self._headers.pop(origin, None)
            return
        if len(self._headers) >= MOST_ORIGINS:
            self._headers.clear()
        kept = ("access-control-allow-origin", "access-control-expose-headers", "vary")
        self._headers[origin] = {name: answered[name] for name in kept if name in answered}

"""Who may come in: bearer keys from the settings."""

from collections.abc import Sequence

from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from app.api.asgi import HttpMiddleware
from app.api.errors import ApiError, error_response
from app.api_keys import is_known

OPEN_PATHS = frozenset({"/livez", "/readyz", "/health", "/metrics", "/openapi.json"})
"""What needs no key: probes and scrapers have none, and nothing of a tenant is told here."""


def tenant_of(request: Request) -> str:
    """Whose files and batches a request sees. All keys share one tenant so far."""
    return "default"


NO_KEY = "This server needs an API key, and none was given. Send it as 'Authorization: Bearer YOUR_KEY'."

PLACEHOLDERS = frozenset({b"none", b"null", b"empty"})
"""What clients that insist on a key send where there is none: openai's api_key="none", vLLM's "EMPTY"."""


class RequireKey(HttpMiddleware):
    """Turns away requests without a key of one of these digests."""

    def __init__(self, app: ASGIApp, digests: Sequence[str]) -> None:
        super().__init__(app)
        self._digests = digests

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] not in OPEN_PATHS:
            refusal = self._refusal(Request(scope).headers.get("authorization", ""))
            if refusal is not None:
                await error_response(refusal)(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _refusal(self, authorization: str) -> ApiError | None:
        scheme, _, key = authorization.partition(" ")
        if scheme.lower() != "bearer" or not key.strip(" \t"):
            return _unauthorized(NO_KEY)
        given = key.strip(" \t").encode("latin-1")  # as the bytes came, without the white space of HTTP
        if not is_known(given, self._digests):
            return _unauthorized(NO_KEY if given.lower() in PLACEHOLDERS else "Incorrect API key provided.")
        return None


def _unauthorized(message: str) -> ApiError:
    return ApiError(401, message, code="invalid_api_key", headers={"www-authenticate": "Bearer"})

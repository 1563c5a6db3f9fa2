"""A server without keys is for this machine's own users, and not for the pages that their browsers show.

Any page may have a browser send requests to 127.0.0.1, and one that rebinds its name to 127.0.0.1 (DNS rebinding) may
read the answers as well. Browsers tell of both: by Host, the name that the page knows the server by; by Origin and
Sec-Fetch-Site, whose page it is; and they ask first before they send another content type than those of forms. A server
with keys needs none of it: no page knows a key, and no browser adds one by itself.
"""

from collections.abc import Sequence
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from app.api.asgi import HttpMiddleware
from app.api.errors import ApiError, error_response
from app.loopback import is_loopback

READING = frozenset({"GET", "HEAD", "OPTIONS"})
"""Methods that change nothing; whether a page may see what they answer is CORS's to say."""

FORMS = "/v1/files"
"""Where the body is a form, as a page could send it; app/api/files.py looks at its type."""


class KeylessDoor(HttpMiddleware):
    """Turns away requests that pages of other sites have a browser send; `origins` are those that may."""

    def __init__(self, app: ASGIApp, origins: Sequence[str]) -> None:
        super().__init__(app)
        self._origins = origins

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        if (refusal := self._refusal(scope)) is not None:
            await error_response(refusal)(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _refusal(self, scope: Scope) -> ApiError | None:
        headers = Headers(scope=scope)
        for host in headers.getlist("host"):  # without one it is no browser
            if not _is_here(f"//{host}"):
                return _misdirected(host)
        origins = headers.getlist("origin")
        for origin in origins:
            if not self._may(origin):
                return _strange_origin(origin)
        changes = scope["method"] not in READING
        if changes and not origins and headers.get("sec-fetch-site") in ("cross-site", "same-site"):
            return _strange_origin("another site")
        if scope["method"] == "POST" and scope["path"] != FORMS and _has_body(headers) and not _is_json(headers):
            return _no_json(headers.get("content-type"))
        return None

    def _may(self, origin: str) -> bool:
        return "*" in self._origins or origin in self._origins or _is_here(origin)


def _is_here(url: str) -> bool:
    """Whether the URL's host is this machine, at whichever port."""
    try:
        return is_loopback(urlsplit(url).hostname or "")
    except ValueError:
        return False


def _has_body(headers: Headers) -> bool:
    return "transfer-encoding" in headers or headers.get("content-length", "0") != "0"


def _is_json(headers: Headers) -> bool:
    return headers.get("content-type", "").partition(";")[0].strip().lower() == "application/json"


def _misdirected(host: str) -> ApiError:
    message = (
        f"This server has no API keys and is for this machine alone: ask it at localhost or 127.0.0.1, not at "
        f"{host[:255]!r}. To serve under another name, give it keys (BATCHYARD_API_KEYS)."
    )
    return ApiError(421, message, code="host_not_allowed")


def _strange_origin(origin: str) -> ApiError:
    message = (
        f"This server has no API keys, so pages of {origin[:255]} may not use it. If they are to: see the setting "
        "cors_origins, or give the server keys (BATCHYARD_API_KEYS)."
    )
    return ApiError(403, message, code="origin_not_allowed")


def _no_json(kind: str | None) -> ApiError:
    sent = f"not {kind[:100]!r}" if kind else "and none was sent"
    message = (
        f"The content type of this request must be application/json, {sent}. With curl: "
        "-H 'Content-Type: application/json'."
    )
    return ApiError(415, message, code="unsupported_content_type")

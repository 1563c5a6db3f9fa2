"""Pages of other origins: which of them a browser lets read our answers (the Fetch standard's CORS protocol)."""

from collections.abc import Sequence

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.types import ASGIApp

from app.api.errors import bad_request, error_response

METHODS = ("GET", "POST", "DELETE")

READABLE = ("x-request-id", "retry-after", "openai-processing-ms", "content-disposition")
"""Headers of answers that a page may read besides those that the standard names."""


class Cors(CORSMiddleware):
    """Starlette's, for `origins`. A preflight carries no key, so this stands before the check for keys."""

    def __init__(self, app: ASGIApp, origins: Sequence[str]) -> None:
        super().__init__(app, origins, METHODS, allow_headers=("*",), expose_headers=READABLE)

    def preflight_response(self, request_headers: Headers) -> Response:
        response = super().preflight_response(request_headers)
        if response.status_code < 400:
            return response
        origin, method = request_headers["origin"], request_headers["access-control-request-method"]
        message = f"Pages of {origin:.200} may not {method:.20} here: see the setting cors_origins."
        refusal = error_response(bad_request(message, code="origin_not_allowed"))
        refusal.headers["vary"] = response.headers["vary"]
        return refusal

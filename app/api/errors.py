"""What a client gets when something is refused or fails: OpenAI's envelope, one table from class to answer."""

import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import structlog
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from app.api.envelope import envelope
from app.errors import (
    BatchyardError,
    EngineLost,
    ObjectMissing,
    ObjectsUnavailable,
    RequestRefused,
    StoreUnavailable,
    UploadTooLate,
)
from app.store import IdempotencyConflict, QueueFull

log = structlog.get_logger()

RETRY_SECONDS = 5
"""Retry-After of what may be over soon. OpenAI's client waits exactly that long, as long as it is at most 120."""

QUEUE_RETRY_SECONDS = 60
"""Retry-After of a full queue, which takes longer to drain."""

NEVER_RETRY = {"x-should-retry": "false"}
"""OpenAI's client retries every 409 unless a header says that it must not."""


class ApiError(BatchyardError):
    """A request that is answered with an error: its HTTP status, the envelope's members and headers of its own."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        type: str = "invalid_request_error",
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.type = type
        self.param = param
        self.code = code
        self.headers = dict(headers or {})

    def envelope(self) -> dict[str, Any]:
        return envelope(self.status, self.message, type=self.type, param=self.param, code=self.code)


def bad_request(message: str, param: str | None = None, code: str | None = None) -> ApiError:
    return ApiError(400, message, param=param, code=code)


def missing_parameter(param: str) -> ApiError:
    return bad_request(f"Missing required parameter: '{param}'.", param, "missing_required_parameter")


def unknown_parameter(param: str) -> ApiError:
    return bad_request(f"Unknown parameter: '{param}'.", param, "unknown_parameter")


def invalid_type(param: str, expected: str, value: object) -> ApiError:
    got = _JSON_NAMES.get(type(value), "something else")
    return bad_request(
        f"Invalid type for '{param}': expected {expected}, but got {got} instead.", param, "invalid_type"
    )


def invalid_value(param: str, value: object, supported: Iterable[str]) -> ApiError:
    listed = ", ".join(f"'{each}'" for each in supported)
    return bad_request(f"Invalid {param}: '{value!s:.200}'. Supported values: {listed}.", param, "invalid_value")


def not_found(kind: str, object_id: str) -> ApiError:
    return ApiError(404, f"No such {kind} object: {object_id}", param="id")


def too_large(message: str, code: str) -> ApiError:
    return ApiError(413, message, code=code)


def unavailable(message: str, code: str) -> ApiError:
    return ApiError(
        503,
        message,
        type="service_unavailable_error",
        code=code,
        headers={"retry-after": str(RETRY_SECONDS)},
    )


_JSON_NAMES: dict[type, str] = {
    bool: "a boolean",
    int: "an integer",
    float: "a number",
    str: "a string",
    list: "an array",
    dict: "an object",
    type(None): "null",
}


def _first_line(error: BatchyardError) -> str:
    """Drivers append pages of detail to their reason; the log has them."""
    return str(error).partition("\n")[0]


ANSWERS: dict[type[BatchyardError], Callable[[Any], ApiError]] = {
    StoreUnavailable: lambda error: unavailable(_first_line(error), "store_unavailable"),
    ObjectsUnavailable: lambda error: unavailable(_first_line(error), "objects_unavailable"),
    ObjectMissing: lambda error: ApiError(404, "The content of this file is gone.", code="object_missing"),
    UploadTooLate: lambda error: unavailable(str(error), "upload_too_late"),
    RequestRefused: lambda error: bad_request(str(error), error.param, error.code),
    EngineLost: lambda error: unavailable(
        "The engine was lost while it worked on this request. Please try again.", "engine_lost"
    ),
    QueueFull: lambda error: ApiError(
        429,
        f"The queue is full: {error.queued} lines of unfinished batches wait, and the limit is {error.limit} "
        "(limits.queued_lines). Please try again once batches have finished.",
        type="rate_limit_error",
        code="queue_full",
        headers={"retry-after": str(QUEUE_RETRY_SECONDS)},
    ),
    IdempotencyConflict: lambda error: ApiError(
        409, str(error), param="Idempotency-Key", code="idempotency_conflict", headers=NEVER_RETRY
    ),
}
"""How the domain's errors are answered."""

INTERNAL = ApiError(
    500,
    "The server had an error while processing your request. Please try again, and name the x-request-id of this "
    "answer to whoever runs this server if it goes on.",
    type="server_error",
    code="internal_error",
)


def error_response(error: ApiError) -> Response:
    # ASCII only, because a message may quote text that cannot be written as UTF-8 (a lone surrogate).
    return Response(json.dumps(error.envelope()), error.status, error.headers, "application/json")


async def answer(request: Request, error: Exception) -> Response:
    """The exception handler of everything below."""
    known = _api_error(request, error)
    if known is not error and known.status >= 500:  # what was decided on purpose, as by the gate, needs no log
        log.warning("request failed", request_id=request_id(request), code=known.code, reason=str(error))
    return error_response(known)


HANDLERS = {kind: answer for kind in (ApiError, HTTPException, *ANSWERS)}


def request_id(request: Request) -> str:
    return str(request.state.request_id)


def _api_error(request: Request, error: Exception) -> ApiError:
    if isinstance(error, ApiError):
        return error
    if isinstance(error, HTTPException):
        return _routing_error(request, error)
    return next(ANSWERS[kind](error) for kind in type(error).__mro__ if kind in ANSWERS)


def _routing_error(request: Request, error: HTTPException) -> ApiError:
    method, path = request.method, request.url.path
    if error.status_code == 405:
        allowed = ", ".join(sorted((error.headers or {})["Allow"].split(", ")))
        message = f"Not allowed to {method} on {path}. Allowed: {allowed}."
        return ApiError(405, message, code="method_not_allowed", headers={"allow": allowed})
    message = f"Unknown request URL: {method} {path}. Please check the URL for typos, or see /openapi.json."
    return ApiError(error.status_code, message, code="unknown_url")

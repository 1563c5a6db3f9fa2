"""Request bodies that are kept in memory: bounded, and JSON that is text all through."""

from typing import Any

from starlette.requests import Request

from app import strict_json
from app.api.errors import ApiError, bad_request, too_large


async def read_body(request: Request, limit: int, why: str) -> bytes:
    """The whole body, at most `limit` bytes; a 413 says `why`. Raises ApiError, ClientDisconnect."""
    message = f"The request body is larger than the {limit} bytes allowed ({why})."
    if content_length(request) > limit:
        raise too_large(message, "request_too_large")
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > limit:
            raise too_large(message, "request_too_large")
    return bytes(body)


def content_length(request: Request) -> int:
    """Bytes that the body will have; 0 when the client does not say."""
    declared = request.headers.get("content-length", "")
    return int(declared) if declared.isdecimal() else 0


def json_object(body: bytes) -> dict[str, Any]:
    """The JSON object that a body holds. Raises ApiError."""
    try:
        value = strict_json.loads(body.decode())
    except RecursionError as error:
        raise _not_json("it is nested too deeply") from error
    except ValueError as error:
        raise _not_json(str(error)) from error
    if not isinstance(value, dict):
        raise bad_request("The body of your request must be a JSON object.", code="invalid_json")
    return value


def _not_json(reason: str) -> ApiError:
    return bad_request(f"We could not parse the JSON body of your request: {reason}.", code="invalid_json")

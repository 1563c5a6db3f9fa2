"""The body of every error, in OpenAI's form."""

from typing import Any


def envelope(
    status: int, message: str, *, type: str | None = None, param: str | None = None, code: str | None = None
) -> dict[str, Any]:
    """`type`, unless given, says whose fault the status is: the request's or the server's."""
    kind = type or ("invalid_request_error" if status < 500 else "server_error")
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}

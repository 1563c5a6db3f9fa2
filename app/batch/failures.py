"""Reads from a line of the error file why it failed."""

import json
from typing import Any

from app.batch.lines import quoted
from app.store import Failure


def failure_of(number: int, line: bytes) -> Failure:
    """`number`: the line's in the input file; `line`: as `output.answered_line` or `unanswered_line` wrote it.

    Of a line that was damaged since it only says so: a summary must not keep results from being written.
    """
    try:
        whole = json.loads(line)
        status, error = _error(whole)
        custom_id = quoted(whole["custom_id"])
    except (ValueError, KeyError, TypeError, AttributeError):
        return Failure("unreadable", None, number, "", "This line of the error file cannot be read.")
    code, kind, param, message = (error.get(name) for name in ("code", "type", "param", "message"))
    # vLLM puts the HTTP status where OpenAI has a code, and its kind of error into `type`.
    named = code if isinstance(code, str) and code else kind
    return Failure(
        code=quoted(named) if isinstance(named, str) and named else f"http_{status}",
        param=quoted(param) if isinstance(param, str) else None,
        line=number,
        custom_id=custom_id,
        message=quoted(str(message or "")),
    )


def _error(line: dict[str, Any]) -> tuple[int | None, dict[str, Any]]:
    response = line["response"]
    if response is None:
        return None, dict(line["error"])
    body = response["body"]
    error = body.get("error") if isinstance(body, dict) else None
    return response["status_code"], error if isinstance(error, dict) else {}

"""Lists: the query parameters that choose a page, and the page."""

import re
from collections.abc import Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse

from app.api.errors import bad_request, invalid_value

_INTEGER = re.compile(r"[0-9]{1,9}")


def limit_of(request: Request, default: int, highest: int) -> int:
    """The query's `limit`, from 1 to `highest`. Raises ApiError."""
    text = request.query_params.get("limit")
    if text is None:
        return default
    limit = int(text) if _INTEGER.fullmatch(text) else 0
    if not 1 <= limit <= highest:
        message = f"Invalid 'limit': '{text}'. Expected an integer from 1 to {highest}."
        raise bad_request(message, "limit", "invalid_value")
    return limit


def ascending(request: Request) -> bool:
    """Whether the query's `order` is asc; desc is the default. Raises ApiError."""
    order = request.query_params.get("order", "desc")
    if order not in ("asc", "desc"):
        raise invalid_value("order", order, ("asc", "desc"))
    return order == "asc"


def page(objects: Sequence[dict[str, Any]], has_more: bool) -> JSONResponse:
    return JSONResponse(
        {
            "object": "list",
            "data": objects,
            "first_id": objects[0]["id"] if objects else None,
            "last_id": objects[-1]["id"] if objects else None,
            "has_more": has_more,
        }
    )

"""`Idempotency-Key`: a request that is sent again with the same key and body gives the object of the first time."""

import json
from hashlib import sha256

from starlette.requests import Request

from app.api.errors import bad_request

LONGEST_KEY = 255


def key_of(request: Request) -> str | None:
    """The request's key. Raises ApiError."""
    key = request.headers.get("idempotency-key")
    if key is not None and not 1 <= len(key) <= LONGEST_KEY:
        message = f"The Idempotency-Key header must have from 1 to {LONGEST_KEY} characters."
        raise bad_request(message, "Idempotency-Key", "invalid_value")
    return key


def digest_of(*parts: object) -> str:
    """A fingerprint of a body; `parts` are JSON values."""
    return sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
